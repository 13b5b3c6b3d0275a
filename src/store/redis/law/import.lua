-- The fifth part of the library: records of another store, put into a namespace as they are, and taken out.
--
-- Invariant: the indexes are written with each record, and what is done again changes nothing. Nobody is told of it, and
-- nothing is asked of the law: the namespace is closed meanwhile (`move.lua`). Sessions come before what they hold;
-- directories may come behind what stands in them.

-- Takes an entry in or out of its directory.
local function index_entry(o, place, is_there)
  local dir = directory(place.parent)
  local key, value = P .. 'd:' .. place.parent, place.cookie .. o.ino
  local standing = call('HGET', key, place.name)
  if is_there == (standing == value) then return end
  if is_there then
    if standing then
      -- Of another, which has gone or got another name, and comes later.
      local other = object(string.sub(standing, 9))
      if other and other.kind == DIRECTORY then dir.subs = dir.subs - 1 end
      call('ZREM', P .. 'l:' .. place.parent, standing .. place.name)
    end
    call('HSET', key, place.name, value)
    call('ZADD', P .. 'l:' .. place.parent, 0, value .. place.name)
  else
    if standing ~= value then return end
    call('HDEL', key, place.name)
    call('ZREM', P .. 'l:' .. place.parent, value .. place.name)
  end
  if o.kind == DIRECTORY then dir.subs = dir.subs + (is_there and 1 or -1) end
  dirty.dirs[place.parent] = true
end

-- Forgets what a directory says of its entries, where it is not there and the last of them went.
local function tidy(ino)
  local key = P .. 'd:' .. ino
  if not object(ino) and call('HLEN', key) <= 1 then call('UNLINK', key, P .. 'l:' .. ino) end
end

local function take_out(o)
  for _, place in ipairs(o.places) do index_entry(o, place, false) end
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
  call('HSET', P .. 'o', ino, text)
  objects[ino] = nil
  local o = object(ino)
  if o.size > 0 then call('HSET', P .. 'b', ino, body) elseif old then call('HDEL', P .. 'b', ino) end
  if not old then meta.locks = meta.locks + 1 end
  note_epoch(o.token)
  for _, place in ipairs(o.places) do index_entry(o, place, true) end
  if o.session ~= '' then call('ZADD', P .. 'h:' .. o.session, o.ttl == 0 and 'inf' or o.ttl, ino) end
  local at = deadline(o)
  if at then call('ZADD', P .. 'x', at, ino) end
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
  call('HDEL', P .. 's', id)
  call('ZREM', P .. 'n', old.ino .. id)
  call('ZREM', P .. 'y', old.ino .. id)
  call('UNLINK', P .. 'lost:' .. id)
  sessions[id] = nil
end

function moves.s(id, text, losses)
  moves.x(id)
  call('HSET', P .. 's', id, text)
  sessions[id] = nil
  local s = session(id)
  call('ZADD', P .. 'n', 0, s.ino .. id)
  -- Whether it holds something by then is looked at when it is due.
  local at = lapses_at(s)
  if at then call('ZADD', P .. 'y', at, s.ino .. id) end
  local place = 1
  while place <= #losses do
    local spot
    spot, place = parse('>I4c0', losses, place)
    call('RPUSH', P .. 'lost:' .. id, spot)
  end
end

-- At the end: what directories say of their entries, and how many objects there are.
function moves.finish()
  for ino in pairs(dirty.dirs) do
    call('HSET', P .. 'd:' .. ino, '/', write_directory(directory(ino)))
    tidy(ino)
  end
  save_meta()
end
