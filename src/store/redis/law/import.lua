-- The fifth part of the library: records of another store, put into a namespace as they are, and taken out.
--
-- Invariant: the indexes are written with each record, and what is done again changes nothing. Nobody is told of it, and
-- nothing is asked of the law: the namespace is closed meanwhile (`move.lua`). Sessions come before what they hold;
-- directories may come behind what stands in them.
--
-- What is new there is written together in the end, a command for each key: that takes a third of the time.

-- How many words one command has at most: Lua gives a function some thousands.
local WORDS = 1000

-- Writes that wait, by key: the command, and its words.
local waiting

local function write_later(command, key, first, second)
  local write = waiting[key]
  if not write then
    write = {command = command, key = key, words = {}}
    waiting[key] = write
  end
  write.words[#write.words + 1] = first
  write.words[#write.words + 1] = second
end

-- Calls `act` with some of a list at a time.
local function in_parts(list, act)
  for from = 1, #list, WORDS do
    local part = {}
    for i = from, math.min(from + WORDS - 1, #list) do part[#part + 1] = list[i] end
    act(part)
  end
end

local function write_all()
  for _, write in pairs(waiting) do
    in_parts(write.words, function(part) call(write.command, write.key, spread(part)) end)
  end
  waiting = {}
end

-- Reads with a few commands what is there of what comes: quadruples of arguments from `first` on.
function moves.begin(first)
  waiting, moves.epochs = {}, {}
  local function read(key, kinds, known, parser)
    local names = {}
    for i = first, #ARGV, 4 do
      if kinds[ARGV[i]] and known[ARGV[i + 1]] == nil then
        names[#names + 1] = ARGV[i + 1]
      end
    end
    in_parts(names, function(part)
      for i, text in ipairs(call('HMGET', key, spread(part))) do
        known[part[i]] = text and read_record(key, part[i], text, parser)
      end
    end)
  end
  read(P .. 'o', {o = true, g = true}, objects, parse_object)
  read(P .. 's', {s = true, x = true}, sessions, parse_session)
  local names = {}
  for i = first, #ARGV, 4 do
    if ARGV[i] == 'o' then
      for _, place in ipairs(parse_object(ARGV[i + 1], ARGV[i + 2]).places) do
        names[place.parent] = names[place.parent] or {}
        table.insert(names[place.parent], place.name)
      end
    end
  end
  for parent, list in pairs(names) do
    local dir = directory(parent)
    in_parts(list, function(part)
      for i, known in ipairs(call('HMGET', P .. 'd:' .. parent, spread(part))) do dir.read[part[i]] = known end
    end)
  end
end

-- Takes an entry into its directory.
local function enter_place(o, place)
  local dir = directory(place.parent)
  local key, value = P .. 'd:' .. place.parent, place.cookie .. o.ino
  local standing = dir.read[place.name]
  if standing == nil then standing = call('HGET', key, place.name) end
  if standing == value then return end
  if standing then
    -- Of another, which has gone or got another name, and comes later.
    write_all()
    local other = object(string.sub(standing, 9))
    if other and other.kind == DIRECTORY then dir.subs = dir.subs - 1 end
    call('ZREM', P .. 'l:' .. place.parent, standing .. place.name)
  end
  write_later('HSET', key, place.name, value)
  write_later('ZADD', P .. 'l:' .. place.parent, 0, value .. place.name)
  dir.read[place.name] = value
  if o.kind == DIRECTORY then dir.subs = dir.subs + 1 end
  dirty.dirs[place.parent] = true
end

-- Forgets what a directory says of its entries, where it is not there and the last of them went.
local function tidy(ino)
  local key = P .. 'd:' .. ino
  if not object(ino) and call('HLEN', key) <= 1 then call('UNLINK', key, P .. 'l:' .. ino) end
end

-- Takes an object out of all indexes.
local function take_out(o)
  write_all()
  for _, place in ipairs(o.places) do
    local dir = directory(place.parent)
    local key, value = P .. 'd:' .. place.parent, place.cookie .. o.ino
    if call('HGET', key, place.name) == value then
      call('HDEL', key, place.name)
      call('ZREM', P .. 'l:' .. place.parent, value .. place.name)
      dir.read[place.name] = false
      if o.kind == DIRECTORY then dir.subs = dir.subs - 1 end
      dirty.dirs[place.parent] = true
    end
  end
  if o.session ~= '' then call('ZREM', P .. 'h:' .. o.session, o.ino) end
  call('ZREM', P .. 'x', o.ino)
end

-- Tokens of other epochs were given by another store: whoever says again that it holds something by one of them, and
-- it is not here, has lost it (`was_given`).
local function note_epoch(token)
  local epoch = parse('>I4', token)
  if epoch == meta.epoch or moves.epochs[epoch] then return end
  moves.epochs[epoch] = true
  if not call('ZRANGEBYSCORE', P .. 'past', epoch, epoch)[1] then
    call('ZADD', P .. 'past', epoch, pack('>I4I4', epoch, 4294967295))
  end
end

function moves.o(ino, text, body)
  local old = object(ino)
  if old and ino ~= ROOT then take_out(old) end
  local o = read_record(P .. 'o', ino, text, parse_object)
  objects[ino] = o
  write_later('HSET', P .. 'o', ino, text)
  if o.size > 0 then
    write_later('HSET', P .. 'b', ino, body)
  elseif old then
    write_all()
    call('HDEL', P .. 'b', ino)
  end
  if not old then meta.locks = meta.locks + 1 end
  note_epoch(o.token)
  for _, place in ipairs(o.places) do enter_place(o, place) end
  if o.session ~= '' then write_later('ZADD', P .. 'h:' .. o.session, o.ttl == 0 and 'inf' or o.ttl, ino) end
  local at = deadline(o)
  if at then write_later('ZADD', P .. 'x', string.format('%.0f', at), ino) end
end

function moves.g(ino)
  local old = object(ino)
  if not old or ino == ROOT then return end
  take_out(old)
  call('HDEL', P .. 'o', ino)
  call('HDEL', P .. 'b', ino)
  if old.used then call('UNLINK', P .. 'f:' .. ino) end
  objects[ino] = false
  meta.locks = meta.locks - 1
  if old.kind == DIRECTORY and not dirty.dirs[ino] then tidy(ino) end
end

function moves.x(id)
  local old = session(id)
  if not old then return end
  write_all()
  call('HDEL', P .. 's', id)
  call('ZREM', P .. 'n', old.ino .. id)
  call('ZREM', P .. 'y', old.ino .. id)
  call('UNLINK', P .. 'lost:' .. id)
  sessions[id] = false
end

function moves.s(id, text, losses)
  moves.x(id)
  local s = read_record(P .. 's', id, text, parse_session)
  sessions[id] = s
  write_later('HSET', P .. 's', id, text)
  write_later('ZADD', P .. 'n', 0, s.ino .. id)
  -- Whether it holds something by then is looked at when it is due.
  local at = lapses_at(s)
  if at then write_later('ZADD', P .. 'y', string.format('%.0f', at), s.ino .. id) end
  local place = 1
  while place <= #losses do
    local spot
    spot, place = parse('>I4c0', losses, place)
    call('RPUSH', P .. 'lost:' .. id, spot)
  end
end

-- At the end: all that waits, what directories say of their entries, and how many objects there are.
function moves.finish()
  write_all()
  for ino in pairs(dirty.dirs) do
    call('HSET', P .. 'd:' .. ino, '/', write_directory(directory(ino)))
    tidy(ino)
  end
  save_meta()
end
