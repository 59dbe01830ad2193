//! What goes wrong in policy, in words an operator can act on: which event, which file and line, what.
//! Invariant: no address of a Lua value and no stack trace ever stands in a [`PolicyError`].
use mlua::Lua;
use std::fmt;

/// An error of policy: raised by it, found in what it returned, or its budget running out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyError {
    /// `None` while the file itself was being run.
    pub event: Option<String>,
    /// `FILE:LINE`, where it is known.
    pub place: Option<String>,
    pub text: String,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(event) = &self.event {
            write!(f, "event {event}: ")?;
        }
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        f.write_str(&self.text)
    }
}

impl std::error::Error for PolicyError {}

/// An error that one of our own functions raises in Lua.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub place: Option<String>,
    pub text: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

impl std::error::Error for Fault {}

/// Raises `text` at the Lua line that called us.
pub fn fault(lua: &Lua, text: impl Into<String>) -> mlua::Error {
    mlua::Error::external(Fault { place: calling_line(lua), text: text.into() })
}

/// Frames looked through for one of Lua; above them stand C functions such as `pcall`.
const FRAMES: usize = 16;

/// `FILE:LINE` of the innermost Lua code that runs now.
pub fn calling_line(lua: &Lua) -> Option<String> {
    (0..FRAMES).find_map(|level| lua.inspect_stack(level, position)?)
}

/// What our own Lua code is called; it is never the place of an operator's mistake.
pub const OWN_CODE: &str = "[kumod]";

/// `FILE:LINE` of one frame; `None` for C and for our own code.
pub fn position(frame: &mlua::debug::Debug<'_>) -> Option<String> {
    let line = frame.current_line()?;
    let source = frame.source();
    let file = source.short_src.as_deref().filter(|file| *file != OWN_CODE)?;
    Some(format!("{file}:{line}"))
}

/// Where something went wrong, and what, out of what Lua reports. `None` as text stands for lack of memory.
pub fn describe(error: &mlua::Error) -> (Option<String>, Option<String>) {
    use mlua::Error as E;
    match error {
        E::CallbackError { traceback, cause } => {
            let (place, text) = describe(cause);
            (place.or_else(|| first_line_in(traceback)), text)
        }
        E::WithContext { context, cause } => {
            let (place, text) = describe(cause);
            (place, text.map(|text| format!("{context}: {text}")))
        }
        E::BadArgument { cause, .. } => {
            let (place, text) = describe(cause);
            (place, text.map(|text| format!("{}: {text}", argument(error))))
        }
        E::ExternalError(inner) => match inner.downcast_ref::<Fault>() {
            Some(fault) => (fault.place.clone(), Some(fault.text.clone())),
            None => (None, Some(inner.to_string())),
        },
        E::RuntimeError(text) | E::SyntaxError { message: text, .. } => {
            let (text, traceback) = text.split_once("\nstack traceback:").unwrap_or((text, ""));
            let (place, text) = split_place(text);
            (place.or_else(|| first_line_in(traceback)), Some(text.into()))
        }
        E::MemoryError(_) => (None, None),
        E::FromLuaConversionError { from, to, .. } => {
            (None, Some(format!("expected {}, got {from}", plain_type(to))))
        }
        other => (None, Some(other.to_string())),
    }
}

fn argument(error: &mlua::Error) -> String {
    match error {
        mlua::Error::BadArgument { to: Some(to), pos, .. } => format!("argument {pos} of {to}"),
        mlua::Error::BadArgument { pos, .. } => format!("argument {pos}"),
        _ => "argument".into(),
    }
}

/// mlua names Rust types; operators know Lua's.
fn plain_type(rust: &str) -> &str {
    match rust {
        "String" | "BorrowedStr" | "LuaString" | "String or AnyUserData" => "a string",
        "i64" | "i32" | "u64" | "u32" | "u16" | "usize" => "an integer",
        "bool" => "a boolean",
        "table" | "Table" => "a table",
        "function" | "Function" => "a function",
        other => other,
    }
}

/// The first frame of a stack trace that has a line: the innermost one of Lua.
pub fn first_line_in(traceback: &str) -> Option<String> {
    let ours = |line: &&str| !line.starts_with("[C]") && !line.starts_with(OWN_CODE);
    traceback.lines().map(str::trim).filter(ours).find_map(|line| split_place(line).0)
}

/// Splits `FILE:LINE: rest`.
fn split_place(text: &str) -> (Option<String>, &str) {
    for (at, _) in text.match_indices(": ") {
        let is_line = |line: &str| !line.is_empty() && line.bytes().all(|b| b.is_ascii_digit());
        if text[..at].contains('\n') {
            break;
        }
        if text[..at].rsplit_once(':').is_some_and(|(file, line)| !file.is_empty() && is_line(line))
        {
            return (Some(text[..at].into()), &text[at + 2..]);
        }
    }
    (None, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_split_from_texts() {
        for (text, place, rest) in [
            ("policy.lua:3: no", Some("policy.lua:3"), "no"),
            ("/a b/p.lua:12: x: 5: y", Some("/a b/p.lua:12"), "x: 5: y"),
            ("no place: here", None, "no place: here"),
            (":3: no file", None, ":3: no file"),
            ("first\np.lua:3: second", None, "first\np.lua:3: second"),
        ] {
            assert_eq!(split_place(text), (place.map(String::from), rest), "{text}");
        }
    }

    #[test]
    fn the_innermost_lua_frame_of_a_stack_trace_is_found() {
        let trace = "stack traceback:\n\t[C]: in function 'kumo.reject'\n\tp.lua:7: in function <p.lua:6>";
        assert_eq!(first_line_in(trace).as_deref(), Some("p.lua:7"));
        assert_eq!(first_line_in("<traceback unavailable>"), None);
    }
}
