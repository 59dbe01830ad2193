//! `kumo.time`: so far only `sleep`, which is also `kumo.sleep`, its older name.
//! Invariant: a handler that sleeps holds its Lua state and nothing else; no thread waits with it, and whoever asked has the
//! deadline. The clock isn't here: dates come with the rest of the module.
use super::error::fault;
use mlua::{Lua, Table};
use std::time::Duration;

/// In seconds; whoever asks policy gives up long before.
const LONGEST: f64 = 3_600.0;

pub fn register(lua: &Lua, kumo: &Table) -> mlua::Result<()> {
    let sleep = lua.create_async_function(async |lua: Lua, seconds: f64| {
        if !(0.0..=LONGEST).contains(&seconds) {
            let text = format!("sleep takes between 0 and {LONGEST} seconds, not {seconds}");
            return Err(fault(&lua, text));
        }
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
        Ok(())
    })?;
    let time = lua.create_table()?;
    time.raw_set("sleep", &sleep)?;
    kumo.raw_set("sleep", sleep)?;
    kumo.raw_set("time", time)
}
