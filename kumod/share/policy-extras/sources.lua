-- sources.toml as the answer to get_egress_source and get_egress_pool, and its check in `kumod --validate`.
-- Invariant: a definition that kumo.make_egress_source or kumo.make_egress_pool refuses is told with its file and section, and
-- never used: kumod doesn't start with it, and what was read before holds on where a file goes bad later.
-- Not here: which queue uses which pool.
local kumo = require 'kumo'
local files = require 'policy-extras.files'
local typing = require 'policy-extras.typing'

local mod = {}

local Data = typing.record {
  source = typing.default(typing.map(typing.table), {}),
  pool = typing.default(typing.map(typing.map(typing.record {
    weight = typing.default(typing.number, 1),
  })), {}),
}

local function source_fields(name, fields)
  local made = { name = name }
  for key, value in pairs(fields) do
    made[key] = value
  end
  return made
end

-- Its members in the order of their names.
local function pool_fields(name, members)
  local names = {}
  for member in pairs(members) do
    names[#names + 1] = member
  end
  table.sort(names)
  local made = { name = name, entries = {} }
  for _, member in ipairs(names) do
    made.entries[#made.entries + 1] = { name = member, weight = members[member].weight }
  end
  return made
end

-- Made once for each load, so that nobody waits for it later.
local function build(data)
  local built = { source = {}, pool = {} }
  for name, fields in pairs(data.source) do
    built.source[name] = files.made('source', name, kumo.make_egress_source, source_fields(name, fields))
  end
  for name, members in pairs(data.pool) do
    for member in pairs(members) do
      if not data.source[member] and member ~= 'unspecified' then
        error(("[pool.%q]: there is no [source.%q]"):format(name, member), 0)
      end
    end
    built.pool[name] = files.made('pool', name, kumo.make_egress_pool, pool_fields(name, members))
  end
  return built
end

local function current()
  return mod.configured()
end

function mod:has_source(name)
  return name == 'unspecified' or current().source[name] ~= nil
end

function mod:has_pool(name)
  return name == 'unspecified' or current().pool[name] ~= nil
end

function mod:setup(paths)
  if mod.configured then
    error('sources:setup was called before; name all files in one call', 2)
  end
  mod.configured = files.watched('sources', paths, Data, build)
  kumo.on('get_egress_source', function(name)
    return current().source[name]
  end)
  kumo.on('get_egress_pool', function(name)
    return current().pool[name]
  end)
end

return mod
