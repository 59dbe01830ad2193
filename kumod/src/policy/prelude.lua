-- Makes Lua's own library safe to be used within a budget. Runs once in every new state, before any policy.
local budget, load_file, find_module, readable = ...
local error_, assert_, load_, select = error, assert, load, select
local collectgarbage_ = collectgarbage
local setmetatable_, getmetatable, type, rawget = setmetatable, getmetatable, type, rawget
local create, wrap, resume = coroutine.create, coroutine.wrap, coroutine.resume
local pcall_, xpcall_, rep = pcall, xpcall, string.rep
local ipairs, table = ipairs, table
local no_memory = 'not enough memory'

-- Each of these ends the process, blocks a worker, changes other threads, or can break the state.
os.exit, os.execute, os.setlocale, io.popen, package.loadlib = nil, nil, nil, nil, nil
debug = { traceback = debug.traceback, getinfo = debug.getinfo }
package.loaded.debug = debug
package.cpath = ''
package.searchers = { package.searchers[1], find_module }

-- As Lua has it, but in Lua, so that what a module's file does may wait for something.
local loaded, searchers = package.loaded, package.searchers

function require(name)
  if loaded[name] then
    return loaded[name]
  end
  local missing = {}
  for _, search in ipairs(searchers) do
    local loader, where = search(name)
    if type(loader) == 'function' then
      local module = loader(name, where)
      if module ~= nil then
        loaded[name] = module
      elseif loaded[name] == nil then
        loaded[name] = true
      end
      return loaded[name], where
    end
    missing[#missing + 1] = loader
  end
  error_("module '" .. name .. "' not found:\n\t" .. table.concat(missing), 2)
end

-- A table that is raised as an error gets a text, instead of an address, where it is reported.
local readable_table = { __tostring = readable }

local function with_text(value)
  if type(value) == 'table' and getmetatable(value) == nil then
    setmetatable_(value, readable_table)
  end
  return value
end

function error(value, level)
  level = level or 1
  if type(level) == 'number' and level > 0 then
    level = level + 1
  end
  error_(with_text(value), level)
end

function assert(...)
  local holds, why = ...
  local count = select('#', ...)
  if holds or count == 0 then
    return assert_(...)
  end
  error_(count == 1 and 'assertion failed!' or with_text(why), 2)
end

-- Finalizers run outside of every hook, and so of every budget.
function setmetatable(table, meta)
  if type(meta) == 'table' and rawget(meta, '__gc') ~= nil then
    error_("__gc isn't supported: what it does would run outside of policy's budget", 2)
  end
  return setmetatable_(table, meta)
end

function coroutine.create(body)
  budget.charge_coroutine()
  return create(body)
end

function coroutine.wrap(body)
  budget.charge_coroutine()
  return wrap(body)
end

-- Whatever catches errors gives back lack of memory: each further try would collect all garbage again.
local function checked(succeeded, ...)
  if not succeeded and (...) == no_memory then
    budget.run_out_of_memory()
  end
  return succeeded, ...
end

function pcall(...)
  return checked(pcall_(...))
end

-- A message handler runs with hooks off if the error came from one, and then nothing could stop it.
function xpcall(body, handler, ...)
  local function guarded(why)
    if why == no_memory or budget.is_exhausted() then
      return why
    end
    return handler(why)
  end
  return checked(xpcall_(body, guarded, ...))
end

function coroutine.resume(...)
  return checked(resume(...))
end

-- Lua 5.4 would count down from any number here without allocating anything.
function string.rep(text, count, separator)
  if text == '' and (separator == nil or separator == '') then
    return ''
  end
  return rep(text, count, separator)
end

-- Text only: a damaged binary chunk can crash the process.
function load(chunk, name, mode, ...)
  if mode == 'b' then
    error_('binary chunks are not loaded', 2)
  end
  return load_(chunk, name, 't', ...)
end

function loadfile(path, mode, ...)
  return load_file(path, ...)
end

function dofile(path)
  local body, why = load_file(path)
  if not body then
    error_(why, 2)
  end
  return body()
end

local kept = { collect = true, count = true, step = true }

function collectgarbage(what, ...)
  if what == nil or kept[what] then
    return collectgarbage_(what, ...)
  end
  return 0
end
