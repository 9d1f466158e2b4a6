-- trim: this process has seen its letters up to here; free them.
--   ARGV[4] number of the last letter seen
--   reply   number of the last letter ever meant for this inbox: those in between were dropped
redis.call('XTRIM', key('inbox', me), 'MINID', string.format('%d', ARGV[4] + 1))
return tonumber(redis.call('HGET', key('state', me), 'seq') or 0)
