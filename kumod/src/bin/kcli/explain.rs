//! `explain-message`, `explain-queue` and `explain-source`.
use super::bounce::whole_seconds;
use super::output::{self, plain};
use super::server::{Failure, Server, read};
use kumo_core::config::duration;
use kumo_core::date;
use kumod::http::api::Explanation;
use kumod::http::client::with_query;

/// Of a message, a queue or a source.
pub async fn explain(
    server: &mut Server,
    kind: &str,
    name: &str,
    json: bool,
) -> Result<String, Failure> {
    let document = server.get(&with_query("/api/admin/explain/v1", &[(kind, name)])).await?;
    match json {
        true => Ok(output::json(&document)),
        false => Ok(render(&read(&document)?)),
    }
}

pub fn render(explanation: &Explanation) -> String {
    let mut text = format!("{}\n", plain(&explanation.subject));
    text.push_str(&format!("  next: {}\n", plain(&explanation.next_action)));
    if let Some(wait) = &explanation.waits_for {
        text.push_str(&format!("  waits for: {}\n", plain(wait)));
    }
    let when = match explanation.earliest {
        None => explanation.waits_for.as_ref().map(|_| "as soon as that has happened".into()),
        Some(at) if at.0 <= explanation.now.0 => Some("now".into()),
        Some(at) => {
            let wait = whole_seconds(at.0.since(explanation.now.0));
            Some(format!("{} (in {})", date::rfc3339(at.0), duration::render(wait)))
        }
    };
    text.extend(when.map(|when| format!("  earliest: {when}\n")));
    if !explanation.why.is_empty() {
        text.push_str("  why:\n");
    }
    for cause in &explanation.why {
        text.push_str(&format!("  - {}\n", plain(cause)));
    }
    text
}
