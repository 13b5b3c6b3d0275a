-- Takes out of a namespace what a migration put into it, and nothing else: a part of it at a time.
--
-- ARGV[2]  what is said by which it is filled
-- ARGV[3]  'o' for objects, 's' for sessions, which come after them
-- ARGV[4]  where to go on, as the answer before said; '0' for the beginning
-- ARGV[5]  about how many
-- Returns  'G', 'X' and why it is not filled so, or 'K' time waits, where to go on ('0' after the last), and how many
--          went

step('empty', function()
  if is_foreign() then return 'G' end
  if moves.closed() ~= 'M' .. ARGV[2] then return 'X' .. (meta.move and meta.move.closed or '') end
  moves.begin(#ARGV + 1)
  local page = call('HSCAN', P .. ARGV[3], ARGV[4], 'COUNT', ARGV[5])
  local gone = 0
  for i = 1, #page[2], 2 do
    local name = page[2][i]
    if name ~= ROOT and call('SISMEMBER', P .. 'before', ARGV[3] .. name) == 0 then
      moves[ARGV[3] == 'o' and 'g' or 'x'](name)
      gone = gone + 1
    end
  end
  moves.finish()
  return answer(bytes(page[1]) .. pack('>d', gone))
end, true)
