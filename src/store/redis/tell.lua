-- What the server has of some objects, for a host that mirrors it: their records, those of the directories on the
-- way to them, and of the sessions that hold them.
--
-- ARGV[2]  the number of an object, and so on; behind '' the name of a session, and so on
-- Returns  'G', or 'K' time waits, and objects, notes and sessions as a step tells what it changed; 'g' and 'x' for
--          what is not there

look('tell', function()
  local parts, told, holders = {}, {}, {}
  local function tell_of(ino)
    if told[ino] then return end
    told[ino] = true
    local o = object(ino)
    if not o then
      parts[#parts + 1] = 'g' .. ino
      return
    end
    if o.session ~= '' and not holders[o.session] then
      holders[o.session] = true
      local s = session(o.session)
      if s then parts[#parts + 1] = 's' .. session_text(s) end
    end
    parts[#parts + 1] = 'o' .. ino .. bytes(write_object(o))
    if o.size > 0 then parts[#parts + 1] = 'b' .. ino .. bytes(call('HGET', P .. 'b', ino) or '') end
    for _, place in ipairs(o.places) do tell_of(place.parent) end
  end
  local are_sessions = false
  for i = 2, #ARGV do
    if ARGV[i] == '' then
      are_sessions = true
    elseif not are_sessions then
      tell_of(ARGV[i])
    elseif not holders[ARGV[i]] then
      local s = session(ARGV[i])
      parts[#parts + 1] = s and 's' .. session_text(s) or 'x' .. bytes(ARGV[i])
    end
  end
  return answer(table.concat(parts))
end, true)
