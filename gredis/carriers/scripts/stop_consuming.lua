-- stop_consuming: end this process's consumption from a queue.
--   ARGV[4] queue
--   reply   OK
redis.call('ZREM', key('queue', ARGV[4]), me)
redis.call('SREM', key('entries', me), 'queue:' .. ARGV[4])
return done('OK')
