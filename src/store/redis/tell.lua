-- What the server has of some objects, for a host that mirrors it: their records, those of the directories on the
-- way to them, and of the sessions that hold them.
--
-- ARGV[2]  the number of an object, and so on
-- Returns  'G', or 'K' time waits, and objects, notes and sessions as a step tells what it changed; 'g' for what is
--          not there

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
  for i = 2, #ARGV do tell_of(ARGV[i]) end
  return answer(table.concat(parts))
end)
