-- confirm: is a process that was absent a moment ago dead? Then everybody who lives is told.
--   ARGV[4] inbox   ARGV[5] milliseconds after which it is
--   reply   OK (it is there again), ABSENT (not long enough: ask again), GONE
local inbox, time = ARGV[4], now()
if present(inbox) then
  return done('OK')
end
if redis.call('SISMEMBER', prefix .. ':known', inbox) == 1 then
  miss(inbox)
  if time - redis.call('HGET', key('state', inbox), 'absent') < tonumber(ARGV[5]) then
    return done('ABSENT')
  end
  evict(inbox)
  for _, other in ipairs(redis.call('SMEMBERS', prefix .. ':known')) do
    append(other, time, 'g' .. inbox .. '\0')
  end
end
return done('GONE')
