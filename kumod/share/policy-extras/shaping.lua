-- Shaping files as the answer to get_egress_path_config, and their check in `kumod --validate`. The files themselves are read and
-- laid over each other by kumo.shaping. Invariant: data with errors is never used: kumod doesn't start with it, and what was
-- loaded before holds on where files go bad later. Not here: the traffic shaping automation's daemon, which kumod has none of yet.
local kumo = require 'kumo'
local typing = require 'policy-extras.typing'

local mod = {
  -- What every path begins with.
  default_files = { '/opt/kumomta/share/policy-extras/shaping.toml' },
  -- The loads that `setup` was asked for, for other modules' checks.
  configured = {},
}

local duration = typing.variant(typing.string, typing.number)
local severity = typing.enum('Ignore', 'Warn', 'Error')
local texts = typing.list(typing.string)

local LoadOptions = typing.record {
  aliased_site = typing.option(severity),
  dns_fail = typing.option(severity),
  local_load = typing.option(severity),
  null_mx = typing.option(severity),
  provider_overlap = typing.option(severity),
  remote_load = typing.option(severity),
  skip_remote = typing.option(typing.boolean),
  http_timeout = typing.option(duration),
}

local Options = typing.record {
  publish = typing.default(texts, {}),
  subscribe = typing.default(texts, {}),
  extra_files = typing.default(texts, {}),
  no_default_files = typing.default(typing.boolean, false),
  cache_ttl = typing.default(duration, '1 minute'),
  load_validation_options = typing.default(LoadOptions, {}),
  allow_stale_shaping_data = typing.option(typing.boolean),
  pre_filter = typing.option(typing.boolean),
  skip_log_record_types = typing.option(texts),
  additional_skip_log_record_types = typing.option(texts),
  back_pressure = typing.option(typing.number),
  tsa_queue_config = typing.option(typing.table),
  publish_timeout = typing.option(duration),
  publish_pool_idle_timeout = typing.option(duration),
}

-- Options that say how something is published or read while a load goes on.
local WITHOUT_DAEMON = {
  'pre_filter',
  'skip_log_record_types',
  'additional_skip_log_record_types',
  'back_pressure',
  'tsa_queue_config',
  'publish_timeout',
  'publish_pool_idle_timeout',
}

local function refuse_daemon(options)
  for _, key in ipairs { 'publish', 'subscribe' } do
    if #options[key] > 0 then
      error(
        ("shaping: %s = { '%s' } needs the traffic shaping automation's daemon, which this version of kumod doesn't have; "):format(
          key,
          options[key][1]
        )
          .. 'leave publish and subscribe out: files, sources and providers work without them, automation rules are checked '
          .. 'and not acted on',
        3
      )
    end
  end
  for _, key in ipairs(WITHOUT_DAEMON) do
    if options[key] ~= nil then
      kumo.log_warn('shaping: ' .. key .. ' has no effect without publish')
    end
  end
end

local function files_of(options)
  local files = {}
  if not options.no_default_files then
    table.move(mod.default_files, 1, #mod.default_files, 1, files)
  end
  for _, file in ipairs(options.extra_files) do
    files[#files + 1] = file
  end
  return files
end

local function print_all(kind, texts_found)
  for _, text in ipairs(texts_found) do
    print(('shaping: %s: %s'):format(kind, text))
  end
  return #texts_found
end

-- Every severity that isn't set is a warning here, so that nothing goes unseen.
local function strict(load_options)
  local options = {
    aliased_site = 'Warn',
    dns_fail = 'Warn',
    null_mx = 'Warn',
    provider_overlap = 'Warn',
    remote_load = 'Warn',
  }
  for key, value in pairs(load_options) do
    options[key] = value
  end
  return options
end

-- Sources that shaping files name have to be there, if policy-extras.sources knows all there are.
local function check_sources(data)
  local sources = package.loaded['policy-extras.sources']
  local failed = 0
  if not sources or not sources.configured then
    return failed
  end
  for name, by in pairs(data:get_referenced_sources()) do
    if not sources:has_source(name) then
      local text = "source '%s' of %s isn't defined"
      failed = failed + print_all('error', { text:format(name, table.concat(by, ', ')) })
    end
  end
  return failed
end

local function validate(files, load_options)
  local data = kumo.shaping.load(files, strict(load_options))
  print_all('note', data:get_notes())
  print_all('warning', data:get_warnings())
  if print_all('error', data:get_errors()) + check_sources(data) > 0 then
    kumo.validation_failed()
  end
end

-- What others' failures are worth when mail has to go on: a word. load_validation_options are for the validation alone.
local WHEN_RUNNING = { remote_load = 'Warn' }

local function loader(files, options)
  return function()
    return kumo.shaping.load_shared(files, WHEN_RUNNING, options.cache_ttl)
  end
end

local function begin(options)
  local files = files_of(options)
  local load = loader(files, options)
  local data = load()
  local errors = data:get_errors()
  if #errors > 0 then
    error('shaping: ' .. table.concat(errors, '\n'), 3)
  end
  for _, text in ipairs(data:get_warnings()) do
    kumo.log_warn('shaping: ' .. text)
  end
  kumo.on('validate_config', function()
    validate(files, options.load_validation_options)
  end)
  mod.configured[#mod.configured + 1] = files

  return {
    get_egress_path_config = function(domain, source, site)
      return kumo.make_egress_path(load():get_egress_path_config(domain, source, site))
    end,
    -- Nothing can be published to: see refuse_daemon.
    setup_publish = function() end,
  }
end

-- A handler of get_egress_path_config: the default file, and these laid over it.
function mod:setup(extra_files)
  local options = typing.check(Options, { extra_files = extra_files }, 'shaping:setup')
  return begin(options).get_egress_path_config
end

-- A table with that handler, and with setup_publish for init.
function mod:setup_with_automation(options)
  options = typing.check(Options, options, 'shaping:setup_with_automation')
  refuse_daemon(options)
  return begin(options)
end

return mod
