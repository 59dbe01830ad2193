//! Automation rules (core.md 5.2): what they look for in a record's response, and what is to be done. Parsed strictly;
//! nothing here acts. Invariant: a rule's action that sets an option sets one that a path has, to a value that it takes.
use super::read::{Reader, nearest};
use super::tree::{Node, Tree};
use crate::config::source::Trigger;
use crate::config::{EgressPath, read};
use crate::limits;
use crate::time::Duration;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use fancy_regex::{Regex, RegexBuilder};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

/// What responses that no peer gave begin with.
pub const INTERNAL: &str = "KumoMTA internal: ";

/// As policy sees it, too.
#[derive(Clone, Debug, Serialize)]
pub struct Rule {
    pub regex: Vec<Pattern>,
    pub action: Vec<Action>,
    pub trigger: Trigger,
    #[serde(with = "crate::config::duration::text")]
    pub duration: Duration,
    pub match_internal: bool,
}

#[derive(Clone, Debug)]
pub struct Pattern(Regex);

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.0.as_str())
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum Action {
    Suspend,
    SuspendTenant,
    SuspendCampaign,
    Bounce,
    BounceTenant,
    BounceCampaign,
    SetConfig(Setting),
    /// Holds for the domain alone, whatever the section says about its site.
    SetDomainConfig(Setting),
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Setting {
    pub name: Box<str>,
    pub value: Value,
}

const KEYS: [&str; 5] = ["regex", "action", "trigger", "duration", "match_internal"];
const ACTIONS: [&str; 8] = [
    "Suspend",
    "SuspendTenant",
    "SuspendCampaign",
    "Bounce",
    "BounceTenant",
    "BounceCampaign",
    "SetConfig",
    "SetDomainConfig",
];

/// What a look at a response came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Matches,
    Differs,
    /// An expression went back and forth so often that it was given up.
    GivenUp,
}

impl Rule {
    /// `content`: what follows the codes; `response`: all of it in one line.
    pub fn verdict(&self, content: &str, response: &str) -> Verdict {
        if !self.match_internal && content.starts_with(INTERNAL) {
            return Verdict::Differs;
        }
        let found = |pattern: &Pattern| pattern.0.is_match(response);
        let mut verdict = Verdict::Differs;
        for found in self.regex.iter().map(found) {
            match found {
                Ok(true) => return Verdict::Matches,
                Ok(false) => {}
                Err(_) => verdict = Verdict::GivenUp,
            }
        }
        verdict
    }
}

/// The items of a list, or the one thing that stands there instead of a list.
fn one_or_many(node: &Node) -> Vec<&Node> {
    node.list().map_or_else(|| [node].into(), |items| items.iter().collect())
}

/// `None`, and the reader knows why, unless all of the rule is right.
pub fn read_rule(node: &Node, reader: &mut Reader) -> Option<Rule> {
    let before = reader.issues();
    let Some(entries) = node.table() else {
        reader.issue(node.line, "automation", format_args!("a rule is a table"));
        return None;
    };
    for entry in entries {
        if !KEYS.contains(&entry.key.as_str()) {
            let hint = nearest(&entry.key, KEYS.into_iter());
            reader.issue(entry.line, &entry.key, format_args!("a rule has no such key{hint}"));
        }
    }
    let get = |key: &str| entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node);
    for key in ["regex", "action", "duration"] {
        if get(key).is_none() {
            reader.issue(node.line, key, format_args!("a rule has to have it"));
        }
    }
    let regex = get("regex").map(one_or_many).unwrap_or_default();
    let regex = regex.into_iter().filter_map(|node| read_pattern(node, reader)).collect();
    let action = get("action").map(one_or_many).unwrap_or_default();
    let action = action.into_iter().filter_map(|node| read_action(node, reader)).collect();
    let rule = Rule {
        regex,
        action,
        trigger: get("trigger")
            .and_then(|node| read_as("trigger", node, reader))
            .unwrap_or(Trigger::Immediate),
        duration: get("duration")
            .and_then(|node| read_as("duration", node, reader))
            .unwrap_or_default(),
        match_internal: get("match_internal")
            .and_then(|node| read_as("match_internal", node, reader))
            .unwrap_or_default(),
    };
    for (key, is_empty) in [("regex", rule.regex.is_empty()), ("action", rule.action.is_empty())] {
        if is_empty && reader.issues() == before {
            reader.issue(node.line, key, format_args!("the list is empty"));
        }
    }
    (reader.issues() == before).then_some(rule)
}

fn read_as<T: read::Form>(key: &str, node: &Node, reader: &mut Reader) -> Option<T> {
    let value = read::value(node.to_json());
    value.map_err(|why| reader.issue(node.line, key, format_args!("{why}"))).ok()
}

fn read_pattern(node: &Node, reader: &mut Reader) -> Option<Pattern> {
    let Tree::Plain(Value::String(text)) = &node.tree else {
        let found = read::described(&node.to_json());
        reader.issue(node.line, "regex", format_args!("expected text, found {found}"));
        return None;
    };
    if text.len() > limits::SHAPING_REGEX_OCTETS {
        let limit = limits::SHAPING_REGEX_OCTETS;
        reader.issue(node.line, "regex", format_args!("it is longer than {limit} octets"));
        return None;
    }
    let built = RegexBuilder::new(text).backtrack_limit(limits::SHAPING_REGEX_STEPS).build();
    let shown = read::shown(text);
    let failed = |error: fancy_regex::Error| {
        let why = error.to_string().replace('\n', " ");
        let why = read::shown(why.trim());
        reader.issue(node.line, "regex", format_args!("{shown:?} is no regular expression: {why}"));
    };
    built.map_err(failed).ok().map(Pattern)
}

fn read_action(node: &Node, reader: &mut Reader) -> Option<Action> {
    if let Tree::Plain(Value::String(name)) = &node.tree {
        let action = simple_action(name);
        if action.is_none() {
            let hint = nearest(name, ACTIONS.into_iter());
            let shown = read::shown(name);
            reader.issue(node.line, "action", format_args!("there is no action {shown:?}{hint}"));
        }
        return action;
    }
    let setting = match node.table() {
        Some([entry]) if matches!(entry.key.as_str(), "SetConfig" | "SetDomainConfig") => entry,
        _ => {
            let expected = "the name of an action, or { SetConfig = { name = …, value = … } }";
            let found = read::described(&node.to_json());
            let text = format_args!("expected {expected}, found {found}");
            reader.issue(node.line, "action", text);
            return None;
        }
    };
    let read = read_setting(&setting.key, &setting.node, reader)?;
    Some(match setting.key.as_str() {
        "SetConfig" => Action::SetConfig(read),
        _ => Action::SetDomainConfig(read),
    })
}

fn simple_action(name: &str) -> Option<Action> {
    Some(match name {
        "Suspend" => Action::Suspend,
        "SuspendTenant" => Action::SuspendTenant,
        "SuspendCampaign" => Action::SuspendCampaign,
        "Bounce" => Action::Bounce,
        "BounceTenant" => Action::BounceTenant,
        "BounceCampaign" => Action::BounceCampaign,
        _ => return None,
    })
}

fn read_setting(action: &str, node: &Node, reader: &mut Reader) -> Option<Setting> {
    let setting = match node.to_json() {
        Value::Object(map) if map.len() == 2 => setting_of(map),
        _ => None,
    };
    let Some(setting) = setting else {
        let text = format_args!("it reads {action} = {{ name = 'max_message_rate', value = … }}");
        reader.issue(node.line, "action", text);
        return None;
    };
    let option = Map::from_iter([(String::from(&*setting.name), setting.value.clone())]);
    let (errors, _) = read::examine::<EgressPath>(option);
    for error in &errors {
        reader.issue(node.line, action, format_args!("{}", error.text));
    }
    errors.is_empty().then_some(setting)
}

fn setting_of(mut map: Map<String, Value>) -> Option<Setting> {
    match (map.remove("name")?, map.remove("value")?) {
        (Value::String(name), value) => Some(Setting { name: name.into(), value }),
        _ => None,
    }
}

/// A record's response in one line: `451 4.7.1 text`.
pub fn response_line(code: u64, enhanced: Option<[u64; 3]>, content: &str) -> String {
    let content = content.replace(['\r', '\n'], " ");
    match enhanced {
        Some([class, subject, detail]) => format!("{code} {class}.{subject}.{detail} {content}"),
        None => format!("{code} {content}"),
    }
}
