-- Entries of a directory, in the order in which they came.
--
-- ARGV[2]  the directory
-- ARGV[3]  the cookie behind which to begin; '' for the beginning
-- ARGV[4]  how many at most
-- Returns  'G', or 'K' time waits, and: nothing where it is no living directory, else '=' and for each entry
--          its cookie, its name and its attributes

look('list', function()
  local o = live(ARGV[2])
  if not o or o.kind ~= DIRECTORY then return answer('') end
  local limit = tonumber(ARGV[4])
  local key = P .. 'l:' .. o.ino
  if call('ZCARD', key) ~= math.max(call('HLEN', P .. 'd:' .. o.ino) - 1, 0) then miss(key) end
  -- A cookie is followed by an inode, whose first byte is below \255: this is behind the entry, and before the next.
  local from = ARGV[3] == '' and '-' or '(' .. ARGV[3] .. '\255'
  local parts = {'='}
  local count = 0
  repeat
    local members = call('ZRANGEBYLEX', key, from, '+', 'LIMIT', 0, limit)
    for _, member in ipairs(members) do
      local ino = string.sub(member, 9, 16)
      if not object(ino) then miss(P .. 'o', ino) end
      local child = live(ino)
      if child and count < limit then
        parts[#parts + 1] = string.sub(member, 1, 8) .. bytes(string.sub(member, 17)) .. attributes(child)
        count = count + 1
      end
      from = '(' .. member
    end
  until #members < limit or count == limit
  return answer(table.concat(parts))
end)
