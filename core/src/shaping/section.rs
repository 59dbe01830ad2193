//! One section of a shaping file: for what it holds, and what it says. Invariant: its options are known ones with values
//! that a path takes, each by itself. Which sections hold for a path is [`super::resolve`]'s business.
use super::rule::Rule;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use serde::Serialize;
use serde_json::{Map, Value};

pub type Options = Map<String, Value>;

/// `file:line`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub file: Arc<str>,
    pub line: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Scope {
    /// Every path.
    Default,
    /// In lower case. With `rollup`: all domains of its site.
    Domain {
        name: Box<str>,
        rollup: bool,
    },
    Provider {
        name: Box<str>,
    },
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Scope::Default => f.write_str("default"),
            Scope::Domain { name, .. } => write!(f, "domain {name}"),
            Scope::Provider { name } => write!(f, "provider {name}"),
        }
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct Section {
    pub scope: Scope,
    #[serde(skip)]
    pub place: Place,
    /// What was gathered before it is forgotten.
    pub replace_base: bool,
    pub options: Options,
    pub sources: Vec<SourceSection>,
    pub rules: Vec<Rule>,
}

/// What holds for one source within a section.
#[derive(Clone, Debug, Serialize)]
pub struct SourceSection {
    pub source: Box<str>,
    pub replace_base: bool,
    pub options: Options,
}

/// What a provider is known by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Match {
    MXSuffix(Box<str>),
    HostName(Box<str>),
    DomainSuffix(Box<str>),
}

/// Whether a destination is a provider's: its domain ends as one of them says, or each of its hosts is one of them.
pub fn is_providers(matches: &[Match], domain: &str, hosts: &[String]) -> bool {
    let by_domain = |one: &Match| match one {
        Match::DomainSuffix(suffix) => ends_with(domain, suffix),
        Match::MXSuffix(_) | Match::HostName(_) => false,
    };
    let is_known = |host: &String| {
        let host = host.trim_end_matches('.');
        matches.iter().any(|one| match one {
            Match::MXSuffix(suffix) => ends_with(host, suffix),
            Match::HostName(name) => host.eq_ignore_ascii_case(name),
            Match::DomainSuffix(_) => false,
        })
    };
    matches.iter().any(by_domain) || (!hosts.is_empty() && hosts.iter().all(is_known))
}

fn ends_with(text: &str, suffix: &str) -> bool {
    let start = text.len().checked_sub(suffix.len());
    start.and_then(|start| text.get(start..)).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
}
