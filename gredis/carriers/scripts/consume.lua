-- consume: start to consume from a queue, or report room for more messages of it.
--   ARGV[4] queue   ARGV[5] room gained, messages   ARGV[6] capacity of an inbox, messages
--   reply   number of messages that had waited and are in the inbox now
local consumers, waiting = key('queue', ARGV[4]), key('waiting', ARGV[4])
redis.call('ZINCRBY', consumers, -tonumber(ARGV[5]), me)
redis.call('SADD', key('entries', me), 'queue:' .. ARGV[4])
local moved = 0
while tonumber(redis.call('ZSCORE', consumers, me)) < 0 do
  local oldest = redis.call('LINDEX', waiting, 0)
  if not oldest then
    break
  end
  local sent, message = string.match(oldest, '^(%d+) (.*)$')
  if store(me, sent, message, ARGV[6]) == 'FULL' then
    break
  end
  redis.call('LPOP', waiting)
  redis.call('ZINCRBY', consumers, 1, me)
  moved = moved + 1
end
return done(moved)
