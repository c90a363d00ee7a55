-- change: change fields of one control table; raise the epoch, leave a delta and an audit entry.
--
-- Why a script: all replicas must see a change whole or not at all, in one order, and who
-- changed what must never differ from what changed. One verb serves every table, because a
-- change is always the same: some fields get one value, others go.
--
-- KEYS  [1] epoch: string `<number>-<id>`, absent before the first change
--       [2] log: stream, id `<number>-0`, the last deltas
--       [3] audit: stream, what was done and what was refused for a conflict
--       [4] expiring: sorted set, member `<table>\n<field>`, score = until (ms)
--       [5] the table: hash, field -> `<at ms> <until ms> <payload>`
--       [6] floor: string, the highest number that a replica had and the store had lost
-- ARGV  [1] channel on which the new epoch is published
--       [2] random id of the new epoch, 16 hexadecimal digits
--       [3] the new number is greater than this, whatever the store remembers
--       [4] the epoch that must be current; "" = any
--       [5] "absent" or "present": what the fields to put (or to delete, when none is put)
--           must all be; "" = either. What has expired is absent
--       [6] the value that the first field must have; "" = any
--       [7] ms for which it stands; 0 = until [8]
--       [8] until (ms since the epoch of clocks); 0 = until it is changed
--       [9] "1" = the table is kept; "0" = the fields are only told (an event)
--       [10] payload of the fields to put
--       [11] fields to put, [12] fields to delete: each list joined by \n
--       [13] name of the table
--       [14] what the audit says beside: JSON
--       [15] deltas kept, [16] audit entries kept
--       [17] "" = a new change; else `<number> <at ms>`: the store lost this one, do it again
-- Returns status, epoch, at (ms), until (ms), fields that are new, fields that went. Status "ok"; else
--       nothing was changed: "epoch", "absent", "present" or "value" names the demand that failed.
--       An error, which changes nothing either, for a key that somebody made something else of
-- Cost  linear in the fields, some 2 us each.

local call, format = redis.call, string.format
local time = call('TIME')
local at = time[1] * 1000 + math.floor(time[2] / 1000)
local stands_ms, until_ms = tonumber(ARGV[7]), tonumber(ARGV[8])

local function whole(number) return format('%.0f', number) end

local function fields_of(joined)
  local fields = {}
  for field in string.gmatch(joined, '[^\n]+') do fields[#fields + 1] = field end
  return fields
end

-- An error after the first write would leave half of a change: each key is read once before.
local looks = {
  { 'GET' }, { 'XRANGE', '-', '-', 'COUNT', '1' }, { 'XRANGE', '-', '-', 'COUNT', '1' },
  { 'ZRANGE', '0', '0' }, { 'HLEN' }, { 'GET' },
}
for number, look in ipairs(looks) do
  local found = redis.pcall(look[1], KEYS[number], unpack(look, 2))
  if type(found) == 'table' and found.err then
    return redis.error_reply(found.err .. ' (' .. KEYS[number] .. ')')
  end
end

local put, gone = fields_of(ARGV[11]), fields_of(ARGV[12])
local before = call('GET', KEYS[1]) or '0-0000000000000000'
local floor = tonumber(call('GET', KEYS[6]) or '0')
local number = math.max(tonumber(string.match(before, '^%d+')), tonumber(ARGV[3]), floor) + 1
local again, at_again = string.match(ARGV[17], '^(%d+) (%d+)$')
if again then number, at = tonumber(again), tonumber(at_again) end
if stands_ms > 0 then until_ms = at + stands_ms end
local epoch = whole(number) .. '-' .. ARGV[2]

local function note(outcome, at_epoch)
  call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[16], '*', 'at', whole(at), 'outcome', outcome,
    'epoch', at_epoch, 'until', whole(until_ms), 'what', ARGV[14])
end

local function refused(demand)
  if not again then note('refused: ' .. demand, before) end
  return { demand, before, at, until_ms, 0, 0 }
end

if ARGV[4] ~= '' and ARGV[4] ~= before then return refused('epoch') end
if ARGV[5] ~= '' then
  for _, field in ipairs(#put > 0 and put or gone) do
    local value = call('HGET', KEYS[5], field)
    local ends = value and tonumber(string.match(value, '^%d+ (%d+) '))
    local present = value and (ends == 0 or ends > at) or false
    if (ARGV[5] == 'present') ~= present then return refused(ARGV[5]) end
  end
end
if ARGV[6] ~= '' and call('HGET', KEYS[5], put[1] or gone[1]) ~= ARGV[6] then return refused('value') end

call('SET', KEYS[1], epoch)
local delta = { KEYS[2], 'MAXLEN', ARGV[15], whole(number) .. '-0', 'epoch', epoch, 'before', before,
  'table', ARGV[13], 'at', whole(at), 'until', whole(until_ms), 'payload', ARGV[10],
  'put', ARGV[11], 'del', ARGV[12] }
if type(redis.pcall('XADD', unpack(delta))) == 'table' then
  -- The log reaches further than the epoch, or once did: it is of a history that was lost.
  call('DEL', KEYS[2])
  call('XADD', unpack(delta))
end
note(again and 'done again' or 'done', epoch)

local added, removed = 0, 0
if ARGV[9] == '1' then
  local value = whole(at) .. ' ' .. whole(until_ms) .. ' ' .. ARGV[10]
  for _, field in ipairs(gone) do
    removed = removed + call('HDEL', KEYS[5], field)
    call('ZREM', KEYS[4], ARGV[13] .. '\n' .. field)
  end
  for _, field in ipairs(put) do
    added = added + call('HSET', KEYS[5], field, value)
    if until_ms > 0 then
      call('ZADD', KEYS[4], until_ms, ARGV[13] .. '\n' .. field)
    else
      call('ZREM', KEYS[4], ARGV[13] .. '\n' .. field)
    end
  end
end
call('PUBLISH', ARGV[1], epoch)
return { 'ok', epoch, at, until_ms, added, removed }
