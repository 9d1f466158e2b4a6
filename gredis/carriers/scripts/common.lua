-- Shared by all scripts, and put in front of each one. carriers/redis.py lists the keys.
--
-- ARGV[1] prefix   of all keys
-- ARGV[2] me       the inbox of the calling process
-- ARGV[3] number   of this call of that process (0: uncounted)
-- ARGV[4] …        the script's own arguments

local prefix, me, number = ARGV[1], ARGV[2], ARGV[3]

local function key(kind, name)
  return prefix .. ':' .. kind .. ':' .. name
end

-- A call may arrive twice: after a connection was cut, its sender sends it again on the new one,
-- while the first copy is still under way on the old one. It must be carried out only once.
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

-- A process is present while it is subscribed to the channel named after its inbox: Redis ends the
-- subscription as soon as the TCP connection dies. So liveness needs no heartbeats.
local function present(inbox)
  return redis.call('PUBSUB', 'NUMSUB', key('here', inbox))[2] > 0
end

-- Record since when a process has been absent; register.lua deletes this when it is back.
local function mark_absent(inbox)
  redis.call('HSETNX', key('state', inbox), 'absent', now())
end

-- Store a message in an inbox and push it to its process. Return whether the process is present.
-- The push contains the message itself, so that the receiver need not read the stream: it does so
-- only after a reconnect. Messages of an inbox are numbered without gaps, so a receiver that sees
-- a gap knows how many messages it has lost.
local function append(inbox, sent, message)
  local seq = redis.call('HINCRBY', key('state', inbox), 'seq', 1)
  redis.call('XADD', key('inbox', inbox), seq .. '-' .. sent, 'm', message)
  if redis.call('PUBLISH', key('here', inbox), seq .. ' ' .. sent .. ' ' .. message) > 0 then
    return true
  end
  mark_absent(inbox)
  if redis.call('SISMEMBER', prefix .. ':known', inbox) == 0 then
    redis.call('EXPIRE', key('inbox', inbox), 60)
    redis.call('EXPIRE', key('state', inbox), 60)
  end
  return false
end

-- Messages are stored even while their process is absent: it may only be reconnecting, and fetches
-- them then. The sender probes it a little later (probe.lua).
local function store(inbox, sent, message, capacity)
  if redis.call('XLEN', key('inbox', inbox)) >= tonumber(capacity) then
    return 'FULL'
  end
  return append(inbox, sent, message) and 'OK' or 'ABSENT'
end

-- Remove a process from all groups and queues, because it is dead. If it is alive after all, it
-- registers again and fetches its messages, which are kept for a minute. EVICTED makes register.lua
-- report to it that messages sent in the meantime are lost.
local EVICTED = '0'  -- stands in for the number of a registration
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

-- Remember this call, so that after a reconnect its sender learns whether it was carried out.
local function done(reply)
  if number ~= '0' then
    redis.call('HSET', key('state', me), 'call', number)
  end
  return reply
end
