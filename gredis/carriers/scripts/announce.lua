-- announce: all that this process wants, at its start and after each loss of the connection.
--   ARGV[4] groups and queues, MessagePack: {groups = {name, …}, queues = {name = room, …}}
--   reply   {1 when Redis did not know this process (it is new, or Redis has been restarted),
--            number of the last call that was carried out, inboxes of absent processes …}
local inbox, wanted = key('inbox', me), cmsgpack.unpack(ARGV[4])
local fresh = redis.call('SADD', prefix .. ':known', me)
for _, group in ipairs(wanted.groups) do
  redis.call('SADD', key('group', group), me)
  redis.call('SADD', key('entries', me), 'group:' .. group)
end
for queue, room in pairs(wanted.queues) do
  -- NX: what Redis still knows counts letters that are on their way.
  redis.call('ZADD', key('queue', queue), 'NX', -room, me)
  redis.call('SADD', key('entries', me), 'queue:' .. queue)
end
for _, kind in ipairs({'entries', 'inbox', 'sent'}) do
  redis.call('PERSIST', key(kind, me))
end
local reply = {fresh, tonumber(redis.call('GET', key('sent', me)) or 0)}
for _, other in ipairs(redis.call('SMEMBERS', prefix .. ':known')) do
  if not present(other) then
    reply[#reply + 1] = other
  end
end
return reply
