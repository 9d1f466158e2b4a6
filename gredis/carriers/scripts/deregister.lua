-- depart: this process ends, and leaves nothing.
evict(me)
for _, kind in ipairs({'entries', 'inbox', 'state'}) do
  redis.call('DEL', key(kind, me))
end
return 'OK'
