//! Shaping files: traffic limits by destination, source and provider, layered over each other (core.md 5.1, 5.2).
//! Each file is a [`tree`], read into [`section`]s by [`read`]; [`resolve`] says which of them hold for a path. Invariant:
//! pure; reading files and asking DNS are the caller's, who tells what it found. Automation rules are kept and matched
//! here, not acted on.
pub mod read;
pub mod resolve;
pub mod rule;
pub mod section;
#[cfg(test)]
mod tests;
pub mod tree;

use crate::config::name_forms;
use crate::config::read::{Form, shown, value};
use crate::limits;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use crc::{CRC_64_XZ, Crc};
pub use resolve::{Destination, Met};
pub use rule::response_line;
use section::{Match, Scope, Section, is_providers};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tree::Node;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Severity {
    #[default]
    Ignore,
    Warn,
    Error,
}

name_forms!(Severity);

/// How severe what is, and what to leave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadOptions {
    /// Two domains of one site.
    pub aliased_site: Severity,
    pub dns_fail: Severity,
    /// A local file that can't be read, or says something wrong.
    pub local_load: Severity,
    pub null_mx: Severity,
    /// A domain that is a provider's.
    pub provider_overlap: Severity,
    pub remote_load: Severity,
    pub skip_remote: bool,
    /// For each remote file.
    pub http_timeout: crate::time::Duration,
}

impl Default for LoadOptions {
    fn default() -> LoadOptions {
        LoadOptions {
            aliased_site: Severity::Ignore,
            dns_fail: Severity::Ignore,
            local_load: Severity::Error,
            null_mx: Severity::Ignore,
            provider_overlap: Severity::Ignore,
            remote_load: Severity::Ignore,
            skip_remote: false,
            http_timeout: crate::time::Duration::from_secs(5),
        }
    }
}

impl LoadOptions {
    /// The text says which key is wrong, and what it should be.
    pub fn parse(map: Map<String, Value>) -> Result<LoadOptions, String> {
        let mut options = LoadOptions::default();
        for (key, item) in map {
            let set = match key.as_str() {
                "aliased_site" => set(&mut options.aliased_site, item),
                "dns_fail" => set(&mut options.dns_fail, item),
                "local_load" => set(&mut options.local_load, item),
                "null_mx" => set(&mut options.null_mx, item),
                "provider_overlap" => set(&mut options.provider_overlap, item),
                "remote_load" => set(&mut options.remote_load, item),
                "skip_remote" => set(&mut options.skip_remote, item),
                "http_timeout" => set(&mut options.http_timeout, item),
                _ => return Err(unknown_option(&key)),
            };
            set.map_err(|why| format!("{key}: {why}"))?;
        }
        Ok(options)
    }
}

fn set<T: Form>(field: &mut T, item: Value) -> Result<(), String> {
    *field = value(item)?;
    Ok(())
}

fn unknown_option(key: &str) -> String {
    const KNOWN: [&str; 8] = [
        "aliased_site",
        "dns_fail",
        "local_load",
        "null_mx",
        "provider_overlap",
        "remote_load",
        "skip_remote",
        "http_timeout",
    ];
    let hint = read::nearest(key, KNOWN.into_iter());
    format!("unknown key '{}'{hint}", shown(key))
}

/// What DNS said of a domain whose section holds for its site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Looked {
    Site { site: Arc<str>, hosts: Vec<String> },
    NullMx,
    Failed(String),
}

const CRC: Crc<u64> = Crc::<u64>::new(&CRC_64_XZ);

/// Shaping data, as loaded.
#[derive(Debug, Default)]
pub struct Shaping {
    /// In the order of the files, and of what stands in them.
    sections: Vec<Section>,
    /// What each provider is known by: the last file that says so counts.
    matches: BTreeMap<Box<str>, Vec<Match>>,
    /// Of the domains whose sections hold for their sites. The section of one that isn't here holds for the domain alone.
    sites: BTreeMap<Box<str>, Arc<str>>,
    errors: Vec<String>,
    warnings: Vec<String>,
    notes: Vec<String>,
}

impl Shaping {
    /// Lays a file over those before it.
    pub fn add_file(&mut self, file: &Arc<str>, root: &Node, severity: Severity) {
        let contents = read::read_file(file, root);
        for issue in contents.issues {
            self.report(severity, issue.to_string());
        }
        let room = limits::SHAPING_NOTES.saturating_sub(self.notes.len());
        self.notes.extend(contents.notes.iter().take(room).map(ToString::to_string));
        self.matches.extend(contents.matches);
        for section in contents.sections {
            self.add_section(section, severity);
        }
    }

    fn add_section(&mut self, section: Section, severity: Severity) {
        if section.replace_base {
            self.sections.retain(|before| !is_of_one_name(&before.scope, &section.scope));
        }
        if self.sections.len() >= limits::SHAPING_SECTIONS {
            let limit = limits::SHAPING_SECTIONS;
            self.report(severity, format!("{}: more than {limit} sections", section.place));
            return;
        }
        self.sections.push(section);
    }

    /// Also for what the loader finds.
    pub fn report(&mut self, severity: Severity, text: String) {
        let texts = match severity {
            Severity::Ignore => return,
            Severity::Warn => &mut self.warnings,
            Severity::Error => &mut self.errors,
        };
        if texts.len() < limits::SHAPING_NOTES && !texts.contains(&text) {
            texts.push(text);
        }
    }

    /// Whose sections hold for their sites, so that somebody has to ask DNS what these are.
    pub fn domains_to_look_up(&self) -> BTreeSet<Box<str>> {
        let rolled_up = |section: &Section| match &section.scope {
            Scope::Domain { name, rollup: true } => Some(name.clone()),
            _ => None,
        };
        self.sections.iter().filter_map(rolled_up).collect()
    }

    /// Takes in what DNS said, once all files are there, and looks for contradictions.
    pub fn finish(&mut self, looked: BTreeMap<Box<str>, Looked>, options: &LoadOptions) {
        self.check_providers(options.local_load);
        let mut by_site: BTreeMap<Arc<str>, Box<str>> = BTreeMap::new();
        for (domain, found) in looked {
            let place = self.place_of(&domain);
            match found {
                Looked::Failed(why) => {
                    self.report(options.dns_fail, format!("{place}: domain {domain}: {why}"));
                }
                Looked::NullMx => {
                    let text = format!("{place}: domain {domain} has a null MX, so no site");
                    self.report(options.null_mx, text);
                }
                Looked::Site { site, hosts } => {
                    self.check_overlap(&domain, &hosts, options.provider_overlap);
                    if let Some(other) = by_site.get(&site) {
                        let text = format!(
                            "{place}: domains {other} and {domain} have one site, {site}: \
                             say mx_rollup = false for one of them"
                        );
                        self.report(options.aliased_site, text);
                    }
                    by_site.insert(site.clone(), domain.clone());
                    self.sites.insert(domain, site);
                }
            }
        }
    }

    /// The newest section of the domain.
    fn place_of(&self, domain: &str) -> String {
        let of_it = |section: &&Section| match &section.scope {
            Scope::Domain { name, .. } => &**name == domain,
            _ => false,
        };
        let found = self.sections.iter().rev().find(of_it);
        found.map_or(String::new(), |section| section.place.to_string())
    }

    fn check_providers(&mut self, severity: Severity) {
        let missing = |section: &Section| match &section.scope {
            Scope::Provider { name } if !self.matches.contains_key(name) => {
                Some(format!("{}: provider {name} has no match, in any file", section.place))
            }
            _ => None,
        };
        let missing: Vec<String> = self.sections.iter().filter_map(missing).collect();
        missing.into_iter().for_each(|text| self.report(severity, text));
    }

    fn check_overlap(&mut self, domain: &str, hosts: &[String], severity: Severity) {
        let holds = |matches: &Vec<Match>| is_providers(matches, domain, hosts);
        let found = self.matches.iter().filter(|(_, matches)| holds(matches));
        let found: Vec<Box<str>> = found.map(|(name, _)| name.clone()).collect();
        for provider in found {
            let place = self.place_of(domain);
            let text = format!("{place}: domain {domain} is one of provider {provider}, too");
            self.report(severity, text);
        }
    }

    pub fn errors(&self) -> &[String] {
        &self.errors
    }

    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// What is right and has no effect in kumod.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Each source that is named, and by which sections.
    pub fn referenced_sources(&self) -> BTreeMap<Box<str>, BTreeSet<String>> {
        let mut referenced: BTreeMap<Box<str>, BTreeSet<String>> = BTreeMap::new();
        for section in &self.sections {
            for source in &section.sources {
                let by = referenced.entry(source.source.clone()).or_default();
                by.insert(section.scope.to_string());
            }
        }
        referenced
    }

    /// Of what the files say together, not of what DNS says: files of one meaning have one hash. Told apart are also
    /// orders, since they count.
    pub fn hash(&self) -> String {
        let text = serde_json::to_vec(&(&self.sections, &self.matches)).unwrap_or_default();
        format!("{:016x}", CRC.checksum(&text))
    }

    /// Of a rule where it stands: the same as long as neither changes.
    pub fn rule_hash(met: &Met) -> String {
        let text = serde_json::to_vec(&(&met.section.scope, met.rule)).unwrap_or_default();
        format!("{:016x}", CRC.checksum(&text))
    }
}

/// Whatever they say about the site.
fn is_of_one_name(one: &Scope, other: &Scope) -> bool {
    match (one, other) {
        (Scope::Default, Scope::Default) => true,
        (Scope::Domain { name: one, .. }, Scope::Domain { name: other, .. })
        | (Scope::Provider { name: one }, Scope::Provider { name: other }) => one == other,
        _ => false,
    }
}
