//! Loads shaping files, in order. Invariant: it always yields data; what went wrong stands in it, as severe as the options
//! say.
use super::fetch::{fetch, is_remote};
use super::lookup::MxLookup;
use super::text::{self, SyntaxError};
use crate::policy::read_file;
use kumo_core::limits;
use kumo_core::shaping::tree::Node;
use kumo_core::shaping::{LoadOptions, Severity, Shaping};
use std::path::Path;
use std::sync::Arc;

pub async fn load(files: &[String], options: &LoadOptions, lookup: &MxLookup) -> Shaping {
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
        match read(path, remote, options).await {
            Ok(root) => shaping.add_file(&Arc::from(path.as_str()), &root, severity),
            Err(why) => shaping.report(severity, why),
        }
    }
    let looked = lookup.look_up_all(shaping.domains_to_look_up()).await;
    shaping.finish(looked, options);
    shaping
}

async fn read(path: &str, remote: bool, options: &LoadOptions) -> Result<Node, String> {
    let octets = match remote {
        true => fetch(path, options.http_timeout).await?,
        false => read_file(Path::new(path))?,
    };
    let text = String::from_utf8(octets).map_err(|_| format!("{path}: the text isn't UTF-8"))?;
    parse(path, &text).map_err(|error| format!("{path}:{}: {}", error.line, error.why))
}

/// TOML if the name says so, else JSON.
fn parse(path: &str, text: &str) -> Result<Node, SyntaxError> {
    let name = if is_remote(path) { path.split('?').next().unwrap_or(path) } else { path };
    match name.ends_with(".toml") {
        true => text::toml(text),
        false => text::json(text),
    }
}
