-- heartbeat: say that this replica lives and which epoch it applied; read what all replicas follow.
--
-- Why a script: counting the replicas, finding one's rank and agreeing on the fleet's hash
-- key must see the same moment, and one round trip a second is enough for all of it.
--
-- KEYS  [1] replicas: sorted set, member = replica id, score = last sign of life (ms)
--       [2] fleet: hash, replica id -> what it says of itself
--       [3] hash key: string, made once
--       [4] epoch: string
--       [5] expiring: sorted set, member `<table>\n<field>`, score = until (ms)
--       [6] floor: string, the highest number that a replica had and the store had lost
--       [7..] the tables that it names, in the order of ARGV[8..]
-- ARGV  [1] replica id; "" only reads
--       [2] a replica that was silent for longer than this many ms is not counted
--       [3] and after this many ms it is forgotten
--       [4] hash key to set if there is none; "" = the replica has its own
--       [5] what the replica says of itself: JSON; "" = it signs off
--       [6] expired entries removed at most
--       [7] number of the epoch that the replica has
--       [8..] names of the tables
-- Returns replicas counted (at least 1), rank of this one among them by id (from 0),
--       the hash key or "", the epoch or "", the time (ms)
-- Cost  linear in the number of replicas and in the entries removed.

local call = redis.call
local time = call('TIME')
local now, id, silent_ms, lost_ms = time[1] * 1000 + math.floor(time[2] / 1000), ARGV[1], ARGV[2], ARGV[3]

if id ~= '' and ARGV[5] == '' then
  call('ZREM', KEYS[1], id)
  call('HDEL', KEYS[2], id)
elseif id ~= '' then
  call('ZADD', KEYS[1], now, id)
  call('HSET', KEYS[2], id, ARGV[5])
end
for _, other in ipairs(call('ZRANGEBYSCORE', KEYS[1], '-inf', now - lost_ms)) do
  call('ZREM', KEYS[1], other)
  call('HDEL', KEYS[2], other)
end
call('PEXPIRE', KEYS[1], lost_ms)
call('PEXPIRE', KEYS[2], lost_ms)

local rank, count = 0, 0
for _, other in ipairs(call('ZRANGEBYSCORE', KEYS[1], '(' .. string.format('%.0f', now - silent_ms), '+inf')) do
  count = count + 1
  if other < id then rank = rank + 1 end
end

local epoch = call('GET', KEYS[4]) or ''
local number = tonumber(ARGV[7])
if number > tonumber(string.match(epoch, '^%d+') or '0') and number > tonumber(call('GET', KEYS[6]) or '0') then
  call('SET', KEYS[6], ARGV[7])  -- the next change gets a higher one, so that this replica follows it
end
if ARGV[4] ~= '' then call('SET', KEYS[3], ARGV[4], 'NX') end

local tables = {}
for i = 8, #ARGV do tables[ARGV[i]] = KEYS[i - 1] end
for _, member in ipairs(call('ZRANGEBYSCORE', KEYS[5], '-inf', now, 'LIMIT', 0, ARGV[6])) do
  local name, field = string.match(member, '^([^\n]*)\n(.*)$')
  -- The last word on attack mode stays, expired or not: a store without one has lost its data.
  if tables[name] and member ~= 'attack\nglobal' then call('HDEL', tables[name], field) end
  call('ZREM', KEYS[5], member)
end
return {
  math.max(1, count),
  rank,
  call('GET', KEYS[3]) or '',
  epoch,
  now,
}
