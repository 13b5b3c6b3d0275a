-- Locks an open file: flock(2) and fcntl(2), `LockTable::lock`.
--
-- ARGV[6]  the caller
-- ARGV[7]  the file
-- ARGV[8]  with what, as `codec.rs` writes a claim
-- ARGV[9]  the request that may wait; '' where it would not
-- ARGV[10] whether nobody else of its session could let go of anything meanwhile: '1'
-- ARGV[11] the number of this request among all that lock
-- ARGV[12] the daemon's mounts that have it open and have not said so: of each its id and the number
-- Returns  as `law/step.lua` says: nothing more, or that it waits

step('lock', function()
  local reply = before_a_grant()
  if reply then return reply end
  local waiting = ARGV[9] ~= '' and {request = ARGV[9], alone = tonumber(ARGV[10])} or nil
  return finish(shares.lock(parse_caller(ARGV[6]), ARGV[7], shares.parse_claim(ARGV[8]), waiting, tonumber(ARGV[11]),
    ARGV[12]))
end)
