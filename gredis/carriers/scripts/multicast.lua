-- multicast: a letter for every process with members of a group, to each once.
--   ARGV[4] group   ARGV[5] letter   ARGV[6] capacity of an inbox, letters
--   reply   {processes reached, processes whose inbox was full, inboxes of absent processes …}
local reply = {0, 0}
for _, inbox in ipairs(redis.call('SMEMBERS', key('group', ARGV[4]))) do
  local place = store(inbox, ARGV[5], ARGV[6]) and 1 or 2
  reply[place] = reply[place] + 1
  if not present(inbox) then
    reply[#reply + 1] = inbox
  end
end
return done(reply)
