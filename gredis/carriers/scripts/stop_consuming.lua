-- stop_consuming: this process takes from a queue no longer.
--   ARGV[4] queue
redis.call('ZREM', key('queue', ARGV[4]), me)
redis.call('SREM', key('entries', me), 'queue:' .. ARGV[4])
return done('OK')
