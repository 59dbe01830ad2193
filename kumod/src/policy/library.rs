//! A fresh Lua state with a library that can't leave its budget: [`prelude`](self), `require`, `dofile`.
//! Invariant: no policy code runs before the prelude did; afterwards nothing loads C code or binary chunks, ends the
//! process, or sets hooks.
use super::budget::Budget;
use super::convert::{Floats, to_json};
use super::error::{OWN_CODE, fault};
use super::program::Program;
use super::shipped;
use mlua::chunk::ChunkMode;
use mlua::{Function, IntoLuaMulti, Lua, LuaOptions, MultiValue, StdLib, Table, Value};
use std::path::Path;
use std::sync::Arc;

const PRELUDE: &str = include_str!("prelude.lua");
/// What of a table raised as an error is shown.
const SHOWN_CHARACTERS: usize = 500;

/// A state and what reports where a dead thread stopped.
pub struct Library {
    pub lua: Lua,
    pub budget: Arc<Budget>,
    pub traceback: Function,
}

pub fn open(program: &Arc<Program>) -> mlua::Result<Library> {
    let libraries = StdLib::ALL_SAFE | StdLib::DEBUG;
    // `pcall` as Lua has it, so that a long call can be suspended inside of it.
    let options = LuaOptions::new().catch_rust_panics(false);
    // SAFETY: what makes these libraries unsafe is the loading of C modules and the debug library. Before any policy
    // code runs, the prelude removes `loadlib` and the C searchers, and of `debug` all but `traceback` and `getinfo`.
    let lua = unsafe { Lua::unsafe_new_with(libraries, options) };
    let budget = Budget::install(&lua, program.options.memory)?;
    let prelude = lua.load(PRELUDE).set_name(format!("={OWN_CODE}")).into_function()?;
    prelude.call::<()>((
        budget_functions(&lua, &budget)?,
        file_loader(&lua, program)?,
        module_finder(&lua, program)?,
        lua.create_function(readable)?,
    ))?;
    package(&lua)?.raw_set("path", program.search_path())?;
    let traceback = lua.globals().get::<Table>("debug")?.get("traceback")?;
    Ok(Library { lua, budget, traceback })
}

/// What the prelude needs of the budget.
fn budget_functions(lua: &Lua, budget: &Arc<Budget>) -> mlua::Result<Table> {
    let functions = lua.create_table()?;
    let mine = budget.clone();
    let charge = lua.create_function(move |lua, ()| mine.charge_coroutine(lua))?;
    functions.raw_set("charge_coroutine", charge)?;
    let mine = budget.clone();
    let run_out = lua.create_function(move |lua, ()| Err::<(), _>(mine.run_out_of_memory(lua)?))?;
    functions.raw_set("run_out_of_memory", run_out)?;
    let mine = budget.clone();
    functions
        .raw_set("is_exhausted", lua.create_function(move |_, ()| Ok(mine.is_exhausted()))?)?;
    Ok(functions)
}

fn package(lua: &Lua) -> mlua::Result<Table> {
    lua.globals().get("package")
}

/// `load_file(path[, environment])`: a function, or nil and why not.
fn file_loader(lua: &Lua, program: &Arc<Program>) -> mlua::Result<Function> {
    let program = program.clone();
    lua.create_function(move |lua, (path, environment): (String, Option<Table>)| {
        match load_file(lua, &program, Path::new(&path), environment) {
            Ok(Some(function)) => function.into_lua_multi(lua),
            Ok(None) => (Value::Nil, format!("there is no file {path}")).into_lua_multi(lua),
            Err(why) => (Value::Nil, why).into_lua_multi(lua),
        }
    })
}

fn load_file(
    lua: &Lua,
    program: &Program,
    path: &Path,
    environment: Option<Table>,
) -> Result<Option<Function>, String> {
    let Some(text) = program.lua_file(path)? else { return Ok(None) };
    let chunk = chunk(lua, path, &text);
    let chunk = match environment {
        Some(environment) => chunk.set_environment(environment),
        None => chunk,
    };
    let loaded = chunk.into_function();
    loaded.map(Some).map_err(|error| match error {
        mlua::Error::SyntaxError { message, .. } => message,
        other => other.to_string(),
    })
}

/// A Lua file's text, named so that errors say its path.
pub fn chunk<'a>(lua: &Lua, path: &Path, text: &'a [u8]) -> mlua::chunk::Chunk<'a> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    // A first line for the shell stays a line, so that the numbers of the others are right.
    let start = if text.starts_with(b"#") { text.iter().position(|b| *b == b'\n') } else { None };
    let text = &text[start.unwrap_or(0)..];
    lua.load(text).set_name(shipped::chunk_name(path)).set_mode(ChunkMode::Text)
}

/// A searcher for `require`: tries each template of `package.path`.
fn module_finder(lua: &Lua, program: &Arc<Program>) -> mlua::Result<Function> {
    let program = program.clone();
    lua.create_function(move |lua, name: String| {
        let templates: String = package(lua)?.get("path")?;
        let file_name = name.replace('.', "/");
        let mut missing = String::new();
        for template in templates.split(';').filter(|template| !template.is_empty()) {
            let path = template.replace('?', &file_name);
            match load_file(lua, &program, Path::new(&path), None) {
                Ok(Some(function)) => return (function, path).into_lua_multi(lua),
                Ok(None) => missing.push_str(&format!("\n\tno file '{path}'")),
                Err(why) => return Err(fault(lua, format!("require '{name}': {why}"))),
            }
        }
        missing.into_lua_multi(lua)
    })
}

/// `__tostring` of a table that was raised as an error.
fn readable(lua: &Lua, (value, _rest): (Value, MultiValue)) -> mlua::Result<String> {
    let text = match to_json(lua, &value, Floats::AsIs) {
        Ok(json) => json.to_string(),
        Err(_) => "a table that can't be shown".into(),
    };
    Ok(text.chars().take(SHOWN_CHARACTERS).collect())
}
