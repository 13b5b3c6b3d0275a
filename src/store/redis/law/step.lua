-- The second part of the library: what every step has that changes something. Twin of `table.rs`, `table/holder.rs`,
-- `table/expiry.rs` and `table/session.rs`, which say why.
--
-- Invariant: a step is decided in Lua's memory and written at its very end, by `finish`. So a step that meets a
-- record that it can't read has changed nothing, and neither has one that comes too late, or for the second time.
--
-- ARGV[2]  the server's time in microseconds after which the step must not happen any more
-- ARGV[3]  the daemon's key of answers: P .. 'q:' and what no other daemon has
-- ARGV[4]  the field there: one for each request that the daemon may have under way at once
-- ARGV[5]  the number of the request: rises in each field; of one of the kernel's with what it is called behind a
--          space
-- The step's own begin with ARGV[6].
--
-- Returns one string, by its first byte:
--   'K' time events outcome changes   carried out: when, the number of the last event, what is answered, what changed
--   'G'                          the data is not what the daemon knows
--   'L' time                     too late: certainly not carried out, and never will be
--   'U'                          given up: a later request, or the undoing of this one, has been here before
--   'F'                          another server answers than the one that gave the last token, or the same after
--                                a restart: the epoch must rise first, by `epoch.lua`
--   'W' time                     data may have been lost, and hosts still say what they hold: ask again

local LINK_MAX, NOTE_MAX, LOST_MAX = 1000, 65536, 1000
local GRAIN = 1000000
local ACQUIRE, RELEASE, EXPIRE, BREAK, TRANSFER, BEGIN, END, LOST = 0, 1, 2, 3, 4, 5, 6, 7
local EVENTS_MAX, EPOCHS_MAX = 10000, 1000

local queue, events, emptied, removed, dirty, bodies, checks, meta_changed

local function later(...)
  queue[#queue + 1] = {...}
end

local function next_token()
  meta_changed = true
  meta.seq = meta.seq + 1
  if meta.seq == 4294967296 then
    meta.epoch, meta.seq = meta.epoch + 1, 0
  end
  return pack('>I4I4', meta.epoch, meta.seq)
end

-- Begins an epoch. How far the tokens of the last one went in this data is kept for `was_given`.
local function begin_epoch(epoch)
  call('ZADD', P .. 'past', meta.epoch, pack('>I4I4', meta.epoch, meta.seq))
  for _, oldest in ipairs(call('ZRANGE', P .. 'past', 0, -EPOCHS_MAX - 1)) do call('ZREM', P .. 'past', oldest) end
  meta.epoch, meta.seq = epoch, 0
end

-- Whether this data knows of the step that gave a token. What has it, and is not here, was ended since.
local function was_given(token)
  local epoch, seq = parse('>I4I4', token)
  if epoch == meta.epoch then return seq <= meta.seq end
  local last = call('ZRANGEBYSCORE', P .. 'past', epoch, epoch)[1]
  return last and not less(last, token)
end

-- The object, to change it.
local function change(o)
  dirty.objects[o.ino] = true
  return o
end

local function change_session(s)
  dirty.sessions[s.id] = true
  return s
end

-- Events ------------------------------------------------------------------------------------------------------

local function push_event(kind, token, id, ino, path)
  meta_changed = true
  meta.tally[kind + 1] = meta.tally[kind + 1] + 1
  events[#events + 1] = pack('>Bc12c8c8Bc0', kind, WALL, token, ino, #id, id) .. path
end

local function tell(kind, path, ino)
  local o = object(ino)
  push_event(kind, o and o.token or NOTHING, o and o.session or '', ino, path)
end

local function tell_of_session(kind, id)
  push_event(kind, NOTHING, id, NOTHING, '')
end

-- Deadlines ---------------------------------------------------------------------------------------------------

-- When an object is looked at next; false for never.
local function check_at(ino)
  if checks[ino] == nil then
    checks[ino] = tonumber(call('ZSCORE', P .. 'x', ino) or nil) or false
  end
  return checks[ino]
end

local function unschedule(ino)
  checks[ino] = false
  later('ZREM', P .. 'x', ino)
end

-- Only in a sweep: what this very step has planned and is due, the longest dead first.
local planned

local function is_earlier(a, b)
  return a.at < b.at or (a.at == b.at and less(a.ino, b.ino))
end

local function schedule(o)
  local at = deadline(o)
  if not at then return unschedule(o.ino) end
  checks[o.ino] = at
  later('ZADD', P .. 'x', at, o.ino)
  if planned and at <= NOW then
    local i = 1
    while planned[i] and is_earlier(planned[i], {at = at, ino = o.ino}) do i = i + 1 end
    table.insert(planned, i, {at = at, ino = o.ino})
  end
end

-- Names -------------------------------------------------------------------------------------------------------

local function touch_directory(parent, added)
  local dir = directory(parent)
  dir.subs = dir.subs + added
  dir.changed = WALL
  dirty.dirs[parent] = true
  return dir
end

-- Enters a name of an object in its directory.
local function place(o, parent, name, cookie)
  change(o)
  o.places[#o.places + 1] = {parent = parent, name = name, cookie = cookie}
  local dir = touch_directory(parent, o.kind == DIRECTORY and 1 or 0)
  dir.names[name] = cookie .. o.ino
  dir.added[#dir.added + 1] = name
  later('ZADD', P .. 'l:' .. parent, 0, cookie .. o.ino .. name)
end

-- Takes a name of an object out of its directory.
local function displace(o, parent, name)
  change(o)
  local kept = {}
  for _, spot in ipairs(o.places) do
    if spot.parent ~= parent or spot.name ~= name then kept[#kept + 1] = spot end
  end
  o.places = kept
  local cookie, ino = entry(parent, name)
  if cookie then
    local dir = touch_directory(parent, o.kind == DIRECTORY and -1 or 0)
    dir.names[name] = false
    for i, added in ipairs(dir.added) do
      if added == name then table.remove(dir.added, i) break end
    end
    later('ZREM', P .. 'l:' .. parent, cookie .. ino .. name)
  end
  queues.stir('s' .. parent .. name)
  -- One that only its entries kept alive may be dead by now.
  local above = object(parent)
  if above and above.ttl ~= 0 and not check_at(parent) then schedule(above) end
end

local function enter(id, ino, ttl)
  held[id] = held[id] or {}
  held[id][ino] = ttl
  later('ZADD', P .. 'h:' .. id, ttl == 0 and 'inf' or ttl, ino)
end

local function leave(id, ino)
  held[id] = held[id] or {}
  if held[id][ino] == nil and not call('ZSCORE', P .. 'h:' .. id, ino) then miss(P .. 'h:' .. id) end
  held[id][ino] = false
  later('ZREM', P .. 'h:' .. id, ino)
end

-- Takes an object from what its session holds: nobody does then, until the caller says who.
local function leave_session(o)
  local id = o.session
  if id == '' then return end
  o.session = ''
  change(o)
  leave(id, o.ino)
  -- Whether that was all is looked at in the end.
  emptied[#emptied + 1] = id
end

local function join_session(o, id)
  change(o)
  o.session = id
  enter(id, o.ino, o.ttl)
end

-- Takes an object out. How it went is told to the daemon: 'r' released, 'g' gone by force.
local function remove(o, how)
  leave_session(o)
  unschedule(o.ino)
  shares.drop_all(o)
  objects[o.ino] = false
  dirty.objects[o.ino] = nil
  dirty.dirs[o.ino] = nil
  removed[#removed + 1] = how .. o.ino
  meta.locks = meta.locks - 1
  meta_changed = true
  later('HDEL', P .. 'o', o.ino)
  if o.kind == DIRECTORY then
    later('DEL', P .. 'd:' .. o.ino, P .. 'l:' .. o.ino)
  else
    bodies[o.ino] = nil
    if o.size > 0 then later('HDEL', P .. 'b', o.ino) end
  end
end

-- Lets one name of an object go. With its last name goes the object, unless it is open: then it lives on, held by
-- nobody, until it is closed.
local function release(o, parent, name)
  tell(RELEASE, path_at(parent, name), o.ino)
  displace(o, parent, name)
  o.ctime = WALL
  if #o.places > 0 then return end
  if not shares.is_used(o) then return remove(o, 'r') end
  local id = o.session
  leave_session(o)
  unschedule(o.ino)
  shares.leave_by(o, id)
end

-- Sessions: seen, lost, over ----------------------------------------------------------------------------------

local function note_loss(id, spots)
  local s = session(id)
  if not s then return end
  local names = lost(change_session(s))
  for _, spot in ipairs(spots) do names[#names + 1] = spot.parent .. spot.name end
  while #names > LOST_MAX do table.remove(names, 1) end
  s.losses = #names
  s.lost_changed = true
end

local function has_lost(s, parent, name)
  for _, spot in ipairs(lost(s)) do
    if spot == parent .. name then return true end
  end
  return false
end

local function forget_loss(id, parent, name)
  local s = session(id)
  if not s or s.losses == 0 or not has_lost(s, parent, name) then return end
  local names = {}
  for _, spot in ipairs(lost(s)) do
    if spot ~= parent .. name then names[#names + 1] = spot end
  end
  change_session(s)
  s.lost, s.losses, s.lost_changed = names, #names, true
end

-- Takes a lock from its session: it expired, or was broken. What is in it is dead.
local function end_by_force(ino, why)
  local ends, at = {ino}, 1
  while ends[at] do
    local o = object(ends[at])
    if o and o.kind == DIRECTORY then
      for _, e in ipairs(entries(o.ino)) do ends[#ends + 1] = e.ino end
    end
    at = at + 1
  end
  -- The deepest first; of two names of one object the second time finds nothing.
  for i = #ends, 1, -1 do
    local o = object(ends[i])
    if o then
      local spots = o.places
      for _, spot in ipairs(spots) do
        tell(ends[i] == ino and why or EXPIRE, path_at(spot.parent, spot.name), o.ino)
      end
      local loser = o.session
      for _, spot in ipairs(spots) do displace(o, spot.parent, spot.name) end
      remove(o, 'g')
      if loser ~= '' then note_loss(loser, spots) end
    end
  end
end

local function reap_all(inos)
  for _, ino in ipairs(inos) do
    local o = object(ino)
    if o and is_dead(o) then end_by_force(ino, EXPIRE) end
  end
end

-- Removes what is dead in a directory.
local function reap_entries(ino)
  local inos = {}
  for i, e in ipairs(entries(ino)) do inos[i] = e.ino end
  reap_all(inos)
end

-- Removes what is dead among what a session holds, so that seeing the session brings nothing back. Returns the
-- shortest ttl among what it holds.
local function reap_held(id)
  local s = session(id)
  if not s then return end
  local shortest = shortest_ttl(id)
  -- Deadlines count from here, or later: where the shortest has not passed, none has.
  if shortest and shortest ~= 0 and s.seen + shortest * 1000 <= NOW then
    reap_all(holds(id))
    shortest = shortest_ttl(id)
  end
  return shortest
end

-- Notes to the microsecond that a session's holder is alive. What had expired before stays so.
local function see_exactly(id)
  reap_held(id)
  local s = change_session(session(id))
  s.seen = NOW
  return s
end

-- The same, unless it was seen just now: an acquire would else write its session as well as its lock.
local function see(id)
  local shortest = reap_held(id)
  local s = session(id)
  if not s then return end
  local grain = GRAIN
  if shortest and shortest ~= 0 and shortest * 125 < grain then grain = shortest * 125 end
  if NOW - s.seen >= grain then
    change_session(s)
    s.seen = NOW
  end
end

local function session_check(s)
  local member = s.ino .. s.id
  if s.check == nil then s.check = tonumber(call('ZSCORE', P .. 'y', member) or nil) or false end
  return s.check
end

local function check_session_at(s, at)
  s.check = at or false
  if at then
    later('ZADD', P .. 'y', at, s.ino .. s.id)
  else
    later('ZREM', P .. 'y', s.ino .. s.id)
  end
end

-- Plans the next look at a session that holds nothing: when it lapses as it is known now, or earlier.
local function schedule_session(s)
  local at = lapses_at(s)
  if at then
    local check = session_check(s)
    if not check or check > at then check_session_at(s, at) end
  end
end

-- Takes a session that holds nothing out, if it is there.
local function forget_session(id)
  local s = session(id)
  if not s then return end
  sessions[id] = false
  dirty.sessions[id] = true
  check_session_at(s, nil)
  later('HDEL', P .. 's', id)
  later('ZREM', P .. 'n', s.ino .. id)
  later('DEL', P .. 'lost:' .. id)
  if s.kind == NAMED then tell_of_session(END, id) end
end

-- At the end of a step: a session whose job has ended goes with its last lock, others after a while.
local function settle_sessions()
  for _, id in ipairs(emptied) do
    local s = session(id)
    if s and holds_nothing(id) then
      if s.ended == 1 then forget_session(id) else schedule_session(s) end
    end
  end
  emptied = {}
end

-- Enters a session that begins, in the place of one that is over.
local function enter_session(s)
  reap_held(s.id)
  forget_session(s.id)
  s.lost_changed = true
  s.check = false
  sessions[s.id] = s
  change_session(s)
  later('ZADD', P .. 'n', 0, s.ino .. s.id)
  if s.kind == NAMED then tell_of_session(BEGIN, s.id) end
  emptied[#emptied + 1] = s.id
end

-- Callers -----------------------------------------------------------------------------------------------------

-- The caller of a step, as `codec.rs` writes it.
local function parse_caller(text)
  local c, at = {also = {}}
  c.mount, c.uid, c.gid, c.kind, c.begins, c.ttl, c.id, c.has_login, c.login, at = parse('>c8I4I4BBdBc0BI2c0', text)
  local count
  count, at = parse('>B', text, at)
  for _ = 1, count do
    local id
    id, at = parse('>Bc0', text, at)
    c.also[id] = true
  end
  c.rest = string.sub(text, at)
  return c
end

-- Refusals: a letter, and for 'B' and 'H' the session that is in the way ('' where nobody knows).
local WHY = {
  NO_ENTRY = 'N', GONE = 'G', EXISTS = 'E', NOT_DIRECTORY = 'D', IS_DIRECTORY = 'I', NOT_EMPTY = 'F', HAS_LOST = 'L',
  NOT_PERMITTED = 'P', TOO_LARGE = 'T', TOO_MANY_LINKS = 'M', INVALID = 'V', NO_SESSION = 'S', WRONG_TOKEN = 'W',
  TAKEN = 'K', DEADLOCK = 'X', UNATTENDED = 'U',
}
local function busy(id) return 'B' .. id end
local function is_held_by(id) return 'H' .. id end

local HOLDER, SUCCESSOR, REMOVER, PEER, STRANGER = 1, 2, 3, 4, 5

local function may_speak_for(c, s)
  return s.kind ~= NAMED or c.uid == s.uid or c.uid == 0
end

local function may_decide(c, s)
  return c.uid == 0 or c.uid == s.uid
end

-- How a caller stands to a lock: the table of rights.
local function standing(c, o)
  -- The kernel has judged by the modes, and there is nothing to add.
  if is_advisory(o) then return HOLDER end
  local same_user = c.uid == o.uid or c.uid == 0
  local s = holder(o)
  if not s then return same_user and HOLDER or STRANGER end
  if (s.id == c.id and may_speak_for(c, s)) or c.also[s.id] then return HOLDER end
  if not same_user then return STRANGER end
  local ended = s.ended == 1
  if ended and s.kind == JOB and s.has_login == 1 and c.has_login == 1 and s.login == c.login then
    return SUCCESSOR
  end
  return (ended or c.uid ~= o.uid) and REMOVER or PEER
end

-- What the caller is to an object that it may change; or nil and why it may not.
local function may_change(c, o)
  if o.session == '' then
    local last = shares.left_by(o)
    -- It has released it since the caller opened it: a touch must not take that for an acquire.
    if last ~= '' and last ~= c.id and not c.also[last] then return nil, busy(last) end
    return HOLDER
  end
  local how = standing(c, o)
  if how == HOLDER or how == SUCCESSOR then return how end
  return nil, busy(o.session)
end

-- What the caller is to an object of which it may take the name away; or nil and why it may not.
local function may_remove(c, o, parent, name)
  local how = standing(c, o)
  if how ~= HOLDER then
    -- Whatever its rights are: what it means to remove is a lock that it has not got any more.
    local s = live_session(c.id)
    if s and has_lost(s, parent, name) then return nil, WHY.HAS_LOST end
  end
  if how == PEER or how == STRANGER then return nil, is_held_by(o.session) end
  return how
end

local function may_link(c, o)
  local how = standing(c, o)
  if how == PEER or how == STRANGER then return nil, is_held_by(o.session) end
  return how
end

-- Makes sure that the caller's session exists, is the caller's, and was seen now; or says why not.
local function ensure_session(c)
  local s = live_session(c.id)
  if s then
    if not may_speak_for(c, s) then return WHY.NOT_PERMITTED end
    -- What acquires is alive, whatever was taken for its job's end.
    if s.ended == 1 then change_session(s).ended = 0 end
    see(c.id)
    return
  end
  if c.begins == 0 then return WHY.NO_SESSION end
  enter_session({
    id = c.id, kind = c.kind, ino = next_token(), uid = c.uid, gid = c.gid, since = WALL, mtime = WALL,
    seen = NOW, ttl = c.ttl, ended = 0, losses = 0, lost = {}, has_login = c.has_login, login = c.login,
    rest = c.rest,
  })
end

-- Hands an object to a session that exists, with a new token. What it holds already is left alone.
local function hand_to(o, heir)
  if o.session == heir then return end
  leave_session(o)
  join_session(o, heir)
  o.token = next_token()
  o.seen = NOW
  schedule(o)
  for _, spot in ipairs(o.places) do forget_loss(heir, spot.parent, spot.name) end
  local spot = o.places[1]
  tell(TRANSFER, spot and path_at(spot.parent, spot.name) or '', o.ino)
end

-- Leaves a lock with its holder, who was seen alive; one whose holder has ended goes to the caller.
local function keep_or_take(c, o, how)
  if o.session == '' then return end
  if how == HOLDER then
    see(o.session)
    return
  end
  local refusal = ensure_session(c)
  if refusal then return refusal end
  hand_to(o, c.id)
end

-- Hands a lock from whoever may to a session that exists; both were seen alive.
local function hand_on(o, how, heir)
  if o.session ~= '' and how == HOLDER then see(o.session) end
  hand_to(o, heir)
  see(heir)
end

-- Lets the caller change the object, or says why not. A successor takes it over.
local function claim_to_change(c, o)
  local how, refusal = may_change(c, o)
  return refusal or keep_or_take(c, o, how)
end

-- The session, if the caller may decide about it; or nil and why not. A caller of nil is the daemon.
local function own_session(c, id)
  local s = live_session(id)
  if not s then return nil, WHY.NO_SESSION end
  if c and not may_decide(c, s) then return nil, WHY.NOT_PERMITTED end
  return s
end

-- What stands at a spot, if it is alive; what is dead there is removed. Or nil and why there can't be anything.
local function find(parent, name)
  local above = live(parent)
  if not above then return nil, WHY.NO_ENTRY end
  -- An unlinked file that is open is nowhere.
  if #above.places == 0 and parent ~= ROOT then return nil, WHY.NO_ENTRY end
  if above.kind ~= DIRECTORY then return nil, WHY.NOT_DIRECTORY end
  local _, ino = entry(parent, name)
  if not ino then return end
  local o = live(ino)
  if not o then
    if not object(ino) then miss(P .. 'o', ino) end
    end_by_force(ino, EXPIRE)
    return
  end
  return o
end

-- Whether a directory has live entries; what is dead in it is removed where nothing lives.
local function has_entries(ino)
  if has_live_entries(ino) then return true end
  reap_entries(ino)
  return false
end

-- The note of a file is another now.
local function edit_note(o, note)
  change(o)
  bodies[o.ino] = note
  o.size, o.mtime, o.ctime = #note, WALL, WALL
end

local function note_of(o)
  return o.size > 0 and (call('HGET', P .. 'b', o.ino) or miss(P .. 'b', o.ino)) or ''
end

-- Why an object has no note; nil where it has one.
local function has_no_note(o)
  if not o then return WHY.GONE end
  if o.kind == DIRECTORY then return WHY.IS_DIRECTORY end
  if o.kind == SYMLINK then return WHY.INVALID end
end

-- Cuts or extends a note, or says why not.
local function truncate(c, o, size)
  local refusal = has_no_note(o) or (size > NOTE_MAX and WHY.TOO_LARGE)
  if refusal then return refusal end
  -- One that changes nothing is no change: `: > lock` by another than the holder only opens it.
  if o.size == size then return end
  refusal = claim_to_change(c, o)
  if refusal then return refusal end
  local note = string.sub(note_of(o), 1, size)
  edit_note(o, note .. string.rep('\0', size - #note))
end

-- The ttl of what is made: of the nearest directory above that sets one, else the session's. A directory expires only
-- where it is a lock by its name.
local function ttl_of_new(parent, name, kind, otherwise)
  if kind == DIRECTORY and string.sub(name, -5) ~= '.lock' then return 0 end
  local o = object(parent)
  while o do
    if o.kind == DIRECTORY and o.default_ttl >= 0 then return o.default_ttl end
    o = o.places[1] and object(o.places[1].parent)
  end
  return otherwise
end

-- Makes an entry where nothing stands; returns why not, or nil and the object.
local function make(c, parent, name, kind, mode, target)
  local refusal = ensure_session(c)
  if refusal then return refusal end
  forget_loss(c.id, parent, name)
  local token = next_token()
  -- As on ext4: below a set-group-id directory entries get its group, and directories the bit as well.
  local above = object(parent)
  local gid = c.gid
  if bit.band(above.mode, 1024) ~= 0 then
    gid = above.gid
    if kind == DIRECTORY then mode = bit.bor(mode, 1024) end
  end
  local o = {
    ino = token, kind = kind, token = token, mode = mode, uid = c.uid, gid = gid, mtime = WALL, ctime = WALL,
    since = WALL, ttl = ttl_of_new(parent, name, kind, session(c.id).ttl), seen = NOW, size = #target,
    default_ttl = -1, session = '', places = {}, used = false,
  }
  objects[token] = o
  if kind == DIRECTORY then
    new_directory(token)
  elseif target ~= '' then
    bodies[token] = target
  end
  meta.locks = meta.locks + 1
  join_session(o, c.id)
  place(o, parent, name, token)
  schedule(o)
  tell(ACQUIRE, path_at(parent, name), token)
  return nil, o
end

local function add_name(o, parent, name)
  local token = next_token()
  place(o, parent, name, token)
  o.token = token
  o.ctime = WALL
  if o.session ~= '' then forget_loss(o.session, parent, name) end
  tell(ACQUIRE, path_at(parent, name), o.ino)
end

-- The end of a step -------------------------------------------------------------------------------------------

local function refused(why) return 'R' .. bytes(why) end
local function done() return 'D' end
local function count(n) return pack('>cd', 'C', n) end
local function entry_of(o) return 'E' .. attributes(o) end
local function opened(o) return 'O' .. attributes(o) end
local function session_of(s) return 'S' .. session_text(s) end

local function remember(reply)
  local number, name = string.match(ARGV[5], '^(%d+) ?(.*)$')
  local past = pack('>d', number) .. reply
  if name == '' then
    call('HSET', ARGV[3], ARGV[4], past)
  else
    -- For whoever takes over the mount, and is asked it again.
    call('HSET', ARGV[3], ARGV[4], past, 'k' .. ARGV[4], name)
  end
  return reply
end

-- What must be answered before a step is decided; nil where it may be.
local function before()
  local known = call('HMGET', ARGV[3], ARGV[4], '/')
  local past = known[1]
  if past and #past > 8 then
    local number, asked = parse('>d', past), tonumber(string.match(ARGV[5], '^%d+'))
    if number == asked then return string.sub(past, 9) end
    if number > asked then return 'U' end
  end
  -- Another daemon serves the mount by now (`succeed.lua`).
  if known[2] then return 'U' end
  if NOW > tonumber(ARGV[2]) then return pack('>cd', 'L', NOW) end
  if is_foreign() then return 'G' end
end

-- The same for what a process asks: where data may have been lost, what is not there may only not be back yet.
local function before_a_step()
  local reply = before()
  if reply then return reply end
  if meta.recover > NOW then return pack('>cd', 'W', meta.recover) end
end

-- The identity of the server's data since it last started, or was promoted (redis.io, INFO, `master_replid`).
-- Also says how many replicas are connected.
local function replication()
  local info = call('INFO', 'replication')
  return string.match(info, 'master_replid:(%x+)'), tonumber(string.match(info, 'connected_slaves:(%d+)') or 0)
end

-- The same for a step that gives tokens. They must be above all that another server, or this one before its
-- restart, may have given.
local function before_a_grant()
  local reply = before_a_step()
  if reply then return reply end
  if replication() ~= meta.replid then return 'F' end
end

local KINDS = {HSET = 'hash', HDEL = 'hash', ZADD = 'zset', ZREM = 'zset', RPUSH = 'list', XADD = 'stream',
  SADD = 'set', SREM = 'set'}

local function check_type(key, kind)
  local there = call('TYPE', key).ok
  if there ~= kind and there ~= 'none' then complain(named(key) .. ' is not of lockfs: remove it') end
end

-- Sees to it that all that is planned can be written: an error between two writes would leave half a step.
-- Keys of records, directories and answers have been read by every step that writes them.
local function check_writes()
  local checked = {}
  for _, write in ipairs(queue) do
    local kind, key = KINDS[write[1]], write[2]
    if kind and not checked[key] then
      checked[key] = true
      check_type(key, kind)
    end
  end
  if next(bodies) then check_type(P .. 'b', 'hash') end
  if events[1] then check_type(P .. 'events', 'stream') end
  if next(dirty.waits) then check_type(P .. 'waits', 'hash') end
  shares.check(check_type)
end

local function add_event(event)
  local id = string.format('%.0f-0', meta.events + 1)
  local added = redis.pcall('XADD', P .. 'events', 'MAXLEN', '~', EVENTS_MAX, id, 'e', event)
  if type(added) == 'table' and added.err then
    -- Somebody else has added to it, and no number of ours can follow: what it remembers is given up.
    if not string.find(added.err, 'equal or smaller', 1, true) then error(added) end
    call('UNLINK', P .. 'events')
    call('XADD', P .. 'events', 'MAXLEN', '~', EVENTS_MAX, id, 'e', event)
  end
  meta.events = meta.events + 1
end

-- Asks for every key that is about to be written. While a slot of a cluster moves, its keys do so one by one, and
-- what is not here may be there already: the server then ends the script, which must not have written half a step.
local function reach()
  local keys = {KEYS[1], ARGV[3]}
  local function add(key) keys[#keys + 1] = key end
  if next(dirty.objects) then add(P .. 'o') end
  if next(bodies) then add(P .. 'b') end
  if next(dirty.sessions) then add(P .. 's') end
  if events[1] then add(P .. 'events') end
  for ino in pairs(dirty.dirs) do add(P .. 'd:' .. ino) end
  for id in pairs(dirty.sessions) do add(P .. 'lost:' .. id) end
  shares.reach(add)
  queues.reach(add)
  for _, write in ipairs(queue) do
    add(write[2])
    if write[1] == 'DEL' and write[3] then add(write[3]) end
  end
  call('EXISTS', spread(keys))
end

-- Writes the step, and answers with its outcome and all that it changed.
local function finish(outcome)
  settle_sessions()
  queues.settle()
  if KEYS[2] then reach() end
  check_writes()
  -- First what may be refused for want of memory: after a write nothing is any more (script.c, `scriptCall`).
  for _, event in ipairs(events) do add_event(event) end
  local parts, text = {}
  for ino in pairs(dirty.objects) do
    text = objects[ino].text or write_object(objects[ino])
    call('HSET', P .. 'o', ino, text)
    parts[#parts + 1] = 'o' .. ino .. bytes(text)
  end
  for ino, body in pairs(bodies) do
    if body == '' then call('HDEL', P .. 'b', ino) else call('HSET', P .. 'b', ino, body) end
    parts[#parts + 1] = 'b' .. ino .. bytes(body)
  end
  for _, gone in ipairs(removed) do parts[#parts + 1] = gone end
  shares.write(parts)
  queues.write()
  for _, write in ipairs(queue) do call(spread(write)) end
  for ino in pairs(dirty.dirs) do
    local dir = directory(ino)
    text = write_directory(dir)
    local sets = {'HSET', P .. 'd:' .. ino, '/', text}
    for name, known in pairs(dir.names) do
      if known then
        sets[#sets + 1], sets[#sets + 2] = name, known
      else
        call('HDEL', P .. 'd:' .. ino, name)
      end
    end
    call(spread(sets))
    parts[#parts + 1] = 'd' .. ino .. text
  end
  for id in pairs(dirty.sessions) do
    local s = sessions[id]
    if s then
      call('HSET', P .. 's', id, write_session(s))
      if s.lost_changed then
        call('DEL', P .. 'lost:' .. id)
        if s.losses > 0 then call('RPUSH', P .. 'lost:' .. id, spread(s.lost)) end
      end
      parts[#parts + 1] = 's' .. session_text(s)
    else
      parts[#parts + 1] = 'x' .. bytes(id)
    end
  end
  if meta_changed then save_meta() end
  return remember(pack('>cdd', 'K', NOW, meta.events) .. outcome .. table.concat(parts))
end

-- Makes a function that changes something. One that gives room is carried out where the memory is full, too.
local function step(name, act, gives_room)
  redis.register_function({
    function_name = PREFIX .. name,
    callback = function(keys, args)
      start(keys, args)
      queue, events, emptied, removed, bodies, checks = {}, {}, {}, {}, {}, {}
      dirty = {objects = {}, sessions = {}, dirs = {}, mounts = {}, shares = {}, waits = {}}
      queues.stirred, queues.is_stirred = {}, {}
      meta_changed, planned = false, nil
      return act()
    end,
    flags = gives_room and {'allow-oom'} or {},
  })
end
