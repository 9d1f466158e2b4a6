-- What all scripts share; it is put in front of each. See carriers/redis.py for the keys.
--
-- ARGV[1] prefix   of all keys
-- ARGV[2] me       the inbox of the process that calls
-- ARGV[3] number   of this call of that process (0: not counted)
-- ARGV[4] …        the script's own

local prefix, me, number = ARGV[1], ARGV[2], ARGV[3]

local function key(kind, name)
  return prefix .. ':' .. kind .. ':' .. name
end

-- A call may come twice: the second time after a cut connection, while the first is still on its way
-- in the old one. It is carried out once.
if number ~= '0' then
  local last = redis.call('HGET', key('state', me), 'call')
  if last and tonumber(number) <= tonumber(last) then
    return 'DONE'
  end
end

local function now()  -- milliseconds
  local time = redis.call('TIME')
  return string.format('%d', time[1] * 1000 + math.floor(time[2] / 1000))
end

-- A process is there as long as it is subscribed to the channel that is named like its inbox:
-- Redis ends the subscription the moment the TCP connection dies.
local function present(inbox)
  return redis.call('PUBSUB', 'NUMSUB', key('here', inbox))[2] > 0
end

-- It is absent: since when is noted, until it announces itself again (announce.lua).
local function miss(inbox)
  redis.call('HSETNX', key('state', inbox), 'absent', now())
end

-- Put a message into an inbox and push it to its process; is there one?
-- Messages of an inbox are numbered: who sees a gap knows how many were lost.
local function append(inbox, sent, message)
  local seq = redis.call('HINCRBY', key('state', inbox), 'seq', 1)
  redis.call('XADD', key('inbox', inbox), seq .. '-' .. sent, 'm', message)
  if redis.call('PUBLISH', key('here', inbox), seq .. ' ' .. sent .. ' ' .. message) > 0 then
    return true
  end
  miss(inbox)
  if redis.call('SISMEMBER', prefix .. ':known', inbox) == 0 then
    redis.call('EXPIRE', key('inbox', inbox), 60)
    redis.call('EXPIRE', key('state', inbox), 60)
  end
  return false
end

-- Messages are stored even while their process is absent, cut off for a moment perhaps: it fetches
-- them when it is back. Whether it is dead is asked a little later (confirm.lua).
local function store(inbox, sent, message, capacity)
  if redis.call('XLEN', key('inbox', inbox)) >= tonumber(capacity) then
    return 'FULL'
  end
  return append(inbox, sent, message) and 'OK' or 'ABSENT'
end

-- Take a process out of everything it was entered in. Its messages are kept for a minute: should it
-- live after all, it fetches them when it announces itself, and hears that others were not kept.
local EVICTED = '0'  -- in place of the number of an announcement
local function evict(inbox)
  for _, entry in ipairs(redis.call('SMEMBERS', key('entries', inbox))) do
    if string.sub(entry, 1, 6) == 'group:' then
      redis.call('SREM', prefix .. ':' .. entry, inbox)
    else
      redis.call('ZREM', prefix .. ':' .. entry, inbox)
    end
  end
  redis.call('SREM', prefix .. ':known', inbox)
  redis.call('HSET', key('state', inbox), 'announced', EVICTED)
  for _, kind in ipairs({'entries', 'inbox', 'state'}) do
    redis.call('EXPIRE', key(kind, inbox), 60)
  end
end

-- Remember the call, so that after a cut connection its sender knows whether it was carried out.
local function done(reply)
  if number ~= '0' then
    redis.call('HSET', key('state', me), 'call', number)
  end
  return reply
end
