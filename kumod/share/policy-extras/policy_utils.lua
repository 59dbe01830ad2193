-- Small functions that policies and kumod's own modules share: comparing, merging and showing tables, reading files.
-- Invariant: nothing here has a state, and arguments are changed only by merge_into and recursive_merge_into.
-- Not here: anything about mail.
local kumo = require 'kumo'

local mod = {}

-- Whether two values are the same, tables by what is in them.
function mod.equals(one, other)
  if type(one) ~= 'table' or type(other) ~= 'table' then
    return one == other
  end
  for key, value in pairs(one) do
    if not mod.equals(value, other[key]) then
      return false
    end
  end
  for key in pairs(other) do
    if one[key] == nil then
      return false
    end
  end
  return true
end

-- A value as JSON, or as Lua prints it where JSON has no form for it.
function mod.dumps(value)
  local shown, text = pcall(kumo.serde.json_encode, value)
  return shown and text or tostring(value)
end

local function fail(message, text)
  error(message and (message .. ': ' .. text) or text, 3)
end

function mod.assert_eq(one, other, message)
  if not mod.equals(one, other) then
    fail(message, mod.dumps(one) .. ' ~= ' .. mod.dumps(other))
  end
end

function mod.assert_ne(one, other, message)
  if mod.equals(one, other) then
    fail(message, 'both are ' .. mod.dumps(one))
  end
end

function mod.assert_matches(text, pattern, message)
  if not tostring(text):match(pattern) then
    fail(message, mod.dumps(text) .. ' does not match ' .. pattern)
  end
end

-- Copies each key of `from` over the same one of `to`, and returns `to`.
function mod.merge_into(from, to)
  for key, value in pairs(from) do
    to[key] = value
  end
  return to
end

-- The same, but tables are merged likewise. Lists are replaced as a whole.
function mod.recursive_merge_into(from, to)
  for key, value in pairs(from) do
    local before = to[key]
    local both = type(value) == 'table' and type(before) == 'table'
    if both and #value == 0 and #before == 0 then
      mod.recursive_merge_into(value, before)
    else
      to[key] = value
    end
  end
  return to
end

-- Whether one of the values is this one.
function mod.table_contains(list, wanted)
  for _, value in pairs(list) do
    if mod.equals(value, wanted) then
      return true
    end
  end
  return false
end

-- Sorted as text.
function mod.table_keys(map)
  local keys = {}
  for key in pairs(map) do
    keys[#keys + 1] = key
  end
  table.sort(keys, function(one, other)
    return tostring(one) < tostring(other)
  end)
  return keys
end

-- TOML if the name says so, else JSON. An error names the file.
function mod.load_json_or_toml_file(path)
  local load = path:match '%.toml$' and kumo.serde.toml_load or kumo.serde.json_load
  local loaded, value = pcall(load, path)
  if not loaded then
    error(path .. ': ' .. mod.error_text(value), 2)
  end
  return value
end

-- What an error says, in one line, without the place of the Lua code that raised it.
function mod.error_text(raised)
  local text = tostring(raised):gsub('\nstack traceback:.*', '')
  if type(raised) ~= 'string' then
    text = text:gsub('^[^\n]-:%d+: ', '')
  end
  text = text:gsub('^%[kumod%] [%w%-%./_]+:%d+: ', '')
  return (text:gsub('%s*\n%s*', ' '))
end

-- `10.0.0.1:25`, `[::1]:25`: the address and the port; without a port, nil for it.
function mod.split_ip_port(text)
  local address, port = text:match '^%[(.-)%]:(%d+)$'
  if not address then
    address, port = text:match '^([^:]+):(%d+)$'
  end
  if not address then
    return (text:match '^%[(.-)%]$' or text), nil
  end
  return address, math.tointeger(tonumber(port))
end

return mod
