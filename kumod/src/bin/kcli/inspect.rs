//! `inspect-message` and `set-log-filter`.
use super::output;
use super::server::{Failure, Server};
use hyper::Method;
use kumod::http::api::LogFilterRequest;
use kumod::http::client::with_query;

pub async fn message(server: &mut Server, id: &str, want_body: bool) -> Result<String, Failure> {
    let mut query = vec![("id", id)];
    query.extend(want_body.then_some(("want_body", "true")));
    let document = server.get(&with_query("/api/admin/inspect-message/v1", &query)).await?;
    Ok(output::json(&document))
}

pub async fn set_log_filter(server: &mut Server, filter: String) -> Result<String, Failure> {
    let path = "/api/admin/set_diagnostic_log_filter/v1";
    server.send(Method::POST, path, &LogFilterRequest { filter }).await?;
    Ok("OK\n".into())
}
