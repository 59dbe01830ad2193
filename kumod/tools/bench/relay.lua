-- kumod as a relay in front of the bench's sink: everything goes to one host, over up to 100 connections.
-- @DIR@, @LISTEN_PORT@ and @SINK_PORT@ are filled in by lab.sh.
local kumo = require 'kumo'

kumo.on('init', function()
  kumo.start_esmtp_listener { listen = '127.0.0.1:@LISTEN_PORT@', hostname = 'kumod.bench.test' }
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
  return kumo.make_egress_path {
    connection_limit = 100,
    -- The sink is on this host, which is forbidden otherwise.
    prohibited_hosts = {},
  }
end)
