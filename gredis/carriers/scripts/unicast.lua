-- unicast: a message for one process.
--   ARGV[4] inbox   ARGV[5] message   ARGV[6] capacity of an inbox, messages
--   reply   OK, ABSENT (stored, but nobody is there to read it at the moment), FULL (not stored)
return done(store(ARGV[4], now(), ARGV[5], ARGV[6]))
