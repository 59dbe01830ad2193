-- The sending side of `make demo`: takes mail over SMTP and HTTP, and delivers all of it to the receiving kumod.
local kumo = require 'kumo'

kumo.on('init', function()
  -- One folder for both: one database, one atomic batch, one sync for a message.
  kumo.define_spool { name = 'data', path = '@HOME@/spool', min_free_space = 1000000 }
  kumo.define_spool { name = 'meta', path = '@HOME@/spool', min_free_space = 1000000 }
  kumo.configure_local_logs { log_dir = '@HOME@/logs', min_free_space = 1000000 }
  kumo.start_esmtp_listener { listen = '127.0.0.1:0' }
  kumo.start_http_listener { listen = '127.0.0.1:0' }
end)

kumo.on('get_queue_config', function(domain, tenant, campaign, routing_domain)
  -- Instead of asking the DNS: everything goes to the receiver.
  return kumo.make_queue_config {
    retry_interval = '5s',
    protocol = { smtp = { mx_list = { '[127.0.0.1]:@RECEIVER@' } } },
  }
end)

kumo.on('get_egress_path_config', function(domain, source, site)
  return kumo.make_egress_path {
    enable_tls = 'OpportunisticInsecure', -- the receiver's certificate is its own
    prohibited_hosts = {},                -- loopback is forbidden otherwise
    connection_limit = 20,
  }
end)
