-- The fourth part of the library: who waits for what, in the order in which they came. Twin of `table/queue.rs`, which
-- says why.
--
-- Invariant: `meta` says how many wait. While nobody does in the whole namespace, no step asks who.
--
-- w:SUBJECT  sorted set, by bytes: who waits for 'o' INO, an advisory lock on an object, or for 's' PARENT NAME, a name
--            to be free; of each its ticket, mount and request, and what it claims
-- waits      hash: the rest of each, by mount and request
-- k:ID       set: the waits of a session, by mount and request
-- r          sorted set: until when something is reserved for whom
--
-- A head is a member of `w:SUBJECT`: what nearly every question about a waiter needs.

local EXCLUSIVE = 2
local HEAD = '>c8c8c8BBc8c8c8'
local HEAD_SIZE = 50
local RESERVED = 2000000

queues.WAITS = 'Q'

local function parse_head(head)
  local w = {}
  w.ticket, w.mount, w.request, w.style, w.mode, w.first, w.last, w.key = parse(HEAD, head)
  return w
end

function queues.mount_of(head)
  return string.sub(head, 9, 16)
end

local function id_of(head)
  return string.sub(head, 9, 24)
end

local function style_of(head)
  return string.byte(head, 25)
end

-- All who wait for something, in their order: their heads.
function queues.of(subject)
  local line = queues.lines[subject]
  if not line then
    line = meta.waits > 0 and call('ZRANGE', P .. 'w:' .. subject, 0, -1) or {}
    for _, head in ipairs(line) do
      if #head ~= HEAD_SIZE then complain(named(P .. 'w:' .. subject) .. ' is damaged: remove it') end
    end
    queues.lines[subject] = line
  end
  return line
end

local WAITER = '>Bc50I2c0I4Bdc12Bc0I2c0'

local function parse_waiter(id, text)
  local w, n, at = {id = id}
  n, w.head, w.subject, w.pid, w.alone, w.reserved, w.since, w.session, w.rest, at = parse(WAITER, text)
  return at == #text + 1 and id_of(w.head) == id and w or nil
end

local function write_waiter(w)
  return pack(WAITER, VERSION, w.head, #w.subject, w.subject, w.pid, w.alone, w.reserved, w.since, #w.session,
    w.session, #w.rest, w.rest)
end

-- The call of that mount and request, if it waits.
function queues.waiter(id)
  local w = queues.known[id]
  if w == nil then
    local text = meta.waits > 0 and call('HGET', P .. 'waits', id)
    w = text and read_record(P .. 'waits', id, text, parse_waiter)
    queues.known[id] = w
  end
  return w
end

function queues.text(head)
  local w = queues.waiter(id_of(head)) or miss(P .. 'waits', id_of(head))
  return head .. pack('>I4BdBc0I2c0', w.pid, w.alone, w.reserved, #w.session, w.session, #w.rest, w.rest) .. w.since
end

-- The requests of a mount that wait, in their order.
function queues.of_mount(mount)
  local requests = {}
  if meta.waits == 0 then return requests end
  for _, member in ipairs(call('ZRANGEBYLEX', P .. 'm:' .. mount, '[w', '(x')) do
    local request = string.sub(member, 2)
    if #request == 8 and queues.waiter(mount .. request) then requests[#requests + 1] = request end
  end
  return requests
end

-- Notes that somebody let go of something.
function queues.stir(subject)
  if meta.waits == 0 or queues.is_stirred[subject] or #queues.of(subject) == 0 then return end
  queues.is_stirred[subject] = true
  queues.stirred[#queues.stirred + 1] = subject
end

local function unreserve(w)
  if w.reserved ~= 0 then
    w.reserved = 0
    dirty.waits[w.id] = true
    later('ZREM', P .. 'r', w.id)
  end
end

function queues.stir_waits_of(mount)
  for _, request in ipairs(queues.of_mount(mount)) do
    local w = queues.waiter(mount .. request)
    unreserve(w)
    queues.stir(w.subject)
  end
end

-- Notes that a mount was heard of.
function queues.unmute(mount)
  local l = mounts.of(mount)
  if l and l.mute == 1 then
    mounts.change(l).mute = 0
    queues.stir_waits_of(mount)
  end
end

-- The place that a call has in a queue.
function queues.place_of(mount, request)
  local w = queues.waiter(mount .. request)
  return w and string.sub(w.head, 1, 8) or nil
end

-- Whether a waiter is to be waited for.
local function is_heeded(mount)
  local l = mounts.of(mount)
  return l and l.mute == 0 and mounts.lives(mount)
end

-- Whether somebody came before `place` (at all, where it is nil) who must be let through before `claim` is granted.
function queues.is_awaited(subject, mount, claim, place)
  for _, head in ipairs(queues.of(subject)) do
    local w = parse_head(head)
    if place and not less(w.ticket, place) then return false end
    if shares.conflicts(w, mount, claim) and is_heeded(w.mount) then return true end
  end
  return false
end

-- Whether somebody waits for a name, so that nobody else may take it.
function queues.is_name_awaited(parent, name, place)
  for _, head in ipairs(meta.waits > 0 and queues.of('s' .. parent .. name) or {}) do
    if place and not less(string.sub(head, 1, 8), place) then return false end
    if is_heeded(queues.mount_of(head)) then return true end
  end
  return false
end

-- What stands at a name, if anything alive does.
local function lookup(subject)
  local parent, name = string.sub(subject, 2, 9), string.sub(subject, 10)
  local above = live(parent)
  if not above or above.kind ~= DIRECTORY then return end
  local _, ino = entry(parent, name)
  return ino and live(ino) or nil
end

-- Deadlock ----------------------------------------------------------------------------------------------------

-- A search for who is in the way, by and by. Nobody is told of twice: behind a long queue it stays short.
local function begin_search()
  return {ahead = {}, lines = {}}
end

-- Adds the sessions that must let go of something before `claim` can be granted to the session `alone`, or to another
-- that it may wait for.
local function add_those_in_the_way(search, subject, mount, claim, place, alone)
  local line = search.lines[subject]
  if not line then
    line = {grants = {}, waiters = {}}
    search.lines[subject] = line
    if string.sub(subject, 1, 1) == 'o' then
      line.o = object(string.sub(subject, 2))
      line.grants = line.o and shares.grants(line.o) or {}
    else
      local o = lookup(subject)
      if o and o.session ~= '' then search.ahead[#search.ahead + 1] = o.session end
    end
    for _, head in ipairs(queues.of(subject)) do
      if is_heeded(queues.mount_of(head)) then line.waiters[#line.waiters + 1] = parse_head(head) end
    end
  end
  local left = {}
  for _, g in ipairs(line.grants) do
    if shares.conflicts(g, mount, claim) then
      search.ahead[#search.ahead + 1] = g.session
    else
      left[#left + 1] = g
    end
  end
  line.grants = left
  if not line.waiters[1] or (line.o and shares.converts(line.o, mount, claim)) then return end
  local kept = {}
  local is_before = true
  for _, w in ipairs(line.waiters) do
    is_before = is_before and (not place or less(w.ticket, place))
    if is_before and shares.conflicts(w, mount, claim) then
      local waiter = queues.waiter(w.mount .. w.request)
      -- A session that is alone waits once: what else waits for it was interrupted, and is about to go.
      if waiter and waiter.session ~= alone then search.ahead[#search.ahead + 1] = waiter.session end
    else
      kept[#kept + 1] = w
    end
  end
  line.waiters = kept
end

-- Whether whoever is in the way waits, by and by, for `id`: each of them with nobody else who could let go of anything.
local function closes_a_cycle(id, subject, mount, claim, place)
  local search, seen = begin_search(), {}
  add_those_in_the_way(search, subject, mount, claim, place, id)
  while #search.ahead > 0 do
    local next_one = table.remove(search.ahead)
    if next_one == id then return true end
    if not seen[next_one] then
      seen[next_one] = true
      for _, wait in ipairs(meta.waits > 0 and call('SMEMBERS', P .. 'k:' .. next_one) or {}) do
        local w = queues.waiter(wait)
        if w and w.alone == 1 and mounts.lives(queues.mount_of(w.head)) then
          local head = parse_head(w.head)
          add_those_in_the_way(search, w.subject, head.mount, head, head.ticket, id)
        end
      end
    end
  end
  return false
end

-- Places ------------------------------------------------------------------------------------------------------

-- Gives a call a place in a queue, or leaves it the one that it has.
function queues.queue_up(c, subject, claim, waiting)
  local id = c.mount .. waiting.request
  local place = queues.place_of(c.mount, waiting.request)
  if waiting.alone == 1 and closes_a_cycle(c.id, subject, c.mount, claim, place) then return refused(WHY.DEADLOCK) end
  if place then
    unreserve(queues.waiter(id))
    return queues.WAITS
  end
  local line = queues.of(subject)
  local head = pack(HEAD, next_token(), c.mount, waiting.request, claim.style, claim.mode, claim.first, claim.last,
    claim.key)
  meta.waits = meta.waits + 1
  line[#line + 1] = head
  queues.known[id] = {
    id = id, head = head, subject = subject, pid = claim.pid, alone = waiting.alone, reserved = 0, since = WALL, session = c.id, rest = c.rest,
  }
  dirty.waits[id] = true
  later('ZADD', P .. 'w:' .. subject, 0, head)
  later('SADD', P .. 'k:' .. c.id, id)
  later('ZADD', P .. 'm:' .. c.mount, 0, 'w' .. waiting.request)
  if string.sub(subject, 1, 1) == 'o' then shares.begin_use(object(string.sub(subject, 2))) end
  return queues.WAITS
end

-- Takes a call out of its queue, if it is in one.
function queues.dequeue(id)
  local w = queues.waiter(id)
  if not w then return end
  unreserve(w)
  queues.stir(w.subject)
  -- As long as somebody waits: that nobody has anything of it is no loss then.
  local o = string.sub(w.subject, 1, 1) == 'o' and object(string.sub(w.subject, 2))
  if o then shares.of(o) end
  local line = queues.of(w.subject)
  for i, head in ipairs(line) do
    if head == w.head then
      table.remove(line, i)
      break
    end
  end
  queues.known[id] = false
  dirty.waits[id] = true
  meta.waits = math.max(meta.waits - 1, 0)
  meta_changed = true
  later('ZREM', P .. 'w:' .. w.subject, w.head)
  later('SREM', P .. 'k:' .. w.session, id)
  later('ZREM', P .. 'm:' .. string.sub(id, 1, 8), 'w' .. string.sub(id, 9))
  if string.sub(w.subject, 1, 1) == 'o' then
    shares.end_use(string.sub(w.subject, 2), mounts.used_by(queues.mount_of(w.head)))
  end
end

-- Makes a file at a name and holds it, as soon as nothing stands there and nobody came earlier.
function queues.await(c, parent, name, mode, waiting)
  local decided
  local refusal = mounts.attended(c.mount)
  local o
  if not refusal then o, refusal = find(parent, name) end
  if refusal then
    decided = refused(refusal)
  elseif not o and not queues.is_name_awaited(parent, name, queues.place_of(c.mount, waiting.request)) then
    refusal, o = make(c, parent, name, FILE, mode, '')
    decided = refusal and refused(refusal) or entry_of(o)
  else
    local claim = shares.whole(waiting.request, (parse('>I4', c.rest)))
    decided = queues.queue_up(c, 's' .. parent .. name, claim, waiting)
  end
  if decided ~= queues.WAITS then queues.dequeue(c.mount .. waiting.request) end
  return decided
end

-- Wakes -------------------------------------------------------------------------------------------------------

-- The waiters whom nothing and nobody is in the way of any more.
local function who_could_go(subject)
  local could = {}
  local is_spot = string.sub(subject, 1, 1) == 's'
  if is_spot and lookup(subject) then return could end
  local grants, excluding = {}, {}
  local o = not is_spot and object(string.sub(subject, 2))
  if o then grants = shares.grants(o) end
  for _, g in ipairs(grants) do
    if g.mode == EXCLUSIVE then excluding[#excluding + 1] = g end
  end
  -- Those that share are in nobody's way who shares: a crowd of readers is looked at once.
  local ahead, ahead_excluding = {}, {}
  local owners = {}
  for _, g in ipairs(grants) do owners[g.mount .. g.key] = true end
  local closed, skipped = {}, {}
  local function put_ahead(w)
    ahead[#ahead + 1] = w
    if w.mode == EXCLUSIVE then ahead_excluding[#ahead_excluding + 1] = w end
  end
  for _, head in ipairs(queues.of(subject)) do
    local mount, style = queues.mount_of(head), style_of(head)
    local owner = mount .. string.sub(head, 43, 50)
    local closer = closed[style]
    if closer and closer ~= owner and not owners[owner] then
      -- Behind one that wants all, and alone, only its own owner could, or who has some of it already.
      table.insert(skipped[style], head)
    elseif is_heeded(mount) then
      local w = parse_head(head)
      for _, other in ipairs(skipped[style] or {}) do
        if is_heeded(queues.mount_of(other)) then put_ahead(parse_head(other)) end
      end
      skipped[style] = {}
      local is_shared = w.mode ~= EXCLUSIVE
      local is_taken = false
      for _, g in ipairs(is_shared and excluding or grants) do
        is_taken = is_taken or shares.conflicts(g, mount, w)
      end
      local is_behind = false
      for _, other in ipairs(is_shared and ahead_excluding or ahead) do
        is_behind = is_behind or shares.conflicts(other, mount, w)
      end
      local has_turn = is_behind and owners[owner] and shares.converts(o, mount, w)
      if not is_taken and (not is_behind or has_turn) then could[#could + 1] = id_of(head) end
      -- A name is one's alone.
      if is_spot then break end
      put_ahead(w)
      if shares.is_whole(w) and not closer then closed[style] = owner end
    end
  end
  return could
end

-- At the end of a step: tells whoever could have now what they wait for.
function queues.settle()
  if not queues.stirred[1] then return end
  local told, order = {}, {}
  local count = 0
  for _, subject in ipairs(queues.stirred) do
    for _, id in ipairs(who_could_go(subject)) do
      local w = queues.waiter(id) or miss(P .. 'waits', id)
      if w.reserved == 0 then
        w.reserved = NOW + RESERVED
        dirty.waits[id] = true
        later('ZADD', P .. 'r', w.reserved, id)
        local mount = string.sub(id, 1, 8)
        if not told[mount] then
          told[mount] = {'w'}
          order[#order + 1] = mount
        end
        table.insert(told[mount], pack('>dI4', NOW, count) .. string.sub(id, 9))
        count = count + 1
      end
    end
  end
  for _, mount in ipairs(order) do mounts.tell(mount, table.concat(told[mount])) end
end

-- Passes over those who were told, and did not come.
function queues.sweep()
  if meta.waits == 0 and not queues.stirred[1] then return end
  for _, id in ipairs(call('ZRANGEBYSCORE', P .. 'r', '-inf', NOW)) do
    pcall(function()
      local w = queues.waiter(id)
      if w and w.reserved == 0 then return end
      -- The waiter keeps the mark of it, so that it is not told again before its mount is heard of.
      later('ZREM', P .. 'r', id)
      if not w or w.reserved > NOW then return end
      local mount = string.sub(id, 1, 8)
      local l = mounts.of(mount)
      if l then mounts.change(l).mute = 1 end
      for _, request in ipairs(queues.of_mount(mount)) do queues.stir(queues.waiter(mount .. request).subject) end
    end)
  end
end

-- Adds the keys that `write` will write.
function queues.reach(add)
  if next(dirty.waits) then add(P .. 'waits') end
end

function queues.write()
  for id in pairs(dirty.waits) do
    local w = queues.known[id]
    if w then call('HSET', P .. 'waits', id, write_waiter(w)) else call('HDEL', P .. 'waits', id) end
  end
end

-- How many of the mounts that may still be there wait for something.
local function count_living(subject)
  local count = 0
  for _, head in ipairs(queues.of(subject)) do
    if mounts.lives(queues.mount_of(head)) then count = count + 1 end
  end
  return count
end

-- How many wait for an advisory lock on an object, or for one of its names.
function queues.waiting(o)
  local count = count_living('o' .. o.ino)
  for _, spot in ipairs(o.places) do count = count + count_living('s' .. spot.parent .. spot.name) end
  return count
end

-- Who waits for a name, or for an advisory lock on what stands there, in their order: their heads.
function queues.at(parent, name)
  local all = {}
  local subject = 's' .. parent .. name
  local o = lookup(subject)
  for _, line in ipairs({o and queues.of('o' .. o.ino) or {}, queues.of(subject)}) do
    for _, head in ipairs(line) do
      if mounts.lives(queues.mount_of(head)) then all[#all + 1] = head end
    end
  end
  table.sort(all, function(a, b) return less(string.sub(a, 1, 8), string.sub(b, 1, 8)) end)
  return all
end

-- Forgets all that wait: of a namespace that lost its head, or of queues of which a part went. Whoever waits asks
-- again. Where no head is left the mounts go, too.
function queues.clear(has_head)
  meta = meta or {}
  meta.waits = 1
  for _, id in ipairs(call('HKEYS', P .. 'waits')) do
    local is_read, w = pcall(queues.waiter, id)
    if is_read and w then call('UNLINK', P .. 'w:' .. w.subject, P .. 'k:' .. w.session) end
  end
  for _, id in ipairs(call('HKEYS', P .. 'mounts')) do
    if has_head then
      for _, member in ipairs(call('ZRANGEBYLEX', P .. 'm:' .. id, '[w', '(x')) do call('ZREM', P .. 'm:' .. id, member) end
    else
      call('UNLINK', P .. 'm:' .. id, P .. 'u:' .. id)
    end
  end
  call('UNLINK', P .. 'waits', P .. 'r')
  if not has_head then call('UNLINK', P .. 'mounts') end
  meta.waits = 0
  queues.known, queues.lines, mounts.known = {}, {}, {}
end
