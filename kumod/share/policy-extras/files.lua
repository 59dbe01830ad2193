-- Files of data that modules build something of: read in order, later ones laid over earlier ones, and again once they may have
-- changed. Invariant: what was right before holds on, also for a new Lua state, while a file can't be used.
-- Not here: what is in them.
local kumo = require 'kumo'
local typing = require 'policy-extras.typing'
local utils = require 'policy-extras.policy_utils'

local mod = {}

-- Seconds after which files are read again by the next who asks.
local REFRESH = 10

-- What `make` makes of `fields`, or an error that names the section.
function mod.made(kind, name, make, fields)
  local done, made = pcall(make, fields)
  if not done then
    error(('[%s.%q]: %s'):format(kind, name, utils.error_text(made)), 0)
  end
  return made
end

local function merged(paths)
  local data = {}
  for _, path in ipairs(paths) do
    utils.recursive_merge_into(utils.load_json_or_toml_file(path), data)
  end
  return data
end

-- What files yield, or nil and why not.
local function try(what, paths, data_type, build)
  local place = table.concat(paths, ', ')
  local function build_of(data)
    local built, value = pcall(build, typing.check(data_type, data, place))
    if not built then
      error(place .. ': ' .. utils.error_text(value), 0)
    end
    return value
  end
  local name = what .. ': ' .. place
  local read, data = pcall(merged, paths)
  local built, value
  if read then
    built, value = pcall(build_of, data)
  end
  if built then
    kumo.keep(name, data)
    return value
  end
  local why = what .. ': ' .. utils.error_text(read and value or data)
  local before = kumo.kept(name)
  return before and build_of(before), why
end

-- Says once what is wrong, until it is something else.
local function tell(why, told)
  if why and why ~= told then
    kumo.log_error(why .. '; what was read before holds on')
  end
  return why
end

-- A function that yields what `build` makes of the files. Raises if they can't be used and never could.
function mod.watched(what, paths, data_type, build)
  paths = typing.check(typing.list(typing.string), paths, what)
  local current, why = try(what, paths, data_type, build)
  if not current then
    error(why, 3)
  end
  local read_at, told = os.time(), tell(why)
  return function()
    local now = os.time()
    if math.abs(now - read_at) >= REFRESH then
      read_at = now
      local fresh, wrong = try(what, paths, data_type, build)
      current, told = fresh or current, tell(wrong, told)
    end
    return current
  end
end

return mod
