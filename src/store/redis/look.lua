-- What stands at a name, or has a number: for LOOKUP and GETATTR.
--
-- ARGV[2]  an inode; the directory, where ARGV[3] is given
-- ARGV[3]  a name in it
-- Returns  'G', or 'K' time waits, and the attributes; nothing behind them where nothing alive is there

look('look', function()
  local ino = ARGV[2]
  if ARGV[3] then
    local parent = live(ino)
    if not parent or parent.kind ~= DIRECTORY then return answer('') end
    local _
    _, ino = entry(ino, ARGV[3])
    if not ino then return answer('') end
    if not object(ino) then miss(P .. 'o', ino) end
  end
  local o = live(ino)
  return answer(o and attributes(o) or '')
end)
