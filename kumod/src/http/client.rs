//! A small HTTP/1.1 client for the tools: one connection, kept between requests.
//! Invariant: each request ends by its deadline, and what is read of an answer is bounded. No TLS, no redirects.
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode, Uri, body::Incoming};
use hyper_util::rt::TokioIo;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// What of an answer's body is read unless somebody asks for less.
const ANSWER_OCTETS: usize = 256 * 1024 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the server listens: `http://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Host and port as they stand in the Host field.
    authority: String,
    host: String,
    port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    #[error("an endpoint looks like http://127.0.0.1:8000")]
    Malformed,
    #[error("TLS endpoints aren't supported: point it at a plain http listener on this host")]
    Tls,
}

impl FromStr for Endpoint {
    type Err = EndpointError;
    fn from_str(text: &str) -> Result<Endpoint, EndpointError> {
        let uri: Uri = text.parse().map_err(|_| EndpointError::Malformed)?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(EndpointError::Tls),
            _ => return Err(EndpointError::Malformed),
        }
        let authority = uri.authority().ok_or(EndpointError::Malformed)?;
        if uri.path() != "/" || uri.query().is_some() || authority.as_str().contains('@') {
            return Err(EndpointError::Malformed);
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        Ok(Endpoint {
            authority: authority.as_str().into(),
            host: host.into(),
            port: authority.port_u16().unwrap_or(80),
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing was asked for.
    #[error("can't reach {endpoint}: {why}")]
    Unreachable { endpoint: String, why: String },
    /// What was asked for may or may not have happened.
    #[error(
        "{endpoint} gave no complete answer: {why}; what was asked for may have happened all the same"
    )]
    NoAnswer { endpoint: String, why: String },
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub body: Bytes,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim_end().to_owned()
    }
}

/// What reads and writes the connection runs in a task; it ends with this.
struct Connection {
    requests: SendRequest<Full<Bytes>>,
    task: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub struct Client {
    endpoint: Endpoint,
    /// For one request, connecting included.
    deadline: Duration,
    /// What of an answer's body is read; a longer one is none.
    limit: usize,
    connection: Option<Connection>,
}

impl Client {
    pub fn new(endpoint: Endpoint, deadline: Duration) -> Client {
        Client { endpoint, deadline, limit: ANSWER_OCTETS, connection: None }
    }

    pub fn with_limit(self, limit: usize) -> Client {
        Client { limit, ..self }
    }

    pub async fn get(&mut self, path: &str) -> Result<Answer, ClientError> {
        self.request(Method::GET, path, None).await
    }

    /// `path` may have a query. `json` is a document.
    pub async fn request(
        &mut self,
        method: Method,
        path: &str,
        json: Option<Bytes>,
    ) -> Result<Answer, ClientError> {
        let deadline = self.deadline;
        let connect = timeout(deadline.min(CONNECT_TIMEOUT), self.connected());
        let mut connection = match connect.await {
            Ok(Ok(connection)) => connection,
            Ok(Err(why)) => return Err(self.unreachable(why)),
            Err(_) => return Err(self.unreachable("it doesn't answer".into())),
        };
        let request = self.render(method, path, json);
        let answer = match timeout(deadline, exchange(&mut connection, request, self.limit)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(why)) => return Err(self.no_answer(why)),
            Err(_) => return Err(self.no_answer(format!("it took longer than {deadline:?}"))),
        };
        let (answer, is_kept) = answer;
        self.connection = is_kept.then_some(connection);
        Ok(answer)
    }

    /// The connection that is open, if it still takes requests, or a new one.
    async fn connected(&mut self) -> Result<Connection, String> {
        if let Some(mut connection) = self.connection.take()
            && connection.requests.ready().await.is_ok()
        {
            return Ok(connection);
        }
        let Endpoint { host, port, .. } = &self.endpoint;
        let tcp = TcpStream::connect((host.as_str(), *port)).await.map_err(|e| e.to_string())?;
        // Fails only on a connection that is gone, as the request will find out.
        let _ = tcp.set_nodelay(true);
        let (requests, connection) =
            handshake(TokioIo::new(tcp)).await.map_err(|error| error.to_string())?;
        let task = tokio::spawn(async move {
            // Its error is told to the request that it ends.
            let _ = connection.await;
        });
        Ok(Connection { requests, task })
    }

    fn render(&self, method: Method, path: &str, json: Option<Bytes>) -> Request<Full<Bytes>> {
        let mut request = Request::builder().method(method).uri(path);
        request = request.header(HOST, &self.endpoint.authority);
        if json.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        request
            .body(Full::new(json.unwrap_or_default()))
            .expect("paths are our own, with their queries encoded, and the host was parsed")
    }

    fn unreachable(&self, why: String) -> ClientError {
        ClientError::Unreachable { endpoint: self.endpoint.to_string(), why }
    }

    fn no_answer(&self, why: String) -> ClientError {
        ClientError::NoAnswer { endpoint: self.endpoint.to_string(), why }
    }
}

/// Yields also whether the connection may be used again.
async fn exchange(
    connection: &mut Connection,
    request: Request<Full<Bytes>>,
    limit: usize,
) -> Result<(Answer, bool), String> {
    let sent = connection.requests.send_request(request).await;
    let response: Response<Incoming> = sent.map_err(|error| error.to_string())?;
    let status = response.status();
    let is_last = response
        .headers()
        .get(CONNECTION)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"));
    let body = Limited::new(response.into_body(), limit).collect().await;
    let body = body.map_err(|error| error.to_string())?.to_bytes();
    Ok((Answer { status, body }, !is_last))
}

/// `path?name=value&…`, encoded; no `?` where there are no pairs.
pub fn with_query(path: &str, pairs: &[(&str, &str)]) -> String {
    let mut text = String::from(path);
    for (position, (name, value)) in pairs.iter().enumerate() {
        text.push(if position == 0 { '?' } else { '&' });
        text.push_str(name);
        text.push('=');
        value.bytes().for_each(|byte| encode(byte, &mut text));
    }
    text
}

/// RFC 3986 2.3: everything but unreserved characters is escaped.
fn encode(byte: u8, text: &mut String) {
    if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
        text.push(char::from(byte));
    } else {
        text.push_str(&format!("%{byte:02X}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_plain_http_urls_without_a_path() {
        let parse = |text: &str| text.parse::<Endpoint>();
        let endpoint = parse("http://127.0.0.1:8000").unwrap();
        assert_eq!(endpoint.to_string(), "http://127.0.0.1:8000");
        assert_eq!(parse("http://[::1]:8000/").unwrap().host, "::1");
        assert_eq!(parse("http://mail.test").unwrap().port, 80);
        assert_eq!(parse("https://mail.test"), Err(EndpointError::Tls));
        for text in [
            "",
            "127.0.0.1:8000",
            "ftp://x",
            "http://",
            "http://x/api",
            "http://u:p@x",
            "http://x?y",
        ] {
            assert_eq!(parse(text), Err(EndpointError::Malformed), "{text}");
        }
    }

    #[test]
    fn queries_are_escaped() {
        assert_eq!(with_query("/x", &[]), "/x");
        let name = "a b->(c|d)?.é@smtp_client";
        let query = with_query("/x", &[("queue", name), ("limit", "5")]);
        assert_eq!(query, "/x?queue=a%20b-%3E%28c%7Cd%29%3F.%C3%A9%40smtp_client&limit=5");
    }
}
