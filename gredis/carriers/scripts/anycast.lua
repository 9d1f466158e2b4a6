-- anycast: a message for the process with most room among those that take from a queue; it waits in
-- the queue while none has room.
--   ARGV[4] queue   ARGV[5] message   ARGV[6] capacity of an inbox   ARGV[7] messages that may wait
--   ARGV[8] milliseconds that a message may wait (0: for ever)
--   reply   the inbox it went to, WAITING, FULL (not stored)
local takers, waiting = key('queue', ARGV[4]), key('waiting', ARGV[4])
local sent, expiry = now(), tonumber(ARGV[8])
for _, inbox in ipairs(redis.call('ZRANGEBYSCORE', takers, '-inf', '(0')) do
  if present(inbox) and store(inbox, sent, ARGV[5], ARGV[6]) ~= 'FULL' then
    redis.call('ZINCRBY', takers, 1, inbox)
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
