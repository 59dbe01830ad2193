-- queue.toml: tenant, campaign, schedule and routing of a message from its header, and the answer to get_queue_config; with its
-- check in `kumod --validate`. Invariant: options that kumo.make_queue_config refuses are told with file and section, and never
-- used: kumod doesn't start with them, and what was read before holds on where a file goes bad later.
-- Not here: what pools there are (policy-extras.sources).
local kumo = require 'kumo'
local files = require 'policy-extras.files'
local typing = require 'policy-extras.typing'
local utils = require 'policy-extras.policy_utils'

local mod = {}

local Data = typing.record {
  scheduling_header = typing.option(typing.string),
  tenant_header = typing.option(typing.string),
  remove_tenant_header = typing.default(typing.boolean, false),
  campaign_header = typing.option(typing.string),
  remove_campaign_header = typing.default(typing.boolean, false),
  default_tenant = typing.option(typing.string),
  tenant = typing.default(typing.map(typing.table), {}),
  queue = typing.default(typing.map(typing.table), {}),
}

local is_option = {}
for _, name in ipairs(kumo.queue_config_field_names()) do
  is_option[name] = true
end

-- What a section may hold besides options, and besides sections of its own.
local TENANT_KEYS = {
  require_authz = typing.list(typing.string),
  campaigns = typing.map(typing.table),
  overall_max_message_rate = typing.string,
}
local QUEUE_KEYS = { routing_domain = typing.string, overall_max_message_rate = typing.string }

local function unknown(key, special)
  local known = kumo.queue_config_field_names()
  for name in pairs(special) do
    known[#known + 1] = name
  end
  local text = "unknown key '%s'; the nearest known one is '%s'"
  return text:format(key, typing.nearest(tostring(key), known))
end

-- A section's options, what else it says, and the sections in it.
local function split(place, section, special)
  local parts = { options = {}, extra = {}, children = {} }
  local errors = {}
  for key, value in pairs(section) do
    if is_option[key] then
      parts.options[key] = value
    elseif special[key] then
      parts.extra[key] = special[key](value, key, errors)
    elseif type(value) == 'table' and special ~= TENANT_KEYS then
      parts.children[key] = value
    else
      errors[#errors + 1] = unknown(key, special)
    end
  end
  local rate = parts.extra.overall_max_message_rate
  if type(rate) == 'string' then
    local name = 'policy-extras.queue: ' .. place
    local made, throttle = pcall(kumo.make_throttle, name, rate)
    parts.throttle = made and throttle
    errors[#errors + 1] = not made and 'overall_max_message_rate: ' .. utils.error_text(throttle) or nil
  end
  local made, why = pcall(kumo.make_queue_config, parts.options)
  if not made then
    errors[#errors + 1] = utils.error_text(why)
  end
  if #errors > 0 then
    error(('[%s]: %s'):format(place, table.concat(errors, '; ')), 0)
  end
  return parts
end

local function build_tenants(data)
  local tenants = {}
  for name, section in pairs(data.tenant) do
    local place = ('tenant.%q'):format(name)
    local tenant = split(place, section, TENANT_KEYS)
    for campaign, options in pairs(tenant.extra.campaigns or {}) do
      tenant.children[campaign] = split(('%s.campaigns.%q'):format(place, campaign), options, {})
    end
    tenants[name] = tenant
  end
  return tenants
end

-- Down to a domain's tenants, and their campaigns.
local function build_queue(place, section, depth)
  local queue = split(place, section, QUEUE_KEYS)
  for name, child in pairs(queue.children) do
    if depth == 3 then
      error(('[%s]: sections go to domain, tenant and campaign, no further'):format(place), 0)
    end
    queue.children[name] = build_queue(('%s.%q'):format(place, name), child, depth + 1)
  end
  return queue
end

local function has_throttle(sections)
  for _, parts in pairs(sections) do
    if parts.throttle or has_throttle(parts.children) then
      return true
    end
  end
  return false
end

-- Whether kumod asks about each message is settled when it starts.
local THROTTLED = 'policy-extras.queue: throttled'

local function check_throttles(data)
  data.is_throttled = has_throttle(data.tenants) or has_throttle(data.queues)
  if data.is_throttled and kumo.kept(THROTTLED) == false then
    error('the first overall_max_message_rate needs a restart', 0)
  end
end

local function build(data)
  data.tenants = build_tenants(data)
  data.queues = {}
  for name, section in pairs(data.queue) do
    data.queues[name:lower()] = build_queue(('queue.%q'):format(name), section, 1)
  end
  if data.default_tenant and not data.tenants[data.default_tenant] then
    error(("default_tenant: there is no [tenant.%q]"):format(data.default_tenant), 0)
  end
  check_throttles(data)
  return data
end

local function child(parts, name)
  return parts and name and parts.children[name] or nil
end

-- What holds for a queue, from the most general to the most particular.
local function layers(data, domain, tenant, campaign)
  local default, own = data.queues.default, data.queues[(domain or ''):lower()]
  local of_tenant = tenant and data.tenants[tenant] or nil
  local default_tenant, own_tenant = child(default, tenant), child(own, tenant)
  local found = {}
  for _, layer in ipairs {
    default or false,
    own or false,
    of_tenant or false,
    default_tenant or false,
    own_tenant or false,
    child(of_tenant, campaign) or false,
    child(default_tenant, campaign) or false,
    child(own_tenant, campaign) or false,
  } do
    found[#found + 1] = layer or nil
  end
  return found
end

local Helper = {}
Helper.__index = Helper

-- The options of a queue, as kumo.make_queue_config takes them.
function Helper:resolve_config(domain, tenant, campaign)
  local options = {}
  for _, layer in ipairs(layers(self.data(), domain, tenant, campaign)) do
    utils.merge_into(layer.options, options)
  end
  return options
end

function Helper:get_queue_config(domain, tenant, campaign)
  return kumo.make_queue_config(self:resolve_config(domain, tenant, campaign))
end

-- Whoever names a tenant in a header has to be one of those who may.
local function check_authz(msg, name, tenant)
  local allowed = tenant.extra.require_authz
  if not allowed then
    return
  end
  local who = msg:get_meta 'authz_id'
  if not who or not utils.table_contains(allowed, who) then
    kumo.reject(500, ("5.7.1 you may not send for tenant '%s'"):format(name))
  end
end

local function set_tenant(data, msg)
  local named = data.tenant_header and msg:get_first_named_header_value(data.tenant_header)
  local name = named or msg:get_meta 'tenant' or data.default_tenant
  if named and data.remove_tenant_header then
    msg:remove_all_named_headers(data.tenant_header)
  end
  if not name then
    return nil
  end
  local tenant = data.tenants[name]
  if not tenant then
    kumo.reject(500, ("5.7.1 there is no tenant '%s'"):format(name))
  end
  if named then
    check_authz(msg, name, tenant)
  end
  msg:set_meta('tenant', name)
  return name
end

local function set_campaign(data, msg)
  local named = data.campaign_header and msg:get_first_named_header_value(data.campaign_header)
  if named then
    msg:set_meta('campaign', named)
    if data.remove_campaign_header then
      msg:remove_all_named_headers(data.campaign_header)
    end
  end
  return msg:get_meta 'campaign'
end

-- Sets what decides about a message's queue. Called for each message received.
function Helper:apply(msg)
  local data = self.data()
  if data.scheduling_header then
    msg:import_scheduling_header(data.scheduling_header, true)
  end
  local tenant = set_tenant(data, msg)
  local campaign = set_campaign(data, msg)
  local recipient = msg:recipient_list()[1]
  local routing_domain
  for _, layer in ipairs(layers(data, recipient and recipient.domain, tenant, campaign)) do
    routing_domain = layer.extra.routing_domain or routing_domain
  end
  if routing_domain then
    msg:set_meta('routing_domain', routing_domain)
  end
end

-- Delays a message while a rate that several queues share is used up. The most particular one is asked first.
function Helper:throttle(msg)
  local recipient = msg:recipient_list()[1]
  local domain = recipient and recipient.domain
  local found = layers(self.data(), domain, msg:get_meta 'tenant', msg:get_meta 'campaign')
  for at = #found, 1, -1 do
    if found[at].throttle and found[at].throttle:delay_message_if_throttled(msg) then
      return
    end
  end
end

-- Pools have to be there, if policy-extras.sources knows all there are.
local function check_pools(parts, place, sources)
  local pool = parts.options.egress_pool
  if pool and not sources:has_pool(pool) then
    print(("queue: error: [%s]: egress_pool: there is no pool '%s'"):format(place, pool))
    kumo.validation_failed()
  end
  for name, inner in pairs(parts.children) do
    check_pools(inner, ('%s.%q'):format(place, name), sources)
  end
end

local function validate(data)
  local sources = package.loaded['policy-extras.sources']
  if not sources or not sources.configured then
    return
  end
  for name, parts in pairs(data.tenants) do
    check_pools(parts, ('tenant.%q'):format(name), sources)
  end
  for name, parts in pairs(data.queues) do
    check_pools(parts, ('queue.%q'):format(name), sources)
  end
end

local SetupOptions = typing.record {
  files = typing.list(typing.string),
  skip_queue_config_hook = typing.default(typing.boolean, false),
}

-- With skip_queue_config_hook, get_queue_config is the caller's to answer, by get_queue_config or resolve_config.
function mod:setup_with_options(options)
  options = typing.check(SetupOptions, options, 'queue:setup_with_options')
  local helper = setmetatable({ data = files.watched('queue', options.files, Data, build) }, Helper)
  if kumo.kept(THROTTLED) == nil then
    kumo.keep(THROTTLED, helper.data().is_throttled)
  end
  if kumo.kept(THROTTLED) then
    kumo.on('throttle_insert_ready_queue', function(msg)
      helper:throttle(msg)
    end)
  end
  if not options.skip_queue_config_hook then
    kumo.on('get_queue_config', function(domain, tenant, campaign)
      return helper:get_queue_config(domain, tenant, campaign)
    end)
  end
  kumo.on('validate_config', function()
    validate(helper.data())
  end)
  return helper
end

function mod:setup(paths)
  return mod:setup_with_options { files = paths }
end

return mod
