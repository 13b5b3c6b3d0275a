-- Removes a name: unlink(2) and rmdir(2), `LockTable::unlink` and `LockTable::rmdir`.
--
-- ARGV[6]  the caller
-- ARGV[7]  the directory
-- ARGV[8]  the name
-- ARGV[9] 'file' for unlink, 'directory' for rmdir
-- Returns  as `law/step.lua` says: nothing more

local function remove_name(c, parent, name, what)
  local o, refusal = find(parent, name)
  if not o then return refused(refusal or WHY.NO_ENTRY) end
  if what == 'file' and o.kind == DIRECTORY then return refused(WHY.IS_DIRECTORY) end
  if what == 'directory' and o.kind ~= DIRECTORY then return refused(WHY.NOT_DIRECTORY) end
  local how
  how, refusal = may_remove(c, o, parent, name)
  if refusal then return refused(refusal) end
  if o.kind == DIRECTORY and has_entries(o.ino) then return refused(WHY.NOT_EMPTY) end
  release(o, parent, name)
  return done()
end

step('release', function()
  return before_a_step() or finish(remove_name(parse_caller(ARGV[6]), ARGV[7], ARGV[8], ARGV[9]))
end, true)
