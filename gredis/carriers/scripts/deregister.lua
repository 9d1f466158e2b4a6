-- deregister: remove everything of this process, which exits.
--   reply   OK
evict(me)
for _, kind in ipairs({'entries', 'inbox', 'state'}) do
  redis.call('DEL', key(kind, me))
end
return 'OK'
