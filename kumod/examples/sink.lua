-- A sink: accepts mail and throws it away, as slowly and as badly as you like. For load tests; never for real mail.
--   SINK_LISTEN    where to listen (127.0.0.1:2026; port 0: any)
--   SINK_LATENCY   seconds before each answer to the end of data (0)
--   SINK_4XX       percent of messages answered with 451 (0)
--   SINK_5XX       percent of messages answered with 550 (0)
--   SINK_SPOOL     a folder that kumod's user can write; nothing will be in it (/var/tmp/kumod-sink)
local kumo = require 'kumo'

local function number(name)
  local text = os.getenv(name) or '0'
  return tonumber(text) or error(name .. ' is no number: ' .. text)
end

local latency, deferred, refused = number 'SINK_LATENCY', number 'SINK_4XX', number 'SINK_5XX'

kumo.on('init', function()
  local spool = os.getenv 'SINK_SPOOL' or '/var/tmp/kumod-sink'
  kumo.define_spool { name = 'data', path = spool, min_free_space = 1000000 }
  kumo.define_spool { name = 'meta', path = spool, min_free_space = 1000000 }
  kumo.start_esmtp_listener {
    listen = os.getenv 'SINK_LISTEN' or '127.0.0.1:2026',
    relay_hosts = { '0.0.0.0/0', '::/0' },
    max_messages_per_connection = 1000000,
  }
end)

kumo.on('smtp_server_message_received', function(msg)
  if latency > 0 then
    kumo.time.sleep(latency)
  end
  local draw = math.random() * 100
  if draw < deferred then
    kumo.reject(451, '4.7.1 busy, try again')
  elseif draw < deferred + refused then
    kumo.reject(550, '5.7.1 not wanted here')
  end
  msg:set_meta('queue', 'null')
end)
