-- anycast: a letter for the process with most room among those that take from a queue; it waits in
-- the queue while none has room.
--   ARGV[4] queue   ARGV[5] letter   ARGV[6] capacity of an inbox   ARGV[7] letters that may wait
--   reply   the inbox it went to, WAITING, FULL (not stored)
local takers, waiting = key('queue', ARGV[4]), key('waiting', ARGV[4])
for _, inbox in ipairs(redis.call('ZRANGEBYSCORE', takers, '-inf', '(0')) do
  if present(inbox) and store(inbox, ARGV[5], ARGV[6]) then
    redis.call('ZINCRBY', takers, 1, inbox)
    return done(inbox)
  end
end
if redis.call('LLEN', waiting) >= tonumber(ARGV[7]) then
  return done('FULL')
end
redis.call('RPUSH', waiting, ARGV[5])
return done('WAITING')
