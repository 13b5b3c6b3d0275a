-- Makes an entry and holds it: `LockTable::acquire`.
--
-- ARGV[6]   the caller
-- ARGV[7]   the directory
-- ARGV[8]   the name
-- ARGV[9]  what is made: 1 file, 2 directory, 3 symlink
-- ARGV[10]  its permission bits
-- ARGV[11]  what if the name is there: 'refuse', 'open', 'empty'
-- ARGV[12]  the target of a symlink
-- Returns   as `law/step.lua` says: the entry, or what was opened

local function ttl_of_new(parent, name, kind, otherwise)
  if kind == DIRECTORY and string.sub(name, -5) ~= '.lock' then return 0 end
  local o = object(parent)
  while o do
    if o.kind == DIRECTORY and o.default_ttl >= 0 then return o.default_ttl end
    o = o.places[1] and object(o.places[1].parent)
  end
  return otherwise
end

local function open(c, o, how)
  if how == 'refuse' then return refused(EXISTS) end
  if o.kind == DIRECTORY then return refused(IS_DIRECTORY) end
  local refusal = how == 'empty' and truncate(c, o, 0)
  return refusal and refused(refusal) or opened(o)
end

local function acquire(c, parent, name, kind, mode, how, target)
  local o, refusal = find(parent, name)
  if refusal then return refused(refusal) end
  if o then return open(c, o, how) end
  refusal = ensure_session(c)
  if refusal then return refused(refusal) end
  forget_loss(c.id, parent, name)
  local token = next_token()
  -- As on ext4: below a set-group-id directory entries get its group, and directories the bit as well.
  local above = object(parent)
  local gid = c.gid
  if bit.band(above.mode, 1024) ~= 0 then
    gid = above.gid
    if kind == DIRECTORY then mode = bit.bor(mode, 1024) end
  end
  o = {
    ino = token, kind = kind, token = token, mode = mode, uid = c.uid, gid = gid, mtime = WALL, ctime = WALL,
    since = WALL, ttl = ttl_of_new(parent, name, kind, session(c.id).ttl), seen = NOW, size = #target,
    default_ttl = -1, session = '', places = {},
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
  return entry_of(o)
end

step('acquire', function()
  return before_a_grant() or finish(acquire(parse_caller(ARGV[6]), ARGV[7], ARGV[8], tonumber(ARGV[9]),
    tonumber(ARGV[10]), ARGV[11], ARGV[12]))
end)
