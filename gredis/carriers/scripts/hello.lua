-- hello: is anybody there?
--   reply   OK
return done('OK')
