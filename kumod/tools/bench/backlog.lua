-- kumod in front of a destination that is down: what it accepts stays.
-- @DIR@, @LISTEN_PORT@ and @SINK_PORT@ are filled in by lab.sh; nobody listens on the latter.
local kumo = require 'kumo'

kumo.on('init', function()
  kumo.start_esmtp_listener { listen = '127.0.0.1:@LISTEN_PORT@', hostname = 'kumod.bench.test' }
  kumo.start_http_listener { listen = '127.0.0.1:@HTTP_PORT@' }
  kumo.define_spool { name = 'data', path = '@DIR@/spool', min_free_space = 1000000 }
  kumo.define_spool { name = 'meta', path = '@DIR@/spool', min_free_space = 1000000 }
  kumo.configure_local_logs { log_dir = '@DIR@/logs', min_free_space = 1000000 }
end)

kumo.on('get_queue_config', function()
  return kumo.make_queue_config {
    protocol = { smtp = { mx_list = { '[127.0.0.1]:@SINK_PORT@' } } },
  }
end)

kumo.on('get_egress_path_config', function()
  -- This host is forbidden otherwise.
  return kumo.make_egress_path { prohibited_hosts = {} }
end)
