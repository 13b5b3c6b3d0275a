-- Puts records of another store into a namespace that is being filled with them, as they are, and takes some out:
-- `law/import.lua`.
--
-- ARGV[2]  what is said by which it is filled
-- ARGV[3]  's' a session, 'o' an object; 'x', 'g': it goes
-- ARGV[4]  its name, its number
-- ARGV[5]  its record
-- ARGV[6]  the names that the session lost; the note or target
-- Further  four more of the same kind, and so on
-- Returns  'G', 'X' and why it is not filled so, or 'K' time waits

step('import', function()
  if is_foreign() then return 'G' end
  if moves.closed() ~= 'M' .. ARGV[2] then return 'X' .. (meta.move and meta.move.closed or '') end
  moves.begin(3)
  for i = 3, #ARGV, 4 do moves[ARGV[i]](ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]) end
  moves.finish()
  return answer('')
end)
