//! `source-list` and `source-resume`.
use super::arguments::Form;
use super::output;
use super::server::{Failure, Server, read};
use hyper::Method;
use kumo_core::config::duration;
use kumod::http::api::{Moment, ResumeSource, Source, Sources};

const LIST: &str = "/api/admin/source-list/v1";
const RESUME: &str = "/api/admin/source-resume/v1";

pub async fn list(server: &mut Server, form: Form) -> Result<String, Failure> {
    let document = server.get(LIST).await?;
    match form.is_json() {
        true => Ok(output::json(&document)),
        false => Ok(render(&read(&document)?)),
    }
}

pub fn render(sources: &Sources) -> String {
    if sources.sources.is_empty() {
        return "no message has needed an egress source since the start\n".into();
    }
    let rows = sources.sources.iter().map(|source| row(source, sources.now));
    let table = output::table(
        [
            "SOURCE",
            "ADDRESS",
            "PROXY",
            "STATE",
            "SINCE",
            "ENDS IN>",
            "UNPLUMBED>",
            "PROXY UNHEALTHY>",
        ],
        rows,
    );
    let reasons: String = sources.sources.iter().filter_map(reason).collect();
    format!("{table}{reasons}")
}

/// Below the table, since it is longer than a column.
fn reason(source: &Source) -> Option<String> {
    let suspension = source.suspension.as_ref()?;
    let of_reason = source.failures.iter().find(|one| one.class == suspension.reason);
    let why = of_reason?.why.as_deref()?;
    Some(format!("{}: {}\n", output::plain(&source.name), output::plain(why)))
}

fn row(source: &Source, now: Moment) -> [String; 8] {
    let failures = |class: &str| {
        let found = source.failures.iter().find(|one| one.class == class);
        output::grouped(found.map_or(0, |one| one.failures))
    };
    let suspension = source.suspension.as_ref();
    let since = suspension.map(|suspension| suspension.since.to_string());
    let ends_in = suspension.map(|suspension| {
        let seconds = suspension.until.0.since(now.0).as_secs();
        duration::render(std::time::Duration::from_secs(seconds))
    });
    [
        source.name.clone(),
        output::or_dash(source.address.as_deref()),
        output::or_dash(source.proxy.as_deref()),
        suspension.map_or("well".into(), |suspension| format!("SUSPENDED: {}", suspension.reason)),
        output::or_dash(since.as_deref()),
        output::or_dash(ends_in.as_deref()),
        failures("Unplumbed"),
        failures("ProxyUnhealthy"),
    ]
}

pub async fn resume(server: &mut Server, name: String) -> Result<String, Failure> {
    server.send(Method::POST, RESUME, &ResumeSource { name: name.clone() }).await?;
    Ok(format!("{} is used again\n", output::plain(&name)))
}
