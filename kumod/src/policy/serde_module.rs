//! `kumo.serde`: JSON and TOML to Lua and back. JSON may hold comments; null is nil, and vanishes.
//! Invariant: what is parsed or read is bounded before it is parsed. YAML isn't here.
use super::budget::{Budget, check_octets};
use super::convert::{Floats, to_json, to_lua};
use super::error::fault;
use super::program::read_file;
use kumo_core::limits;
use kumo_core::toml_text;
use mlua::{Function, Lua, LuaString, Table, Value as Lv};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;

type Parse = fn(&str) -> Result<Value, String>;
type Encode = fn(&Value) -> Result<String, String>;

const PARSERS: [(&str, &str, Parse); 2] =
    [("json_parse", "json_load", parse_json), ("toml_parse", "toml_load", parse_toml)];
const ENCODERS: [(&str, Encode); 5] = [
    ("json_encode", |value| serde_json::to_string(value).map_err(|error| error.to_string())),
    ("json_encode_pretty", |value| {
        serde_json::to_string_pretty(value).map_err(|error| error.to_string())
    }),
    ("toml_encode", |value| toml::to_string(&to_toml(value)?).map_err(|error| error.to_string())),
    ("toml_encode_pretty_compact", |value| match value {
        Value::Object(table) => toml_text::pretty_compact(table).map_err(|error| error.to_string()),
        // Lua can't tell an empty list from an empty table.
        Value::Array(items) if items.is_empty() => Ok(String::new()),
        _ => Err("expected a table with keys: a TOML document is one".into()),
    }),
    ("toml_encode_pretty", |value| {
        toml::to_string_pretty(&to_toml(value)?).map_err(|error| error.to_string())
    }),
];

/// `kumo.serde.*`, and the same functions under their older names in `kumo`.
pub fn register(lua: &Lua, kumo: &Table, budget: &Arc<Budget>) -> mlua::Result<()> {
    let serde = lua.create_table()?;
    let add = |name: &str, function: Function| {
        kumo.raw_set(name, &function)?;
        serde.raw_set(name, function)
    };
    for (parse_name, load_name, parse) in PARSERS {
        add(parse_name, parser(lua, budget, parse_name, parse)?)?;
        add(load_name, loader(lua, budget, load_name, parse)?)?;
    }
    for (name, encode) in ENCODERS {
        add(name, encoder(lua, budget, name, encode)?)?;
    }
    kumo.raw_set("serde", serde)
}

fn parser(
    lua: &Lua,
    budget: &Arc<Budget>,
    name: &'static str,
    parse: Parse,
) -> mlua::Result<Function> {
    let budget = budget.clone();
    lua.create_function(move |lua, text: LuaString| {
        parsed(lua, &budget, name, parse, &text.as_bytes())
    })
}

fn loader(
    lua: &Lua,
    budget: &Arc<Budget>,
    name: &'static str,
    parse: Parse,
) -> mlua::Result<Function> {
    let budget = budget.clone();
    lua.create_function(move |lua, path: String| {
        let text = read_file(Path::new(&path));
        let text = text.map_err(|why| fault(lua, format!("kumo.serde.{name}: {why}")))?;
        parsed(lua, &budget, name, parse, &text)
    })
}

fn parsed(
    lua: &Lua,
    budget: &Arc<Budget>,
    name: &str,
    parse: Parse,
    text: &[u8],
) -> mlua::Result<Lv> {
    check_octets(lua, "the text", text.len(), limits::POLICY_VALUE_OCTETS)?;
    budget.charge_reading(lua, text.len())?;
    let value =
        std::str::from_utf8(text).map_err(|_| "the text isn't UTF-8".into()).and_then(parse);
    to_lua(lua, &value.map_err(|why| fault(lua, format!("kumo.serde.{name}: {why}")))?)
}

fn encoder(
    lua: &Lua,
    budget: &Arc<Budget>,
    name: &'static str,
    encode: Encode,
) -> mlua::Result<Function> {
    let budget = budget.clone();
    lua.create_function(move |lua, value: Lv| {
        let value = to_json(lua, &value, Floats::AsIs)?;
        let text = encode(&value);
        let text = text.map_err(|why| fault(lua, format!("kumo.serde.{name}: {why}")))?;
        budget.charge_reading(lua, text.len())?;
        Ok(text)
    })
}

fn parse_json(text: &str) -> Result<Value, String> {
    serde_json::from_str(&without_comments(text)).map_err(|error| error.to_string())
}

/// Puts spaces where comments were, so that the places in errors stay right: `/* */`, `//`, `#`.
pub(crate) fn without_comments(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (length, is_comment) = token(rest, first);
        let (part, after) = rest.split_at(length);
        match is_comment {
            false => kept.push_str(part),
            true => kept.extend(part.chars().map(|c| if c == '\n' { '\n' } else { ' ' })),
        }
        rest = after;
    }
    kept
}

/// Length of the string, comment or character that `rest` begins with, and whether it is a comment.
fn token(rest: &str, first: char) -> (usize, bool) {
    let to_line_end = || rest.find('\n').unwrap_or(rest.len());
    match first {
        '"' => (string_length(rest), false),
        '#' => (to_line_end(), true),
        '/' if rest.starts_with("//") => (to_line_end(), true),
        '/' if rest.starts_with("/*") => {
            (rest[2..].find("*/").map_or(rest.len(), |end| end + 4), true)
        }
        other => (other.len_utf8(), false),
    }
}

fn string_length(rest: &str) -> usize {
    let mut escaped = false;
    let end = rest.bytes().skip(1).position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    });
    end.map_or(rest.len(), |end| end + 2)
}

fn parse_toml(text: &str) -> Result<Value, String> {
    let table: toml::Table = toml::from_str(text).map_err(|error| error.to_string())?;
    Ok(from_toml(toml::Value::Table(table)))
}

/// Dates become their text.
fn from_toml(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => number.into(),
        toml::Value::Boolean(value) => value.into(),
        toml::Value::Datetime(date) => date.to_string().into(),
        toml::Value::Array(list) => list.into_iter().map(from_toml).collect(),
        toml::Value::Table(table) => {
            let pairs = table.into_iter().map(|(key, value)| (key, from_toml(value)));
            Value::Object(pairs.collect())
        }
    }
}

fn to_toml(value: &Value) -> Result<toml::Table, String> {
    match toml_value(value)? {
        toml::Value::Table(table) => Ok(table),
        _ => Err("the outermost value has to be a table with keys".into()),
    }
}

fn toml_value(value: &Value) -> Result<toml::Value, String> {
    Ok(match value {
        Value::Null => return Err("TOML has no null".into()),
        Value::Bool(value) => toml::Value::Boolean(*value),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => toml::Value::Integer(integer),
            (None, Some(float)) => toml::Value::Float(float),
            (None, None) => return Err(format!("{number} is no number that TOML knows")),
        },
        Value::String(text) => toml::Value::String(text.clone()),
        Value::Array(list) => {
            toml::Value::Array(list.iter().map(toml_value).collect::<Result<_, _>>()?)
        }
        Value::Object(map) => {
            let pairs = map.iter().map(|(key, value)| Ok((key.clone(), toml_value(value)?)));
            toml::Value::Table(pairs.collect::<Result<_, String>>()?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eval(source: &str) -> Result<String, String> {
        let lua = Lua::new();
        let kumo = lua.create_table().unwrap();
        let budget = Budget::install(&lua, 16 << 20).unwrap();
        register(&lua, &kumo, &budget).unwrap();
        lua.globals().set("kumo", kumo).unwrap();
        lua.load(source).set_name("@p.lua").eval::<String>().map_err(|error| {
            let (place, text) = crate::policy::error::describe(&error);
            format!("{}: {}", place.unwrap(), text.unwrap())
        })
    }

    #[test]
    fn values_survive_a_round_trip() {
        for (source, expected) in [
            ("return kumo.serde.json_encode{b = {1, 2}, a = 'x'}", r#"{"a":"x","b":[1,2]}"#),
            ("return kumo.json_encode(kumo.json_parse '[1,{\"a\":[]}]')", r#"[1,{"a":{}}]"#),
            ("return kumo.serde.json_encode_pretty{1}", "[\n  1\n]"),
            ("return tostring(kumo.serde.json_parse '{\"a\":null}'.a)", "nil"),
            (
                "return kumo.serde.toml_encode{z = 1, a = {b = 'c'}, list = {1, 2}}",
                "list = [1, 2]\nz = 1\n\n[a]\nb = \"c\"\n",
            ),
            ("return kumo.serde.toml_parse('[a]\\nb = 1979-05-27').a.b", "1979-05-27"),
            ("return kumo.toml_encode_pretty{a = 'b'}", "a = \"b\"\n"),
        ] {
            assert_eq!(eval(source), Ok(expected.to_string()), "{source}");
        }
    }

    #[test]
    fn errors_name_the_function_and_the_line() {
        for (source, text) in [
            ("\nreturn kumo.serde.json_parse '{'", "p.lua:2: kumo.serde.json_parse: EOF while"),
            ("return kumo.serde.json_parse '\\xff'", "the text isn't UTF-8"),
            ("return kumo.serde.toml_encode{1}", "p.lua:1: kumo.serde.toml_encode: the outermost"),
            ("return kumo.serde.json_load '/nowhere.json'", "can't read /nowhere.json"),
            ("return kumo.serde.json_encode{print}", "1: a function can't be stored or encoded"),
        ] {
            let error = eval(source).unwrap_err();
            assert!(error.contains(text), "{source}: {error}");
        }
    }

    #[test]
    fn comments_are_spaces_but_not_within_strings() {
        for (text, expected) in [
            ("{/* c */\"a\":1 // x\n, # y\n\"b\":2}", serde_json::json!({"a": 1, "b": 2})),
            (r#""// no \" # /* comment""#, serde_json::json!("// no \" # /* comment")),
        ] {
            assert_eq!(parse_json(text), Ok(expected), "{text}");
        }
        assert!(parse_json("1 /* open").is_ok());
        assert!(parse_json(r#""open \"#).is_err());
    }

    #[test]
    fn deep_values_are_errors() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(parse_json(&deep).unwrap_err().contains("recursion limit"));
        assert!(parse_toml(&format!("a = {deep}")).is_err());
        let dotted = format!("{}a = 1", "a.".repeat(100_000));
        assert!(parse_toml(&dotted).is_err());
    }
}
