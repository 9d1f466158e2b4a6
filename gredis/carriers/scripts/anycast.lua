-- anycast: send a message to the consumer of a queue that has most room. While none has room, the
-- message waits in the queue.
--   ARGV[4] queue   ARGV[5] message   ARGV[6] capacity of an inbox   ARGV[7] messages that may wait
--   ARGV[8] milliseconds that a message may wait (0: without limit)
--   reply   the inbox it went to, WAITING, or FULL (not stored)
local consumers, waiting = key('queue', ARGV[4]), key('waiting', ARGV[4])
local sent, expiry = now(), tonumber(ARGV[8])
for _, inbox in ipairs(redis.call('ZRANGEBYSCORE', consumers, '-inf', '(0')) do
  if present(inbox) and store(inbox, sent, ARGV[5], ARGV[6]) ~= 'FULL' then
    redis.call('ZINCRBY', consumers, 1, inbox)
    return done(inbox)
  end
end
while expiry > 0 do
  local oldest = redis.call('LINDEX', waiting, 0)
  if not oldest or string.match(oldest, '^%d+') + expiry > tonumber(sent) then
    break
  end
  redis.call('LPOP', waiting)
end
if redis.call('LLEN', waiting) >= tonumber(ARGV[7]) then
  return done('FULL')
end
redis.call('RPUSH', waiting, sent .. ' ' .. ARGV[5])
if expiry > 0 then
  redis.call('PEXPIRE', waiting, expiry)
else
  redis.call('PERSIST', waiting)
end
return done('WAITING')
