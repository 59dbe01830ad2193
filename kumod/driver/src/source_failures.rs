//! The last words that spoke against each egress source, by class: for the log and for operators. Invariant: no more sources than the engine may
//! know. What they mean for the source is the engine's to say, which hears of the class alone.
use crate::shared::lock;
use kumo_core::limits;
use kumo_core::source_health::SourceFailure;
use std::collections::HashMap;
use std::sync::Mutex;

#[derive(Debug, Default)]
pub(crate) struct SourceFailures(Mutex<HashMap<Box<str>, LastWords>>);

type LastWords = Vec<(SourceFailure, String)>;

impl SourceFailures {
    pub fn note(&self, source: &str, failure: SourceFailure, why: &str) {
        let mut all = lock(&self.0);
        if all.len() >= limits::SOURCES && !all.contains_key(source) {
            all.clear();
        }
        let of_source = all.entry(source.into()).or_default();
        of_source.retain(|(known, _)| *known != failure);
        of_source.push((failure, why.into()));
    }

    pub fn last(&self, source: &str, failure: SourceFailure) -> Option<String> {
        let all = lock(&self.0);
        let found = all.get(source)?.iter().find(|(known, _)| *known == failure);
        found.map(|(_, why)| why.clone())
    }
}
