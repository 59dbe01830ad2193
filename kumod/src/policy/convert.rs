//! Lua values to JSON and back. A sequence is an array, any other table an object; an empty table is an empty object.
//! Invariant: depth, nodes and octets are bounded, so that neither a table that contains itself nor one that
//! contains another many times over gets through. JSON's null is Lua's nil, so it vanishes from objects.
use super::error::fault;
use kumo_core::limits;
use mlua::{Lua, Table, Value as Lv};
use serde_json::{Map, Number, Value};

/// What becomes of `30.0`, which is what Lua makes of `60 / 2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Floats {
    AsIs,
    /// Whole ones become integers.
    Whole,
}

struct Reader {
    floats: Floats,
    nodes: usize,
    octets: usize,
    /// Keys from the outermost table to here.
    path: Vec<String>,
}

/// Fails with a text that says where in the value the trouble is.
pub fn to_json(lua: &Lua, value: &Lv, floats: Floats) -> mlua::Result<Value> {
    let mut reader = Reader { floats, nodes: 0, octets: 0, path: Vec::new() };
    reader.read(value).map_err(|text| {
        let place = reader.path.join(".");
        match place.is_empty() {
            true => fault(lua, text),
            false => fault(lua, format!("{place}: {text}")),
        }
    })
}

impl Reader {
    fn read(&mut self, value: &Lv) -> Result<Value, String> {
        self.nodes += 1;
        if self.nodes > limits::POLICY_VALUE_NODES {
            return Err(format!("more than {} values", limits::POLICY_VALUE_NODES));
        }
        match value {
            Lv::Nil => Ok(Value::Null),
            Lv::Boolean(value) => Ok(Value::Bool(*value)),
            Lv::Integer(value) => Ok(Value::from(*value)),
            Lv::Number(value) => self.number(*value),
            Lv::String(text) => Ok(Value::String(self.text(text)?)),
            Lv::Table(table) => self.table(table),
            other => Err(format!("a {} can't be stored or encoded", other.type_name())),
        }
    }

    fn number(&self, value: f64) -> Result<Value, String> {
        let is_whole = value.fract() == 0.0 && value.abs() < 9e15;
        if self.floats == Floats::Whole && is_whole {
            return Ok(Value::from(value as i64));
        }
        let number = Number::from_f64(value);
        number
            .map(Value::Number)
            .ok_or_else(|| format!("{value} can't be stored or encoded: it isn't finite"))
    }

    fn text(&mut self, text: &mlua::LuaString) -> Result<String, String> {
        let bytes = text.as_bytes();
        self.octets += bytes.len();
        if self.octets > limits::POLICY_VALUE_OCTETS {
            return Err(format!("more than {} octets of text", limits::POLICY_VALUE_OCTETS));
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| "the text isn't UTF-8".to_string())?;
        Ok(text.into())
    }

    fn table(&mut self, table: &Table) -> Result<Value, String> {
        if self.path.len() >= limits::POLICY_VALUE_DEPTH {
            self.path.clear();
            let depth = limits::POLICY_VALUE_DEPTH;
            return Err(format!(
                "tables within tables, more than {depth} deep; is there a circle?"
            ));
        }
        match table.raw_len() {
            0 => self.object(table),
            length => self.array(table, length),
        }
    }

    fn array(&mut self, table: &Table, length: usize) -> Result<Value, String> {
        let mut list = Vec::new();
        for index in 1..=length {
            let item = table.raw_get::<Lv>(index).map_err(|error| error.to_string())?;
            list.push(self.within(index.to_string(), &item)?);
        }
        let pairs = table.pairs::<Lv, Lv>().filter_map(Result::ok);
        let stray = pairs.map(|(key, _)| key).find(|key| !is_index(key, length));
        match stray {
            None => Ok(Value::Array(list)),
            Some(key) => Err(format!(
                "the table mixes a list with other keys, such as {}; use either",
                show(&key)
            )),
        }
    }

    fn object(&mut self, table: &Table) -> Result<Value, String> {
        let mut map = Map::new();
        for pair in table.pairs::<Lv, Lv>() {
            let (key, item) = pair.map_err(|error| error.to_string())?;
            let key = match &key {
                Lv::String(text) => self.text(text)?,
                Lv::Integer(number) => number.to_string(),
                other => return Err(format!("a {} can't be a key", other.type_name())),
            };
            let item = self.within(key.clone(), &item)?;
            map.insert(key, item);
        }
        Ok(Value::Object(map))
    }

    fn within(&mut self, key: String, item: &Lv) -> Result<Value, String> {
        self.path.push(key);
        let value = self.read(item)?;
        self.path.pop();
        Ok(value)
    }
}

fn is_index(key: &Lv, length: usize) -> bool {
    matches!(key, Lv::Integer(index) if (1..=length as i64).contains(index))
}

/// A value as an error message shows it: no addresses, not too long.
pub fn show(value: &Lv) -> String {
    const SHOWN: usize = 60;
    match value {
        Lv::String(text) => {
            let text = text.to_string_lossy();
            let cut: String = text.chars().take(SHOWN).collect();
            let more = if cut.len() < text.len() { "…" } else { "" };
            format!("the string {cut:?}{more}")
        }
        Lv::Nil => "nil".into(),
        Lv::Boolean(value) => format!("the boolean {value}"),
        Lv::Integer(value) => format!("the number {value}"),
        Lv::Number(value) => format!("the number {value}"),
        Lv::UserData(_) => match value.to_string() {
            Ok(text) => format!("the object {text}"),
            Err(_) => "an object".into(),
        },
        other => format!("a {}", other.type_name()),
    }
}

/// Depth is bounded by the parser that made `value`, or by [`to_json`].
pub fn to_lua(lua: &Lua, value: &Value) -> mlua::Result<Lv> {
    Ok(match value {
        Value::Null => Lv::Nil,
        Value::Bool(value) => Lv::Boolean(*value),
        Value::Number(number) => match number.as_i64() {
            Some(integer) => Lv::Integer(integer),
            None => Lv::Number(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => Lv::String(lua.create_string(text)?),
        Value::Array(list) => {
            let table = lua.create_table_with_capacity(list.len(), 0)?;
            for (at, item) in list.iter().enumerate() {
                table.raw_set(at + 1, to_lua(lua, item)?)?;
            }
            Lv::Table(table)
        }
        Value::Object(map) => {
            let table = lua.create_table_with_capacity(0, map.len())?;
            for (key, item) in map {
                table.raw_set(key.as_str(), to_lua(lua, item)?)?;
            }
            Lv::Table(table)
        }
    })
}

/// About how much memory `value` takes.
pub fn octets(value: &Value) -> usize {
    const NODE: usize = 32;
    match value {
        Value::String(text) => NODE + text.len(),
        Value::Array(list) => NODE + list.iter().map(octets).sum::<usize>(),
        Value::Object(map) => NODE + map_octets(map),
        Value::Null | Value::Bool(_) | Value::Number(_) => NODE,
    }
}

pub fn map_octets(map: &Map<String, Value>) -> usize {
    map.iter().map(|(key, item)| key.len() + octets(item)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn read(source: &str) -> Result<Value, String> {
        let lua = Lua::new();
        let value: Lv = lua.load(source).eval().unwrap();
        to_json(&lua, &value, Floats::AsIs).map_err(|error| error.to_string())
    }

    #[test]
    fn tables_become_arrays_and_objects() {
        for (source, expected) in [
            ("nil", json!(null)),
            ("{}", json!({})),
            ("{1, 'a', true}", json!([1, "a", true])),
            ("{a = {b = {1.5}}}", json!({"a": {"b": [1.5]}})),
            ("{[5] = 'x'}", json!({"5": "x"})),
            ("{a = nil}", json!({})),
            ("30.0", json!(30.0)),
        ] {
            assert_eq!(read(source), Ok(expected), "{source}");
        }
    }

    #[test]
    fn what_cannot_be_json_is_named_with_its_path() {
        for (source, text) in [
            ("{a = {b = print}}", "a.b: a function can't be stored or encoded"),
            ("{{}, {x = '\\xff'}}", "2.x: the text isn't UTF-8"),
            ("{a = 0/0}", "can't be stored or encoded: it isn't finite"),
            ("{1, 2, x = 3}", "mixes a list with other keys, such as the string \"x\""),
            ("{[true] = 1}", "a boolean can't be a key"),
            ("(function() local t = {} t.t = t return t end)()", "is there a circle?"),
        ] {
            let error = read(source).unwrap_err();
            assert!(error.contains(text), "{source}: {error}");
        }
    }

    #[test]
    fn a_table_that_contains_others_many_times_over_is_refused_in_time() {
        let source = "(function() local t = {1} for i = 1, 60 do t = {t, t} end return t end)()";
        assert!(read(source).unwrap_err().contains("more than 1000000 values"));
    }

    #[test]
    fn whole_floats_are_integers_where_asked_for() {
        let lua = Lua::new();
        let whole = |value| to_json(&lua, &Lv::Number(value), Floats::Whole).unwrap();
        assert_eq!(whole(30.0), json!(30));
        assert_eq!(whole(1.5), json!(1.5));
        assert_eq!(whole(1e300), json!(1e300));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-1e9..1e9).prop_map(|value: f64| Value::from(value + 0.5)),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 1..4).prop_map(Value::from),
                prop::collection::btree_map("[a-z]{1,4}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn json_without_nulls_survives_lua(value in any_json()) {
            let lua = Lua::new();
            let there = to_lua(&lua, &value).unwrap();
            prop_assert_eq!(to_json(&lua, &there, Floats::AsIs).unwrap(), value);
        }
    }
}
