-- Checks of what files and options say, before anybody uses it. A type is a function of a value, the place where it stands and
-- the list into which it puts what is wrong; it returns the value, defaults filled in. Invariant: what is wrong is told with its
-- place, and an unknown key with the nearest known one. Not here: what any file means.
local mod = {}

local function wrong(errors, place, text)
  errors[#errors + 1] = (place ~= '' and place .. ': ' or '') .. text
end

local function shown(value)
  if type(value) == 'string' then
    return ('the text %q'):format(value)
  end
  return type(value) == 'table' and 'a table' or tostring(value)
end

local function plain(lua_type, expected)
  return function(value, place, errors)
    if type(value) ~= lua_type then
      wrong(errors, place, 'expected ' .. expected .. ', found ' .. shown(value))
    end
    return value
  end
end

mod.string = plain('string', 'text')
mod.boolean = plain('boolean', 'true or false')
mod.number = plain('number', 'a number')
mod.table = plain('table', 'a table')

function mod.any(value)
  return value
end

-- A type that may be missing.
function mod.option(inner)
  return { optional = true, inner = inner }
end

-- A type that is this where it is missing.
function mod.default(inner, value)
  return { optional = true, inner = inner, default = value }
end

-- One of these texts.
function mod.enum(...)
  local names = { ... }
  return function(value, place, errors)
    for _, name in ipairs(names) do
      if value == name then
        return value
      end
    end
    wrong(errors, place, 'expected one of ' .. table.concat(names, ', ') .. ', found ' .. shown(value))
    return value
  end
end

-- Either of these types: the first that finds nothing wrong.
function mod.variant(...)
  local types = { ... }
  return function(value, place, errors)
    local found
    for _, inner in ipairs(types) do
      found = {}
      local checked = inner(value, place, found)
      if #found == 0 then
        return checked
      end
    end
    table.move(found, 1, #found, #errors + 1, errors)
    return value
  end
end

function mod.list(inner)
  return function(value, place, errors)
    if mod.table(value, place, errors) ~= value or type(value) ~= 'table' then
      return value
    end
    local checked = {}
    for key, item in pairs(value) do
      if math.type(key) ~= 'integer' then
        wrong(errors, place, 'expected a list, found the key ' .. shown(key))
      else
        checked[key] = inner(item, place .. '[' .. key .. ']', errors)
      end
    end
    return checked
  end
end

local function within(place, key)
  return (place ~= '' and place .. '.' or '') .. tostring(key)
end

-- Names to values of one type.
function mod.map(inner)
  return function(value, place, errors)
    mod.table(value, place, errors)
    if type(value) ~= 'table' then
      return value
    end
    local checked = {}
    for key, item in pairs(value) do
      checked[key] = inner(item, within(place, key), errors)
    end
    return checked
  end
end

-- How many letters have to change.
local function distance(one, other)
  local last = {}
  for column = 0, #other do
    last[column] = column
  end
  for row = 1, #one do
    local this = { [0] = row }
    for column = 1, #other do
      local differs = one:byte(row) ~= other:byte(column) and 1 or 0
      this[column] = math.min(last[column - 1] + differs, last[column] + 1, this[column - 1] + 1)
    end
    last = this
  end
  return last[#other]
end

-- The known name that looks most like this one.
function mod.nearest(name, known)
  local nearest, least
  for _, candidate in ipairs(known) do
    local edits = distance(name:sub(1, 64), candidate)
    if not least or edits < least then
      nearest, least = candidate, edits
    end
  end
  return nearest
end

-- A table with these keys and no others.
function mod.record(fields)
  local known = {}
  for key in pairs(fields) do
    known[#known + 1] = key
  end
  table.sort(known)
  return function(value, place, errors)
    mod.table(value, place, errors)
    if type(value) ~= 'table' then
      return value
    end
    local checked = {}
    for key, item in pairs(value) do
      local field = fields[key]
      if not field then
        local nearest = mod.nearest(tostring(key), known)
        wrong(errors, place, ("unknown key '%s'; the nearest known one is '%s'"):format(key, nearest))
      else
        local inner = type(field) == 'table' and field.inner or field
        checked[key] = inner(item, within(place, key), errors)
      end
    end
    for _, key in ipairs(known) do
      local field = fields[key]
      if value[key] == nil and type(field) == 'table' then
        checked[key] = field.default
      elseif value[key] == nil then
        wrong(errors, within(place, key), 'it is required')
      end
    end
    return checked
  end
end

-- The value, checked. Raises all that is wrong with it, in one line, at whoever called our caller.
function mod.check(inner, value, what)
  local errors = {}
  local checked = inner(value, '', errors)
  if #errors > 0 then
    table.sort(errors)
    error(what .. ': ' .. table.concat(errors, '; '), 3)
  end
  return checked
end

return mod
