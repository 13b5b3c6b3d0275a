-- Entries that a session's view of a directory shows: what it holds there, and the directories on the way to
-- what it holds further down.
--
-- ARGV[2]  the session
-- ARGV[3]  the directory
-- ARGV[4]  the cookie behind which to begin; '' for the beginning
-- ARGV[5]  how many at most
-- Returns  'G', or 'K' time waits, and '=' and for each entry its cookie, its name and its attributes

look('held', function()
  local shown, cookies = {}, {}
  for _, ino in ipairs(holds(ARGV[2])) do
    if not object(ino) then miss(P .. 'o', ino) end
    local o = live(ino)
    for _, place in ipairs(o and o.places or {}) do
      -- Upwards until the directory asked for: the name there is the entry, seen once.
      local step, child = place, ino
      while step do
        if step.parent == ARGV[3] then
          if not shown[step.cookie] then cookies[#cookies + 1] = step.cookie end
          shown[step.cookie] = {name = step.name, ino = child}
          break
        end
        local above = object(step.parent)
        child = step.parent
        step = above and above.places[1]
      end
    end
  end
  table.sort(cookies, less)
  local parts = {'='}
  local taken, limit = 0, tonumber(ARGV[5])
  for _, cookie in ipairs(cookies) do
    if taken < limit and (ARGV[4] == '' or less(ARGV[4], cookie)) then
      taken = taken + 1
      local child = live(shown[cookie].ino)
      if child then
        parts[#parts + 1] = cookie .. bytes(shown[cookie].name) .. attributes(child)
      end
    end
  end
  return answer(table.concat(parts))
end)
