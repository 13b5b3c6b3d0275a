-- Gives an object one more name: link(2), `LockTable::link`.
--
-- ARGV[6]  the caller
-- ARGV[7]  the object
-- ARGV[8]  the directory of the new name
-- ARGV[9] the new name
-- Returns  as `law/step.lua` says: the entry

local function link(c, ino, parent, name)
  local o = live(ino)
  if not o then return refused(WHY.GONE) end
  if o.kind == DIRECTORY then return refused(WHY.NOT_PERMITTED) end
  -- No name is left to link: the same answer as link(2) of an unlinked file through /proc/self/fd.
  if #o.places == 0 then return refused(WHY.NO_ENTRY) end
  if #o.places >= LINK_MAX then return refused(WHY.TOO_MANY_LINKS) end
  local there, refusal = find(parent, name)
  if refusal then return refused(refusal) end
  if there or queues.is_name_awaited(parent, name) then return refused(WHY.EXISTS) end
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
