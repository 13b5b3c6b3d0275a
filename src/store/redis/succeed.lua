-- A daemon takes up a mount: it says where its answers are and, where another daemon has served the mount before,
-- hears what that one answered. From then on nothing is carried out that the other has asked and that is still on its
-- way.
--
-- ARGV[2]  the mount
-- ARGV[3]  the daemon's key of answers
-- ARGV[4]  '1' where another daemon has served it, or ''
-- Returns  'G', or 'K' time waits, and: whether it is known who served it before, and of each of the kernel's requests
--          that was answered what it is called, and the answer behind its number

local KEPT = 3600000

step('succeed', function()
  if is_foreign() then return 'G' end
  local key, own = P .. 'a:' .. ARGV[2], ARGV[3]
  local parts = {'0'}
  for _, answers in ipairs(ARGV[4] == '1' and call('SMEMBERS', key) or {}) do
    local fields, entries = call('HGETALL', answers), {}
    for i = 1, #fields, 2 do entries[fields[i]] = fields[i + 1] end
    if not fields[1] then
      -- It went an hour ago.
      call('SREM', key, answers)
    elseif answers ~= own then
      parts[1] = '1'
      for field, name in pairs(entries) do
        local past = string.sub(field, 1, 1) == 'k' and entries[string.sub(field, 2)]
        if past and #past > 8 then parts[#parts + 1] = bytes(name) .. bytes(string.sub(past, 9)) end
      end
      call('HSET', answers, '/', own)
    end
  end
  -- That it is there, though it may never be asked anything.
  call('HSET', own, '.', '')
  call('PEXPIRE', own, KEPT)
  return answer(table.concat(parts))
end, true)
