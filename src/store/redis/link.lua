-- Gives an object one more name: link(2), `LockTable::link`.
--
-- ARGV[6]  the caller
-- ARGV[7]  the object
-- ARGV[8]  the directory of the new name
-- ARGV[9] the new name
-- Returns  as `law/step.lua` says: the entry

local function link(c, ino, parent, name)
  local o = live(ino)
  if not o then return refused(GONE) end
  if o.kind == DIRECTORY then return refused(NOT_PERMITTED) end
  if #o.places >= LINK_MAX then return refused(TOO_MANY_LINKS) end
  local there, refusal = find(parent, name)
  if refusal then return refused(refusal) end
  if there then return refused(EXISTS) end
  local how
  how, refusal = may_link(c, o)
  refusal = refusal or keep_or_take(c, o, how)
  if refusal then return refused(refusal) end
  -- Whoever gets a name gets a token above those of all who had the name before.
  add_name(o, parent, name)
  return entry_of(o)
end

step('link', function()
  return before_a_grant() or finish(link(parse_caller(ARGV[6]), ARGV[7], ARGV[8], ARGV[9]))
end)
