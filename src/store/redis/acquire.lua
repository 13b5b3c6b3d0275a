-- Makes an entry and holds it: `LockTable::acquire`.
--
-- ARGV[6]   the caller
-- ARGV[7]   the directory
-- ARGV[8]   the name
-- ARGV[9]  what is made: 1 file, 2 directory, 3 symlink
-- ARGV[10]  its permission bits
-- ARGV[11]  what if the name is there: 'refuse', 'open', 'empty'
-- ARGV[12]  the target of a symlink
-- ARGV[13]  the number under which the caller's mount has it open then; '' where the server is not to know
-- ARGV[14]  whether what is made is opened, too: '1'
-- Returns   as `law/step.lua` says: the entry, or what was opened

local function open(c, o, how, number)
  if how == 'refuse' then return refused(WHY.EXISTS) end
  if o.kind == DIRECTORY then return refused(WHY.IS_DIRECTORY) end
  local refusal = how == 'empty' and truncate(c, o, 0)
  if refusal then return refused(refusal) end
  if number then shares.open_on(o, c.mount, number) end
  return opened(o)
end

local function acquire(c, parent, name, kind, mode, how, target, number, is_opened)
  local o, refusal = find(parent, name)
  if refusal then return refused(refusal) end
  if o then return open(c, o, how, number) end
  -- What is reserved for those who wait is as good as held.
  if queues.is_name_awaited(parent, name) then return refused(how == 'refuse' and WHY.EXISTS or busy('')) end
  refusal, o = make(c, parent, name, kind, mode, target)
  if refusal then return refused(refusal) end
  if number and is_opened then shares.open_on(o, c.mount, number) end
  return entry_of(o)
end

step('acquire', function()
  return before_a_grant() or finish(acquire(parse_caller(ARGV[6]), ARGV[7], ARGV[8], tonumber(ARGV[9]),
    tonumber(ARGV[10]), ARGV[11], ARGV[12], tonumber(ARGV[13]), ARGV[14] == '1'))
end)
