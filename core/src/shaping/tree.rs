//! A shaping file as it was written: tables in the order of their keys, and the line of each. Made by whoever reads the
//! file. Invariant: the order is the file's, since later values win over earlier ones. Nothing here knows TOML or JSON.
use alloc::string::String;
use alloc::vec::Vec;
use serde_json::Value;

#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub line: u32,
    pub tree: Tree,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Tree {
    /// No list and no table.
    Plain(Value),
    List(Vec<Node>),
    Table(Vec<Entry>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub key: String,
    pub line: u32,
    pub node: Node,
}

impl Node {
    pub fn to_json(&self) -> Value {
        match &self.tree {
            Tree::Plain(value) => value.clone(),
            Tree::List(items) => items.iter().map(Node::to_json).collect(),
            Tree::Table(entries) => {
                let pairs = entries.iter().map(|entry| (entry.key.clone(), entry.node.to_json()));
                Value::Object(pairs.collect())
            }
        }
    }

    pub fn table(&self) -> Option<&[Entry]> {
        match &self.tree {
            Tree::Table(entries) => Some(entries),
            _ => None,
        }
    }

    pub fn list(&self) -> Option<&[Node]> {
        match &self.tree {
            Tree::List(items) => Some(items),
            _ => None,
        }
    }
}
