-- What mounts say for themselves: that they are there, what they have open, and what they let go of.
--
-- ARGV[6]  'attend', 'leave', 'register', 'close', 'unlock' or 'withdraw'
-- ARGV[7]  the mount, and so on
-- ARGV[8]  its lease; of what it opens or closes the object, of which it lets go the file; the request that waits
-- ARGV[9]  'there' where the lease must be there; of what it opens or closes the number; what it lets go of, as `codec.rs` writes a claim
-- ARGV[10] of what requests that lock were granted up to this number
-- ARGV[11] and from this on
-- Returns  as `law/step.lua` says: with 'attend' whether the lease was there, else nothing more

local acts = {}

function acts.attend(id, text, state)
  return count(mounts.attend(id, text, state == 'there'))
end

function acts.leave()
  for i = 7, #ARGV do mounts.leave(ARGV[i]) end
  return done()
end

-- Of each mount the object and the number follow.
function acts.register()
  for i = 7, #ARGV, 3 do
    local o = live(ARGV[i + 1])
    if o then shares.open_on(o, ARGV[i], tonumber(ARGV[i + 2])) end
  end
  return done()
end

function acts.close(mount, ino, number)
  shares.close(ino, mount, tonumber(number))
  return done()
end

function acts.unlock(mount, ino, claim, upto, from)
  shares.unlock(mount, ino, shares.parse_claim(claim), tonumber(from), tonumber(upto))
  return done()
end

function acts.withdraw(mount, request)
  queues.dequeue(mount .. request)
  return done()
end

step('share', function()
  return before() or finish(acts[ARGV[6]](ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11]))
end, true)
