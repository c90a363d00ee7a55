-- wrk's script: fills `{n}` and `{ip}` into the request, and says the result in one line that a program reads.
--
-- BENCH_VARY      not empty: the request holds one of them; else wrk sends the same bytes without asking us
-- BENCH_SUBJECTS  how many addresses `{ip}` is drawn from, at most 2^24
-- Says            bench: answers, microseconds, failed, refused (status above 399), then p50, p99, p99.9 in microseconds
-- Cost            a third of a microsecond for each request, which the floor bears too

local random, floor, concat = math.random, math.floor, table.concat

if os.getenv("BENCH_VARY") ~= "" then
  local subjects = tonumber(os.getenv("BENCH_SUBJECTS"))
  local octet = {}
  for value = 0, 255 do octet[value] = "." .. value end

  -- Starts where no earlier run can have ended, so that no two requests are ever the same.
  local n = os.time() % 1000000 * 10000000
  local pieces, numbered, addressed

  local function prepare()
    pieces, numbered, addressed = {}, {}, {}
    local text, at = wrk.format(), 1
    while true do
      local first, last, what = text:find("{(%l+)}", at)
      pieces[#pieces + 1] = text:sub(at, (first or 0) - 1)
      if not first then break end
      pieces[#pieces + 1] = ""
      local places = what == "n" and numbered or addressed
      places[#places + 1] = #pieces
      at = last + 1
    end
  end

  function init()
    math.randomseed(os.time())
    prepare()
  end

  function request()
    n = n + 1
    for i = 1, #numbered do pieces[numbered[i]] = n end
    for i = 1, #addressed do
      local subject = random(0, subjects - 1)
      pieces[addressed[i]] = "10" .. octet[floor(subject / 65536)] .. octet[floor(subject / 256) % 256]
        .. octet[subject % 256]
    end
    return concat(pieces)
  end
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format("bench: %d %d %d %d %d %d %d\n", summary.requests, summary.duration,
    errors.connect + errors.read + errors.write + errors.timeout, errors.status,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
