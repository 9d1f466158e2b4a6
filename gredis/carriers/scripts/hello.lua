-- hello: prove that Redis answers.
--   reply   OK
return done('OK')
