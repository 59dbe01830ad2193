//! TOML for people, out of JSON values: keys sorted at each level, values before tables, an empty table as `key = {}`, an array of more than
//! one item with a line for each. Invariant: what is written parses to the same value, but for `null` in a table, which stands for a key that
//! isn't there. Says nothing about what keys mean.
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use serde_json::{Map, Number, Value};

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TomlError {
    #[error("TOML has no null, which stands in a list")]
    Null,
    #[error("TOML has no whole number as large as {0}")]
    TooLarge(Number),
}

/// Ends with a line end, unless there is nothing in it.
pub fn pretty_compact(table: &Map<String, Value>) -> Result<String, TomlError> {
    let mut text = String::new();
    write_table(&mut text, "", table)?;
    Ok(text)
}

/// `header`: the table's own, without brackets; empty for the outermost.
fn write_table(
    text: &mut String,
    header: &str,
    table: &Map<String, Value>,
) -> Result<(), TomlError> {
    let inside = |name: &str| match header {
        "" => key(name),
        header => format!("{header}.{}", key(name)),
    };
    for (name, value) in present(table).filter(|(_, value)| Shape::of(value) == Shape::Plain) {
        *text += &format!("{} = {}\n", key(name), plain(value, 0)?);
    }
    for (name, value) in present(table) {
        match (Shape::of(value), value) {
            (Shape::Table, Value::Object(inner)) => {
                // A table of nothing but tables is made by theirs.
                let has_plain = present(inner).any(|(_, value)| Shape::of(value) == Shape::Plain);
                if has_plain {
                    begin(text, &format!("[{}]", inside(name)));
                }
                write_table(text, &inside(name), inner)?;
            }
            (Shape::Tables, Value::Array(items)) => {
                for item in items.iter().filter_map(Value::as_object) {
                    begin(text, &format!("[[{}]]", inside(name)));
                    write_table(text, &inside(name), item)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// How a value is written in its table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// Behind its key.
    Plain,
    /// Below a header.
    Table,
    /// Each item below a header.
    Tables,
}

impl Shape {
    fn of(value: &Value) -> Shape {
        match value {
            Value::Object(table) if present(table).next().is_some() => Shape::Table,
            Value::Array(items) if !items.is_empty() && items.iter().all(Value::is_object) => {
                Shape::Tables
            }
            _ => Shape::Plain,
        }
    }
}

/// Sorted, since a map is.
fn present(table: &Map<String, Value>) -> impl Iterator<Item = (&String, &Value)> {
    table.iter().filter(|(_, value)| !value.is_null())
}

fn begin(text: &mut String, header: &str) {
    *text += if text.is_empty() { "" } else { "\n" };
    *text += header;
    *text += "\n";
}

/// `depth`: of arrays around it that have a line for each item.
fn plain(value: &Value, depth: usize) -> Result<String, TomlError> {
    Ok(match value {
        Value::Null => return Err(TomlError::Null),
        Value::Bool(truth) => truth.to_string(),
        Value::Number(number) if number.is_u64() && number.as_i64().is_none() => {
            return Err(TomlError::TooLarge(number.clone()));
        }
        Value::Number(number) => number.to_string(),
        Value::String(content) => quoted(content),
        Value::Array(items) => array(items, depth)?,
        Value::Object(table) => inline(table)?,
    })
}

fn array(items: &[Value], depth: usize) -> Result<String, TomlError> {
    if items.len() < 2 {
        let item = items.first().map_or(Ok(String::new()), |item| plain(item, depth));
        return Ok(format!("[{}]", item?));
    }
    let indent = "    ".repeat(depth + 1);
    let mut text = String::from("[\n");
    for item in items {
        text += &format!("{indent}{},\n", plain(item, depth + 1)?);
    }
    text += &format!("{}]", "    ".repeat(depth));
    Ok(text)
}

/// A table within an array of other things: one line, whatever is in it.
fn inline(table: &Map<String, Value>) -> Result<String, TomlError> {
    let pairs: Result<Vec<String>, TomlError> = present(table)
        .map(|(name, value)| Ok(format!("{} = {}", key(name), on_one_line(value)?)))
        .collect();
    let pairs = pairs?;
    Ok(if pairs.is_empty() { "{}".into() } else { format!("{{ {} }}", pairs.join(", ")) })
}

fn on_one_line(value: &Value) -> Result<String, TomlError> {
    let Value::Array(items) = value else { return plain(value, 0) };
    let items: Result<Vec<String>, TomlError> = items.iter().map(on_one_line).collect();
    Ok(format!("[{}]", items?.join(", ")))
}

fn key(name: &str) -> String {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    match !name.is_empty() && name.bytes().all(is_bare) {
        true => name.into(),
        false => quoted(name),
    }
}

fn quoted(content: &str) -> String {
    let mut text = String::with_capacity(content.len() + 2);
    text.push('"');
    for character in content.chars() {
        match character {
            '"' => text += "\\\"",
            '\\' => text += "\\\\",
            '\n' => text += "\\n",
            '\r' => text += "\\r",
            '\t' => text += "\\t",
            control if control.is_control() => text += &format!("\\u{:04X}", u32::from(control)),
            other => text.push(other),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn encode(value: Value) -> Result<String, TomlError> {
        pretty_compact(value.as_object().expect("a table"))
    }

    #[test]
    fn people_read_it_so() {
        let value = json!({
            "z": 1, "a": {"limit": 32, "empty": {}}, "none": null, "list": [], "one": ["x"],
            "many": ["a", 1.5], "b.c": {"only": {"deep": true}}, "empty": {},
            "entries": [{"name": "n", "in": {"x": 1}}, {}],
            "mixed": ["a", {"name": "b", "list": [1, [2]]}],
        });
        let expected = r#"empty = {}
list = []
many = [
    "a",
    1.5,
]
mixed = [
    "a",
    { list = [1, [2]], name = "b" },
]
one = ["x"]
z = 1

[a]
empty = {}
limit = 32

["b.c".only]
deep = true

[[entries]]
name = "n"

[entries.in]
x = 1

[[entries]]
"#;
        assert_eq!(encode(value), Ok(expected.into()));
        assert_eq!(encode(json!({})), Ok(String::new()));
        assert_eq!(encode(json!({"a": {"b": null}})), Ok("a = {}\n".into()));
    }

    #[test]
    fn what_toml_lacks_is_an_error() {
        assert_eq!(encode(json!({"a": [1, null]})), Err(TomlError::Null));
        let error = encode(json!({"a": u64::MAX})).unwrap_err().to_string();
        assert_eq!(error, "TOML has no whole number as large as 18446744073709551615");
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[\\x00-\\x7f\u{80}-\u{9f}]{0,8}".prop_map(Value::from),
        ];
        let leaf = leaf.prop_filter("null", |value| !value.is_null());
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                any_table(inner).prop_map(Value::Object),
            ]
        })
    }

    fn any_table(
        values: impl Strategy<Value = Value>,
    ) -> impl Strategy<Value = Map<String, Value>> {
        prop::collection::btree_map("[a-z._-]{0,3}|.{0,3}", values, 0..4)
            .prop_map(|map| map.into_iter().collect())
    }

    proptest! {
        #[test]
        fn what_is_written_parses_to_the_same_value(table in any_table(any_value())) {
            let text = pretty_compact(&table).unwrap();
            let parsed: Value = toml::from_str(&text)
                .map_err(|error| TestCaseError::fail(format!("{error}: {text}")))?;
            prop_assert_eq!(parsed, Value::Object(table), "{}", text);
        }
    }
}
