-- Sessions: one by its name or number, some in the order in which they began, or the shortest ttls of some.
--
-- ARGV[2]  'name', 'number', 'after' or 'ttls'
-- ARGV[3]  the name; the number; the number behind which to begin, '' for the beginning; with 'ttls' a name
-- ARGV[4]  with 'after' how many at most; with 'ttls' another name, and so on
-- Returns  'G', or 'K' time waits, and the living sessions; with 'ttls' for each name the shortest ttl among
--          what it holds and its own in milliseconds (0: never), -1 where it is not there

look('sessions', function()
  local function by_number(ino)
    local member = call('ZRANGEBYLEX', P .. 'n', '[' .. ino, '(' .. ino .. '\255', 'LIMIT', 0, 1)[1]
    return member and live_session(string.sub(member, 9))
  end

  local parts = {}
  local function add(s)
    if s then parts[#parts + 1] = session_text(s) end
  end

  if ARGV[2] == 'name' then
    add(live_session(ARGV[3]))
  elseif ARGV[2] == 'number' then
    add(by_number(ARGV[3]))
  elseif ARGV[2] == 'after' then
    -- Names of sessions are ASCII: \255 is behind every one that has this number.
    local from = ARGV[3] == '' and '-' or '(' .. ARGV[3] .. '\255'
    local limit = tonumber(ARGV[4])
    repeat
      local members = call('ZRANGEBYLEX', P .. 'n', from, '+', 'LIMIT', 0, limit)
      for _, member in ipairs(members) do
        if #parts < limit then add(live_session(string.sub(member, 9))) end
        from = '(' .. member
      end
    until #members < limit or #parts == limit
  else
    for i = 3, #ARGV do
      local s = session(ARGV[i])
      local ttl = -1
      if s then
        local shortest = shortest_ttl(s.id)
        ttl = s.ttl
        if shortest and shortest ~= 0 and (ttl == 0 or shortest < ttl) then ttl = shortest end
      end
      parts[#parts + 1] = pack('>d', ttl)
    end
  end
  return answer(table.concat(parts))
end)
