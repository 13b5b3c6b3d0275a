-- A host says that it is there.
--
-- ARGV[2]  the host's name
-- ARGV[3]  which daemon it is: the machine, and what no other daemon has
-- ARGV[4]  how long a name stays taken that is not heard of any more, in microseconds
-- ARGV[5]  the daemon's key of answers, kept for an hour from now; when it goes, for ten minutes
-- ARGV[6]  '' , or 'leave' to say that it goes
-- ARGV[7]  the number of the last event that the daemon has seen: later ones go on behind it, whatever the
--          server has lost
-- ARGV[8]  the mount that the daemon serves: its successor finds the answers there
-- Returns  'G', 'B' and who has the name, or 'K' time waits, and: the epoch, whether it is this server's, the
--          identity of its data, how many replicas there are, the number of the last event, the counts, and each
--          host with the microseconds since it was last heard of

step('host', function()
  if is_foreign() then return 'G' end
  local name, who = ARGV[2], ARGV[3]
  local other = call('HGET', P .. 'hosts', name)
  local seen = call('ZSCORE', P .. 'seen', name)
  if ARGV[6] == 'leave' then
    if other == who then
      call('HDEL', P .. 'hosts', name)
      call('ZREM', P .. 'seen', name)
    end
    -- Whoever takes over the mount asks for them.
    call('PEXPIRE', ARGV[5], 600000)
    return answer('')
  end
  if call('HLEN', P .. 'o') ~= meta.locks + 1 then miss(P .. 'o') end
  if call('ZCARD', P .. 'n') ~= call('HLEN', P .. 's') then miss(P .. 'n') end
  if call('HLEN', P .. 'waits') ~= meta.waits then miss(P .. 'waits') end
  local machine = string.match(who, '^%S+')
  if other and string.match(other, '^%S+') ~= machine and seen and NOW - seen < tonumber(ARGV[4]) then
    return 'B' .. other
  end
  if other ~= who then call('HSET', P .. 'hosts', name, who) end
  call('ZADD', P .. 'seen', NOW, name)
  call('PEXPIRE', ARGV[5], 3600000)
  local served = P .. 'a:' .. ARGV[8]
  check_type(served, 'set')
  call('SADD', served, ARGV[5])
  call('PEXPIRE', served, 3600000)
  -- What was not heard of for a day is not worth a line any more.
  for _, gone in ipairs(call('ZRANGEBYSCORE', P .. 'seen', '-inf', NOW - DAY)) do
    call('ZREM', P .. 'seen', gone)
    call('HDEL', P .. 'hosts', gone)
  end
  local last = tonumber(ARGV[7])
  if last > meta.events then
    meta.events = last
    save_meta()
  end
  local replid, replicas = replication()
  local parts = {
    pack('>I4BBc0I4d', meta.epoch, replid == meta.replid and 1 or 0, #replid, replid, replicas, meta.events), counts(),
  }
  local all = call('ZRANGE', P .. 'seen', 0, -1, 'WITHSCORES')
  for i = 1, #all, 2 do parts[#parts + 1] = bytes(all[i]) .. pack('>d', NOW - all[i + 1]) end
  return answer(table.concat(parts))
end, true)
