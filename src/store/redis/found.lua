-- Founds a namespace where there is none: a new one, or one whose data was lost.
--
-- Where data was lost, hosts then say what they hold (`reassert.lua`), and nothing is granted until all have, or
-- until the window is over. What is left of a namespace without a head can't be trusted, and goes.
--
-- ARGV[1]  its generation: 16 random bytes
-- ARGV[2]  the highest epoch that the daemon has seen in it
-- ARGV[3]  the number of the last event that the daemon has seen in it
-- ARGV[4]  uid of the root
-- ARGV[5]  its gid
-- ARGV[6]  the window in microseconds; 0 for a new namespace
-- ARGV[7]  the generation that the daemon knew; '' where it knows of none
-- ARGV[8]  a host that may hold something, and so on; '?' for those of which the daemon does not know
-- Returns  'K' generation

-- A host that was not heard of for so long is not waited for.
local SILENCE = 30000000

step('found', function()
  load_meta()
  if meta then
    -- Founded by one who did not know how far tokens were. Those of this epoch may be another data's: they are no
    -- proof for `was_given`.
    if ARGV[7] ~= '' and ARGV[7] ~= meta.gen and meta.epoch <= tonumber(ARGV[2]) then
      meta.epoch, meta.seq = ARGV[2] + 1, 0
      save_meta()
    end
    return 'K' .. meta.gen
  end
  for _, ino in ipairs(call('HKEYS', P .. 'o')) do
    call('UNLINK', P .. 'd:' .. ino, P .. 'l:' .. ino, P .. 'f:' .. ino, P .. 'w:o' .. ino)
  end
  queues.clear(false)
  for _, id in ipairs(call('HKEYS', P .. 's')) do
    call('UNLINK', P .. 'h:' .. id, P .. 'lost:' .. id)
  end
  call('UNLINK', P .. 'd:' .. ROOT, P .. 'l:' .. ROOT)
  for _, key in ipairs({'o', 'b', 's', 'n', 'x', 'y', 'events', 'recover', 'past', 'mounts', 'waits', 'r', 'changed', 'before'}) do call('UNLINK', P .. key) end
  local window = tonumber(ARGV[6])
  meta = {
    gen = ARGV[1], epoch = math.max(tonumber(ARGV[2]) + 1, math.floor(NOW / 1000000)), seq = 0,
    replid = (replication()), events = tonumber(ARGV[3]), locks = 0, recover = window > 0 and NOW + window or 0,
    tally = {0, 0, 0, 0, 0, 0, 0, 0}, waits = 0,
  }
  if window > 0 then
    for i = 8, #ARGV do call('SADD', P .. 'recover', ARGV[i]) end
    for _, host in ipairs(call('ZRANGEBYSCORE', P .. 'seen', NOW - SILENCE, '+inf')) do
      call('SADD', P .. 'recover', host)
    end
  end
  call('HSET', P .. 'o', ROOT, write_object({
    kind = DIRECTORY, token = ROOT, mode = 1023, uid = tonumber(ARGV[4]), gid = tonumber(ARGV[5]), mtime = WALL,
    ctime = WALL, since = WALL, ttl = 0, seen = NOW, size = 0, default_ttl = -1, session = '', places = {},
  }))
  save_meta()
  return 'K' .. meta.gen
end)
