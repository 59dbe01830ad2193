//! TOML and JSON (with comments) to trees that know their lines and keep the order of their keys. Invariant: of two keys of
//! one name none is dropped without a word. What keys mean is [`kumo_core::shaping`]'s.
use crate::policy::without_comments;
use kumo_core::limits;
use kumo_core::shaping::tree::{Entry, Node, Tree};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeSet;
use std::fmt;
use toml::de::{DeTable, DeValue};

/// Why a text is no TOML or JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    pub line: u32,
    pub why: String,
}

/// Where the lines of a text begin.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Lines {
        Lines(text.match_indices('\n').map(|(at, _)| at + 1).collect())
    }

    fn at(&self, offset: usize) -> u32 {
        let before = self.0.partition_point(|start| *start <= offset);
        u32::try_from(before + 1).unwrap_or(u32::MAX)
    }
}

pub fn toml(text: &str) -> Result<Node, SyntaxError> {
    let lines = Lines::of(text);
    let document = DeTable::parse(text).map_err(|error| SyntaxError {
        line: error.span().map_or(1, |span| lines.at(span.start)),
        why: error.message().into(),
    })?;
    Ok(Node { line: 1, tree: Tree::Table(toml_table(document.into_inner(), &lines)?) })
}

/// Sorted by the place of each key, since the parser sorts by name.
fn toml_table(table: DeTable, lines: &Lines) -> Result<Vec<Entry>, SyntaxError> {
    let mut items: Vec<_> = table.into_iter().collect();
    items.sort_by_key(|(key, _)| key.span().start);
    let entries = items.into_iter().map(|(key, value)| {
        let line = lines.at(key.span().start);
        let node = toml_node(value.into_inner(), line, lines)?;
        Ok(Entry { key: key.into_inner().into_owned(), line, node })
    });
    entries.collect()
}

fn toml_node(value: DeValue, line: u32, lines: &Lines) -> Result<Node, SyntaxError> {
    let tree = match value {
        DeValue::Table(table) => Tree::Table(toml_table(table, lines)?),
        DeValue::Array(items) => {
            let nodes = items.into_iter().map(|item| {
                let line = lines.at(item.span().start);
                toml_node(item.into_inner(), line, lines)
            });
            Tree::List(nodes.collect::<Result<_, _>>()?)
        }
        DeValue::String(text) => Tree::Plain(text.into_owned().into()),
        DeValue::Boolean(flag) => Tree::Plain(flag.into()),
        DeValue::Datetime(date) => Tree::Plain(date.to_string().into()),
        DeValue::Integer(number) => {
            let read = i64::from_str_radix(number.as_str(), number.radix());
            Tree::Plain(read.map_err(|_| out_of_range(line, number.as_str()))?.into())
        }
        DeValue::Float(number) => {
            let read = number.as_str().parse::<f64>();
            Tree::Plain(read.map_err(|_| out_of_range(line, number.as_str()))?.into())
        }
    };
    Ok(Node { line, tree })
}

fn out_of_range(line: u32, number: &str) -> SyntaxError {
    SyntaxError { line, why: format!("{number} is out of range") }
}

pub fn json(text: &str) -> Result<Node, SyntaxError> {
    let text = without_comments(text);
    let whole: &RawValue = serde_json::from_str(&text).map_err(|error| SyntaxError {
        line: u32::try_from(error.line()).unwrap_or(u32::MAX),
        why: error.to_string(),
    })?;
    let reader = Json { text: &text, lines: Lines::of(&text) };
    reader.node(whole, 0)
}

struct Json<'t> {
    text: &'t str,
    lines: Lines,
}

/// A table's items in the order of the text.
struct Items<'t>(Vec<(String, &'t RawValue)>);

impl<'de: 't, 't> Deserialize<'de> for Items<'t> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Vec<(String, &'de RawValue)>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a table")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = map.next_entry()? {
                    items.push(item);
                }
                Ok(items)
            }
        }
        from.deserialize_map(InOrder).map(Items)
    }
}

impl<'t> Json<'t> {
    /// What was read as a part of the text stands there.
    fn line(&self, part: &str) -> u32 {
        self.lines.at(part.as_ptr() as usize - self.text.as_ptr() as usize)
    }

    fn node(&self, raw: &'t RawValue, depth: usize) -> Result<Node, SyntaxError> {
        let (text, line) = (raw.get(), self.line(raw.get()));
        let wrong = |why: String| SyntaxError { line, why };
        if depth > limits::POLICY_VALUE_DEPTH {
            return Err(wrong("tables within tables are too deep".into()));
        }
        let failed = |error: serde_json::Error| wrong(error.to_string());
        let tree = match text.as_bytes().first() {
            Some(b'{') => {
                let Items(items) = serde_json::from_str(text).map_err(failed)?;
                Tree::Table(self.entries(items, depth)?)
            }
            Some(b'[') => {
                let items: Vec<&RawValue> = serde_json::from_str(text).map_err(failed)?;
                let nodes = items.into_iter().map(|item| self.node(item, depth + 1));
                Tree::List(nodes.collect::<Result<_, _>>()?)
            }
            _ => Tree::Plain(serde_json::from_str::<Value>(text).map_err(failed)?),
        };
        Ok(Node { line, tree })
    }

    fn entries(
        &self,
        items: Vec<(String, &'t RawValue)>,
        depth: usize,
    ) -> Result<Vec<Entry>, SyntaxError> {
        let mut seen = BTreeSet::new();
        let entries = items.into_iter().map(|(key, raw)| {
            let node = self.node(raw, depth + 1)?;
            match seen.insert(key.clone()) {
                true => Ok(Entry { key, line: node.line, node }),
                false => {
                    let why = format!("the key {key:?} is there twice");
                    Err(SyntaxError { line: node.line, why })
                }
            }
        });
        entries.collect()
    }
}
