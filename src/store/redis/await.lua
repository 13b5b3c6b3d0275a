-- Makes a file and holds it, as soon as nothing stands there and nobody came earlier: `LockTable::await_spot`.
--
-- ARGV[6]  the caller
-- ARGV[7]  the directory
-- ARGV[8]  the name
-- ARGV[9]  its permission bits
-- ARGV[10] the request that waits
-- ARGV[11] whether nobody else of its session could let go of anything meanwhile: '1'
-- Returns  as `law/step.lua` says: the entry, or that it waits

step('await', function()
  return before_a_grant() or finish(queues.await(parse_caller(ARGV[6]), ARGV[7], ARGV[8], tonumber(ARGV[9]),
    {request = ARGV[10], alone = tonumber(ARGV[11])}))
end)
