-- Mends a namespace of which a part went: makes the indexes anew from the records of objects and sessions. Where
-- records went too, nobody here knows what was held: the namespace loses its head, and is founded anew by its
-- hosts, who say what they hold.
--
-- Invariant: no name becomes free that somebody held. Keys that are not of lockfs are left alone, and named.
--
-- ARGV[1]  as for every step
-- Returns  'G' where records went, or 'K'

-- Empties one of our keys.
local function clear(key, kind)
  check_type(key, kind)
  call('UNLINK', key)
end

-- All records of a hash, each by its field.
local function all(key, read)
  local found, fields = {}, call('HGETALL', key)
  for i = 1, #fields, 2 do found[fields[i]] = read(fields[i]) end
  return found, #fields / 2
end

local function has_lost_records(records, count, holders)
  if count ~= meta.locks + 1 or not records[ROOT] then return true end
  for _, o in pairs(records) do
    if o.session ~= '' and not holders[o.session] then return true end
    for _, place in ipairs(o.places) do
      if not records[place.parent] then return true end
    end
  end
  return false
end

local function index_object(o)
  for _, place in ipairs(o.places) do
    call('HSET', P .. 'd:' .. place.parent, place.name, place.cookie .. o.ino)
    call('ZADD', P .. 'l:' .. place.parent, 0, place.cookie .. o.ino .. place.name)
  end
  if o.session ~= '' then call('ZADD', P .. 'h:' .. o.session, o.ttl == 0 and 'inf' or o.ttl, o.ino) end
  local at = deadline(o)
  if at then call('ZADD', P .. 'x', at, o.ino) end
end

step('mend', function()
  if is_foreign() then return 'G' end
  -- What is being filled is not whole yet, and what has moved is nobody's any more.
  if moves.closed() then return 'K' end
  local holders = all(P .. 's', session)
  local records, count = all(P .. 'o', object)
  if has_lost_records(records, count, holders) then
    call('DEL', KEYS[1])
    return 'G'
  end
  for _, key in ipairs({'n', 'x', 'y'}) do clear(P .. key, 'zset') end
  local subdirectories = {}
  for ino, o in pairs(records) do
    if o.kind == DIRECTORY then
      for _, place in ipairs(o.places) do
        subdirectories[place.parent] = (subdirectories[place.parent] or 0) + 1
      end
      clear(P .. 'l:' .. ino, 'zset')
    elseif o.size > 0 and call('HEXISTS', P .. 'b', ino) == 0 then
      -- Its host may have the note, and says it again when the epoch rises.
      o.size, meta.replid = 0, string.rep('0', 40)
      call('HSET', P .. 'o', ino, write_object(o))
    end
  end
  for ino, o in pairs(records) do
    if o.kind == DIRECTORY then
      local dir = directory(ino)
      clear(P .. 'd:' .. ino, 'hash')
      dir.subs = subdirectories[ino] or 0
      call('HSET', P .. 'd:' .. ino, '/', write_directory(dir))
    end
  end
  -- What mounts had, and who waits, can't be made anew: hosts say again what they have, and who waits asks again.
  local has_lost_uses = call('HLEN', P .. 'waits') ~= meta.waits or call('EXISTS', P .. 'mounts') == 0
  for ino, o in pairs(records) do
    if o.used and call('EXISTS', P .. 'f:' .. ino) == 0 then
      has_lost_uses = true
      if #o.places > 0 then
        o.used = false
        call('HSET', P .. 'o', ino, write_object(o))
      else
        -- Nothing keeps what has no name.
        call('HDEL', P .. 'o', ino)
        call('HDEL', P .. 'b', ino)
        meta.locks = meta.locks - 1
      end
    end
  end
  if has_lost_uses then
    queues.clear(true)
    meta.replid = string.rep('0', 40)
  end
  for id, s in pairs(holders) do
    clear(P .. 'h:' .. id, 'zset')
    call('ZADD', P .. 'n', 0, s.ino .. id)
  end
  for _, o in pairs(records) do index_object(o) end
  for id, s in pairs(holders) do
    local at = holds_nothing(id) and lapses_at(s)
    if at then call('ZADD', P .. 'y', at, s.ino .. id) end
  end
  save_meta()
  return 'K'
end, true)
