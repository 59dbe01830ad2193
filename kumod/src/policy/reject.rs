//! `kumo.reject` and `kumo.disconnect`: an error object that passes through Lua, also through `pcall` and a second
//! `error`, and is recognised when it comes out. Invariant: its code is 4yz or 5yz.
use super::error::fault;
use kumo_core::limits;
use kumo_core::smtp::reply::Reply;
use kumo_core::smtp::server::Disconnect;
use mlua::{Lua, LuaString, Table};
use std::fmt;

/// What a handler raised instead of returning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raised {
    pub reply: Reply,
    /// `None` for `kumo.reject`.
    pub disconnect: Option<Disconnect>,
}

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.reply)
    }
}

impl std::error::Error for Raised {}

/// The rejection in an error that came out of Lua, if it is one.
pub fn raised(error: &mlua::Error) -> Option<&Raised> {
    error.chain().find_map(|cause| cause.downcast_ref::<Raised>())
}

pub fn register(lua: &Lua, kumo: &Table) -> mlua::Result<()> {
    let reject = lua.create_function(|lua, (code, text): (i64, LuaString)| {
        Err::<(), _>(raise(lua, "kumo.reject", code, &text, None))
    })?;
    kumo.raw_set("reject", reject)?;
    type Arguments = (i64, LuaString, Option<LuaString>);
    let disconnect = lua.create_function(|lua, (code, text, how): Arguments| {
        let how = parse_how(lua, how)?;
        Err::<(), _>(raise(lua, "kumo.disconnect", code, &text, Some(how)))
    })?;
    kumo.raw_set("disconnect", disconnect)
}

fn parse_how(lua: &Lua, how: Option<LuaString>) -> mlua::Result<Disconnect> {
    let Some(how) = how else { return Ok(Disconnect::ForceDisconnect) };
    let how = how.to_string_lossy();
    match how.as_ref() {
        "If421" => Ok(Disconnect::If421),
        "ForceDisconnect" => Ok(Disconnect::ForceDisconnect),
        "FollowWith421" => Ok(Disconnect::FollowWith421),
        other => Err(fault(
            lua,
            format!(
                "kumo.disconnect: the third argument is 'If421', 'ForceDisconnect' or \
                 'FollowWith421', not {other:?}"
            ),
        )),
    }
}

fn raise(
    lua: &Lua,
    function: &str,
    code: i64,
    text: &LuaString,
    disconnect: Option<Disconnect>,
) -> mlua::Error {
    let Some(code) = u16::try_from(code).ok().filter(|code| (400..600).contains(code)) else {
        return fault(lua, format!("{function}: the code is from 400 to 599, not {code}"));
    };
    let text = clean(&text.to_string_lossy());
    mlua::Error::external(Raised { reply: Reply::new(code, &text), disconnect })
}

/// Lines separated by `\n`, without other control characters, not longer than the limit.
pub fn clean(text: &str) -> String {
    let lines = text.trim_end().replace("\r\n", "\n");
    let kept = lines.chars().filter(|c| *c == '\n' || !c.is_control());
    let mut cleaned: String = kept.collect();
    cleaned.truncate(cleaned.floor_char_boundary(limits::POLICY_REPLY_OCTETS));
    cleaned
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(source: &str) -> mlua::Error {
        let lua = Lua::new();
        let kumo = lua.create_table().unwrap();
        register(&lua, &kumo).unwrap();
        lua.globals().set("kumo", kumo).unwrap();
        lua.load(source).set_name("@p.lua").exec().unwrap_err()
    }

    #[test]
    fn a_rejection_is_recognised_also_after_pcall_and_in_coroutines() {
        for source in [
            "kumo.reject(550, '5.7.1 no')",
            "local ok, e = pcall(kumo.reject, 550, '5.7.1 no') error(e)",
            "local ok, e = pcall(function() kumo.reject(550, '5.7.1 no') end) error(e, 0)",
            "coroutine.wrap(function() kumo.reject(550, '5.7.1 no') end)()",
        ] {
            let error = run(source);
            let raised = raised(&error).unwrap_or_else(|| panic!("{source}: {error}"));
            assert_eq!(raised.reply, Reply::new(550, "5.7.1 no"), "{source}");
            assert_eq!(raised.disconnect, None);
        }
    }

    #[test]
    fn disconnect_forces_unless_told_otherwise() {
        for (source, how) in [
            ("kumo.disconnect(421, 'x')", Disconnect::ForceDisconnect),
            ("kumo.disconnect(451, 'x', 'If421')", Disconnect::If421),
            ("kumo.disconnect(451, 'x', 'FollowWith421')", Disconnect::FollowWith421),
        ] {
            assert_eq!(raised(&run(source)).unwrap().disconnect, Some(how), "{source}");
        }
    }

    #[test]
    fn wrong_arguments_are_errors_with_a_line_and_no_rejection() {
        for (source, text) in [
            ("kumo.reject(250, 'fine')", "the code is from 400 to 599, not 250"),
            ("kumo.reject(99999, 'x')", "not 99999"),
            ("\nkumo.disconnect(421, 'x', 'Never')", "p.lua:2: kumo.disconnect: the third"),
            ("kumo.reject(550)", "got nil"),
        ] {
            let error = run(source);
            assert!(raised(&error).is_none(), "{source}");
            let (place, what) = crate::policy::error::describe(&error);
            let shown = format!("{}: {}", place.unwrap(), what.unwrap());
            assert!(shown.contains(text), "{source}: {shown}");
        }
    }

    #[test]
    fn a_text_cannot_break_the_protocol() {
        assert_eq!(clean("a\r\nb\rc\0\n\n"), "a\nbc");
        assert_eq!(clean(&"é".repeat(4_000)).len(), limits::POLICY_REPLY_OCTETS);
    }
}
