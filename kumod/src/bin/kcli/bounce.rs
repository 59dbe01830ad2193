//! `bounce`, `bounce-list`, `bounce-cancel`.
use super::arguments::{Bounce, Form};
use super::output::{self, counted, grouped};
use super::server::{Failure, Server, read};
use hyper::Method;
use kumo_core::config::duration;
use kumod::http::api::{BounceEntry, BounceRequest, BounceResponse, EntryId};

const PATH: &str = "/api/admin/bounce/v1";
/// A path of its own, so that a server that can't preview answers 404 instead of bouncing.
const PREVIEW_PATH: &str = "/api/admin/bounce-preview/v1";

pub async fn order(server: &mut Server, order: &Bounce) -> Result<String, Failure> {
    let request = BounceRequest {
        campaign: order.campaign.clone(),
        tenant: order.tenant.clone(),
        domain: order.domain.clone(),
        routing_domain: order.routing_domain.clone(),
        queue_names: order.queue.clone(),
        reason: order.reason.clone().unwrap_or_default(),
        duration: order.duration,
        expires: None,
        suppress_logging: order.suppress_logging,
    };
    if !order.dry_run {
        return Ok(output::json(&server.post(PATH, &request).await?));
    }
    let document = server.post(PREVIEW_PATH, &request).await?;
    match order.json {
        true => Ok(output::json(&document)),
        false => Ok(render_preview(&read(&document)?)),
    }
}

fn render_preview(preview: &BounceResponse) -> String {
    let queues = preview.bounced.len() as u64;
    let mut text = format!(
        "nothing is bounced; {} of {} would be\n",
        counted(preview.total_bounced, "message"),
        counted(queues, "scheduled queue")
    );
    if queues > 0 {
        let rows = preview.bounced.iter().map(|(queue, count)| [queue.clone(), grouped(*count)]);
        text.push_str(&output::table(["SCHEDULED QUEUE", "MESSAGES>"], rows));
    }
    text
}

pub async fn list(server: &mut Server, form: Form) -> Result<String, Failure> {
    let document = server.get(PATH).await?;
    match form.is_json() {
        true => Ok(output::json(&document)),
        false => Ok(render_list(&read::<Vec<BounceEntry>>(&document)?)),
    }
}

pub fn render_list(entries: &[BounceEntry]) -> String {
    if entries.is_empty() {
        return "no bounces in force\n".into();
    }
    let rows = entries.iter().map(|entry| {
        let criteria = [
            ("campaign", &entry.campaign),
            ("tenant", &entry.tenant),
            ("domain", &entry.domain),
            ("routing domain", &entry.routing_domain),
        ];
        [
            entry.id.clone(),
            selection(&criteria, &entry.queue_names),
            grouped(entry.total_bounced),
            duration::render(whole_seconds(entry.duration)),
            entry.reason.clone(),
        ]
    });
    output::table(["ID", "WHICH", "BOUNCED>", "ENDS IN>", "REASON"], rows)
}

/// What an order selects, in words.
pub fn selection(criteria: &[(&str, &Option<String>)], queues: &[String]) -> String {
    if !queues.is_empty() {
        return queues.join(", ");
    }
    let given = criteria
        .iter()
        .filter_map(|(name, value)| value.as_deref().map(|value| format!("{name} {value}")));
    let text = given.collect::<Vec<_>>().join(", ");
    if text.is_empty() { "everything".into() } else { text }
}

pub fn whole_seconds(duration: std::time::Duration) -> std::time::Duration {
    std::time::Duration::from_secs(duration.as_secs())
}

pub async fn cancel(server: &mut Server, id: String) -> Result<String, Failure> {
    server.send(Method::DELETE, PATH, &EntryId { id: id.clone() }).await?;
    Ok(format!("removed {}\n", output::plain(&id)))
}
