-- probe: evict a process that has been absent for too long, and notify all others.
--   ARGV[4] inbox   ARGV[5] milliseconds of absence after which it is dead
--   reply   OK (present), ABSENT (not long enough: probe again), GONE (evicted, now or before)
local inbox, time = ARGV[4], now()
if present(inbox) then
  return done('OK')
end
if redis.call('SISMEMBER', prefix .. ':known', inbox) == 1 then
  mark_absent(inbox)
  if time - redis.call('HGET', key('state', inbox), 'absent') < tonumber(ARGV[5]) then
    return done('ABSENT')
  end
  evict(inbox)
  for _, other in ipairs(redis.call('SMEMBERS', prefix .. ':known')) do
    append(other, time, 'g' .. inbox .. '\0')
  end
end
return done('GONE')
