-- flush: delete all groups and messages, and make every process forget its own groups. For tests.
--   reply   OK
for _, kind in ipairs({'group', 'waiting'}) do
  for _, found in ipairs(redis.call('KEYS', key(kind, '*'))) do
    redis.call('DEL', found)
  end
end
for _, inbox in ipairs(redis.call('SMEMBERS', prefix .. ':known')) do
  redis.call('XTRIM', key('inbox', inbox), 'MAXLEN', 0)
  append(inbox, now(), 'f\0')
end
return done('OK')
