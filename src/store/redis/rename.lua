-- Moves a name: renameat2(2), `LockTable::rename`.
--
-- ARGV[6]   the caller
-- ARGV[7]   the directory of the old name
-- ARGV[8]   the old name
-- ARGV[9]  the directory of the new name
-- ARGV[10]  the new name
-- ARGV[11]  'replace', 'no-replace' or 'exchange'
-- ARGV[12]  the session whose it is afterwards; '' where that is not said
-- Returns   as `law/step.lua` says: the entry

-- Takes a name from an object that gets another in the same step.
local function leave_name(o, parent, name)
  tell(RELEASE, path_at(parent, name), o.ino)
  displace(o, parent, name)
end

local function keep_or_hand_on(c, o, how, heir)
  if heir == '' then return keep_or_take(c, o, how) end
  hand_on(o, how, heir)
end

local function rename(c, from, name, to, new_name, mode, heir)
  local source, refusal = find(from, name)
  if not source then return refused(refusal or WHY.NO_ENTRY) end
  local goal
  goal, refusal = find(to, new_name)
  if refusal then return refused(refusal) end
  local _
  if heir ~= '' then
    _, refusal = own_session(c, heir)
    if refusal then return refused(refusal) end
    -- What is advisory is nobody's.
    if is_advisory(source) then return refused(WHY.INVALID) end
  end
  if goal and mode == 'no-replace' then return refused(WHY.EXISTS) end
  local how
  -- Two names of one object: rename(2) does nothing. From one session's view to another's it hands over.
  if goal and goal.ino == source.ino then
    if heir ~= '' then
      how, refusal = may_change(c, source)
      if refusal then return refused(refusal) end
      hand_on(source, how, heir)
    end
    return entry_of(source)
  end
  how, refusal = may_remove(c, source, from, name)
  if refusal then return refused(refusal) end
  local is_above = goal and goal.ino == from
  if to == source.ino or is_above then
    return refused((mode == 'replace' and is_above) and WHY.NOT_EMPTY or WHY.INVALID)
  end
  if source.kind == DIRECTORY and has_entries(source.ino) then return refused(busy('')) end
  local goal_how
  if mode == 'exchange' then
    if not goal then return refused(WHY.NO_ENTRY) end
    goal_how, refusal = may_remove(c, goal, to, new_name)
    if refusal then return refused(refusal) end
    if goal.kind == DIRECTORY and has_entries(goal.ino) then return refused(busy('')) end
    -- Nothing is refused any more once something has changed.
    if (heir == '' and how ~= HOLDER) or goal_how ~= HOLDER then
      refusal = ensure_session(c)
      if refusal then return refused(refusal) end
    end
    refusal = keep_or_take(c, goal, goal_how) or keep_or_hand_on(c, source, how, heir)
    if refusal then return refused(refusal) end
    leave_name(goal, to, new_name)
    leave_name(source, from, name)
    add_name(goal, from, name)
  else
    if not goal and queues.is_name_awaited(to, new_name) then
      return refused(mode == 'no-replace' and WHY.EXISTS or busy(''))
    end
    if goal then
      goal_how, refusal = may_remove(c, goal, to, new_name)
      if refusal then return refused(refusal) end
      if source.kind == DIRECTORY and goal.kind ~= DIRECTORY then return refused(WHY.NOT_DIRECTORY) end
      if source.kind ~= DIRECTORY and goal.kind == DIRECTORY then return refused(WHY.IS_DIRECTORY) end
      if goal.kind == DIRECTORY and has_entries(goal.ino) then return refused(WHY.NOT_EMPTY) end
    end
    refusal = keep_or_hand_on(c, source, how, heir)
    if refusal then return refused(refusal) end
    if goal then release(goal, to, new_name) end
    leave_name(source, from, name)
  end
  add_name(source, to, new_name)
  return entry_of(source)
end

step('rename', function()
  return before_a_grant() or finish(rename(parse_caller(ARGV[6]), ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11],
    ARGV[12]))
end)
