-- How many, and how often.
--
-- Returns  'G', or 'K' time waits, and: the epoch, the number of the last event, locks, sessions, and how often
--          each kind of event happened

look('counts', function()
  return answer(pack('>I4dddd', meta.epoch, meta.events, meta.locks, call('HLEN', P .. 's'), #meta.tally)
    .. pack('>dddddddd', spread(meta.tally)))
end)
