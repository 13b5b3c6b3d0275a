-- How a migration stands in a namespace that it empties or fills.
--
-- A source is tracked while it is copied: each step notes what it changes. Then it stands still for a moment (it is
-- frozen), until it is closed: it has moved. Each of the first two is a lease on the server's clock, so that nothing
-- stays behind of a migration that died. A target is closed from the first to the last, and lists what it had before.
--
-- Invariant: what is closed has been frozen until that very step, and all that changed was asked for before. So nobody
-- is granted anything between the last look of the migration and its end.
--
-- ARGV[2]  'state', 'track', 'keep', 'changes', 'freeze', 'thaw', 'close', 'fill', 'before' or 'open'
-- ARGV[3]  with 'track', 'keep', 'changes' and 'freeze' for how many microseconds; with 'close' and 'fill' why nothing is done
--          from then on; with 'thaw' and 'open' what was said so
-- ARGV[4]  with 'fill' what may be said already; with 'open' an epoch above which the next one must be
-- ARGV[5]  with 'fill' '1' to keep nothing of what is there
-- Returns  'G'; 'X' and why not ('' where the lease is over); or 'K' time waits, and: with 'state' the epoch, objects, why
--          nothing is done, and the path of each file that somebody has locked; with 'changes' and 'before' what they
--          list

local function replied(text)
  if meta then save_meta() end
  return answer(text)
end

local function listed(key)
  local parts = {}
  for _, member in ipairs(call('SMEMBERS', P .. key)) do parts[#parts + 1] = bytes(member) end
  return table.concat(parts)
end

-- What is locked by flock(2) or fcntl(2).
local function locked()
  local parts, told = {}, {}
  for _, id in ipairs(mounts.all()) do
    for _, member in ipairs(call('ZRANGEBYLEX', P .. 'm:' .. id, '[f', '(g')) do
      local ino = string.sub(member, 2)
      local o = not told[ino] and object(ino)
      if o and shares.grants(o)[1] then
        told[ino] = true
        local place = o.places[1]
        parts[#parts + 1] = bytes(place and path_at(place.parent, place.name) or '?')
      end
    end
  end
  return table.concat(parts)
end

-- Why a migration can't go on with what was noted: it is closed, or not all was noted; nil where it can.
function moves.lapsed()
  if moves.closed() then return 'X' .. meta.move.closed end
  if not meta.move or meta.move.tracked <= NOW then return 'X' end
end

local acts = {}

function acts.state()
  return answer(pack('>I4d', meta.epoch, meta.locks) .. bytes(meta.move and meta.move.closed or '') .. locked())
end

function acts.track(lease)
  if moves.closed() then return 'X' .. meta.move.closed end
  meta.move = {tracked = NOW + lease, frozen = 0, closed = ''}
  call('UNLINK', P .. 'changed')
  return replied('')
end

function acts.changes(lease)
  local why = moves.lapsed()
  if why then return why end
  meta.move.tracked = NOW + lease
  local text = listed('changed')
  call('UNLINK', P .. 'changed')
  return replied(text)
end

function acts.keep(lease)
  local why = moves.lapsed()
  if why then return why end
  meta.move.tracked = NOW + lease
  return replied('')
end

function acts.freeze(lease)
  local why = moves.lapsed()
  if why then return why end
  meta.move.frozen = NOW + lease
  return replied('')
end

function acts.thaw(why)
  if moves.closed() and meta.move.closed ~= why then return 'X' .. meta.move.closed end
  meta.move = nil
  call('UNLINK', P .. 'changed')
  return replied('')
end

function acts.close(why)
  if moves.closed() then return 'X' .. meta.move.closed end
  if not meta.move or meta.move.frozen <= NOW or call('EXISTS', P .. 'changed') == 1 then return 'X' end
  meta.move = {tracked = 0, frozen = 0, closed = why}
  return replied('')
end

-- Sessions of jobs that hold nothing are begun again by whoever needs them.
local function forget_idle_sessions()
  for _, id in ipairs(call('HKEYS', P .. 's')) do
    local s = session(id)
    if s and s.kind ~= NAMED and holds_nothing(id) then
      call('HDEL', P .. 's', id)
      call('ZREM', P .. 'n', s.ino .. id)
      call('ZREM', P .. 'y', s.ino .. id)
      call('UNLINK', P .. 'lost:' .. id)
      sessions[id] = nil
    end
  end
end

function acts.fill(why, known, is_fresh)
  local old = meta.move and meta.move.closed or ''
  if old == why then return answer('') end
  if old ~= '' and old ~= known then return 'X' .. old end
  meta.move = {tracked = 0, frozen = 0, closed = why}
  call('UNLINK', P .. 'changed', P .. 'before')
  call('SADD', P .. 'before', 'r' .. call('HGET', P .. 'o', ROOT), 'k' .. old)
  if is_fresh ~= '1' then
    forget_idle_sessions()
    for _, ino in ipairs(call('HKEYS', P .. 'o')) do
      if ino ~= ROOT then call('SADD', P .. 'before', 'o' .. ino) end
    end
    for _, id in ipairs(call('HKEYS', P .. 's')) do call('SADD', P .. 'before', 's' .. id) end
  end
  return replied('')
end

function acts.before()
  return answer(listed('before'))
end

-- Its tokens go on above all that came with what it was filled with. Who follows the events has missed some. Where it
-- was emptied again (no epoch is given), all is as it was before.
function acts.open(why, epoch)
  if not moves.closed() then return answer('') end
  if meta.move.closed ~= why then return 'X' .. meta.move.closed end
  meta.move = nil
  epoch = tonumber(epoch)
  if epoch > 0 then
    if meta.epoch <= epoch then begin_epoch(math.max(epoch + 1, math.floor(NOW / 1000000))) end
    meta.events = meta.events + 1
  else
    -- What the import noted of epochs.
    for _, token in ipairs(call('ZRANGE', P .. 'past', 0, -1)) do
      if string.sub(token, 5) == '\255\255\255\255' then call('ZREM', P .. 'past', token) end
    end
    for _, member in ipairs(call('SMEMBERS', P .. 'before')) do
      local kind, text = string.sub(member, 1, 1), string.sub(member, 2)
      if kind == 'r' then
        call('HSET', P .. 'o', ROOT, text)
      elseif kind == 'k' and text ~= '' then
        meta.move = {tracked = 0, frozen = 0, closed = text}
      end
    end
  end
  call('UNLINK', P .. 'before')
  return replied('')
end

step('move', function()
  if is_foreign() then return 'G' end
  return acts[ARGV[2]](ARGV[3], ARGV[4], ARGV[5])
end, true)
