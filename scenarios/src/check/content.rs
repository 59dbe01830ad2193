//! I7: what is delivered is what was accepted, octet by octet, after trace fields. Proves it for every copy, against what the client sent.
use super::{Facts, Violation, violation};

pub fn check(facts: &Facts<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    for (submission, story) in &facts.stories {
        if story.submitted.is_none() {
            continue;
        }
        for copy in &story.copies {
            let trace = copy.content.strip_suffix(story.content);
            if !trace.is_some_and(is_trace) {
                let what = format!(
                    "{submission}: {} octets were accepted, and {} delivered that aren't those after trace fields",
                    story.content.len(),
                    copy.content.len()
                );
                found.push(violation("I7", copy.at, what));
            }
        }
    }
    found
}

/// Whole fields of the kinds that are put before a message on its way.
fn is_trace(octets: &[u8]) -> bool {
    const FIELDS: [&str; 3] = ["Received:", "X-KumoRef:", "Return-Path:"];
    let text = String::from_utf8_lossy(octets);
    (text.is_empty() || text.ends_with("\r\n"))
        && text.lines().all(|line| {
            line.starts_with([' ', '\t']) || FIELDS.iter().any(|field| line.starts_with(field))
        })
}
