-- top: put one replica's summary of its heaviest requests, and forget replicas that told none for long.
--
-- Why a script: a summary and its time must not part, or a replica that died in between would
-- leave a summary that nobody ever removes.
--
-- KEYS  [1] top: hash, replica id -> summary
--       [2] top_times: sorted set, member = replica id, score = when its summary was put (ms)
-- ARGV  [1] replica id
--       [2] its summary; "" = it has none any more
--       [3] a summary that is older than this many ms is removed
-- Returns number of summaries that are there
-- Cost  one put, and one removal for each replica that fell silent since the last.

local call = redis.call
local time = call('TIME')
local now, id, stale_ms = time[1] * 1000 + math.floor(time[2] / 1000), ARGV[1], tonumber(ARGV[3])

if ARGV[2] == '' then
  call('HDEL', KEYS[1], id)
  call('ZREM', KEYS[2], id)
else
  call('HSET', KEYS[1], id, ARGV[2])
  call('ZADD', KEYS[2], now, id)
end
-- In pieces: a script's call takes a few thousand arguments at most.
local stale = call('ZRANGEBYSCORE', KEYS[2], '-inf', now - stale_ms, 'LIMIT', 0, 1000)
if #stale > 0 then
  call('HDEL', KEYS[1], unpack(stale))
  call('ZREM', KEYS[2], unpack(stale))
end
for _, key in ipairs(KEYS) do call('PEXPIRE', key, stale_ms) end
return call('HLEN', KEYS[1])
