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

-- A process is there as long as it is subscribed to the channel that is named like its inbox:
-- Redis ends the subscription the moment the TCP connection dies.
local function present(inbox)
  return redis.call('PUBSUB', 'NUMSUB', key('here', inbox))[2] > 0
end

-- Letters are stored even while their process is absent, cut off for a moment perhaps: it finds them
-- when it is back. Whether it is dead is asked a little later (confirm.lua).
local function store(inbox, letter, capacity)
  local stream = key('inbox', inbox)
  if redis.call('XLEN', stream) >= tonumber(capacity) then
    return false
  end
  redis.call('XADD', stream, '*', 'm', letter)
  if redis.call('SISMEMBER', prefix .. ':known', inbox) == 0 then
    redis.call('EXPIRE', stream, 60)
  end
  return true
end

-- Take a process out of everything it was entered in. Its letters are kept for a minute: should it
-- live after all, it finds them when it announces itself.
local function bury(inbox)
  for _, entry in ipairs(redis.call('SMEMBERS', key('entries', inbox))) do
    if string.sub(entry, 1, 6) == 'group:' then
      redis.call('SREM', prefix .. ':' .. entry, inbox)
    else
      redis.call('ZREM', prefix .. ':' .. entry, inbox)
    end
  end
  redis.call('SREM', prefix .. ':known', inbox)
  for _, kind in ipairs({'entries', 'inbox', 'sent'}) do
    redis.call('EXPIRE', key(kind, inbox), 60)
  end
end

-- Remember the call, so that after a cut connection its sender knows whether it was carried out.
local function done(reply)
  if number ~= '0' then
    redis.call('SET', key('sent', me), number)
  end
  return reply
end
