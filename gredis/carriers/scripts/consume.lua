-- take: this process takes messages from a queue, or has room for more of them.
--   ARGV[4] queue   ARGV[5] room gained, messages   ARGV[6] capacity of an inbox, messages
--   reply   messages that had waited and are now in the inbox
local takers, waiting = key('queue', ARGV[4]), key('waiting', ARGV[4])
redis.call('ZINCRBY', takers, -tonumber(ARGV[5]), me)
redis.call('SADD', key('entries', me), 'queue:' .. ARGV[4])
local moved = 0
while tonumber(redis.call('ZSCORE', takers, me)) < 0 do
  local oldest = redis.call('LINDEX', waiting, 0)
  if not oldest then
    break
  end
  local sent, message = string.match(oldest, '^(%d+) (.*)$')
  if store(me, sent, message, ARGV[6]) == 'FULL' then
    break
  end
  redis.call('LPOP', waiting)
  redis.call('ZINCRBY', takers, 1, me)
  moved = moved + 1
end
return done(moved)
