//! `spool-health`, `spool-compact`, and what is done about damaged messages.
use super::arguments::Form;
use super::output;
use super::server::{Failure, Server, read};
use hyper::{Method, StatusCode};
use indicatif::{ProgressBar, ProgressStyle};
use kumod::http::api::{CompactRequest, SpoolStore, SpoolTroubles, StoreHealth, TOO_LITTLE_ROOM};
use std::time::Duration;

/// How long a compaction is waited for at least.
pub const COMPACTION: Duration = Duration::from_secs(24 * 3600);

const HEALTH: &str = "/api/admin/spool-health/v1";
const COMPACT: &str = "/api/admin/spool-compact/v1";
const QUARANTINE: &str = "/api/admin/spool-quarantine/v1";
const EXPORT: &str = "/api/admin/spool-quarantine-export/v1";

pub async fn health(server: &mut Server, form: Form) -> Result<String, Failure> {
    let document = server.get(HEALTH).await?;
    match form.is_json() {
        true => Ok(output::json(&document)),
        false => Ok(render_health(&read(&document)?)),
    }
}

pub fn render_health(health: &StoreHealth) -> String {
    let stores = health.stores.iter().map(|store| {
        [
            store.holds.join(", "),
            store.path.clone(),
            state(store).into(),
            output::grouped(store.free_octets / 1_000_000),
            output::grouped(store.background_errors),
            output::or_dash(store.why.as_deref()),
        ]
    });
    let logs = health.logs.iter().map(|folder| {
        [
            "logs".into(),
            folder.path.clone(),
            if folder.is_full { "REFUSING" } else { "healthy" }.into(),
            output::grouped(folder.free_octets / 1_000_000),
            output::or_dash(None),
            output::or_dash(folder.is_full.then_some(TOO_LITTLE_ROOM)),
        ]
    });
    let rows = stores.chain(logs);
    output::table(["HOLDS", "PATH", "STATE", "FREE MB>", "BACKGROUND ERRORS>", "WHY"], rows)
}

fn state(store: &SpoolStore) -> &'static str {
    match (store.accepts_writes, store.automatic_compaction_off) {
        (false, _) => "REFUSING",
        (true, true) => "damaged",
        (true, false) => "healthy",
    }
}

pub async fn compact(server: &mut Server, name: &str) -> Result<String, Failure> {
    let progress = ProgressBar::new_spinner();
    let style = ProgressStyle::with_template("{spinner} compacting {msg}: {elapsed_precise}");
    progress.set_style(style.expect("a template of ours"));
    progress.set_message(name.to_owned());
    progress.enable_steady_tick(Duration::from_millis(200));
    let request = CompactRequest { name: name.into() };
    let done = server.send(Method::POST, COMPACT, &request).await;
    progress.finish_and_clear();
    done.map(|_| String::new())
}

pub async fn quarantine(server: &mut Server, form: Form) -> Result<String, Failure> {
    let document = server.get(QUARANTINE).await?;
    match form.is_json() {
        true => Ok(output::json(&document)),
        false => Ok(render_quarantine(&read(&document)?)),
    }
}

pub fn render_quarantine(troubles: &SpoolTroubles) -> String {
    if troubles.messages.is_empty() {
        return "no damaged messages were met since the start\n".into();
    }
    let listed = troubles.messages.len() as u64;
    let rows = troubles.messages.iter().map(|message| [message.id.clone(), message.why.clone()]);
    let mut text = output::table(["ID", "WHY"], rows);
    if troubles.found > listed {
        let more = output::grouped(troubles.found - listed);
        text.push_str(&format!("and {more} more, which the diagnostic log names\n"));
    }
    text
}

pub async fn export(server: &mut Server, id: &str) -> Result<String, Failure> {
    Ok(output::json(&server.get(&format!("{EXPORT}?id={}", plain(id)?)).await?))
}

pub async fn drop(server: &mut Server, id: &str, dry_run: bool) -> Result<String, Failure> {
    let id = plain(id)?;
    let troubles: SpoolTroubles = read(&server.get(QUARANTINE).await?)?;
    let Some(message) = troubles.messages.iter().find(|message| message.id == id) else {
        let text = format!("{id} isn't in quarantine; `kcli spool-list-quarantine` lists what is");
        return Err(Failure::Refused { status: StatusCode::NOT_FOUND, text });
    };
    if dry_run {
        return Ok(format!("{id} would be removed: {}\n", output::plain(&message.why)));
    }
    server.send(Method::DELETE, &format!("{QUARANTINE}?id={id}"), &()).await?;
    Ok(String::new())
}

/// An id holds nothing that a URL could take otherwise.
fn plain(id: &str) -> Result<&str, Failure> {
    match id.bytes().all(|octet| octet.is_ascii_hexdigit()) && !id.is_empty() {
        true => Ok(id),
        false => {
            let text = format!("{id:?} isn't a message id, which is 32 hexadecimal digits");
            Err(Failure::Refused { status: StatusCode::UNPROCESSABLE_ENTITY, text })
        }
    }
}
