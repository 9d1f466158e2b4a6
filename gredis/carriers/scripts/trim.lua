-- trim: free the messages that this process has seen.
--   ARGV[4] number of the last message seen
--   reply   number of the last message ever sent to this inbox: those in between were dropped
redis.call('XTRIM', key('inbox', me), 'MINID', string.format('%d', ARGV[4] + 1))
return tonumber(redis.call('HGET', key('state', me), 'seq') or 0)
