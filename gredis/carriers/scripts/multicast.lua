-- multicast: send a message to every process with members of a group, to each once.
--   ARGV[4] group   ARGV[5] message   ARGV[6] capacity of an inbox, messages
--   reply   {processes reached, processes whose inbox was full, inboxes of absent processes …}
local reply, sent = {0, 0}, now()
for _, inbox in ipairs(redis.call('SMEMBERS', key('group', ARGV[4]))) do
  local stored = store(inbox, sent, ARGV[5], ARGV[6])
  if stored == 'FULL' then
    -- Use up a number: the process sees the gap, and knows that it has lost a message.
    redis.call('HINCRBY', key('state', inbox), 'seq', 1)
    redis.call('HINCRBY', key('state', inbox), 'dropped', 1)
    reply[2] = reply[2] + 1
  else
    reply[1] = reply[1] + 1
  end
  if stored == 'FULL' and not present(inbox) then
    mark_absent(inbox)
    stored = 'ABSENT'
  end
  if stored == 'ABSENT' then
    reply[#reply + 1] = inbox
  end
end
return done(reply)
