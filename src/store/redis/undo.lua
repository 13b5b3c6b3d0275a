-- Undoes a request of which the daemon never learnt whether it was carried out, and sees to it that it never is.
--
-- Invariant: only what that very request gave is taken away. Its name may have passed to another since.
--
-- ARGV[2]  as for every step
-- ARGV[3]  the key of answers of the daemon that made the request
-- ARGV[4]  the field
-- ARGV[5]  the number of the request
-- Returns  as `law/step.lua` says: how many names were released

local function undo()
  local past = call('HGET', ARGV[3], ARGV[4])
  local number = past and parse('>d', past) or -1
  if number > tonumber(ARGV[5]) then return count(0) end
  -- 'K', the time, the number of an event, 'E', the inode, the length of the record, the record.
  if number < tonumber(ARGV[5]) or string.sub(past, 9, 9) ~= 'K' or string.sub(past, 26, 26) ~= 'E' then
    return count(0)
  end
  local ino = string.sub(past, 27, 34)
  local length = parse('>I4', past, 35)
  local given = parse_object(ino, string.sub(past, 39, 38 + length))
  local o = object(ino)
  local released = 0
  if o and o.token == given.token then
    for _, spot in ipairs(o.places) do
      if spot.cookie == given.token then
        release(o, spot.parent, spot.name)
        released = released + 1
      end
    end
  end
  return count(released)
end

step('undo', function()
  if is_foreign() then return 'G' end
  local reply = moves.stopped()
  if reply then return reply end
  reply = finish(undo())
  call('HSET', ARGV[3], ARGV[4], pack('>d', ARGV[5]) .. 'U')
  return reply
end, true)
