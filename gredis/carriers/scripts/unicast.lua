-- unicast: a letter for one process.
--   ARGV[4] inbox   ARGV[5] letter   ARGV[6] capacity of an inbox, letters
--   reply   OK, ABSENT (stored, but nobody is there to read it at the moment), FULL (not stored)
return done(store(ARGV[4], now(), ARGV[5], ARGV[6]))
