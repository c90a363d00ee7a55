-- take: ask counters for permits, all or nothing below `need`, and give permits back.
--
-- Why a script: giving back, looking, counting and setting the expiry must be one step
-- for all replicas, on one clock. Sliced sliding window; the reference with the proof is
-- sidecar/core/window.py, and a test feeds both the same history.
--
-- KEYS  one key per counter; the same key may come twice.
-- ARGV  [1] clock override in ms since the epoch, for tests; "" = the server's TIME
--       [2] nine signed 64-bit little-endian integers per counter, in the order of KEYS:
--           permits          the limit, in permits
--           window_ms        length of the window
--           slice_ms         length of a slice
--           want             grant at most this many permits; 0 only looks
--           need             grant at least this many, or nothing
--           give_back        permits granted earlier and not spent
--           give_back_slice  the slice in which they were granted
--           give_back_made   `made` as answered then; another state ignores them
--           block_ms         when fewer than `want` are granted: closed this long; 0 = never
-- Returns seven integers per counter, one flat array:
--           granted, room_left, slice_id, slice_left_ms,
--           retry_ms (until `need` could be granted: 0 now, -1 never),
--           next_ms (until the room grows: 0 nothing used, -1 never), made
-- Cost  one GET per counter, one SET if its state changed; independent of the number of
--       slices, except that a refusal walks the slices that must expire first.
-- State a string: made i8, blocked until (ms) i8, total I4, then (slice I6, permits I4)
--       pairs, oldest first, none of them zero. Every SET carries its expiry:
--       window + one slice + what is left of a block.

local call, pack, unpack = redis.call, struct.pack, struct.unpack
local floor, ceil, min, max, sub = math.floor, math.ceil, math.min, math.max, string.sub
local HEADER, PAIR = 20, 10

local now, made_now
if ARGV[1] == '' then
  local time = call('TIME')
  made_now = time[1] * 1000000 + time[2]
  now = floor(made_now / 1000)
else
  now = tonumber(ARGV[1])
  made_now = now * 1000
end

-- Milliseconds until `room` permits are free, from the pairs in `state` at `first`.
local function wait(state, first, total, permits, span, slice_ms, room)
  if room > permits or permits == 0 then return -1 end
  local free = permits - total
  if free >= room then return 0 end
  for at = first, #state, PAIR do
    local id, count = unpack('<I6I4', state, at)
    free = free + count
    if free >= room then return (id + span + 1) * slice_ms - now end
  end
  error('take: the counts do not add up to the total')
end

-- The pairs without `permits` of slice `wanted`; and how many were really taken off.
local function without(pairs_, wanted, permits)
  for at = #pairs_ - PAIR + 1, 1, -PAIR do
    local id, count = unpack('<I6I4', pairs_, at)
    if id < wanted then break end
    if id == wanted then
      local taken = min(permits, count)
      local rest = taken < count and pack('<I6I4', id, count - taken) or ''
      return sub(pairs_, 1, at - 1) .. rest .. sub(pairs_, at + PAIR), taken
    end
  end
  return pairs_, 0
end

local args, pos, answers, n = ARGV[2], 1, {}, 0
local permits, window_ms, slice_ms, want, need, give_back, give_back_slice, give_back_made, block_ms

for i = 1, #KEYS do
  permits, window_ms, slice_ms, want, need, give_back, give_back_slice, give_back_made, block_ms, pos =
    unpack('<i8i8i8i8i8i8i8i8i8', args, pos)
  local key = KEYS[i]
  local current, span = floor(now / slice_ms), ceil(window_ms / slice_ms)
  local state = call('GET', key)
  local made, blocked_until, total, first, newest, newest_count = made_now, 0, 0, 1, -1, 0
  local changed = false

  if state then
    made, blocked_until, total = unpack('<i8i8I4', state)
    first = HEADER + 1
    if #state > HEADER then
      newest, newest_count = unpack('<I6I4', state, #state - PAIR + 1)
      if newest > current then
        if (newest - current) * slice_ms > window_ms then
          newest, newest_count, first, changed = current, total, 1, true
          state = pack('<I6I4', current, total)
        else
          current = newest
        end
      end
      while first < #state do
        local id, count = unpack('<I6I4', state, first)
        if id + span >= current then break end
        total, first, changed = total - count, first + PAIR, true
      end
      if first > #state then newest, newest_count = -1, 0 end
    end
    if blocked_until > now + block_ms then blocked_until, changed = now + block_ms, true end
    if blocked_until > 0 and blocked_until <= now then blocked_until, changed = 0, true end
    if total == 0 and blocked_until == 0 then made, changed = made_now, true end
    if give_back > 0 and give_back_made == made then
      local rest, taken = without(sub(state, first), give_back_slice, give_back)
      if taken > 0 then
        state, first, total, changed = rest, 1, total - taken, true
        newest, newest_count = -1, 0
        if #rest > 0 then newest, newest_count = unpack('<I6I4', rest, #rest - PAIR + 1) end
      end
    end
  else
    state = ''
  end

  local room, granted, blocked = permits - total, 0, blocked_until > now
  if not blocked and want > 0 and room >= need then
    granted = min(want, room)
    total, room, changed = total + granted, room - granted, true
    if newest == current then
      state = sub(state, first, -PAIR - 1) .. pack('<I6I4', current, newest_count + granted)
    else
      state = sub(state, first) .. pack('<I6I4', current, granted)
    end
    first = 1
  end
  if block_ms > 0 and granted < want and not blocked then
    blocked_until, blocked, changed = now + block_ms, true, true
  end

  -- The usual answers without the walk: there is room, and the oldest pair is the next to expire.
  local retry, next_ms = 0, 0
  if room < need or permits == 0 then retry = wait(state, first, total, permits, span, slice_ms, need) end
  if permits == 0 then
    next_ms = -1
  elseif total > 0 and room >= 0 then
    next_ms = (unpack('<I6', state, first) + span + 1) * slice_ms - now
  elseif total > 0 then
    next_ms = wait(state, first, total, permits, span, slice_ms, 1)
  end
  local room_left, block_left = max(0, room), 0
  if blocked then
    room_left, block_left = 0, blocked_until - now
    if retry >= 0 then retry = max(retry, block_left) end
    if next_ms >= 0 then next_ms = max(next_ms, block_left) end
  end

  if changed then
    if total > 0 or blocked then
      if first > 1 then state = sub(state, first) end
      call('SET', key, pack('<i8i8I4', made, blocked_until, total) .. state,
        'PX', window_ms + slice_ms + block_left)
    else
      call('DEL', key)
    end
  end
  answers[n + 1], answers[n + 2], answers[n + 3] = granted, room_left, current
  answers[n + 4] = (current + 1) * slice_ms - max(now, current * slice_ms)
  answers[n + 5], answers[n + 6], answers[n + 7] = retry, next_ms, made
  n = n + 7
end
return answers
