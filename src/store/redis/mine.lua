-- What some sessions hold, and the directories on the way: what their host must be able to say again.
--
-- ARGV[2]  a session, and so on
-- Returns  'G', or 'K' time waits, and objects, notes and sessions as a step tells what it changed

look('mine', function()
  local parts, told = {}, {}
  local function tell_of(ino)
    local o = object(ino)
    if not o or told[ino] then return end
    told[ino] = true
    parts[#parts + 1] = 'o' .. ino .. bytes(write_object(o))
    if o.size > 0 then parts[#parts + 1] = 'b' .. ino .. bytes(call('HGET', P .. 'b', ino) or '') end
    for _, place in ipairs(o.places) do tell_of(place.parent) end
  end
  for i = 2, #ARGV do
    local s = session(ARGV[i])
    if s then
      parts[#parts + 1] = 's' .. session_text(s)
      for _, ino in ipairs(holds(s.id)) do tell_of(ino) end
    end
  end
  return answer(table.concat(parts))
end)
