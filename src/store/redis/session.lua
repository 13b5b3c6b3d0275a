-- Begins, ends, renews and merges sessions: `table/session.rs`.
--
-- ARGV[6]  'begin', 'end', 'merge', 'touch' or 'ttl'
-- ARGV[7]  the caller; '' for the daemon itself, which may only end one
-- ARGV[8]  the session; with 'merge' the one that ends
-- ARGV[9] with 'merge' the heir; with 'touch' the mtime ('' leaves it); with 'ttl' milliseconds
-- Returns  as `law/step.lua` says: the session, with 'end' nothing more

local acts = {}

function acts.begin(c, id)
  local s = live_session(id)
  if s then
    -- One that is only kept to be told what it lost gives way, to its owner.
    local lapse = lapses_at(s)
    if not (lapse and lapse <= NOW) or holds_live(id) or not may_decide(c, s) then return refused(WHY.EXISTS) end
  end
  enter_session({
    id = id, kind = c.kind, ino = next_token(), uid = c.uid, gid = c.gid, since = WALL, mtime = WALL, seen = NOW,
    ttl = c.ttl, ended = 0, losses = 0, lost = {}, has_login = c.has_login, login = c.login, rest = c.rest,
  })
  return session_of(session(id))
end

local function release_all_names(o)
  for _, spot in ipairs(o.places) do release(o, spot.parent, spot.name) end
end

local function depth_of(o)
  local depth = 0
  while o and o.places[1] do
    depth = depth + 1
    o = object(o.places[1].parent)
  end
  return depth
end

acts['end'] = function(c, id)
  local _, refusal = own_session(c, id)
  if refusal then return refused(refusal) end
  reap_held(id)
  local directories = {}
  for _, ino in ipairs(holds(id)) do
    local o = object(ino)
    if o and o.kind == DIRECTORY then
      directories[#directories + 1] = {o = o, depth = depth_of(o)}
    elseif o then
      release_all_names(o)
    end
  end
  -- The deepest first, so that what held only its own goes too.
  table.sort(directories, function(a, b)
    return a.depth > b.depth or (a.depth == b.depth and less(a.o.ino, b.o.ino))
  end)
  for _, d in ipairs(directories) do
    local o = d.o
    reap_entries(o.ino)
    o = object(o.ino)
    if o and #entries(o.ino) == 0 then
      release_all_names(o)
    elseif o then
      leave_session(o)
      schedule(o)
    end
  end
  forget_session(id)
  return done()
end

function acts.merge(c, from, to)
  local giver, refusal = own_session(c, from)
  if refusal then return refused(refusal) end
  if from == to then return session_of(giver) end
  local _
  _, refusal = own_session(c, to)
  if refusal and refusal ~= WHY.NO_SESSION then return refused(refusal) end
  reap_held(from)
  local all = holds(from)
  if refusal then
    -- A directory that moves to a new name keeps its number, its owner and its times; what was lost under the
    -- old name stays lost under the new one.
    local names = {}
    for i, spot in ipairs(lost(giver)) do names[i] = spot end
    enter_session({
      id = to, kind = NAMED, ino = giver.ino, uid = giver.uid, gid = giver.gid, since = giver.since,
      mtime = giver.mtime, seen = NOW, ttl = giver.ttl, ended = 0, losses = #names, lost = names,
      has_login = giver.has_login, login = giver.login, rest = giver.rest,
    })
  end
  for _, ino in ipairs(all) do hand_to(object(ino), to) end
  see(to)
  forget_session(from)
  return session_of(session(to))
end

function acts.touch(c, id, mtime)
  local _, refusal = own_session(c, id)
  if refusal then return refused(refusal) end
  local s = see_exactly(id)
  if mtime ~= '' then s.mtime = mtime end
  return session_of(s)
end

function acts.ttl(c, id, ttl)
  local _, refusal = own_session(c, id)
  if refusal then return refused(refusal) end
  local s = see_exactly(id)
  s.ttl = tonumber(ttl)
  if holds_nothing(id) then schedule_session(s) end
  return session_of(s)
end

step('session', function()
  return before_a_grant() or finish(acts[ARGV[6]](ARGV[7] ~= '' and parse_caller(ARGV[7]) or nil, ARGV[8], ARGV[9]))
end, true)
