-- Everything known of one object.
--
-- ARGV[2]  the inode
-- Returns  'G', or 'K' time waits, and: attributes, note or target, path, whether a session follows and the
--          session, the deadline (0: never), how many wait, and each grant; nothing behind the time where it is not there

look('view', function()
  local o = live(ARGV[2])
  if not o then return answer('') end
  local body = o.size > 0 and (call('HGET', P .. 'b', o.ino) or miss(P .. 'b', o.ino)) or ''
  local place = o.places[1]
  local path = place and path_at(place.parent, place.name) or ''
  local s = holder(o)
  if s and not holds_now(s.id, o.ino) then miss(P .. 'h:' .. s.id) end
  local holder = s and '\1' .. session_text(s) or '\0'
  local grants = {}
  for i, g in ipairs(shares.grants(o)) do grants[i] = shares.text(g) end
  return answer(attributes(o) .. bytes(body) .. bytes(path) .. holder .. pack('>dd', deadline(o) or 0, queues.waiting(o))
    .. table.concat(grants))
end)
