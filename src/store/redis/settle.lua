-- What a host let go of while it could not reach the server.
--
-- Invariant: only what the host held then is let go of. Its name may have passed to another since: that one has
-- another token.
--
-- ARGV[6]  the number of an object
-- ARGV[7]  the token by which it was held
-- ARGV[8]  the directory in which a name of it stood
-- ARGV[9]  the name
-- Further  four more of the same kind, and so on
-- Returns  as `law/step.lua` says: how many names went

step('settle', function()
  local reply = before()
  if reply then return reply end
  local released = 0
  for i = 6, #ARGV, 4 do
    local o = object(ARGV[i])
    local _, standing = entry(ARGV[i + 2], ARGV[i + 3])
    if o and o.token == ARGV[i + 1] and standing == ARGV[i] and not (o.kind == DIRECTORY and has_entries(o.ino)) then
      release(o, ARGV[i + 2], ARGV[i + 3])
      released = released + 1
    end
  end
  return finish(count(released))
end, true)
