-- What a host says it holds, and has released, where the server may have forgotten it.
--
-- Invariant: a lock comes back as it was, with its token and its number; where its name has another holder by
-- now, the higher token keeps it, and the other one has lost it, and is told. What is past its deadline does not
-- come back; nor what this data saw granted and has not any more: it was released, broken or expired since, and its
-- host has not heard of that yet.
--
-- ARGV[6]  the host
-- ARGV[7]  'more' or 'all': whether this host has said everything then
-- ARGV[8]  's', 'r', 'o', 'm' or 'f', in this order: a session, what was released, a lock or a directory that leads to
--          one (directories from the top), a mount, what it has of a file
-- ARGV[9]  its number, or the session's name
-- ARGV[10] its record; of what a mount has the mount's number before it
-- ARGV[11] its note or target; of a session the names that it lost
-- Further  four more of the same kind, and so on
-- Returns  as `law/step.lua` says: how many came back

-- How long to wait for hosts of which nobody knows: a daemon that runs notices within two seconds. Shorter than
-- a command may take, so that whoever asks meanwhile waits, and is not refused.
local STRANGERS = 3000000

local back

local function session_again(id, text, losses)
  if session(id) then return end
  sessions[id] = nil
  call('UNLINK', P .. 'h:' .. id, P .. 'lost:' .. id)
  call('HSET', P .. 's', id, text)
  local s = session(id)
  s.lost, s.lost_changed, s.losses = {}, true, 0
  local at = 1
  while at <= #losses do
    local spot
    spot, at = parse('>I4c0', losses, at)
    s.lost[#s.lost + 1] = spot
  end
  s.losses = #s.lost
  change_session(s)
  later('ZADD', P .. 'n', 0, s.ino .. id)
  s.check = false
  emptied[#emptied + 1] = id
end

-- A mount is there. What it has is what it says from now on: it may have let go of something since.
local function mount_again(id, text)
  local l = mounts.read(id, text)
  l.seen, l.mute = NOW, 0
  mounts.known[id] = mounts.change(l)
  for _, member in ipairs(call('ZRANGEBYLEX', P .. 'm:' .. id, '[f', '(g')) do
    local o = object(string.sub(member, 2))
    if o then shares.empty(o, id) end
  end
end

-- What a mount has of a file. A lock that another has by now is lost.
local function share_again(ino, text)
  local o = live(ino)
  if not o or o.kind ~= FILE then return end
  for _, g in ipairs(shares.say(o, string.sub(text, 1, 8), string.sub(text, 9))) do
    local spot = o.places[1]
    push_event(LOST, o.token, g.session, ino, spot and path_at(spot.parent, spot.name) or '')
  end
end

local function lose(o, spots)
  for _, spot in ipairs(spots) do
    push_event(LOST, o.token, o.session, o.ino, path_at(spot.parent, spot.name))
  end
  if o.session ~= '' then note_loss(o.session, spots) end
end

local function object_again(ino, text, body)
  local mine = parse_object(ino, text)
  local theirs = object(ino)
  -- What of a note nobody could say again is gone.
  if mine.kind == FILE then mine.size = #body end
  mine.used = theirs and theirs.used or false
  if theirs then
    if theirs.token == mine.token and theirs.ctime == mine.ctime and theirs.size == 0 and mine.size > 0 then
      -- Nothing was done to it, and its note went (`mend.lua`).
      change(theirs).size = mine.size
      bodies[ino] = body
    end
    if not less(theirs.token, mine.token) then return end
    for _, spot in ipairs(theirs.places) do displace(theirs, spot.parent, spot.name) end
    leave_session(theirs)
  elseif was_given(mine.token) then
    return
  end
  if not theirs and mine.kind == FILE then call('UNLINK', P .. 'f:' .. ino, P .. 'w:o' .. ino) end
  if not theirs and mine.kind == DIRECTORY then
    -- What is left of it from before the loss is nothing that anybody holds.
    call('UNLINK', P .. 'd:' .. ino, P .. 'l:' .. ino)
    new_directory(ino)
  end
  local spots, lost_spots = mine.places, {}
  mine.places = {}
  objects[ino] = mine
  for _, spot in ipairs(spots) do
    local above = object(spot.parent)
    local _, other_ino = entry(spot.parent, spot.name)
    local other = other_ino and live(other_ino)
    if not above or above.kind ~= DIRECTORY or (other and less(mine.token, other.token)) then
      lost_spots[#lost_spots + 1] = spot
    else
      if other_ino and object(other_ino) then
        if other then lose(other, other.places) end
        end_by_force(other_ino, other and LOST or EXPIRE)
      end
      place(mine, spot.parent, spot.name, spot.cookie)
    end
  end
  local id = mine.session
  mine.session = ''
  if #mine.places > 0 and (id == '' or session(id)) then
    if not theirs then
      meta.locks = meta.locks + 1
      meta_changed = true
    end
    if mine.kind ~= DIRECTORY then bodies[ino] = body end
    if id ~= '' then join_session(mine, id) end
    schedule(mine)
    back = back + 1
  elseif theirs then
    remove(mine, 'g')
  else
    objects[ino], dirty.objects[ino] = false, nil
  end
  mine.session = id
  if #lost_spots > 0 then lose(mine, lost_spots) end
  mine.session = objects[ino] and id or ''
end

local function release_again(ino, text)
  local o = object(ino)
  if not o or o.token ~= parse_object(ino, text).token then return end
  if o.kind == DIRECTORY and has_entries(ino) then return end
  for _, spot in ipairs(o.places) do release(o, spot.parent, spot.name) end
end

step('reassert', function()
  back = 0
  local reply = before()
  if reply then return reply end
  for i = 8, #ARGV, 4 do
    if ARGV[i] == 's' then
      session_again(ARGV[i + 1], ARGV[i + 2], ARGV[i + 3])
    elseif ARGV[i] == 'r' then
      release_again(ARGV[i + 1], ARGV[i + 2])
    elseif ARGV[i] == 'm' then
      mount_again(ARGV[i + 1], ARGV[i + 2])
    elseif ARGV[i] == 'f' then
      share_again(ARGV[i + 1], ARGV[i + 2])
    else
      object_again(ARGV[i + 1], ARGV[i + 2], ARGV[i + 3])
    end
  end
  if ARGV[7] == 'all' then
    shares.tidy_all(ARGV[6])
    call('SREM', P .. 'recover', ARGV[6])
    if meta.recover ~= 0 and call('EXISTS', P .. 'recover') == 0 then
      meta.recover, meta_changed = 0, true
    elseif meta.recover > NOW + STRANGERS and call('SCARD', P .. 'recover') == 1
      and call('SISMEMBER', P .. 'recover', '?') == 1 then
      meta.recover, meta_changed = NOW + STRANGERS, true
    end
  end
  return finish(count(back))
end)
