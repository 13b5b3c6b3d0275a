-- The first part of the library: the namespace as it is, read once and remembered for the step.
--
-- Invariant: nothing here writes. All that a step remembers is forgotten when the next one starts (`start`). An
-- object whose deadline has passed is dead for every function, whether or not a sweep has removed it. Twin of
-- `table.rs`, `table/expiry.rs` and `table/query.rs`, which say why.
--
-- Numbers: inodes, tokens and cookies are 8 bytes, most significant first; Lua's own numbers are exact to 2^53
-- only. Times are microseconds, ttls milliseconds (0: never); file times are 12 opaque bytes. Strings of bytes
-- are compared for equality only: `<` on strings follows the server's locale.
--
-- KEYS[1]  P .. 'meta', where P is `lockfs:{NAMESPACE}:`; every other key begins with P and lies in its slot
-- KEYS[2]  the same again where slots may move: on a cluster
-- ARGV[1]  the generation of the data that the daemon knows

-- Set when a function starts: while the server loads a library it has nothing but `redis`, and not all of that.
local call, pack, parse, spread
local KEYS, ARGV, P, NOW, WALL
local ROOT, NOTHING = '\0\0\0\0\0\0\0\1', '\0\0\0\0\0\0\0\0'
local FILE, DIRECTORY, SYMLINK = 1, 2, 3
local NAMED, JOB, UNSEEN = 1, 2, 3
local VERSION = 1

-- What mounts have of objects, and who waits: `law/advisory.lua` and `law/queue.lua` say what these do; what migrations
-- do, `law/import.lua`. Tables, for a function has 200 local names at most.
local mounts, shares, queues, moves = {}, {}, {}, {}

local DAY = 86400000000

-- A key as it is shown, and a field of it.
local function named(key, field)
  local shown = string.gsub(field and key .. ' field ' .. field or key, '[^ -~]', function(c)
    return string.format('\\x%02x', string.byte(c))
  end)
  return 'the key ' .. shown
end

-- Ends the function: something is not as lockfs leaves it, and somebody must see to it.
local function complain(what)
  error(redis.error_reply('LOCKFS ' .. what))
end

-- Ends the function: a part of the namespace went. The daemon has it mended (`mend.lua`), and asks again.
local function miss(key, field)
  error(redis.error_reply('LOST ' .. named(key, field) .. ' went'))
end

-- One command. The server does not say which key is of another type, so this does.
local function ask(...)
  local answer = redis.pcall(...)
  if type(answer) == 'table' and answer.err then
    if string.find(answer.err, 'WRONGTYPE', 1, true) then
      complain(named((select(2, ...))) .. ' is not of lockfs: remove it')
    end
    error(answer)
  end
  return answer
end

-- A record that `parser` reads; it must be whole, and of this version, or of one up to `newest`.
local function read_record(key, field, text, parser, newest)
  local version = string.byte(text)
  local is_ours = version and version >= VERSION and version <= (newest or VERSION)
  -- Versions are small numbers, and what is no record begins with a letter more often than not.
  if version and not is_ours and version < 32 then
    complain(named(key, field) .. ' was written by another version of lockfs (' .. version .. '): use that one')
  end
  local is_whole, record = pcall(parser, field, text)
  if not (is_ours and is_whole and record) then complain(named(key, field) .. ' is damaged: remove it') end
  return record
end

-- What the whole namespace has in common; nil where there is none.
local meta

-- The second version says how many wait: one that does not know of queues must not overtake them. The third says how
-- a migration stands, and is written while there is one: one that does not know of those must not grant.
local META, META_VERSION = '>Bc16I4I4c40ddddddddddd', 2

local function parse_meta(_, text)
  local f = {parse(META, text)}
  local waits, at = 0, f[17]
  local move
  if f[1] >= META_VERSION then waits, at = parse('>d', text, at) end
  if f[1] > META_VERSION then
    move = {}
    move.tracked, move.frozen, move.closed, at = parse('>ddI2c0', text, at)
  end
  if at ~= #text + 1 then return end
  return {
    gen = f[2], epoch = f[3], seq = f[4], replid = f[5],
    events = f[6], locks = f[7], recover = f[8],
    tally = {f[9], f[10], f[11], f[12], f[13], f[14], f[15], f[16]}, waits = waits,
    -- Of a migration: until when changes are noted, until when nothing changes, and '' or why nothing is done any more.
    move = move,
  }
end

local function load_meta()
  local text = call('GET', KEYS[1])
  if text then meta = read_record(KEYS[1], nil, text, parse_meta, META_VERSION + 1) end
end

local function save_meta()
  local move = meta.move
  call('SET', KEYS[1], pack(META, META_VERSION + (move and 1 or 0), meta.gen, meta.epoch, meta.seq, meta.replid,
    meta.events, meta.locks, meta.recover, spread(meta.tally)) .. pack('>d', meta.waits)
    .. (move and pack('>ddI2', move.tracked, move.frozen, #move.closed) .. move.closed or ''))
end

-- Why nothing is done in the namespace any more; nil where it is.
function moves.closed()
  return meta.move and meta.move.closed ~= '' and 'M' .. meta.move.closed or nil
end

-- Whether the data is not what the daemon knows: it was lost, or another's was put in its place.
local function is_foreign()
  load_meta()
  return not meta or meta.gen ~= ARGV[1]
end

local objects, sessions, dirs

local OBJECT = '>BBc8I2I4I4c12c12c12ddI4dBc0'

-- This bit of the mode says that mounts have something of the object, or wait for it: nobody looks for them else.
local USED = 32768

local function parse_object(ino, text)
  local o, at, n = {ino = ino, places = {}}
  n, o.kind, o.token, o.mode, o.uid, o.gid, o.mtime, o.ctime, o.since, o.ttl, o.seen, o.size, o.default_ttl,
    o.session, at = parse(OBJECT, text)
  n, at = parse('>I2', text, at)
  for i = 1, n do
    local place = {}
    place.parent, place.cookie, place.name, at = parse('>c8c8Bc0', text, at)
    o.places[i] = place
  end
  o.used = o.mode >= USED
  o.mode = o.mode % USED
  local is_whole = at == #text + 1 and o.kind >= FILE and o.kind <= SYMLINK and o.ttl >= 0 and o.seen >= 0
  return is_whole and o or nil
end

local function write_object(o)
  local mode = o.mode + (o.used and USED or 0)
  local parts = {pack(OBJECT, VERSION, o.kind, o.token, mode, o.uid, o.gid, o.mtime, o.ctime, o.since, o.ttl,
    o.seen, o.size, o.default_ttl, #o.session, o.session), pack('>I2', #o.places)}
  for _, place in ipairs(o.places) do
    parts[#parts + 1] = pack('>c8c8Bc0', place.parent, place.cookie, #place.name, place.name)
  end
  return table.concat(parts)
end

-- The object of that number, dead or alive; false where there is none.
local function object(ino)
  local o = objects[ino]
  if o == nil then
    local text = call('HGET', P .. 'o', ino)
    -- The root is always there.
    if not text and ino == ROOT then miss(P .. 'o') end
    o = text and read_record(P .. 'o', ino, text, parse_object)
    objects[ino] = o
  end
  return o
end

local SESSION = '>BBc8I4I4c12c12ddBI4BI2c0'

-- Where what is parsed ends.
local function parse_end(format, text, at)
  return select(-1, parse(format, text, at))
end

local function parse_session(id, text)
  local n, at
  local s = {id = id}
  n, s.kind, s.ino, s.uid, s.gid, s.since, s.mtime, s.seen, s.ttl, s.ended, s.losses, s.has_login, s.login, at =
    parse(SESSION, text)
  s.rest = string.sub(text, at)
  -- No script looks into the rest, but whoever shows the session needs it whole (`codec.rs`).
  at = parse_end('>I4I2c0I2c0I2c0', text, at)
  if s.kind == JOB then parse_end('>I4c8I2c0', text, at) end
  return s.kind >= NAMED and s.kind <= UNSEEN and s.ttl >= 0 and s.seen >= 0 and s or nil
end

local function session(id)
  local s = sessions[id]
  if s == nil then
    local text = call('HGET', P .. 's', id)
    s = text and read_record(P .. 's', id, text, parse_session)
    sessions[id] = s
  end
  return s
end

-- The session that holds an object; nil where nobody does.
local function holder(o)
  if o.session == '' then return end
  return session(o.session) or miss(P .. 's', o.session)
end

local function write_session(s)
  return pack(SESSION, VERSION, s.kind, s.ino, s.uid, s.gid, s.since, s.mtime, s.seen, s.ttl, s.ended, s.losses,
    s.has_login, #s.login, s.login) .. s.rest
end

-- Names that a session held and lost, oldest first, as parent .. name.
local function lost(s)
  if not s.lost then
    s.lost = s.losses > 0 and call('LRANGE', P .. 'lost:' .. s.id, 0, -1) or {}
  end
  return s.lost
end

local function new_directory(ino, text)
  local dir = {ino = ino, subs = 0, changed = '', names = {}, added = {}, read = {}}
  if text then
    local is_whole
    is_whole, dir.subs, dir.changed = pcall(parse, '>I4Bc0', text)
    if not is_whole then complain(named(P .. 'd:' .. ino, '/') .. ' is damaged: remove it') end
  elseif call('EXISTS', P .. 'l:' .. ino) == 1 then
    -- What it says of its entries comes with the first, and stays.
    miss(P .. 'd:' .. ino)
  end
  dirs[ino] = dir
  return dir
end

-- A directory: how many subdirectories, when an entry last came or went ('' where nobody knows), and what this
-- step did to its entries.
local function directory(ino)
  local dir = dirs[ino]
  if not dir then
    local text = call('HGET', P .. 'd:' .. ino, '/')
    dir = new_directory(ino, text)
  end
  return dir
end

local function write_directory(dir)
  return pack('>I4Bc0', dir.subs, #dir.changed, dir.changed)
end

-- The entry of that name: its cookie and its inode.
local function entry(parent, name)
  local dir = dirs[parent]
  local known = dir and dir.names[name]
  if known == nil and dir then known = dir.read[name] end
  if known == nil then
    if not dir then
      local found = call('HMGET', P .. 'd:' .. parent, name, '/')
      dir, known = new_directory(parent, found[2]), found[1]
    else
      known = call('HGET', P .. 'd:' .. parent, name)
    end
    dir.read[name] = known
  end
  if not known then return end
  if #known ~= 16 then complain(named(P .. 'd:' .. parent, name) .. ' is damaged: remove it') end
  return string.sub(known, 1, 8), string.sub(known, 9)
end

-- All entries of a directory in the order in which they came, each a table of cookie, ino and name.
local function entries(parent)
  local dir = directory(parent)
  local list = {}
  for _, member in ipairs(call('ZRANGE', P .. 'l:' .. parent, 0, -1)) do
    local name = string.sub(member, 17)
    if dir.names[name] == nil then
      list[#list + 1] = {cookie = string.sub(member, 1, 8), ino = string.sub(member, 9, 16), name = name}
    end
  end
  -- Cookies rise with every step, so what came in this one comes last.
  for _, name in ipairs(dir.added) do
    local cookie, ino = entry(parent, name)
    if cookie then
      list[#list + 1] = {cookie = cookie, ino = ino, name = name}
    end
  end
  return list
end

-- Whether nobody holds a file that has a name: its existence means nothing.
local function is_advisory(o)
  return o.kind == FILE and o.session == '' and #o.places > 0
end

-- When an object expires; nil for never.
local function deadline(o)
  if o.ttl == 0 or #o.places == 0 then return end
  local seen = o.seen
  if is_advisory(o) then
    local used = shares.used_until(o)
    return used and math.max(seen, used) + o.ttl * 1000
  end
  local s = holder(o)
  if s and s.seen > seen then seen = s.seen end
  return seen + o.ttl * 1000
end

local function has_passed(o)
  -- Its mounts need not be asked.
  if is_advisory(o) and o.seen + o.ttl * 1000 > NOW then return false end
  local at = deadline(o)
  return at ~= nil and at <= NOW
end

local SOME = 64

-- Whether something alive stands in a directory, however far down.
local function has_live_entries(ino)
  local ahead = {ino}
  while #ahead > 0 do
    local parent = table.remove(ahead)
    local function is_alive(child)
      local o = object(child) or miss(P .. 'o', child)
      if not has_passed(o) then return true end
      if o.kind == DIRECTORY then ahead[#ahead + 1] = child end
    end
    if dirs[parent] and next(dirs[parent].names) then
      for _, e in ipairs(entries(parent)) do
        if is_alive(e.ino) then return true end
      end
    else
      -- The first few are nearly always enough.
      local key, from = P .. 'l:' .. parent, 0
      repeat
        local members = call('ZRANGE', key, from, from + SOME - 1)
        -- As many as the directory has names, besides what it says of them.
        if from == 0 and not members[1] and call('HLEN', P .. 'd:' .. parent) > 1 then miss(key) end
        for _, member in ipairs(members) do
          if is_alive(string.sub(member, 9, 16)) then return true end
        end
        from = from + SOME
      until #members < SOME
    end
  end
  return false
end

local function is_dead(o)
  if #o.places == 0 and o.ino ~= ROOT then return not shares.is_used(o) end
  return has_passed(o) and not (o.kind == DIRECTORY and has_live_entries(o.ino))
end

-- The object of that number, if it is there and not dead.
local function live(ino)
  local o = object(ino)
  return o and not is_dead(o) and o or nil
end

-- The path of an entry: names joined by slashes. The root is not asked, for it has no name.
local function path_at(parent, name)
  local path = name
  while parent ~= ROOT do
    local o = object(parent)
    local above = o and o.places[1]
    if not above then break end
    path, parent = above.name .. '/' .. path, above.parent
  end
  return path
end

-- What a session holds: changes of this step by id, each from ino to its ttl, or to false where it let go.
local held

local function holds_now(id, ino)
  local changed = held[id] and held[id][ino]
  if changed ~= nil then return changed ~= false end
  return call('ZSCORE', P .. 'h:' .. id, ino) ~= false
end

local function less(a, b)
  local a_high, a_low = parse('>I4I4', a)
  local b_high, b_low = parse('>I4I4', b)
  return a_high < b_high or (a_high == b_high and a_low < b_low)
end

-- The inodes that a session holds, in their order.
local function holds(id)
  local changed = held[id] or {}
  local all = {}
  for _, ino in ipairs(call('ZRANGE', P .. 'h:' .. id, 0, -1)) do
    if #ino ~= 8 then miss(P .. 'h:' .. id) end
    if changed[ino] == nil then all[#all + 1] = ino end
  end
  for ino, ttl in pairs(changed) do
    if ttl then all[#all + 1] = ino end
  end
  table.sort(all, less)
  return all
end

local function holds_nothing(id)
  local changed = held[id]
  if not changed then return call('EXISTS', P .. 'h:' .. id) == 0 end
  local count = 0
  for _, ttl in pairs(changed) do
    if ttl then return false end
    count = count + 1
  end
  -- What is there besides what this step took away?
  for _, ino in ipairs(call('ZRANGE', P .. 'h:' .. id, 0, count)) do
    if changed[ino] == nil then return false end
  end
  return true
end

-- The shortest ttl among what a session holds: milliseconds, 0 for never, nil where it holds nothing.
local function shortest_ttl(id)
  local changed = held[id] or {}
  local shortest
  local count = 0
  for _, ttl in pairs(changed) do
    count = count + 1
    if ttl and (not shortest or (ttl ~= 0 and (shortest == 0 or ttl < shortest))) then shortest = ttl end
  end
  local first = call('ZRANGE', P .. 'h:' .. id, 0, count, 'WITHSCORES')
  for i = 1, #first, 2 do
    if changed[first[i]] == nil then
      local ttl = first[i + 1] == 'inf' and 0 or tonumber(first[i + 1])
      if not shortest or (ttl ~= 0 and (shortest == 0 or ttl < shortest)) then shortest = ttl end
      break
    end
  end
  return shortest
end

local function holds_live(id)
  for _, ino in ipairs(holds(id)) do
    if live(ino) then return true end
  end
  return false
end

-- When a session that holds nothing alive may be begun anew; nil for never.
local function lapses_at(s)
  return s.ttl ~= 0 and s.seen + s.ttl * 1000 or nil
end

-- When a session that holds nothing alive is over: what it still holds then, it will have lost.
local function ends_at(s)
  local lapse = lapses_at(s)
  if not lapse then return end
  return (s.losses == 0 and holds_nothing(s.id)) and lapse or lapse + DAY
end

local function is_over(s)
  local ended = s.ended == 1
  if not ended then
    local lapse = lapses_at(s)
    ended = lapse ~= nil and lapse <= NOW and ends_at(s) <= NOW
  end
  return ended and not holds_live(s.id)
end

local function live_session(id)
  local s = session(id)
  return s and not is_over(s) and s or nil
end

-- Replies. Each is one string, taken apart by `codec.rs`.

local function bytes(text)
  return pack('>I4', #text) .. text
end

-- An object as stat(2) needs it, at the end of a step.
local function attributes(o)
  o.text = write_object(o)
  local text = o.ino .. bytes(o.text)
  if o.kind ~= DIRECTORY then return text end
  local dir = directory(o.ino)
  return text .. write_directory(dir)
end

local function session_text(s)
  local names = lost(s)
  local parts = {bytes(s.id), bytes(write_session(s)), pack('>I4', #names)}
  for _, spot in ipairs(names) do parts[#parts + 1] = bytes(spot) end
  return table.concat(parts)
end

-- A read is answered with the time, so that the daemon knows the server's clock, and with whether what is not
-- there may only not be there yet.
local function answer(text)
  local waits = (meta.recover > NOW) and 1 or 0
  return pack('>cdB', 'K', NOW, waits) .. text
end

-- How many, and how often each kind of event happened.
local function counts()
  return pack('>ddd', meta.locks, call('HLEN', P .. 's'), meta.waits) .. pack('>dddddddd', spread(meta.tally))
end

-- Before a function: it knows nothing yet.
local function start(keys, args)
  call, pack, parse, spread = ask, struct.pack, struct.unpack, unpack
  KEYS, ARGV = keys, args
  P = string.sub(keys[1], 1, -5)
  local clock = call('TIME')
  NOW = clock[1] * 1000000 + clock[2]
  WALL = pack('>I4I4I4', 0, clock[1], clock[2] * 1000)
  meta, objects, sessions, dirs, held = nil, {}, {}, {}, {}
  mounts.known, shares.known, queues.known, queues.lines = {}, {}, {}, {}
end

-- Makes a function that only looks, for the daemon to call by its name. One for copies looks into what is closed, too.
local function look(name, act, is_for_copies)
  redis.register_function({
    function_name = PREFIX .. name,
    callback = function(keys, args)
      start(keys, args)
      if is_foreign() then return 'G' end
      return not is_for_copies and moves.closed() or act()
    end,
    flags = {'no-writes'},
  })
end
