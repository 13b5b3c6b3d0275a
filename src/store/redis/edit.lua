-- Changes an object and leaves its names: notes, attributes, ttls, `table/edit.rs`.
--
-- ARGV[6]  'write', 'truncate', 'change', 'ttl', 'default-ttl'
-- ARGV[7]  the caller
-- ARGV[8]  the object
-- ARGV[9] from which byte ('' appends); how many bytes; mode; the ttl in milliseconds (-1: what the parent says)
-- ARGV[10] what is written; uid
-- ARGV[11] gid
-- ARGV[12] mtime; of mode, uid, gid '' leaves as it is, and so it does here
-- Returns  as `law/step.lua` says: the entry

local edits = {}

function edits.write(c, o, from, data)
  local refusal = has_no_note(o)
  -- write(2) of no bytes does nothing, also beyond the end.
  if refusal or data == '' then return refusal end
  from = from == '' and o.size or tonumber(from)
  if from + #data > NOTE_MAX then return WHY.TOO_LARGE end
  refusal = claim_to_change(c, o)
  if refusal then return refusal end
  local note = note_of(o)
  note = note .. string.rep('\0', from - #note)
  edit_note(o, string.sub(note, 1, from) .. data .. string.sub(note, from + #data + 1))
end

function edits.truncate(c, o, size)
  return truncate(c, o, tonumber(size))
end

function edits.change(c, o, mode, uid, gid, mtime)
  local refusal = claim_to_change(c, o)
  if refusal then return refusal end
  change(o)
  if mode ~= '' then o.mode = bit.band(tonumber(mode), 4095) end
  if uid ~= '' then o.uid = tonumber(uid) end
  if gid ~= '' then o.gid = tonumber(gid) end
  o.ctime = WALL
  if mtime ~= '' then
    o.mtime = mtime
    if o.kind == DIRECTORY then
      directory(o.ino).changed = ''
      dirty.dirs[o.ino] = true
    end
  end
end

edits['ttl'] = function(c, o, ttl)
  if #o.places == 0 then return WHY.INVALID end
  local refusal = claim_to_change(c, o)
  if refusal then return refusal end
  change(o)
  o.ttl, o.seen, o.ctime = tonumber(ttl), NOW, WALL
  if o.session ~= '' and session(o.session) then enter(o.session, o.ino, o.ttl) end
  schedule(o)
end

edits['default-ttl'] = function(c, o, ttl)
  if o.kind ~= DIRECTORY then return WHY.NOT_DIRECTORY end
  local refusal = claim_to_change(c, o)
  if refusal then return refusal end
  change(o)
  o.default_ttl, o.ctime = tonumber(ttl), WALL
end

local function edit(what, c, ino, ...)
  local o = live(ino)
  if not o then return refused(WHY.GONE) end
  local refusal = edits[what](c, o, ...)
  return refusal and refused(refusal) or entry_of(o)
end

-- A successor takes over what it changes, and so gets a token.
step('edit', function()
  return before_a_grant() or finish(edit(ARGV[6], parse_caller(ARGV[7]), ARGV[8], ARGV[9], ARGV[10], ARGV[11],
    ARGV[12]))
end)
