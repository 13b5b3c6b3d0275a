-- What daemons do by themselves: renew who lives, mark whose job has ended, remove what has expired.
--
-- ARGV[6]  'renew', 'mark' or 'sweep'
-- ARGV[7]  a session; with 'sweep' how many at most
-- ARGV[8]  another session, and so on
-- Returns  as `law/step.lua` says: how many

local LOOKS = 10

local chores = {}

-- What is damaged in one session is no reason to lose the locks of the others.
function chores.renew()
  local found = 0
  for i = 7, #ARGV do
    pcall(function()
      if live_session(ARGV[i]) then
        see_exactly(ARGV[i])
        found = found + 1
      end
    end)
  end
  return found
end

function chores.mark()
  local found = 0
  for i = 7, #ARGV do
    local s = live_session(ARGV[i])
    -- Only a job can end by itself.
    if s and s.ended == 0 and s.kind == JOB then
      change_session(s).ended = 1
      emptied[#emptied + 1] = s.id
      found = found + 1
    end
  end
  return found
end

-- Forgets sessions that are over.
local function sweep_sessions(limit)
  local due_sessions, seen = {}, {}
  local function add(s)
    if s and not seen[s.id] and session_check(s) and s.check <= NOW then
      seen[s.id] = true
      due_sessions[#due_sessions + 1] = s
    end
  end
  -- What this very step has planned is not on the server yet.
  for _, s in pairs(sessions) do
    if s and s.check then add(s) end
  end
  for _, member in ipairs(call('ZRANGEBYSCORE', P .. 'y', '-inf', NOW, 'LIMIT', 0, limit * LOOKS)) do
    local s = session(string.sub(member, 9))
    if s and s.ino == string.sub(member, 1, 8) then add(s) end
  end
  table.sort(due_sessions, function(a, b) return a.check < b.check or (a.check == b.check and less(a.ino, b.ino)) end)
  local swept = 0
  for _, s in ipairs(due_sessions) do
    if swept == limit then break end
    check_session_at(s, nil)
    -- One that holds something is planned again when it has let go of it.
    if holds_nothing(s.id) then
      if is_over(s) then
        forget_session(s.id)
        swept = swept + 1
      else
        check_session_at(s, ends_at(s))
      end
    end
  end
  return swept
end

function chores.sweep(limit)
  limit = tonumber(limit)
  local swept, looks, from = 0, 0, 0
  local due = {}
  planned = {}
  mounts.sweep()
  local function more()
    local some = call('ZRANGEBYSCORE', P .. 'x', '-inf', NOW, 'WITHSCORES', 'LIMIT', from, SOME)
    from = from + SOME
    for i = 1, #some, 2 do due[#due + 1] = {at = tonumber(some[i + 1]), ino = some[i]} end
    return #some > 0
  end
  -- A deadline that has moved costs a look and removes nothing: after a restart all of a session are due at once.
  while swept < limit and looks < limit * LOOKS and (due[1] or more() or planned[1]) do
    local is_new = planned[1] and not (due[1] and is_earlier(due[1], planned[1]))
    local first = table.remove(is_new and planned or due, 1)
    -- What this very step has planned anew is due when that comes.
    if checks[first.ino] == nil or checks[first.ino] == first.at then
      looks = looks + 1
      unschedule(first.ino)
      -- What is damaged is no reason to leave the others; it is looked at again when somebody touches it.
      pcall(function()
        local o = object(first.ino)
        if o and not has_passed(o) then
          schedule(o)
        elseif o and not (o.kind == DIRECTORY and #entries(o.ino) > 0) then
          end_by_force(o.ino, EXPIRE)
          swept = swept + 1
        end
      end)
      -- Else a directory with entries: alive, or they are due as well, and it is when the last has gone.
    end
  end
  settle_sessions()
  swept = swept + sweep_sessions(limit - swept)
  queues.sweep()
  return swept
end

step('tend', function()
  return before() or finish(count(chores[ARGV[6]](ARGV[7])))
end, true)
