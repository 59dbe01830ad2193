//! What kcli wants from the server, and how it fails.
//! Invariant: an answer that isn't 2xx is a [`Failure`] with the server's own words.
use hyper::{Method, StatusCode};
use kumod::http::client::{Answer, Client, ClientError, Endpoint};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("the server refused with {status}: {text}")]
    Refused { status: StatusCode, text: String },
    #[error("the server's answer can't be read: {0}")]
    Unreadable(String),
    #[error("{0}")]
    Connection(#[from] ClientError),
    #[error("can't write the output: {0}")]
    Output(String),
}

impl Failure {
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::Refused { .. } | Failure::Unreadable(_) | Failure::Output(_) => 1,
            Failure::Connection(_) => 3,
        }
    }
}

pub struct Server {
    client: Client,
}

impl Server {
    pub fn new(endpoint: Endpoint, timeout: Duration) -> Server {
        Server { client: Client::new(endpoint, timeout) }
    }

    pub async fn get(&mut self, path: &str) -> Result<Value, Failure> {
        document(&accepted(self.client.get(path).await?)?)
    }

    /// Yields the body, whatever it is.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        request: &impl Serialize,
    ) -> Result<Answer, Failure> {
        let json = serde_json::to_vec(request).expect("a request of ours has text keys only");
        accepted(self.client.request(method, path, Some(json.into())).await?)
    }

    pub async fn post(&mut self, path: &str, request: &impl Serialize) -> Result<Value, Failure> {
        document(&self.send(Method::POST, path, request).await?)
    }
}

fn accepted(answer: Answer) -> Result<Answer, Failure> {
    if answer.status.is_success() {
        return Ok(answer);
    }
    let text = match answer.text() {
        text if text.is_empty() => "it didn't say why".into(),
        text => text.strip_prefix("Error: ").map(str::to_owned).unwrap_or(text),
    };
    Err(Failure::Refused { status: answer.status, text })
}

fn document(answer: &Answer) -> Result<Value, Failure> {
    serde_json::from_slice(&answer.body).map_err(|error| Failure::Unreadable(error.to_string()))
}

/// What a table is made of; fields that aren't known are passed over, so that newer servers can be asked too.
pub fn read<T: DeserializeOwned>(document: &Value) -> Result<T, Failure> {
    T::deserialize(document).map_err(|error| Failure::Unreadable(error.to_string()))
}
