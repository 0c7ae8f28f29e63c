-- Sends one fixed POST as fast as answers come, or at a mean pace, and prints one line of JSON at the end.
--
--   wrk … -s post.lua URL -- BODY_FILE MEAN_PAUSE_MS NAME=VALUE …
--
-- With a pause above 0 each connection waits after an answer for a time drawn from an exponential
-- distribution, so that requests come as those of many independent callers would.

local mean_pause_ms = 0

function init(args)
   local file = assert(io.open(args[1], "rb"))
   wrk.method = "POST"
   wrk.body = file:read("*a")
   file:close()
   mean_pause_ms = tonumber(args[2])
   for place = 3, #args do
      local name, value = args[place]:match("^(.-)=(.*)$")
      wrk.headers[name] = value
   end
   if mean_pause_ms > 0 then
      math.randomseed(1)
      delay = function()
         -- wrk waits whole milliseconds; adding a half before the cut keeps the mean.
         return math.floor(-mean_pause_ms * math.log(1 - math.random()) + 0.5)
      end
   end
end

function done(summary, latency, requests)
   local errors = summary.errors
   io.write(string.format(
      '\n{"requests": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, "failed": %d, "bytes": %d}\n',
      summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
      errors.connect + errors.read + errors.write + errors.status + errors.timeout, summary.bytes))
end
