//! Loads shaping files, in order. Invariant: it always yields data; what went wrong stands in it, as severe as the options
//! say. Where a server or DNS doesn't answer, what it said at an earlier load holds, if that is remembered: no limit goes away
//! because something else is down.
use super::fetch::{fetch, is_remote};
use super::lookup::MxLookup;
use super::text::{self, SyntaxError};
use crate::policy::read_file;
use kumo_core::limits;
use kumo_core::shaping::tree::Node;
use kumo_core::shaping::{LoadOptions, Looked, Severity, Shaping};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// What others said at the last load.
#[derive(Debug, Default)]
pub struct Remembered(Mutex<Answers>);

/// Of the load that is under way, or of the last one.
#[derive(Clone, Debug, Default)]
struct Answers {
    texts: BTreeMap<String, Vec<u8>>,
    sites: BTreeMap<Box<str>, Looked>,
}

/// Once, with nothing to remember.
pub async fn load(files: &[String], options: &LoadOptions, lookup: &MxLookup) -> Shaping {
    load_again(files, options, lookup, &Remembered::default()).await
}

/// One of several loads of these files.
pub async fn load_again(
    files: &[String],
    options: &LoadOptions,
    lookup: &MxLookup,
    remembered: &Remembered,
) -> Shaping {
    let last = remembered.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut now = Answers::default();
    let mut shaping = Shaping::default();
    if files.len() > limits::SHAPING_FILES {
        let text = format!("more than {} shaping files", limits::SHAPING_FILES);
        shaping.report(Severity::Error, text);
    }
    for path in files.iter().take(limits::SHAPING_FILES) {
        let remote = is_remote(path);
        if remote && options.skip_remote {
            continue;
        }
        let severity = if remote { options.remote_load } else { options.local_load };
        let octets = match remote {
            true => fetch(path, options.http_timeout).await,
            false => read_file(Path::new(path)),
        };
        let octets = match (octets, last.texts.get(path)) {
            (Err(why), Some(before)) => {
                shaping.report(severity, format!("{why}; {HOLDS_ON}"));
                Ok(before.clone())
            }
            (octets, _) => octets,
        };
        if let (true, Ok(octets)) = (remote, &octets) {
            now.texts.insert(path.clone(), octets.clone());
        }
        match octets.and_then(|octets| parse(path, octets)) {
            Ok(root) => shaping.add_file(&Arc::from(path.as_str()), &root, severity),
            Err(why) => shaping.report(severity, why),
        }
    }
    let looked = lookup.look_up_all(shaping.domains_to_look_up()).await;
    now.sites =
        looked.into_iter().map(|one| or_as_before(one, &last, &mut shaping, options)).collect();
    shaping.finish(now.sites.clone(), options);
    *remembered.0.lock().unwrap_or_else(PoisonError::into_inner) = now;
    shaping
}

const HOLDS_ON: &str = "what it said before holds on";

fn or_as_before(
    (domain, looked): (Box<str>, Looked),
    last: &Answers,
    shaping: &mut Shaping,
    options: &LoadOptions,
) -> (Box<str>, Looked) {
    match (looked, last.sites.get(&domain)) {
        (Looked::Failed(why), Some(before @ Looked::Site { .. })) => {
            let text = format!("domain {domain}: {why}; {HOLDS_ON}");
            shaping.report(options.dns_fail, text);
            (domain, before.clone())
        }
        (looked, _) => (domain, looked),
    }
}

fn parse(path: &str, octets: Vec<u8>) -> Result<Node, String> {
    let text = String::from_utf8(octets).map_err(|_| format!("{path}: the text isn't UTF-8"))?;
    let tree = tree(path, &text);
    tree.map_err(|error| format!("{path}:{}: {}", error.line, error.why))
}

/// Of TOML if the name says so, else of JSON.
fn tree(path: &str, text: &str) -> Result<Node, SyntaxError> {
    let name = if is_remote(path) { path.split('?').next().unwrap_or(path) } else { path };
    match name.ends_with(".toml") {
        true => text::toml(text),
        false => text::json(text),
    }
}
