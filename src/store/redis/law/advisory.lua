-- The third part of the library: advisory locks, and what mounts have of an object. Twin of `table/advisory.rs`, which
-- says why.
--
-- Invariant: an object of which a mount has something, or for which somebody waits, says so in its record (`used`).
-- So whoever acquires and releases what nobody else has open asks for nothing more; and where the key that should
-- say who has something of an object went, nobody takes that for nothing.
--
-- mounts   hash: of each mount its lease
-- f:INO    hash: of each mount what it has of an object: the number under which it said that it has it open (0: it has
--          not), and its grants. Under `/` who held the object when its last name went
-- m:MOUNT  sorted set, by bytes: 'f' INO of what the mount has something of, 'w' REQUEST of its calls that wait
-- u:MOUNT  stream of what the mount is to hear: 'w' and wakes, each the time of the step, its place there, and the
--          request; 'a' INO of a file that is advisory from then on
--
-- Bytes of a file are numbers of 8 bytes, as inodes are.

local FLOCK, EXCLUSIVE = 1, 2
local FIRST_BYTE, LAST_BYTE = '\0\0\0\0\0\0\0\0', '\127\255\255\255\255\255\255\255'
local TOLD_MAX = 10000

-- Mounts ------------------------------------------------------------------------------------------------------

local LEASE = '>BddBI4c8Bc0I2c0'

local function parse_lease(id, text)
  local l, n, at = {id = id}
  n, l.seen, l.ttl, l.mute, l.pid, l.start, l.host, l.boot, at = parse(LEASE, text)
  return #id == 8 and at == #text + 1 and l.seen >= 0 and l.ttl >= 0 and l or nil
end

local function write_lease(l)
  return pack(LEASE, VERSION, l.seen, l.ttl, l.mute, l.pid, l.start, #l.host, l.host, #l.boot, l.boot)
end

-- A mount's lease; false where it has none.
function mounts.of(id)
  local l = mounts.known[id]
  if l == nil then
    local text = call('HGET', P .. 'mounts', id)
    l = text and read_record(P .. 'mounts', id, text, parse_lease)
    mounts.known[id] = l
  end
  return l
end

-- When all that a mount has goes; nil for never, and where nobody knows.
function mounts.ends_at(id)
  local l = mounts.of(id)
  return l and l.ttl ~= 0 and l.seen + l.ttl * 1000 or nil
end

-- Whether a mount may still be there. Of one that never took a lease nobody knows otherwise.
function mounts.lives(id)
  local at = mounts.ends_at(id)
  return at == nil or at > NOW
end

-- Until when a mount that lets go of something had it: till now, or till its lease ran out.
function mounts.used_by(id)
  local at = mounts.ends_at(id)
  return at and math.min(at, NOW) or NOW
end

-- All that have a lease, in their order; what is damaged is left out.
function mounts.all()
  local ids = call('HKEYS', P .. 'mounts')
  local all = {}
  for _, id in ipairs(ids) do
    if #id == 8 and pcall(mounts.of, id) and mounts.of(id) then all[#all + 1] = id end
  end
  table.sort(all, less)
  return all
end

function mounts.text(l)
  return l.id .. bytes(write_lease(l))
end

-- The lease, to change it.
function mounts.change(l)
  dirty.mounts[l.id] = true
  return l
end

function mounts.tell(id, text)
  later('XADD', P .. 'u:' .. id, 'MAXLEN', '~', TOLD_MAX, '*', 'u', text)
end

-- Shares ------------------------------------------------------------------------------------------------------

local GRANT = '>BBc8c8c8I4dc12Bc0I2c0'

local function parse_share(mount, text)
  local share, n, at = {grants = {}}
  n, share.opens, at = parse('>Bd', text)
  while at <= #text do
    local g = {mount = mount}
    g.style, g.mode, g.first, g.last, g.key, g.pid, g.mark, g.since, g.session, g.rest, at = parse(GRANT, text, at)
    share.grants[#share.grants + 1] = g
  end
  return at == #text + 1 and share or nil
end

local function write_grant(g)
  return pack(GRANT, g.style, g.mode, g.first, g.last, g.key, g.pid, g.mark, g.since, #g.session, g.session, #g.rest,
    g.rest)
end

local function write_share(share)
  local parts = {pack('>Bd', VERSION, share.opens)}
  for _, g in ipairs(share.grants) do parts[#parts + 1] = write_grant(g) end
  return table.concat(parts)
end

-- What all mounts have of an object: by mount, and who left it.
function shares.of(o)
  local use = shares.known[o.ino]
  if use then return use end
  use = {by = {}, left_by = ''}
  local key = P .. 'f:' .. o.ino
  local fields = o.used and call('HGETALL', key) or {}
  for i = 1, #fields, 2 do
    if fields[i] == '/' then
      use.left_by = fields[i + 1]
    else
      use.by[fields[i]] = read_record(key, fields[i], fields[i + 1], parse_share)
    end
  end
  if o.used and not fields[1] and #queues.of('o' .. o.ino) == 0 then miss(key) end
  shares.known[o.ino] = use
  return use
end

-- The mounts that have something of an object, or wait for it, dead or alive.
local function users(o)
  local all = {}
  if not o.used then return all end
  for mount in pairs(shares.of(o).by) do all[#all + 1] = mount end
  for _, head in ipairs(queues.of('o' .. o.ino)) do all[#all + 1] = queues.mount_of(head) end
  return all
end

-- Whether a living mount has an object open or locked, or waits for it.
function shares.is_used(o)
  for _, mount in ipairs(users(o)) do
    if mounts.lives(mount) then return true end
  end
  return false
end

-- Until when an object is used at least; nil for as long as its mounts please.
function shares.used_until(o)
  local till = 0
  for _, mount in ipairs(users(o)) do
    local at = mounts.ends_at(mount)
    if not at then return end
    till = math.max(till, at)
  end
  return till
end

-- The grants on an object of mounts that may still be there.
function shares.grants(o)
  local by, order, all = shares.of(o).by, {}, {}
  for mount, share in pairs(by) do
    if share.grants[1] and mounts.lives(mount) then order[#order + 1] = mount end
  end
  table.sort(order, less)
  for _, mount in ipairs(order) do
    for _, g in ipairs(by[mount].grants) do all[#all + 1] = g end
  end
  return all
end

function shares.text(g)
  return g.mount .. write_grant(g)
end

function shares.left_by(o)
  return #o.places == 0 and o.ino ~= ROOT and shares.of(o).left_by or ''
end

-- Who held an object when its last name went, and it lived on; '' where nobody did.
function shares.leave_by(o, id)
  local use = shares.of(o)
  if use.left_by ~= id then
    use.left_by, use.is_left = id, true
    dirty.shares[o.ino] = dirty.shares[o.ino] or {}
  end
end

local function touch(ino, mount)
  local touched = dirty.shares[ino] or {}
  dirty.shares[ino] = touched
  touched[mount] = true
end

-- Somebody uses an object from now on.
function shares.begin_use(o)
  if not o.used then
    -- What is read from now on is as this step has it.
    shares.of(o)
    change(o).used = true
  end
end

-- What a mount has of an object, to change it.
function shares.change(o, mount)
  local by = shares.of(o).by
  shares.begin_use(o)
  if not by[mount] then
    by[mount] = {opens = 0, grants = {}}
    later('ZADD', P .. 'm:' .. mount, 0, 'f' .. o.ino)
  end
  touch(o.ino, mount)
  return by[mount]
end

-- A mount has an object open, and says so under a number that rises: what it said before comes too late.
function shares.open_on(o, mount, number)
  local share = shares.change(o, mount)
  share.opens = math.max(share.opens, number)
end

local function drop_share(o, mount)
  shares.of(o).by[mount] = nil
  touch(o.ino, mount)
  later('ZREM', P .. 'm:' .. mount, 'f' .. o.ino)
end

-- Forgets what a mount has of an object where that is nothing any more.
local function tidy_share(o, mount)
  local share = shares.of(o).by[mount]
  if share and share.opens == 0 and not share.grants[1] then
    drop_share(o, mount)
    shares.end_use(o.ino, mounts.used_by(mount))
  end
end

-- A mount has an object open no more.
function shares.close(ino, mount, number)
  local o = object(ino)
  local share = o and shares.of(o).by[mount]
  if share and share.opens ~= 0 and share.opens < number then
    share.opens = 0
    touch(ino, mount)
    tidy_share(o, mount)
  end
end

-- Some mount let go of an object at `at`: what had no name goes with the last living one, and of an advisory file the
-- ttl begins to run.
function shares.end_use(ino, at)
  local o = object(ino)
  if not o or shares.is_used(o) then return end
  if o.used and not users(o)[1] then
    shares.leave_by(o, '')
    change(o).used = false
  end
  if #o.places == 0 and ino ~= ROOT then
    remove(o, 'g')
  elseif is_advisory(o) then
    local grain = GRAIN
    if o.ttl ~= 0 and o.ttl * 125 < grain then grain = o.ttl * 125 end
    if at - o.seen >= grain or at < NOW then
      change(o).seen = math.max(o.seen, at)
    end
    schedule(o)
  end
end

-- Forgets what mounts have of an object that goes.
function shares.drop_all(o)
  if o.used then
    for mount in pairs(shares.of(o).by) do later('ZREM', P .. 'm:' .. mount, 'f' .. o.ino) end
    later('DEL', P .. 'f:' .. o.ino)
  end
  dirty.shares[o.ino] = nil
  shares.known[o.ino] = {by = {}, left_by = ''}
  queues.stir('o' .. o.ino)
end

-- Nobody holds the file from now on: whoever locks it means its locks.
local function make_advisory(o, mount)
  if shares.left_by(o) ~= '' then shares.leave_by(o, '') end
  if o.session == '' then return end
  leave_session(o)
  o.seen = NOW
  schedule(o)
  -- Whoever has it open, and has not said so, says it now.
  for _, id in ipairs(mounts.all()) do
    if id ~= mount then mounts.tell(id, 'a' .. o.ino) end
  end
end

-- Ranges, each of its first and its last byte.

local function step_by(text, by)
  local high, low = parse('>I4I4', text)
  low = low + by
  if low < 0 then
    high, low = high - 1, 4294967295
  elseif low > 4294967295 then
    high, low = high + 1, 0
  end
  return pack('>I4I4', high, low)
end

function shares.overlap(a_first, a_last, b_first, b_last)
  return not less(b_last, a_first) and not less(a_last, b_first)
end

-- What is left of a range before and behind another.
local function without(first, last, other_first, other_last)
  if not shares.overlap(first, last, other_first, other_last) then return {{first, last}} end
  local left = {}
  if less(first, other_first) then left[1] = {first, step_by(other_first, -1)} end
  if less(other_last, last) then left[#left + 1] = {step_by(other_last, 1), last} end
  return left
end

-- Whether nothing is between two ranges.
local function touches(a_first, a_last, b_first, b_last)
  return not less(step_by(b_last, 1), a_first) and not less(step_by(a_last, 1), b_first)
end

-- What an owner has of an object by one of the two calls.
local function own_grants(o, mount, claim)
  local own, share = {}, shares.of(o).by[mount]
  for _, g in ipairs(share and share.grants or {}) do
    if g.key == claim.key and g.style == claim.style then own[#own + 1] = g end
  end
  return own
end

-- Whether an owner has all of what it claims already, and wants it otherwise: then it has had its turn, and nobody who
-- waits is to be let through before it.
function shares.converts(o, mount, claim)
  local left = {{claim.first, claim.last}}
  for _, g in ipairs(own_grants(o, mount, claim)) do
    local parts = {}
    for _, part in ipairs(left) do
      for _, rest in ipairs(without(part[1], part[2], g.first, g.last)) do parts[#parts + 1] = rest end
    end
    left = parts
  end
  return left[1] == nil
end

-- Whether another could not have `claim` beside a grant.
function shares.conflicts(g, mount, claim)
  return (g.mount ~= mount or g.key ~= claim.key) and g.style == claim.style
    and (g.mode == EXCLUSIVE or claim.mode == EXCLUSIVE)
    and shares.overlap(g.first, g.last, claim.first, claim.last)
end

-- Takes a range away from what an owner was granted under numbers `from` to `upto`; of a lock that reaches farther
-- the rest stays.
local function take_away(o, mount, claim, from, upto)
  local share = shares.of(o).by[mount]
  if not share then return end
  local left, is_changed = {}, false
  for _, g in ipairs(share.grants) do
    if g.key == claim.key and g.style == claim.style and g.mark >= from and g.mark <= upto
      and shares.overlap(g.first, g.last, claim.first, claim.last) then
      is_changed = true
      for _, part in ipairs(without(g.first, g.last, claim.first, claim.last)) do
        local rest = {}
        for name, value in pairs(g) do rest[name] = value end
        rest.first, rest.last = part[1], part[2]
        left[#left + 1] = rest
      end
    else
      left[#left + 1] = g
    end
  end
  if not is_changed then return end
  share.grants = left
  touch(o.ino, mount)
  queues.stir('o' .. o.ino)
end

-- Said again -------------------------------------------------------------------------------------------------

function mounts.read(id, text)
  return read_record(P .. 'mounts', id, text, parse_lease)
end

-- Forgets what a mount has of an object, until it says so again, or `tidy_all` finds that it has not.
function shares.empty(o, mount)
  local share = shares.of(o).by[mount]
  if share then
    share.opens, share.grants = 0, {}
    touch(o.ino, mount)
  end
end

-- What a mount has of an object, as `text` says; returns those grants that others have by now.
function shares.say(o, mount, text)
  local said, lost_grants = read_record(P .. 'f:' .. o.ino, mount, text, parse_share), {}
  local share = shares.change(o, mount)
  share.opens, share.grants = said.opens, {}
  for _, g in ipairs(said.grants) do
    local is_lost = false
    for _, other in ipairs(shares.grants(o)) do is_lost = is_lost or shares.conflicts(other, mount, g) end
    if is_lost then
      lost_grants[#lost_grants + 1] = g
    else
      share.grants[#share.grants + 1] = g
    end
  end
  return lost_grants
end

-- A host has said all: what its mounts did not say they have they have no more.
function shares.tidy_all(host)
  for _, id in ipairs(mounts.all()) do
    if mounts.of(id).host == host then
      for _, member in ipairs(call('ZRANGEBYLEX', P .. 'm:' .. id, '[f', '(g')) do
        local ino = string.sub(member, 2)
        local o = object(ino)
        if o then
          tidy_share(o, id)
          queues.stir('o' .. ino)
        end
      end
    end
  end
end

-- Commands ----------------------------------------------------------------------------------------------------

-- Makes sure that the caller's mount has a lease, and notes that it is there; or says why not.
function mounts.attended(id)
  if not mounts.of(id) or not mounts.lives(id) then return WHY.UNATTENDED end
  queues.unmute(id)
end

-- A claim, as `codec.rs` writes it.
function shares.parse_claim(text)
  local claim = {}
  claim.style, claim.mode, claim.first, claim.last, claim.key, claim.pid = parse('>BBc8c8c8I4', text)
  return claim
end

-- What a caller claims that waits for a name: all of it.
function shares.whole(request, pid)
  return {style = FLOCK, mode = EXCLUSIVE, first = FIRST_BYTE, last = LAST_BYTE, key = request, pid = pid}
end

function shares.is_whole(claim)
  return claim.mode == EXCLUSIVE and claim.first == FIRST_BYTE and claim.last == LAST_BYTE
end

local function decide_lock(c, o, claim, waiting, mark)
  make_advisory(o, c.mount)
  for _, g in ipairs(own_grants(o, c.mount, claim)) do
    if g.mode == claim.mode and not less(claim.first, g.first) and not less(g.last, claim.last) then
      -- It is what this request asked, too: one before it, of which nobody heard, must not be undone any more.
      g.mark = mark
      touch(o.ino, c.mount)
      return done()
    end
  end
  local converts = shares.converts(o, c.mount, claim)
  -- The old lock goes first, and is lost where the new one can't be had (`flock_lock_inode` of fs/locks.c).
  if converts and claim.style == FLOCK then take_away(o, c.mount, claim, 0, mark) end
  local subject = 'o' .. o.ino
  local is_taken = false
  for _, g in ipairs(shares.grants(o)) do
    is_taken = is_taken or shares.conflicts(g, c.mount, claim)
  end
  local place = waiting and queues.place_of(c.mount, waiting.request)
  if is_taken or (not converts and queues.is_awaited(subject, c.mount, claim, place)) then
    if not waiting then return refused(WHY.TAKEN) end
    return queues.queue_up(c, subject, claim, waiting)
  end
  take_away(o, c.mount, claim, 0, mark)
  local share = shares.change(o, c.mount)
  -- What touches it and is like it becomes one with it (`posix_lock_inode` of fs/locks.c).
  local first, last, kept = claim.first, claim.last, {}
  for _, g in ipairs(share.grants) do
    if g.key == claim.key and g.style == claim.style and g.mode == claim.mode
      and touches(g.first, g.last, claim.first, claim.last) then
      if less(g.first, first) then first = g.first end
      if less(last, g.last) then last = g.last end
    else
      kept[#kept + 1] = g
    end
  end
  kept[#kept + 1] = {
    style = claim.style, mode = claim.mode, first = first, last = last, mount = c.mount, key = claim.key,
    pid = claim.pid, mark = mark, since = WALL, session = c.id, rest = c.rest,
  }
  share.grants = kept
  return done()
end

-- Locks an open file. `waiting` is nil where it would not wait; `opens` are registered first: of each mount of the
-- daemon's that has the file open, and has not said so, the mount and the number.
function shares.lock(c, ino, claim, waiting, mark, opens)
  local o, refusal = live(ino)
  if not o then
    refusal = WHY.GONE
  elseif o.kind ~= FILE then
    refusal = WHY.INVALID
  else
    for at = 1, #opens, 16 do
      local mount, number = parse('>c8d', opens, at)
      shares.open_on(o, mount, number)
    end
    refusal = mounts.attended(c.mount)
  end
  local decided = refusal and refused(refusal) or decide_lock(c, o, claim, waiting, mark)
  -- Whatever the answer is, if it is not to wait the call waits no longer.
  if waiting and decided ~= queues.WAITS then queues.dequeue(c.mount .. waiting.request) end
  -- A flock that was to be converted is lost, and may have been all that the mount had.
  o = object(ino)
  if o then tidy_share(o, c.mount) end
  return decided
end

function shares.unlock(mount, ino, claim, from, upto)
  local o = object(ino)
  if not o then return end
  take_away(o, mount, claim, from, upto)
  tidy_share(o, mount)
end

-- All that a mount has goes, and its lease; at the end of that where it has run out.
function mounts.leave(id)
  local at = mounts.used_by(id)
  for _, request in ipairs(queues.of_mount(id)) do queues.dequeue(id .. request) end
  for _, member in ipairs(call('ZRANGEBYLEX', P .. 'm:' .. id, '[f', '(g')) do
    local ino = string.sub(member, 2)
    -- What is damaged is no reason to keep the others.
    pcall(function()
      local o = object(ino)
      if o and shares.of(o).by[id] then
        drop_share(o, id)
        queues.stir('o' .. ino)
        shares.end_use(ino, at)
      end
    end)
  end
  if mounts.of(id) then
    mounts.known[id] = false
    dirty.mounts[id] = true
  end
  later('DEL', P .. 'm:' .. id, P .. 'u:' .. id)
  removed[#removed + 1] = 'l' .. id
end

-- Begins or renews the lease that `text` says; whether it was there. Where it must be, it did not go by itself.
function mounts.attend(id, text, must_be_there)
  if must_be_there and not mounts.of(id) then miss(P .. 'mounts', id) end
  local l = read_record(P .. 'mounts', id, text, parse_lease)
  local before = mounts.of(id)
  local was_there = before and mounts.lives(id)
  if not was_there then
    mounts.leave(id)
    before = false
  end
  l.seen, l.mute = NOW, 0
  mounts.known[id] = mounts.change(l)
  if before and before.mute == 1 then queues.stir_waits_of(id) end
  return was_there and 1 or 0
end

-- Lets mounts go whose lease has run out.
function mounts.sweep()
  for _, id in ipairs(mounts.all()) do
    if not mounts.lives(id) then mounts.leave(id) end
  end
end

-- The end of a step -------------------------------------------------------------------------------------------

-- Sees to it that what is written without having been read can be.
function shares.check(check)
  for ino in pairs(dirty.shares) do check(P .. 'f:' .. ino, 'hash') end
end

-- Adds the keys that `write` will write.
function shares.reach(add)
  if next(dirty.mounts) then add(P .. 'mounts') end
  for ino in pairs(dirty.shares) do add(P .. 'f:' .. ino) end
end

-- Writes what mounts have now, and adds it to what the step tells of.
function shares.write(parts)
  for id in pairs(dirty.mounts) do
    local l = mounts.known[id]
    if l then call('HSET', P .. 'mounts', id, write_lease(l)) else call('HDEL', P .. 'mounts', id) end
  end
  for ino, touched in pairs(dirty.shares) do
    local key, use = P .. 'f:' .. ino, shares.known[ino]
    for mount in pairs(touched) do
      local share = use.by[mount]
      local text = share and write_share(share) or ''
      if share then call('HSET', key, mount, text) else call('HDEL', key, mount) end
      parts[#parts + 1] = 'f' .. ino .. mount .. bytes(text)
    end
    if use.is_left then
      if use.left_by == '' then call('HDEL', key, '/') else call('HSET', key, '/', use.left_by) end
    end
  end
end
