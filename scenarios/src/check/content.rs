//! I7: what is delivered is what was accepted, octet by octet, after trace fields. Proves it for every copy, against what the client sent.
use super::{Facts, Violation, violation};

pub fn check(facts: &Facts<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    for (submission, story) in &facts.stories {
        if story.submitted.is_none() {
            continue;
        }
        for copy in &story.copies {
            if !copy.content.ends_with(story.content) {
                let what = format!(
                    "{submission}: {} octets were accepted and {} other ones delivered",
                    story.content.len(),
                    copy.content.len()
                );
                found.push(violation("I7", copy.at, what));
            }
        }
    }
    found
}
