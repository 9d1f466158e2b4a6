-- unicast: send a message to one process.
--   ARGV[4] inbox   ARGV[5] message   ARGV[6] capacity of an inbox, messages
--   reply   OK, ABSENT (stored, but the process is not connected), FULL (not stored)
return done(store(ARGV[4], now(), ARGV[5], ARGV[6]))
