-- fetch: return the messages of this process after the last one that it has seen.
--   ARGV[4] number of that message   ARGV[5] maximum messages   ARGV[6] approximate maximum bytes
--   reply   {1 if there may be more, number, milliseconds when it was sent, message, …}
local reply, size, from, step = {0}, 0, tonumber(ARGV[4]) + 1, 16
repeat
  local found = redis.call(
    'XRANGE', key('inbox', me), string.format('%d', from), '+', 'COUNT', step)
  for _, entry in ipairs(found) do
    local seq, sent = string.match(entry[1], '(%d+)-(%d+)')
    reply[#reply + 1] = tonumber(seq)
    reply[#reply + 1] = tonumber(sent)
    reply[#reply + 1] = entry[2][2]
    size, from = size + #entry[2][2], seq + 1
    if size > tonumber(ARGV[6]) or #reply > 3 * tonumber(ARGV[5]) then
      reply[1] = 1
      return reply
    end
  end
until #found < step
return reply
