-- announce: all that this process wants, at its start and after each loss of the connection.
--   ARGV[4] groups and queues, MessagePack: {groups = {name, …}, queues = {name = room, …}}
--   ARGV[5] number of the last letter it has seen   ARGV[6] 1 when it has been announced before
--   reply   {1 when Redis has forgotten letters of this process (it has been restarted, say),
--            number of the last call that was carried out, milliseconds of Redis's clock,
--            inboxes of absent processes …}
local inbox, state, last = key('inbox', me), key('state', me), tonumber(ARGV[5])
local wanted = cmsgpack.unpack(ARGV[4])
redis.call('SADD', prefix .. ':known', me)
for _, group in ipairs(wanted.groups) do
  redis.call('SADD', key('group', group), me)
  redis.call('SADD', key('entries', me), 'group:' .. group)
end
for queue, room in pairs(wanted.queues) do
  -- NX: what Redis still knows counts letters that are on their way.
  redis.call('ZADD', key('queue', queue), 'NX', -room, me)
  redis.call('SADD', key('entries', me), 'queue:' .. queue)
end
for _, kind in ipairs({'entries', 'inbox', 'state'}) do
  redis.call('PERSIST', key(kind, me))
end
redis.call('HDEL', state, 'absent')
local forgotten = 0
local known = redis.call('HEXISTS', state, 'announced') == 1
redis.call('HSET', state, 'announced', 1)
if tonumber(redis.call('HGET', state, 'seq') or 0) < last or (ARGV[6] == '1' and not known) then
  -- Redis counts from the beginning again: what has come since gets numbers that are new here.
  forgotten = 1
  local found = redis.call('XRANGE', inbox, '-', '+')
  redis.call('DEL', inbox)
  redis.call('HSET', state, 'seq', last)
  for _, entry in ipairs(found) do
    append(me, string.match(entry[1], '-(%d+)'), entry[2][2])
  end
end
local reply = {forgotten, tonumber(redis.call('HGET', state, 'call') or 0), tonumber(now())}
for _, other in ipairs(redis.call('SMEMBERS', prefix .. ':known')) do
  if not present(other) then
    miss(other)
    reply[#reply + 1] = other
  end
end
return reply
