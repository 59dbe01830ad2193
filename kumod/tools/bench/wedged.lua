-- kumod between a sink that is well and destinations that wedge whoever delivers to them: `well.test` goes to the sink,
-- `silent.test` and `slow.test` to wedge.py, which listens on the sink's port of other addresses, and the others to senders
-- of this policy. @DIR@, @LISTEN_PORT@, @SINK_PORT@ and @HTTP_PORT@ are filled in by lab.sh.
local kumo = require 'kumo'

local HOST = { ['well.test'] = '127.0.0.1', ['silent.test'] = '127.0.0.2', ['slow.test'] = '127.0.0.3' }
-- Each takes a processor.
local SPINS = { ['spinning.test'] = true, ['endless.test'] = true }

kumo.on('init', function()
  kumo.start_esmtp_listener { listen = '127.0.0.1:@LISTEN_PORT@', hostname = 'kumod.bench.test' }
  kumo.start_http_listener { listen = '127.0.0.1:@HTTP_PORT@' }
  kumo.define_spool { name = 'data', path = '@DIR@/spool', min_free_space = 1000000 }
  kumo.define_spool { name = 'meta', path = '@DIR@/spool', min_free_space = 1000000 }
  kumo.configure_local_logs { log_dir = '@DIR@/logs', min_free_space = 1000000 }
end)

kumo.on('get_queue_config', function(domain)
  local host = HOST[domain]
  local protocol = { custom_lua = { constructor = 'make.' .. domain } }
  if host then protocol = { smtp = { mx_list = { '[' .. host .. ']:@SINK_PORT@' } } } end
  return kumo.make_queue_config { protocol = protocol, retry_interval = '1s' }
end)

kumo.on('get_egress_path_config', function(domain)
  if domain == 'well.test' then return kumo.make_egress_path { connection_limit = 10, prohibited_hosts = {} } end
  return kumo.make_egress_path {
    connection_limit = SPINS[domain] and 1 or 4,
    prohibited_hosts = {},
    enable_tls = 'OpportunisticInsecure',
    starttls_timeout = '1 minute',
    dispatcher_progress_watchdog_timeout = os.getenv 'BENCH_WATCHDOG' .. 's',
  }
end)

local function sender_of(domain, send)
  kumo.on('make.' .. domain, function() return { send = send } end)
end

sender_of('sleeping.test', function() kumo.sleep(3600) end)
-- Until its instructions are used up; then it is called with the next message.
sender_of('spinning.test', function() while true do end end)
-- In a single call of Lua's own library, which no instruction ends.
sender_of('endless.test', function() string.find(('a'):rep(500), ('a-'):rep(30) .. 'b') end)
