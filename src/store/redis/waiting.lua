-- Who waits, and which mounts there are.
--
-- ARGV[2]  a directory; '' for the mounts
-- ARGV[3]  a name in it
-- Returns  'G', or 'K' time waits, and: who waits for the name, or for an advisory lock on what stands there, in their
--          order; or of each mount its id and its lease

look('waiting', function()
  local parts = {}
  if ARGV[2] == '' then
    for _, id in ipairs(mounts.all()) do parts[#parts + 1] = mounts.text(mounts.of(id)) end
  else
    for _, head in ipairs(queues.at(ARGV[2], ARGV[3])) do parts[#parts + 1] = queues.text(head) end
  end
  return answer(table.concat(parts))
end)
