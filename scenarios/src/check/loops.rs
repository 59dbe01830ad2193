//! I23: mail that comes back is refused once it has been round so many times. Proves that no copy carries more Received fields than the limit
//! and the node's own.
use super::{Facts, Violation, violation};
use kumo_core::limits::RECEIVED_FIELDS;

pub fn check(facts: &Facts<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    for (submission, story) in &facts.stories {
        for copy in &story.copies {
            let count = received_fields(copy.content);
            if count > RECEIVED_FIELDS + 2 {
                let what = format!("{submission} was delivered with {count} Received fields");
                found.push(violation("I23", copy.at, what));
            }
        }
    }
    found
}

pub fn received_fields(content: &[u8]) -> usize {
    let end = content.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(content.len());
    let header = String::from_utf8_lossy(&content[..end]);
    header.lines().filter(|line| line.starts_with("Received:")).count()
}
