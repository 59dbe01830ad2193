//! The strict reader behind every constructor: a [`Table`] gives its keys away one by one, a [`Form`] is what one
//! value may look like, a [`Report`] collects what is wrong and where.
//! Invariant: a reader that yields no value, or a made-up one, has told the report why; [`construct`] hands out a
//! value only if nothing was reported. What a key does stands in [`super::options`], not here.
use super::options::{ConfigError, Constructed, Effect, OptionKey, OptionTable, Parsed};
use crate::limits;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::str::FromStr;
use serde::de::value::{Error as NameError, StrDeserializer};
use serde::de::{DeserializeOwned, IntoDeserializer};
use serde_json::{Map, Value};

/// What is shown of a text that policy wrote.
const SHOWN_CHARACTERS: usize = 60;

/// What is wrong with a table, or unwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The key of the outermost table that it is about.
    pub key: Box<str>,
    /// Says where in the table, too.
    pub text: String,
}

/// Where the reader is, and what it found.
#[derive(Debug, Default)]
pub struct Report {
    place: String,
    /// The outermost step of `place`.
    key: Box<str>,
    errors: Vec<Note>,
    warnings: Vec<Note>,
}

impl Report {
    /// Reads what lies one step further in; `step` is a key, or `[n]`.
    fn within<T>(&mut self, step: &str, read: impl FnOnce(&mut Report) -> T) -> T {
        let outside = self.place.len();
        if outside > 0 && !step.starts_with('[') {
            self.place.push('.');
        }
        if outside == 0 {
            self.key = step.into();
        }
        self.place.extend(step.chars().take(SHOWN_CHARACTERS));
        let value = read(self);
        self.place.truncate(outside);
        value
    }

    pub fn error(&mut self, text: fmt::Arguments) {
        note(&mut self.errors, &self.key, &self.place, text);
    }

    pub fn warn(&mut self, text: fmt::Arguments) {
        note(&mut self.warnings, &self.key, &self.place, text);
    }

    fn expected<T>(&mut self, expected: &str, found: &Value) -> Option<T> {
        self.error(format_args!("expected {expected}, found {}", described(found)));
        None
    }

    /// Whether nothing is wrong so far.
    fn is_clean(&self) -> bool {
        self.errors.is_empty()
    }
}

fn note(notes: &mut Vec<Note>, key: &str, place: &str, text: fmt::Arguments) {
    if notes.len() < limits::OPTION_NOTES {
        let colon = if place.is_empty() { "" } else { ": " };
        notes.push(Note { key: key.into(), text: format!("{place}{colon}{text}") });
    }
}

fn texts(notes: Vec<Note>) -> Vec<String> {
    notes.into_iter().map(|note| note.text).collect()
}

pub(crate) fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN_CHARACTERS).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

pub(crate) fn described(value: &Value) -> String {
    match value {
        Value::Null => "nothing".into(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => format!("the text {:?}", shown(text)),
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(map) if map.is_empty() => "an empty table".into(),
        Value::Object(map) => format!("a table of {}", map.len()),
    }
}

/// Reads a constructor's table with `read`, which takes every key that has an effect.
pub fn construct<T>(
    options: &'static OptionTable,
    map: Map<String, Value>,
    read: impl FnOnce(&mut Table) -> T,
) -> Result<Parsed<T>, ConfigError> {
    let mut report = Report::default();
    let mut table = Table { options, map, report: &mut report };
    let value = read(&mut table);
    table.finish();
    match report.is_clean() {
        true => Ok(Parsed { value, warnings: texts(report.warnings) }),
        false => {
            let text = texts(report.errors).join("; ");
            Err(ConfigError { constructor: options.constructor, text })
        }
    }
}

/// Reads one value that stands for itself.
pub fn value<T: Form>(value: Value) -> Result<T, String> {
    let mut report = Report::default();
    match T::read(value, &mut report) {
        Some(value) if report.is_clean() => Ok(value),
        _ => Err(texts(report.errors).join("; ")),
    }
}

/// What is wrong with a constructor's table, key by key, and what is unwise.
pub fn examine<T: Constructed>(map: Map<String, Value>) -> (Vec<Note>, Vec<Note>) {
    let mut report = Report::default();
    let mut table = Table { options: T::OPTIONS, map, report: &mut report };
    T::read(&mut table);
    table.finish();
    (report.errors, report.warnings)
}

/// A table whose keys are known.
pub struct Table<'r> {
    options: &'static OptionTable,
    map: Map<String, Value>,
    report: &'r mut Report,
}

impl<'r> Table<'r> {
    pub fn open(
        value: Value,
        options: &'static OptionTable,
        report: &'r mut Report,
    ) -> Option<Table<'r>> {
        Some(Table { options, map: keys_of(value, report)?, report })
    }

    /// `None` if the key is absent, or wrong and reported.
    pub fn optional<T: Form>(&mut self, key: &'static str) -> Option<T> {
        match self.map.remove(key)? {
            Value::Null => None,
            value => self.report.within(key, |report| T::read(value, report)),
        }
    }

    pub fn or<T: Form>(&mut self, key: &'static str, default: T) -> T {
        self.optional(key).unwrap_or(default)
    }

    pub fn set<T: Form>(&mut self, key: &'static str, field: &mut T) {
        if let Some(value) = self.optional(key) {
            *field = value;
        }
    }

    pub fn required<T: Form + Default>(&mut self, key: &'static str) -> T {
        self.require(key);
        self.or(key, T::default())
    }

    pub fn required_text(&mut self, key: &'static str) -> String {
        self.require(key);
        let text: Option<String> = self.optional(key);
        self.check(key, text.as_deref() != Some(""), "it is empty");
        text.unwrap_or_default()
    }

    /// Reports an error if the key is absent; asked before it is taken.
    pub fn require(&mut self, key: &str) {
        let present = self.has(key);
        self.check(key, present, "it is required");
    }

    /// Reports an error if one key is there without the other; asked before they are taken.
    pub fn together(&mut self, one: &str, other: &str) {
        if self.has(one) != self.has(other) {
            self.report.error(format_args!("{one} and {other} belong together"));
        }
    }

    /// Reports an error if `key` is there without `other`.
    pub fn requires(&mut self, key: &str, other: &str) {
        if self.has(key) && !self.has(other) {
            self.report.error(format_args!("{key} needs {other}"));
        }
    }

    fn has(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(|value| !value.is_null())
    }

    /// Reports an error unless `holds`.
    pub fn check(&mut self, key: &str, holds: bool, wrong: &str) {
        if !holds {
            self.error(key, format_args!("{wrong}"));
        }
    }

    pub fn error(&mut self, key: &str, text: fmt::Arguments) {
        self.report.within(key, |report| report.error(text));
    }

    pub fn warn(&mut self, key: &str, text: fmt::Arguments) {
        self.report.within(key, |report| report.warn(text));
    }

    /// Judges the keys that nobody took. False if anything was wrong with this table or before it.
    pub fn finish(self) -> bool {
        let Table { options, map, report } = self;
        for (key, value) in map {
            match options.find(&key) {
                _ if value.is_null() => {}
                Some(OptionKey { effect: Effect::AcceptedWithoutEffect, .. }) => {
                    let text = format_args!("accepted, but it has no effect in kumod yet");
                    report.within(&key, |report| report.warn(text));
                }
                Some(OptionKey { effect: Effect::Refused { unless, .. }, .. })
                    if unless.holds(&value) => {}
                Some(OptionKey { effect: Effect::Refused { why, .. }, .. }) => {
                    report.within(&key, |report| report.error(format_args!("refused: {why}")));
                }
                Some(OptionKey { effect: Effect::Effective { .. }, .. }) => {
                    unreachable!("{} doesn't read {key}", options.constructor)
                }
                None => report.error(format_args!(
                    "unknown key '{}'; the nearest known one is '{}'",
                    shown(&key),
                    options.nearest(&key)
                )),
            }
        }
        report.is_clean()
    }
}

/// The keys of a table; an empty Lua table may arrive as an empty list.
fn keys_of(value: Value, report: &mut Report) -> Option<Map<String, Value>> {
    let map = match value {
        Value::Object(map) => map,
        Value::Array(items) if items.is_empty() => Map::new(),
        other => return report.expected("a table", &other),
    };
    few_enough(map.len(), report).then_some(map)
}

fn few_enough(count: usize, report: &mut Report) -> bool {
    let few = count <= limits::OPTION_ITEMS;
    if !few {
        report.error(format_args!("{count} items are more than {}", limits::OPTION_ITEMS));
    }
    few
}

/// What one value may look like.
pub trait Form: Sized {
    /// `None`, and every value while an error is reported, is never seen by anybody.
    fn read(value: Value, report: &mut Report) -> Option<Self>;
}

/// A text with a grammar of its own.
pub fn from_text<T: FromStr<Err: fmt::Display>>(
    value: Value,
    expected: &str,
    report: &mut Report,
) -> Option<T> {
    let Value::String(text) = &value else {
        return report.expected(expected, &value);
    };
    match text.trim().parse() {
        Ok(parsed) => Some(parsed),
        Err(error) => {
            let found = described(&value);
            report.error(format_args!("expected {expected}, found {found}: {error}"));
            None
        }
    }
}

/// One of the names of a plain enumeration.
pub fn from_name<T: DeserializeOwned>(value: &Value, report: &mut Report) -> Option<T> {
    let name = match value {
        Value::String(name) => shown(name),
        other => shown(&other.to_string()),
    };
    let names: StrDeserializer<NameError> = name.as_str().into_deserializer();
    T::deserialize(names).map_err(|error| report.error(format_args!("{error}"))).ok()
}

/// A whole number; Lua may hand it over as a float.
fn whole(number: &serde_json::Number) -> Option<i128> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if let Some(number) = number.as_i128() {
        return Some(number);
    }
    let float = number.as_f64().filter(|float| (-EXACT..=EXACT).contains(float))?;
    let whole = float as i64;
    (whole as f64 == float).then_some(i128::from(whole))
}

macro_rules! whole_numbers {
    ($($number:ty),+) => { $(impl Form for $number {
        fn read(value: Value, report: &mut Report) -> Option<$number> {
            let number = value.as_number().and_then(whole);
            if let Some(number) = number.and_then(|number| <$number>::try_from(number).ok()) {
                return Some(number);
            }
            let (least, most) = (<$number>::MIN, <$number>::MAX);
            report.expected(&format!("a whole number from {least} to {most}"), &value)
        }
    })+ };
}
whole_numbers!(u16, u32, u64, i32);

impl Form for bool {
    fn read(value: Value, report: &mut Report) -> Option<bool> {
        match value {
            Value::Bool(truth) => Some(truth),
            other => report.expected("true or false", &other),
        }
    }
}

impl Form for String {
    fn read(value: Value, report: &mut Report) -> Option<String> {
        match value {
            Value::String(text) => Some(text),
            other => report.expected("text", &other),
        }
    }
}

impl Form for Box<str> {
    fn read(value: Value, report: &mut Report) -> Option<Box<str>> {
        Some(String::read(value, report)?.into())
    }
}

impl Form for crate::time::Duration {
    fn read(value: Value, report: &mut Report) -> Option<Self> {
        use super::duration::{EXPECTED, from_json};
        match from_json(&value) {
            Ok(duration) => Some(duration),
            Err(error) => {
                let found = described(&value);
                report.error(format_args!("expected {EXPECTED}, found {found}: {error}"));
                None
            }
        }
    }
}

impl Form for IpAddr {
    fn read(value: Value, report: &mut Report) -> Option<IpAddr> {
        from_text(value, "an IP address", report)
    }
}

/// `IP:port`. The host `0` is short for `0.0.0.0`.
impl Form for SocketAddr {
    fn read(value: Value, report: &mut Report) -> Option<SocketAddr> {
        let any = value.as_str().and_then(|text| text.strip_prefix("0:")?.parse().ok());
        if let Some(port) = any {
            return Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port));
        }
        from_text(value, "IP:port, such as '0.0.0.0:25' or '[::]:25'", report)
    }
}

impl<T: Form> Form for Option<T> {
    fn read(value: Value, report: &mut Report) -> Option<Option<T>> {
        match value {
            Value::Null => Some(None),
            value => T::read(value, report).map(Some),
        }
    }
}

/// A list; an empty Lua table may arrive as an empty map.
impl<T: Form> Form for Vec<T> {
    fn read(value: Value, report: &mut Report) -> Option<Vec<T>> {
        let items = match value {
            Value::Array(items) => items,
            Value::Object(map) if map.is_empty() => Vec::new(),
            other => return report.expected("a list", &other),
        };
        if !few_enough(items.len(), report) {
            return None;
        }
        let items = items.into_iter().zip(1..);
        items
            .map(|(item, n)| report.within(&format!("[{n}]"), |report| T::read(item, report)))
            .collect()
    }
}

impl<T: Form> Form for BTreeMap<Box<str>, T> {
    fn read(value: Value, report: &mut Report) -> Option<Self> {
        let entries = keys_of(value, report)?.into_iter();
        entries
            .map(|(key, value)| {
                let value = report.within(&key, |report| T::read(value, report))?;
                Some((key.into(), value))
            })
            .collect()
    }
}

/// Anything, as it is.
impl Form for Map<String, Value> {
    fn read(value: Value, report: &mut Report) -> Option<Self> {
        keys_of(value, report)
    }
}

/// How many insertions, deletions, replacements and swaps of neighbours make one key of the other.
pub(crate) fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=other.len()).collect();
    let mut left = None;
    for (row, a) in one.chars().enumerate() {
        let mut this = Vec::with_capacity(last.len());
        this.push(row + 1);
        for (column, b) in other.iter().copied().enumerate() {
            let replaced = last[column] + usize::from(a != b);
            let mut least = replaced.min(last[column + 1] + 1).min(this[column] + 1);
            if column > 0 && left == Some(b) && other[column - 1] == a {
                least = least.min(before[column - 1] + 1);
            }
            this.push(least);
        }
        before = core::mem::replace(&mut last, this);
        left = Some(a);
    }
    last[other.len()]
}

/// A path of a file that holds PEM, the only form of a key source that listeners read.
#[derive(Debug)]
pub(super) struct PemFile(pub String);

impl Form for PemFile {
    fn read(value: Value, report: &mut Report) -> Option<PemFile> {
        match value {
            Value::String(path) if !path.is_empty() => Some(PemFile(path)),
            // What stands in the table may be a private key, so it isn't shown.
            _ => {
                report.error(format_args!(
                    "expected the path of a PEM file; key_data and vaults aren't read"
                ));
                None
            }
        }
    }
}

/// Host names in commands and replies: no spaces, controls or anything but ASCII.
pub(super) fn is_host_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 255 && name.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn error<T: Form + fmt::Debug>(json: Value) -> String {
        value::<T>(json).expect_err("a refusal")
    }

    #[test]
    fn numbers_may_be_floats_that_are_whole() {
        assert_eq!(value::<u64>(json!(25.0)), Ok(25));
        assert_eq!(value::<u64>(json!(u64::MAX)), Ok(u64::MAX));
        assert_eq!(value::<i32>(json!(-1)), Ok(-1));
        assert_eq!(value::<i32>(json!(-1.0)), Ok(-1));
        for (json, found) in [
            (json!(25.5), "found 25.5"),
            (json!(-1), "found -1"),
            (json!(65_536), "found 65536"),
            (json!("25"), "found the text \"25\""),
            (json!(1e300), "found 1e+300"),
            (json!(null), "found nothing"),
        ] {
            let error = error::<u16>(json);
            assert!(error.starts_with("expected a whole number from 0 to 65535"), "{error}");
            assert!(error.contains(found), "{error}");
        }
    }

    #[test]
    fn an_empty_lua_table_is_an_empty_list_and_an_empty_map() {
        for empty in [json!({}), json!([])] {
            assert_eq!(value::<Vec<u64>>(empty.clone()), Ok(Vec::new()));
            assert_eq!(value::<BTreeMap<Box<str>, u64>>(empty.clone()), Ok(BTreeMap::new()));
            assert_eq!(value::<Map<String, Value>>(empty), Ok(Map::new()));
        }
        assert_eq!(error::<Vec<u64>>(json!({"a": 1})), "expected a list, found a table of 1");
        assert_eq!(error::<Map<String, Value>>(json!([1])), "expected a table, found a list of 1");
    }

    #[test]
    fn an_error_says_where_it_is() {
        let error = error::<BTreeMap<Box<str>, Vec<bool>>>(json!({"a": [true], "b": [true, 1]}));
        assert_eq!(error, "b[2]: expected true or false, found 1");
    }

    #[test]
    fn listen_addresses_are_ip_and_port() {
        for (text, address) in
            [("127.0.0.1:2025", "127.0.0.1:2025"), ("[::1]:25", "[::1]:25"), ("0:25", "0.0.0.0:25")]
        {
            assert_eq!(value::<SocketAddr>(json!(text)), Ok(address.parse().unwrap()));
        }
        for wrong in ["127.0.0.1", "localhost:25", "::1:25", "0:65536", "1.2.3.4:-1", ""] {
            assert!(error::<SocketAddr>(json!(wrong)).contains("IP:port"), "{wrong}");
        }
    }

    #[test]
    fn long_lists_and_long_texts_are_cut() {
        let many = Value::Array(alloc::vec![json!("x"); limits::OPTION_ITEMS + 1]);
        assert_eq!(error::<Vec<bool>>(many), "65537 items are more than 65536");
        let wrong = Value::Array(alloc::vec![json!("x"); 1000]);
        assert_eq!(error::<Vec<bool>>(wrong).matches("true or false").count(), 1);
        assert!(error::<bool>(json!("é".repeat(10_000))).len() < 200);
    }

    #[test]
    fn the_distance_counts_edits() {
        for (one, other, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("max_age", "max_age", 0),
            ("maxage", "max_age", 1),
            ("max_aeg", "max_age", 1),
            ("min_age", "max_age", 2),
            ("retry", "retry_interval", 9),
        ] {
            assert_eq!(distance(one, other), expected, "{one} {other}");
        }
    }

    #[test]
    fn host_names_hold_nothing_that_could_end_a_line() {
        for name in ["mx.example.com", "[127.0.0.1]", "localhost"] {
            assert!(is_host_name(name));
        }
        for name in ["", "a b", "a\r\nQUIT", "é.example", "a\0"] {
            assert!(!is_host_name(name));
        }
    }

    #[test]
    fn a_long_key_is_named_in_full_by_nobody() {
        let mut report = Report::default();
        report.within(&"k".repeat(1000), |report| report.error(format_args!("x")));
        assert!(report.errors[0].text.len() < 100);
    }
}
