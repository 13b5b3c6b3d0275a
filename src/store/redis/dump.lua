-- A page of all that the server has, for a host that mirrors it. What comes and goes meanwhile may be missing or be
-- told twice: its events say so.
--
-- ARGV[2]  'o' for objects, 's' for sessions
-- ARGV[3]  where the page begins, as the one before it said; '0' for the first
-- ARGV[4]  about how many
-- Returns  'G', or 'K' time waits, where the next page begins ('0' after the last), and objects, notes and sessions
--          as a step tells what it changed

look('dump', function()
  local page = call('HSCAN', P .. ARGV[2], ARGV[3], 'COUNT', ARGV[4])
  local parts = {bytes(page[1])}
  for i = 1, #page[2], 2 do
    local name = page[2][i]
    if ARGV[2] == 's' then
      local s = session(name)
      if s then parts[#parts + 1] = 's' .. session_text(s) end
    else
      local o = object(name)
      if o then
        parts[#parts + 1] = 'o' .. name .. bytes(write_object(o))
        if o.size > 0 then parts[#parts + 1] = 'b' .. name .. bytes(call('HGET', P .. 'b', name) or '') end
      end
    end
  end
  return answer(table.concat(parts))
end, true)
