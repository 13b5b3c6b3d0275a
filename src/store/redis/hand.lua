-- Takes a lock from its holder: ends it on purpose, or hands it to another session.
--
-- ARGV[6]  'break' or 'transfer'
-- ARGV[7]  the caller
-- ARGV[8]  the object
-- ARGV[9] its token, as the caller saw it; the session that gets it
-- Returns  as `law/step.lua` says: nothing more; the entry

local function break_lock(c, o, token)
  if #o.places == 0 then return refused(WHY.INVALID) end
  if c.uid ~= o.uid and c.uid ~= 0 then return refused(WHY.NOT_PERMITTED) end
  if o.token ~= token then return refused(WHY.WRONG_TOKEN) end
  if o.kind == DIRECTORY and has_live_entries(o.ino) then return refused(WHY.NOT_EMPTY) end
  end_by_force(o.ino, BREAK)
  return done()
end

local function transfer(c, o, heir)
  -- What is advisory is nobody's, and what has no name can't be held.
  if #o.places == 0 or is_advisory(o) then return refused(WHY.INVALID) end
  local _, refusal = own_session(c, heir)
  if refusal then return refused(refusal) end
  local how
  how, refusal = may_change(c, o)
  if refusal then return refused(refusal) end
  hand_on(o, how, heir)
  return entry_of(o)
end

local function hand(what, c, ino, value)
  local o = live(ino)
  if not o then return refused(WHY.GONE) end
  return (what == 'break' and break_lock or transfer)(c, o, value)
end

step('hand', function()
  return before_a_grant() or finish(hand(ARGV[6], parse_caller(ARGV[7]), ARGV[8], ARGV[9]))
end)
