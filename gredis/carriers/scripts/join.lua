-- join: record that this process has a member of a group.
--   ARGV[4] group
--   reply   OK
redis.call('SADD', key('group', ARGV[4]), me)
redis.call('SADD', key('entries', me), 'group:' .. ARGV[4])
return done('OK')
