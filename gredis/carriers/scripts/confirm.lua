-- confirm: is a process that was absent a moment ago dead? Then everybody who lives is told.
--   ARGV[4] inbox
--   reply   OK (it is there again), GONE
local inbox = ARGV[4]
if present(inbox) then
  return done('OK')
end
if redis.call('SISMEMBER', prefix .. ':known', inbox) == 1 then
  bury(inbox)
  for _, other in ipairs(redis.call('SMEMBERS', prefix .. ':known')) do
    redis.call('XADD', key('inbox', other), '*', 'm', 'g' .. inbox .. '\0')
  end
end
return done('GONE')
