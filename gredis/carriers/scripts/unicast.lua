-- unicast: a letter for one process.
--   ARGV[4] inbox   ARGV[5] letter   ARGV[6] capacity of an inbox, letters
--   reply   OK, ABSENT (stored, but nobody is there to read it at the moment), FULL (not stored)
if not store(ARGV[4], ARGV[5], ARGV[6]) then
  return done('FULL')
end
return done(present(ARGV[4]) and 'OK' or 'ABSENT')
