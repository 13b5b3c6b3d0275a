-- Raises the epoch where another server answers than the one that gave the last token, or the same after a
-- restart: it may have forgotten what was granted.
--
-- Invariant: a token is above every one that was given before, by whatever server. So no holder of the past can
-- pass for the present one, and of two who hold one name by records of two servers the later one is known.
--
-- ARGV[2]  the highest epoch that the daemon has seen
-- ARGV[3]  for how many microseconds hosts may say what they hold before anything is granted
-- ARGV[4]  a host that was last seen this many microseconds before the last one seen is not waited for
-- Returns  'G', or 'K' and the epoch

step('epoch', function()
  if is_foreign() then return 'G' end
  local replid = replication()
  if replid ~= meta.replid then
    begin_epoch(math.max(meta.epoch + 1, tonumber(ARGV[2]) + 1, math.floor(NOW / 1000000)))
    meta.replid = replid
    call('DEL', P .. 'recover')
    local last = call('ZRANGE', P .. 'seen', -1, -1, 'WITHSCORES')[2]
    if last then
      local hosts = call('ZRANGEBYSCORE', P .. 'seen', last - tonumber(ARGV[4]), '+inf')
      if #hosts > 0 then call('SADD', P .. 'recover', spread(hosts)) end
      meta.recover = NOW + tonumber(ARGV[3])
    end
    save_meta()
  end
  return 'K' .. pack('>I4', meta.epoch)
end, true)
