//! From a file's tree to its sections. Invariant: whatever is left out of a section was told, with its line, its key and the
//! nearest key that is known. How severe that is, is the caller's to say.
use super::rule::{Rule, read_rule};
use super::section::{Match, Options, Place, Scope, Section, SourceSection};
use super::tree::{Entry, Node, Tree};
use crate::config::options::EGRESS_PATH;
use crate::config::read::{self, distance, shown};
use crate::config::{EgressPath, LimitSpec, ThrottleSpec};
use crate::limits;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use serde_json::{Map, Value, json};

/// Something wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    pub place: Place,
    pub text: String,
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.text)
    }
}

/// What one file says.
#[derive(Debug, Default)]
pub struct Contents {
    pub sections: Vec<Section>,
    /// What providers are known by, where the file says so.
    pub matches: Vec<(Box<str>, Vec<Match>)>,
    pub issues: Vec<Issue>,
    /// What is right, and has no effect.
    pub notes: Vec<Issue>,
}

/// Collects what is wrong.
pub struct Reader {
    file: Arc<str>,
    /// The section that is being read.
    within: String,
    contents: Contents,
}

pub const PROVIDER_CONNECTION_LIMIT: &str = "provider_connection_limit";
pub const PROVIDER_MESSAGE_RATE: &str = "provider_max_message_rate";
pub const PROVIDER_SELECTION_RATE: &str = "provider_source_selection_rate";
const PROVIDER_OPTIONS: [&str; 3] =
    [PROVIDER_CONNECTION_LIMIT, PROVIDER_MESSAGE_RATE, PROVIDER_SELECTION_RATE];
const DOMAIN_KEYS: [&str; 4] = ["mx_rollup", "replace_base", "sources", "automation"];
const PROVIDER_KEYS: [&str; 7] = [
    "match",
    "replace_base",
    "sources",
    "automation",
    PROVIDER_OPTIONS[0],
    PROVIDER_OPTIONS[1],
    PROVIDER_OPTIONS[2],
];
const SOURCE_KEYS: [&str; 1] = ["replace_base"];
const PROVIDER_SOURCE_KEYS: [&str; 4] =
    ["replace_base", PROVIDER_OPTIONS[0], PROVIDER_OPTIONS[1], PROVIDER_OPTIONS[2]];
const MATCH_KEYS: [&str; 3] = ["MXSuffix", "HostName", "DomainSuffix"];

/// `; the nearest known one is 'x'`
pub fn nearest<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> String {
    let key: String = key.chars().take(64).collect();
    let near = known.min_by_key(|known| distance(&key, known));
    near.map_or(String::new(), |near| format!("; the nearest known one is '{near}'"))
}

pub fn read_file(file: &Arc<str>, root: &Node) -> Contents {
    let mut reader =
        Reader { file: file.clone(), within: String::new(), contents: Contents::default() };
    let Some(entries) = root.table() else {
        reader.issue(root.line, "", format_args!("a shaping file is a table of domains"));
        return reader.contents;
    };
    for entry in entries {
        if reader.contents.sections.len() >= limits::SHAPING_SECTIONS {
            let limit = limits::SHAPING_SECTIONS;
            reader.issue(entry.line, &entry.key, format_args!("more than {limit} sections"));
            break;
        }
        match entry.key.as_str() {
            "provider" => reader.providers(entry),
            _ => reader.domain(entry),
        }
    }
    reader.contents
}

impl Reader {
    pub fn issue(&mut self, line: u32, key: &str, text: fmt::Arguments) {
        let issue = self.described(line, key, text);
        if self.contents.issues.len() < limits::SHAPING_NOTES {
            self.contents.issues.push(issue);
        }
    }

    fn described(&self, line: u32, key: &str, text: fmt::Arguments) -> Issue {
        let within = match self.within.is_empty() {
            true => String::new(),
            false => format!("[{}]: ", self.within),
        };
        let colon = if key.is_empty() { "" } else { ": " };
        let place = Place { file: self.file.clone(), line };
        Issue { place, text: format!("{within}{}{colon}{text}", shown(key)) }
    }

    pub fn issues(&self) -> usize {
        self.contents.issues.len()
    }

    /// Reads what stands in the section of this name.
    fn within<T>(&mut self, section: String, read: impl FnOnce(&mut Reader) -> T) -> T {
        let outside = core::mem::replace(&mut self.within, section);
        let value = read(self);
        self.within = outside;
        value
    }

    fn table<'n>(&mut self, node: &'n Node, key: &str) -> &'n [Entry] {
        node.table().unwrap_or_else(|| {
            let found = read::described(&node.to_json());
            self.issue(node.line, key, format_args!("expected a table, found {found}"));
            &[]
        })
    }

    fn domain(&mut self, entry: &Entry) {
        let name = entry.key.trim_end_matches('.').to_ascii_lowercase();
        self.within(format!("{:?}", shown(&entry.key)), |reader| {
            let entries = reader.table(&entry.node, "");
            let rollup = reader.flag(entries, "mx_rollup").unwrap_or(true);
            let scope = match name.as_str() {
                "default" => Scope::Default,
                _ => Scope::Domain { name: name.into(), rollup },
            };
            reader.section(entry.line, scope, entries, &DOMAIN_KEYS, &SOURCE_KEYS);
        });
    }

    fn providers(&mut self, entry: &Entry) {
        for provider in self.table(&entry.node, "provider") {
            let name: Box<str> = provider.key.as_str().into();
            self.within(format!("provider.{:?}", shown(&name)), |reader| {
                let entries = reader.table(&provider.node, "");
                if let Some(matches) = entries.iter().find(|entry| entry.key == "match") {
                    let read = reader.matches(&matches.node);
                    reader.contents.matches.push((name.clone(), read));
                }
                let scope = Scope::Provider { name };
                reader.section(
                    provider.line,
                    scope,
                    entries,
                    &PROVIDER_KEYS,
                    &PROVIDER_SOURCE_KEYS,
                );
            });
        }
    }

    fn section(
        &mut self,
        line: u32,
        scope: Scope,
        entries: &[Entry],
        special: &[&str],
        of_sources: &[&str],
    ) {
        let section = Section {
            scope,
            place: Place { file: self.file.clone(), line },
            replace_base: self.flag(entries, "replace_base").unwrap_or(false),
            options: self.options(entries, special),
            sources: self.sources(entries, of_sources),
            rules: self.rules(entries),
        };
        self.contents.sections.push(section);
    }

    fn flag(&mut self, entries: &[Entry], key: &str) -> Option<bool> {
        let entry = entries.iter().find(|entry| entry.key == key)?;
        match &entry.node.tree {
            Tree::Plain(Value::Bool(flag)) => Some(*flag),
            _ => {
                let found = read::described(&entry.node.to_json());
                let text = format_args!("expected true or false, found {found}");
                self.issue(entry.line, key, text);
                None
            }
        }
    }

    fn sources(&mut self, entries: &[Entry], special: &[&str]) -> Vec<SourceSection> {
        let Some(entry) = entries.iter().find(|entry| entry.key == "sources") else {
            return Vec::new();
        };
        let mut sources = Vec::new();
        for source in self.table(&entry.node, "sources") {
            let within = format!("{}.sources.{:?}", self.within, shown(&source.key));
            sources.push(self.within(within, |reader| {
                let entries = reader.table(&source.node, "");
                SourceSection {
                    source: source.key.as_str().into(),
                    replace_base: reader.flag(entries, "replace_base").unwrap_or(false),
                    options: reader.options(entries, special),
                }
            }));
        }
        sources
    }

    fn rules(&mut self, entries: &[Entry]) -> Vec<Rule> {
        let Some(entry) = entries.iter().find(|entry| entry.key == "automation") else {
            return Vec::new();
        };
        let Some(items) = entry.node.list() else {
            let text = format_args!("expected a list of rules, as in [[\"domain\".automation]]");
            self.issue(entry.line, "automation", text);
            return Vec::new();
        };
        items.iter().filter_map(|item| read_rule(item, self)).collect()
    }

    fn matches(&mut self, node: &Node) -> Vec<Match> {
        let Some(items) = node.list() else {
            let text = format_args!("expected a list such as [{{MXSuffix=\".example.com\"}}]");
            self.issue(node.line, "match", text);
            return Vec::new();
        };
        if items.is_empty() {
            self.issue(node.line, "match", format_args!("the list is empty"));
        }
        items.iter().filter_map(|item| self.one_match(item)).collect()
    }

    fn one_match(&mut self, node: &Node) -> Option<Match> {
        let (key, text) = match node.table() {
            Some(
                [
                    Entry {
                        key, node: Node { tree: Tree::Plain(Value::String(text)), .. }, ..
                    },
                ],
            ) => (key.as_str(), text.trim_end_matches('.')),
            _ => {
                let found = read::described(&node.to_json());
                let expected = "{MXSuffix=\"…\"}, {HostName=\"…\"} or {DomainSuffix=\"…\"}";
                self.issue(node.line, "match", format_args!("expected {expected}, found {found}"));
                return None;
            }
        };
        if text.is_empty() || text.contains('*') {
            let text = format_args!("{key} is the end or the whole of a name, without wildcards");
            self.issue(node.line, "match", text);
            return None;
        }
        match key {
            "MXSuffix" => Some(Match::MXSuffix(text.into())),
            "HostName" => Some(Match::HostName(text.into())),
            "DomainSuffix" => Some(Match::DomainSuffix(text.into())),
            _ => {
                let hint = nearest(key, MATCH_KEYS.into_iter());
                self.issue(node.line, "match", format_args!("unknown key '{}'{hint}", shown(key)));
                None
            }
        }
    }

    /// Those of a path, and of a provider, whose values are right.
    fn options(&mut self, entries: &[Entry], special: &[&str]) -> Options {
        let (mut options, mut of_provider) = (Map::new(), Map::new());
        for entry in entries {
            let key = entry.key.as_str();
            if EGRESS_PATH.find(key).is_some() {
                let value = entry.node.to_json();
                // JSON's way to say nothing.
                if !value.is_null() {
                    options.insert(key.into(), value);
                }
            } else if PROVIDER_OPTIONS.contains(&key) && special.contains(&key) {
                self.provider_option(entry, &mut of_provider);
            } else if !special.contains(&key) {
                self.unknown(entry, special);
            }
        }
        let (errors, warnings) = read::examine::<EgressPath>(paired(options.clone()));
        for error in errors {
            self.issue(line_of(entries, &error.key), "", format_args!("{}", error.text));
            options.remove(&*error.key);
        }
        for warning in warnings {
            let text = format_args!("{}", warning.text);
            let note = self.described(line_of(entries, &warning.key), "", text);
            if self.contents.notes.len() < limits::SHAPING_NOTES {
                self.contents.notes.push(note);
            }
        }
        options.extend(of_provider);
        options
    }

    fn provider_option(&mut self, entry: &Entry, options: &mut Options) {
        let value = entry.node.to_json();
        let read = match entry.key.as_str() {
            PROVIDER_CONNECTION_LIMIT => read::value::<LimitSpec>(value.clone()).map(|_| ()),
            _ => read::value::<ThrottleSpec>(value.clone()).map(|_| ()),
        };
        match read {
            Ok(()) => drop(options.insert(entry.key.clone(), value)),
            Err(why) => self.issue(entry.line, &entry.key, format_args!("{why}")),
        }
    }

    fn unknown(&mut self, entry: &Entry, special: &[&str]) {
        let known = EGRESS_PATH.options.iter().map(|option| option.key);
        let hint = nearest(&entry.key, known.chain(special.iter().copied()));
        let quotes = match entry.node.tree {
            Tree::Table(_) => "; a domain's name stands in quotes, as in [\"example.com\"]",
            _ => "",
        };
        let key = shown(&entry.key);
        self.issue(entry.line, "", format_args!("unknown key '{key}'{hint}{quotes}"));
    }
}

fn line_of(entries: &[Entry], key: &str) -> u32 {
    let found = entries.iter().find(|entry| entry.key == key);
    found.or(entries.first()).map_or(0, |entry| entry.line)
}

/// With the other one of two options that belong together, which another section may give.
fn paired(mut options: Options) -> Options {
    let (username, password) = ("smtp_auth_plain_username", "smtp_auth_plain_password");
    match (options.contains_key(username), options.contains_key(password)) {
        (true, false) => drop(options.insert(password.into(), json!({ "key_data": "-" }))),
        (false, true) => drop(options.insert(username.into(), json!("-"))),
        _ => {}
    }
    options
}
