-- heartbeat: say that this replica lives, and read what all replicas follow.
--
-- Why a script: counting the replicas, finding one's rank and agreeing on the fleet's hash
-- key must see the same moment, and one round trip a second is enough for all of it.
--
-- KEYS  [1] replicas: sorted set, member = replica id, score = last sign of life (ms)
--       [2] attack: hash, field `mode` = "on" or "off"
--       [3] hash key: string, made once
-- ARGV  [1] replica id; "" only reads
--       [2] a replica that was silent for longer than this many ms is not counted
--       [3] hash key to set if there is none; "" = the replica has its own
-- Returns replicas counted (at least 1), rank of this one among them by id (from 0),
--       the hash key or "", the attack mode or "" when the store does not say
-- Cost  linear in the number of replicas.

local time = redis.call('TIME')
local now, id, silent_ms = time[1] * 1000 + math.floor(time[2] / 1000), ARGV[1], tonumber(ARGV[2])

if id ~= '' then redis.call('ZADD', KEYS[1], now, id) end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - silent_ms)
redis.call('PEXPIRE', KEYS[1], silent_ms)
local rank, count = 0, 0
for _, other in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  count = count + 1
  if other < id then rank = rank + 1 end
end
if ARGV[3] ~= '' then redis.call('SET', KEYS[3], ARGV[3], 'NX') end
return {
  math.max(1, count),
  rank,
  redis.call('GET', KEYS[3]) or '',
  redis.call('HGET', KEYS[2], 'mode') or '',
}
