-- status: return figures for people.
--   reply   {inboxes, queues, groups}, each a list of rows; ages are milliseconds since the oldest
--           message was sent, 0 if there is none
--             inbox   {name, 1 if it is connected, messages kept, age, messages ever, dropped}
--             queue   {name, consumers, room, messages waiting, age}
--             group   {name, processes}
local time, inboxes, queues, groups = tonumber(now()), {}, {}, {}
local function age(sent)
  return sent and time - tonumber(sent) or 0
end
for _, inbox in ipairs(redis.call('SMEMBERS', prefix .. ':known')) do
  local state = redis.call('HMGET', key('state', inbox), 'seq', 'dropped')
  local oldest = redis.call('XRANGE', key('inbox', inbox), '-', '+', 'COUNT', 1)[1]
  inboxes[#inboxes + 1] = {
    inbox, present(inbox) and 1 or 0, redis.call('XLEN', key('inbox', inbox)),
    age(oldest and string.match(oldest[1], '-(%d+)')),
    tonumber(state[1] or 0), tonumber(state[2] or 0)}
end
local names = {}
for _, kind in ipairs({'queue', 'waiting'}) do
  for _, found in ipairs(redis.call('KEYS', key(kind, '*'))) do
    names[string.sub(found, #key(kind, '') + 1)] = true
  end
end
for name in pairs(names) do
  local room, consumers = 0, redis.call('ZRANGE', key('queue', name), 0, -1, 'WITHSCORES')
  for place = 2, #consumers, 2 do
    room = room - tonumber(consumers[place])
  end
  local oldest = redis.call('LINDEX', key('waiting', name), 0)
  queues[#queues + 1] = {
    name, #consumers / 2, room, redis.call('LLEN', key('waiting', name)),
    age(oldest and string.match(oldest, '^%d+'))}
end
for _, found in ipairs(redis.call('KEYS', key('group', '*'))) do
  groups[#groups + 1] = {string.sub(found, #key('group', '') + 1), redis.call('SCARD', found)}
end
return {inboxes, queues, groups}
