-- announce: all that this process wants, at its start and after each loss of the connection.
--   ARGV[4] MessagePack: {groups = {name, …}, queues = {name = room, …},
--           takes = {{number of a call that perhaps is still to come, queue, its room}, …}}
--   ARGV[5] number of the last message it has seen   ARGV[6] how often it has been told what we reply
--   reply   {1 when messages of this process may be lost: Redis has forgotten them (it has been
--            restarted, say), or did not take any because the process was taken for dead,
--            number of the last call that was carried out, milliseconds of Redis's clock,
--            inboxes of absent processes …}
local inbox, state, last = key('inbox', me), key('state', me), tonumber(ARGV[5])
local told = tonumber(ARGV[6] or 0)
local wanted = cmsgpack.unpack(ARGV[4])
redis.call('SADD', prefix .. ':known', me)
for _, group in ipairs(wanted.groups) do
  redis.call('SADD', key('group', group), me)
  redis.call('SADD', key('entries', me), 'group:' .. group)
end
for _, kind in ipairs({'entries', 'inbox', 'state'}) do
  redis.call('PERSIST', key(kind, me))
end
redis.call('HDEL', state, 'absent')
local since = redis.call('HGET', state, 'announced')
local restarted = tonumber(redis.call('HGET', state, 'seq') or 0) < last
if restarted or not since then
  -- Redis counts from the beginning again: what has come since gets numbers that are new here.
  since = EVICTED
  local found = redis.call('XRANGE', inbox, '-', '+')
  redis.call('DEL', inbox)
  redis.call('HSET', state, 'seq', last)
  for _, entry in ipairs(found) do
    append(me, string.match(entry[1], '-(%d+)'), entry[2][2])
  end
end
local call, room = tonumber(redis.call('HGET', state, 'call') or 0), wanted.queues
for _, take in ipairs(wanted.takes or {}) do
  if take[1] > call and room[take[2]] then  -- it will be carried out, and give this room
    room[take[2]] = room[take[2]] - take[3]
  end
end
if since == EVICTED then
  since = told + 1  -- and so it is told again, should this reply be lost
  redis.call('HSET', state, 'announced', since)
  for _, entry in ipairs(redis.call('XRANGE', inbox, string.format('%d', last + 1), '+')) do
    local queue = string.match(entry[2][2], '^a(%Z*)')
    if queue and room[queue] then  -- a message that it will fetch
      room[queue] = room[queue] - 1
    end
  end
end
for queue, places in pairs(room) do
  -- NX: what Redis still knows counts all this.
  redis.call('ZADD', key('queue', queue), 'NX', -places, me)
  redis.call('SADD', key('entries', me), 'queue:' .. queue)
end
local forgotten = restarted or (told > 0 and tonumber(since) > told)
local reply = {forgotten and 1 or 0, call, tonumber(now())}
for _, other in ipairs(redis.call('SMEMBERS', prefix .. ':known')) do
  if not present(other) then
    miss(other)
    reply[#reply + 1] = other
  end
end
return reply
