-- Opens an object: `LockTable::open`.
--
-- ARGV[6]  the caller
-- ARGV[7]  the object
-- ARGV[8]  'empty' for `O_TRUNC`
-- ARGV[9]  the number under which the caller's mount has it open then; '' where it has said so already
-- Returns  as `law/step.lua` says: what was opened

local function open(c, ino, how, number)
  local o = live(ino)
  if not o then return refused(WHY.GONE) end
  local refusal = how == 'empty' and truncate(c, o, 0)
  if refusal then return refused(refusal) end
  if number and o.kind ~= DIRECTORY then shares.open_on(o, c.mount, number) end
  return opened(o)
end

-- A successor takes over what it changes, and so gets a token.
step('open', function()
  return (ARGV[8] == 'empty' and before_a_grant or before_a_step)()
    or finish(open(parse_caller(ARGV[6]), ARGV[7], ARGV[8], tonumber(ARGV[9])))
end)
