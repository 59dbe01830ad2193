//! A shaping file from an HTTP server. Invariant: it ends by its deadline, and takes no more than a local file may be long.
//! No TLS: https is refused with words.
use crate::http::client::{Client, Endpoint};
use kumo_core::limits;
use kumo_core::time::Duration;

pub fn is_remote(path: &str) -> bool {
    path.starts_with("http://") || path.starts_with("https://")
}

/// The text at `url`, such as `http://host:port/path`.
pub async fn fetch(url: &str, deadline: Duration) -> Result<Vec<u8>, String> {
    let failed = |why: String| format!("can't fetch {url}: {why}");
    let rest = url.strip_prefix("http://").ok_or_else(|| {
        failed(
            "kumod fetches shaping files by http only; fetch it by other means into a file".into(),
        )
    })?;
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let endpoint: Endpoint = format!("http://{authority}")
        .parse()
        .map_err(|_| failed("the URL looks like http://host:port/path".into()))?;
    if path.bytes().any(|byte| !byte.is_ascii_graphic()) || path.contains('#') {
        return Err(failed("its path has to be encoded".into()));
    }
    let mut client = Client::new(endpoint, deadline).with_limit(limits::POLICY_FILE_OCTETS);
    let answer = client.get(path).await.map_err(|error| failed(error.to_string()))?;
    match answer.status.as_u16() {
        200 => Ok(answer.body.into()),
        other => Err(failed(format!("the server answered {other}"))),
    }
}
