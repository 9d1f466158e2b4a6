-- leave: record that this process has no member of a group any more.
--   ARGV[4] group
--   reply   OK
redis.call('SREM', key('group', ARGV[4]), me)
redis.call('SREM', key('entries', me), 'group:' .. ARGV[4])
return done('OK')
