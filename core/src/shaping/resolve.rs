//! Which sections hold for a path, in what order, and what comes of them (core.md 5.1): default, providers, site, domain,
//! then the same sites and domains for the source. Invariant: within a step the order is that of the files, and what comes
//! later wins. Pure: who a destination's hosts are is told.
use super::Shaping;
use super::read::{PROVIDER_CONNECTION_LIMIT, PROVIDER_MESSAGE_RATE, PROVIDER_SELECTION_RATE};
use super::rule::{Rule, Verdict};
use super::section::{Options, Scope, Section, SourceSection, is_providers};
use crate::mx::LISTED;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use serde_json::{Map, Value};

/// Options whose maps are merged.
const MERGED: [&str; 3] = [
    "additional_connection_limits",
    "additional_message_rate_throttles",
    "additional_source_selection_rates",
];

/// What becomes of a provider's limit: the map that it goes into, and the end of its name there.
const PROVIDERS: [(&str, &str, &str); 3] = [
    (PROVIDER_CONNECTION_LIMIT, "additional_connection_limits", "limit"),
    (PROVIDER_MESSAGE_RATE, "additional_message_rate_throttles", "rate"),
    (PROVIDER_SELECTION_RATE, "additional_source_selection_rates", "selection-rate"),
];

/// Where mail goes.
#[derive(Clone, Copy, Debug)]
pub struct Destination<'a> {
    /// The routing domain, in lower case.
    pub domain: &'a str,
    pub site: &'a str,
    /// Of the site; empty if nobody knows.
    pub hosts: &'a [String],
}

/// A rule that a record met.
#[derive(Clone, Copy, Debug)]
pub struct Met<'a> {
    pub section: &'a Section,
    pub rule: &'a Rule,
    pub verdict: Verdict,
}

/// A step of the order in which sections are merged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Default,
    Provider,
    Site,
    Domain,
}

impl Shaping {
    /// Whether providers are told by their hosts, so that somebody has to know these.
    pub fn needs_hosts(&self) -> bool {
        use super::section::Match::DomainSuffix;
        let mut all = self.matches.values().flatten();
        all.any(|one| !matches!(one, DomainSuffix(_)))
    }

    /// The options of a path, as `kumo.make_egress_path` takes them.
    pub fn path_options(&self, to: Destination, source: &str) -> Options {
        let mut options = Map::new();
        for step in [Step::Default, Step::Provider] {
            let sections = self.of_step(step, to);
            sections.iter().for_each(|section| merge_section(&mut options, section, source));
            sections.iter().for_each(|section| merge_source(&mut options, section, source));
        }
        let (sites, domains) = (self.of_step(Step::Site, to), self.of_step(Step::Domain, to));
        let both = || sites.iter().chain(&domains);
        both().for_each(|section| merge_section(&mut options, section, source));
        both().for_each(|section| merge_source(&mut options, section, source));
        options
    }

    /// The rules that a response from there meets, or that gave it up.
    pub fn rules_met(&self, to: Destination, content: &str, response: &str) -> Vec<Met<'_>> {
        let steps = [Step::Default, Step::Provider, Step::Site, Step::Domain];
        let sections = steps.into_iter().flat_map(|step| self.of_step(step, to));
        let rules =
            sections.flat_map(|section| section.rules.iter().map(move |one| (section, one)));
        let met = rules.map(|(section, rule)| {
            let verdict = rule.verdict(content, response);
            Met { section, rule, verdict }
        });
        met.filter(|met| met.verdict != Verdict::Differs).collect()
    }

    /// In the order of the files.
    fn of_step(&self, step: Step, to: Destination) -> Vec<&Section> {
        let holds = |section: &&Section| match (&section.scope, step) {
            (Scope::Default, Step::Default) => true,
            (Scope::Provider { name }, Step::Provider) => {
                let matches = self.matches.get(name).map_or(&[][..], Vec::as_slice);
                is_providers(matches, to.domain, to.hosts)
            }
            (Scope::Domain { name, rollup: true }, Step::Site) => {
                // For the domain itself also while DNS says something else than at the load, or nothing.
                let itself = &**name == to.domain && !to.site.starts_with(LISTED);
                itself || self.sites.get(name).is_some_and(|site| &**site == to.site)
            }
            (Scope::Domain { name, rollup: false }, Step::Domain) => &**name == to.domain,
            _ => false,
        };
        self.sections.iter().filter(holds).collect()
    }
}

fn merge_section(options: &mut Options, section: &Section, source: &str) {
    if section.replace_base {
        options.clear();
    }
    if let Scope::Provider { name } = &section.scope {
        options.insert("provider_name".into(), Value::from(&**name));
    }
    merge(options, &section.options, &section.scope, source);
}

fn merge_source(options: &mut Options, section: &Section, source: &str) {
    let of_it = |one: &&SourceSection| &*one.source == source;
    for found in section.sources.iter().filter(of_it) {
        if found.replace_base {
            options.clear();
        }
        merge(options, &found.options, &section.scope, source);
    }
}

fn merge(options: &mut Options, more: &Options, scope: &Scope, source: &str) {
    for (key, value) in more {
        let of_provider = PROVIDERS.iter().find(|(option, _, _)| option == key);
        match (of_provider, scope) {
            (Some((_, map, end)), Scope::Provider { name }) => {
                let name = format!("shaping-provider-{name}-{source}-{end}");
                put(options, map, Map::from_iter([(name, value.clone())]));
            }
            _ if MERGED.contains(&key.as_str()) => {
                put(options, key, value.as_object().cloned().unwrap_or_default());
            }
            _ => drop(options.insert(key.clone(), value.clone())),
        }
    }
}

/// Adds to the map that stands under `key`.
fn put(options: &mut Options, key: &str, more: Map<String, Value>) {
    match options.get_mut(key) {
        Some(Value::Object(map)) => map.extend(more),
        _ => drop(options.insert(key.into(), Value::Object(more))),
    }
}
