-- What one would write without a gate: two counters per client and request in nginx's Lua module, a minute and an hour.
--
-- One EVALSHA for each request over a kept connection. It is meant to be hard to beat: fixed windows (which can admit
-- twice the limit around a boundary), no headers for the client, no reasons, no metrics, no deadline worth the name.
--
-- Reads   $store (unix:path of the server), the header X-Real-IP
-- Answers 204, 429, or 503 when the store does not answer
-- Cost    one round trip; on the server MGET, two INCR, and two PEXPIRE when a window begins

local redis = require "nginx.redis"

local SCRIPT = [[
  local counts = redis.call('MGET', KEYS[1], KEYS[2])
  for i = 1, 2 do
    if counts[i] and tonumber(counts[i]) >= tonumber(ARGV[2 * i - 1]) then
      return redis.call('PTTL', KEYS[i])
    end
  end
  for i = 1, 2 do
    if redis.call('INCR', KEYS[i]) == 1 then redis.call('PEXPIRE', KEYS[i], ARGV[2 * i]) end
  end
  return 0
]]
local PERMITS, MINUTE_MS, HOUR_MS = 1000000000, 60000, 3600000
local TIMEOUT_MS, IDLE_MS, POOL = 1000, 60000, 128

local sha
local limiter = {}

function limiter.answer()
  local connection = redis:new()
  connection:set_timeout(TIMEOUT_MS)
  if not connection:connect(ngx.var.store) then return ngx.exit(503) end
  if not sha then sha = connection:script("load", SCRIPT) end
  local address = ngx.var.http_x_real_ip
  local retry_ms = connection:evalsha(sha, 2, "m:" .. address, "h:" .. address,
    PERMITS, MINUTE_MS, PERMITS, HOUR_MS)
  if not retry_ms then return ngx.exit(503) end
  connection:set_keepalive(IDLE_MS, POOL)
  return ngx.exit(retry_ms == 0 and 204 or 429)
end

return limiter
