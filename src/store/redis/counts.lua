-- How many, and how often.
--
-- Returns  'G', or 'K' time waits, and: locks, sessions, who wait, and how often each kind of event happened

look('counts', function()
  return answer(counts())
end)
