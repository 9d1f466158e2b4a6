-- register: record the groups and queues of this process, at its start and after each reconnect.
--   ARGV[4] MessagePack: {groups = {name, …}, queues = {name = room, …},
--           takes = {{number of a call that may still come, queue, room it gains}, …}}
--   ARGV[5] number of the last message it has seen
--   ARGV[6] number of registrations of this process that were answered
--   reply   {1 if messages for this process may be lost: Redis has lost them (after a restart,
--            say), or rejected them while the process was evicted; number of the last call that
--            was carried out; milliseconds of Redis's clock; inboxes of absent processes …}
--
-- A loss must be reported exactly once, even if the reply that reports it is lost. So the state has
-- the number of the registration that reports it (`announced`; one more than were answered). The
-- process has not received that reply as long as it has had fewer answers than this number.
local inbox, state, last = key('inbox', me), key('state', me), tonumber(ARGV[5])
local answered = tonumber(ARGV[6] or 0)
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
local reported = redis.call('HGET', state, 'announced')
local restarted = tonumber(redis.call('HGET', state, 'seq') or 0) < last
if restarted or not reported then
  -- Redis counts from 1 again: renumber what has arrived since, above the last number seen.
  reported = EVICTED
  local found = redis.call('XRANGE', inbox, '-', '+')
  redis.call('DEL', inbox)
  redis.call('HSET', state, 'seq', last)
  for _, entry in ipairs(found) do
    append(me, string.match(entry[1], '-(%d+)'), entry[2][2])
  end
end
local call, room = tonumber(redis.call('HGET', state, 'call') or 0), wanted.queues
for _, take in ipairs(wanted.takes or {}) do
  if take[1] > call and room[take[2]] then  -- it is still to come, and gains this room then
    room[take[2]] = room[take[2]] - take[3]
  end
end
if reported == EVICTED then
  reported = answered + 1
  redis.call('HSET', state, 'announced', reported)
  for _, entry in ipairs(redis.call('XRANGE', inbox, string.format('%d', last + 1), '+')) do
    local queue = string.match(entry[2][2], '^a(%Z*)')
    if queue and room[queue] then  -- it will fetch this message, which needs room
      room[queue] = room[queue] - 1
    end
  end
end
for queue, places in pairs(room) do
  -- NX: if Redis still knows the process, its own count is right and includes all this.
  redis.call('ZADD', key('queue', queue), 'NX', -places, me)
  redis.call('SADD', key('entries', me), 'queue:' .. queue)
end
local forgotten = restarted or (answered > 0 and tonumber(reported) > answered)
local reply = {forgotten and 1 or 0, call, tonumber(now())}
for _, other in ipairs(redis.call('SMEMBERS', prefix .. ':known')) do
  if not present(other) then
    mark_absent(other)
    reply[#reply + 1] = other
  end
end
return reply
