//! Configuration as operators write it: the table that a constructor would be given, and any table as TOML. Invariant: what is rendered is read
//! back as an equal value, but for secrets, which aren't shown. Options that aren't set are left out, since TOML can't say so.
use super::queue::{CustomLua, DeliveryProtocol, MxListEntry};
use super::{EgressPath, LimitSpec, QueueConfig};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Write;
use serde::Serialize;
use serde_json::{Map, Value, json};

/// As `kumo.make_egress_path` takes it.
pub fn egress_path(path: &EgressPath) -> Map<String, Value> {
    let mut table = set_options(path);
    table.insert("connection_limit".into(), limit(&path.connection_limit));
    let additional = path.additional_connection_limits.iter();
    let additional = additional.map(|(key, spec)| (key.as_ref().into(), limit(spec)));
    table.insert("additional_connection_limits".into(), Value::Object(additional.collect()));
    if let Some(secret) = table.get_mut("smtp_auth_plain_password") {
        *secret = json!({ "key_data": secret });
    }
    table
}

/// As `kumo.make_queue_config` takes it.
pub fn queue_config(config: &QueueConfig) -> Map<String, Value> {
    let mut table = set_options(config);
    table.remove("protocol");
    table.extend(protocol(&config.protocol).map(|protocol| ("protocol".into(), protocol)));
    table
}

fn set_options<T: Serialize>(of: &T) -> Map<String, Value> {
    match serde_json::to_value(of) {
        Ok(Value::Object(mut table)) => {
            table.retain(|_, value| !value.is_null());
            table
        }
        other => unreachable!("a configuration is a table with text keys: {other:?}"),
    }
}

fn limit(spec: &LimitSpec) -> Value {
    match spec.force_local {
        true => format!("local:{}", spec.limit).into(),
        false => spec.limit.into(),
    }
}

/// `None`: mail that is discarded, which is a queue's name and no option.
fn protocol(protocol: &DeliveryProtocol) -> Option<Value> {
    Some(match protocol {
        DeliveryProtocol::Smtp { mx_list } => {
            let entries: Vec<Value> = mx_list.iter().map(mx_list_entry).collect();
            json!({ "smtp": { "mx_list": entries } })
        }
        DeliveryProtocol::Maildir { path, dir_mode, file_mode } => {
            let mut table = Map::new();
            table.insert("maildir_path".into(), path.as_str().into());
            for (key, mode) in [("dir_mode", dir_mode), ("file_mode", file_mode)] {
                table.extend(mode.map(|mode| (key.into(), mode.into())));
            }
            Value::Object(table)
        }
        DeliveryProtocol::CustomLua(lua) => {
            let CustomLua { constructor, batch_size, min_batch_size, max_batch_latency } = lua;
            let latency = super::duration::render(*max_batch_latency);
            json!({ "custom_lua": {
                "constructor": constructor, "batch_size": batch_size,
                "min_batch_size": min_batch_size, "max_batch_latency": latency,
            } })
        }
        DeliveryProtocol::Null => return None,
    })
}

fn mx_list_entry(entry: &MxListEntry) -> Value {
    let MxListEntry { name, address, port } = entry;
    match (address, port) {
        (Some(address), _) if !name.starts_with('[') => json!({ "name": name, "addr": address }),
        (_, Some(port)) => format!("{name}:{port}").into(),
        (_, None) => name.as_ref().into(),
    }
}

// ---- TOML -----------------------------------------------------------------------------------------------------

/// Compact: keys in order of the alphabet, at each level values before tables, an empty table in its line.
pub fn toml(table: &Map<String, Value>) -> String {
    let mut text = String::new();
    section(&mut text, &mut Vec::new(), table);
    text
}

/// What stands in a section of its own.
enum Section<'a> {
    Table(&'a Map<String, Value>),
    Tables(&'a [Value]),
}

fn own_section(value: &Value) -> Option<Section<'_>> {
    match value {
        Value::Object(table) if !table.is_empty() => Some(Section::Table(table)),
        Value::Array(items) if !items.is_empty() && items.iter().all(Value::is_object) => {
            Some(Section::Tables(items))
        }
        _ => None,
    }
}

fn section(text: &mut String, path: &mut Vec<String>, table: &Map<String, Value>) {
    // Whatever map serde_json has been built with.
    let mut keys: Vec<&String> = table.keys().collect();
    keys.sort_unstable();
    let written = keys.iter().map(|key| (*key, &table[*key])).filter(|(_, value)| !value.is_null());
    let (values, sections): (Vec<_>, Vec<_>) =
        written.partition(|(_, value)| own_section(value).is_none());
    for (name, value) in values {
        let _ = writeln!(text, "{} = {}", key(name), inline(value));
    }
    for (name, value) in sections {
        path.push(key(name));
        match own_section(value).expect("partitioned above") {
            Section::Table(table) => {
                let has_values = table.values().any(|value| own_section(value).is_none());
                if has_values {
                    header(text, "[", path, "]");
                }
                section(text, path, table);
            }
            Section::Tables(items) => {
                for item in items.iter().filter_map(Value::as_object) {
                    header(text, "[[", path, "]]");
                    section(text, path, item);
                }
            }
        }
        path.pop();
    }
}

fn header(text: &mut String, open: &str, path: &[String], close: &str) {
    let gap = if text.is_empty() { "" } else { "\n" };
    let _ = writeln!(text, "{gap}{open}{}{close}", path.join("."));
}

fn key(name: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    match !name.is_empty() && name.chars().all(is_bare) {
        true => name.into(),
        false => string(name),
    }
}

fn inline(value: &Value) -> String {
    let joined = |parts: Vec<String>| parts.join(", ");
    match value {
        Value::String(text) => string(text),
        Value::Array(items) => {
            format!(
                "[{}]",
                joined(items.iter().filter(|item| !item.is_null()).map(inline).collect())
            )
        }
        Value::Object(table) if table.is_empty() => "{}".into(),
        Value::Object(table) => {
            let set = table.iter().filter(|(_, value)| !value.is_null());
            let parts = set.map(|(name, value)| format!("{} = {}", key(name), inline(value)));
            format!("{{ {} }}", joined(parts.collect()))
        }
        other => other.to_string(),
    }
}

/// A basic string; its escapes are JSON's, and one more.
fn string(text: &str) -> String {
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(value: Value) -> Map<String, Value> {
        let Value::Object(table) = value else { panic!("{value}") };
        table
    }

    #[test]
    fn values_go_before_tables_and_both_by_the_alphabet() {
        let value = json!({
            "b": 1, "a": "x\"y\u{7f}", "empty": {}, "none": null, "list": [1, "two", { "k": 3 }],
            "table": { "z": true, "inner": { "x": 1.5 } }, "deep": { "only": { "here": [] } },
            "tables": [{ "n": 1 }, { "n": 2, "sub": { "m": 3 } }], "odd key": { "a.b": 1 },
        });
        let expected = r#"a = "x\"y\u007f"
b = 1
empty = {}
list = [1, "two", { k = 3 }]

[deep.only]
here = []

["odd key"]
"a.b" = 1

[table]
z = true

[table.inner]
x = 1.5

[[tables]]
n = 1

[[tables]]
n = 2

[tables.sub]
m = 3
"#;
        assert_eq!(toml(&table(value)), expected);
        assert_eq!(toml(&Map::new()), "");
    }

    #[test]
    fn configuration_is_rendered_as_its_constructor_takes_it() {
        use crate::config::options::Constructed;
        let written = json!({
            "connection_limit": "local:7", "additional_connection_limits": { "shared": 9 },
            "max_message_rate": "10/m,max_burst=2", "prohibited_hosts": ["10.0.0.0/8"],
            "smtp_auth_plain_username": "joe", "smtp_auth_plain_password": { "key_data": "(secret)" },
            "connect_timeout": "7s", "enable_tls": "Required",
        });
        let path = EgressPath::parse(table(written.clone())).unwrap().value;
        let rendered = egress_path(&path);
        for (key, value) in table(written) {
            assert_eq!(rendered[&key], value, "{key}");
        }
        assert_eq!(EgressPath::parse(rendered).unwrap().value, path);
        for protocol in [
            json!({ "smtp": { "mx_list": ["mx.test", "mx.test:26", "[10.0.0.1]", "[10.0.0.1]:26",
                { "name": "mx.test", "addr": "10.0.0.2" }] } }),
            json!({ "smtp": { "mx_list": [] } }),
            json!({ "maildir_path": "/mail", "dir_mode": 448 }),
            json!({ "custom_lua": { "constructor": "make.x", "batch_size": 5, "min_batch_size": 2,
                "max_batch_latency": "3s" } }),
        ] {
            let written = json!({ "protocol": protocol, "max_age": "2days", "egress_pool": "p" });
            let config = QueueConfig::parse(table(written)).unwrap().value;
            let rendered = queue_config(&config);
            assert_eq!(QueueConfig::parse(rendered.clone()).unwrap().value, config, "{rendered:?}");
        }
    }
}
