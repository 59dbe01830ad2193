-- The receiving side of `make demo`: accepts everything and throws it away, but answers one in fifty with 451 first.
local kumo = require 'kumo'

kumo.on('init', function()
  kumo.define_spool { name = 'data', path = '@HOME@/spool', min_free_space = 1000000 }
  kumo.define_spool { name = 'meta', path = '@HOME@/spool', min_free_space = 1000000 }
  kumo.start_esmtp_listener { listen = '127.0.0.1:0' }
end)

kumo.on('smtp_server_message_received', function(msg)
  if math.random(50) == 1 then
    kumo.reject(451, '4.7.1 busy, try again')
  end
  msg:set_meta('queue', 'null')
end)
