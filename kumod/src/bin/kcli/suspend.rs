//! `suspend` and `suspend-ready-q`, with their lists and cancellations.
use super::arguments::{Form, Suspend, SuspendReadyQ};
use super::bounce::{selection, whole_seconds};
use super::output;
use super::server::{Failure, Server, read};
use hyper::Method;
use kumo_core::config::duration;
use kumod::http::api::{
    EntryId, SuspendEntry, SuspendReadyEntry, SuspendReadyRequest, SuspendRequest,
};

const PATH: &str = "/api/admin/suspend/v1";
const READY_PATH: &str = "/api/admin/suspend-ready-q/v1";

pub async fn order(server: &mut Server, order: &Suspend) -> Result<String, Failure> {
    let request = SuspendRequest {
        campaign: order.campaign.clone(),
        tenant: order.tenant.clone(),
        domain: order.domain.clone(),
        queue_names: order.queue.clone(),
        reason: order.reason.clone(),
        duration: order.duration,
        expires: None,
    };
    Ok(output::json(&server.post(PATH, &request).await?))
}

pub async fn order_ready(server: &mut Server, order: &SuspendReadyQ) -> Result<String, Failure> {
    let request = SuspendReadyRequest {
        name: order.name.clone(),
        reason: order.reason.clone(),
        duration: order.duration,
        expires: None,
    };
    Ok(output::json(&server.post(READY_PATH, &request).await?))
}

pub async fn list(server: &mut Server, form: Form) -> Result<String, Failure> {
    let document = server.get(PATH).await?;
    match form.is_json() {
        true => Ok(output::json(&document)),
        false => Ok(render_list(&read::<Vec<SuspendEntry>>(&document)?)),
    }
}

pub fn render_list(entries: &[SuspendEntry]) -> String {
    if entries.is_empty() {
        return "no suspensions of scheduled queues in force\n".into();
    }
    let rows = entries.iter().map(|entry| {
        let criteria =
            [("campaign", &entry.campaign), ("tenant", &entry.tenant), ("domain", &entry.domain)];
        [
            entry.id.clone(),
            selection(&criteria, &entry.queue_names),
            duration::render(whole_seconds(entry.duration)),
            entry.reason.clone(),
        ]
    });
    output::table(["ID", "WHICH", "ENDS IN>", "REASON"], rows)
}

pub async fn list_ready(server: &mut Server, form: Form) -> Result<String, Failure> {
    let document = server.get(READY_PATH).await?;
    match form.is_json() {
        true => Ok(output::json(&document)),
        false => Ok(render_ready_list(&read::<Vec<SuspendReadyEntry>>(&document)?)),
    }
}

pub fn render_ready_list(entries: &[SuspendReadyEntry]) -> String {
    if entries.is_empty() {
        return "no suspensions of ready queues in force\n".into();
    }
    let rows = entries.iter().map(|entry| {
        let remaining = duration::render(whole_seconds(entry.duration));
        [entry.id.clone(), entry.name.clone(), remaining, entry.reason.clone()]
    });
    output::table(["ID", "READY QUEUE", "ENDS IN>", "REASON"], rows)
}

pub async fn cancel(server: &mut Server, id: String) -> Result<String, Failure> {
    remove(server, PATH, id).await
}

pub async fn cancel_ready(server: &mut Server, id: String) -> Result<String, Failure> {
    remove(server, READY_PATH, id).await
}

async fn remove(server: &mut Server, path: &str, id: String) -> Result<String, Failure> {
    server.send(Method::DELETE, path, &EntryId { id: id.clone() }).await?;
    Ok(format!("removed {}\n", output::plain(&id)))
}
