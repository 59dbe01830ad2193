//! `POST /api/inject/v1` with ready-made content. Invariant: each recipient becomes a message of its own and is counted as a
//! success only once it is accounted for; what this version can't do is refused by the field's name.
use super::api::InjectResponse;
use super::errors::{ApiError, parse};
use super::serve::{Client, Operations};
use crate::line_ends::with_crlf;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use kumo_core::address::{Mailbox, ReversePath};
use kumo_core::config::listener::TraceHeaders;
use kumo_core::header;
use kumo_core::message::{Envelope, Message, Meta};
use kumo_core::recipients::RecipientSet;
use kumo_core::smtp::server::{Submitted, trace};
use kumo_driver::policy::Generated;
use serde::Deserialize;
use serde_json::Value;

/// Messages stored together: so many, or so many octets.
const TOGETHER: usize = 128;
const TOGETHER_OCTETS: usize = kumo_core::limits::BATCH_OCTETS;
const RECIPIENTS: usize = 10_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    envelope_sender: String,
    recipients: Vec<Recipient>,
    content: Value,
    #[serde(default)]
    substitutions: Meta,
    #[serde(default)]
    deferred_spool: bool,
    #[serde(default)]
    deferred_generation: bool,
    #[serde(default)]
    trace_headers: Trace,
    #[serde(default)]
    template_dialect: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Recipient {
    email: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    substitutions: Meta,
    #[serde(default)]
    metadata: Meta,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Trace {
    received_header: bool,
    supplemental_header: bool,
    header_name: String,
    include_meta_names: Vec<String>,
}

impl Default for Trace {
    fn default() -> Trace {
        let name = "X-KumoRef".into();
        Trace {
            received_header: false,
            supplemental_header: true,
            header_name: name,
            include_meta_names: Vec::new(),
        }
    }
}

impl From<Trace> for TraceHeaders {
    fn from(trace: Trace) -> TraceHeaders {
        let Trace { received_header, supplemental_header, header_name, include_meta_names } = trace;
        TraceHeaders { received_header, supplemental_header, header_name, include_meta_names }
    }
}

/// A request whose parts this version can do.
struct Injection {
    sender: ReversePath,
    recipients: Vec<Recipient>,
    content: bytes::Bytes,
    trace: TraceHeaders,
}

fn refuse(field: &str, why: &str) -> ApiError {
    ApiError::unprocessable(format!("field '{field}': {why}"))
}

impl Request {
    fn check(self) -> Result<Injection, ApiError> {
        let sender = ReversePath::parse(&self.envelope_sender)
            .map_err(|error| refuse("envelope_sender", error.0))?;
        let Value::String(content) = self.content else {
            return Err(refuse(
                "content",
                "building a message from parts isn't supported yet; give the whole message as a string",
            ));
        };
        if content.is_empty() {
            return Err(refuse("content", "it is empty"));
        }
        let substitutes = self.recipients.iter().any(|one| !one.substitutions.is_empty());
        if !self.substitutions.is_empty() || substitutes {
            return Err(refuse("substitutions", "templates aren't supported yet"));
        }
        if self.template_dialect.is_some_and(|dialect| dialect != "Static") {
            return Err(refuse("template_dialect", "templates aren't supported yet"));
        }
        if self.deferred_spool {
            return Err(refuse("deferred_spool", "a message is on disk before it is acknowledged"));
        }
        if self.deferred_generation {
            return Err(refuse("deferred_generation", "it isn't supported yet"));
        }
        if self.recipients.is_empty() || self.recipients.len() > RECIPIENTS {
            return Err(refuse("recipients", "there must be between 1 and 10000"));
        }
        header::render(&self.trace_headers.header_name, "")
            .map_err(|error| refuse("trace_headers.header_name", &error.to_string()))?;
        Ok(Injection {
            sender,
            recipients: self.recipients,
            content: with_crlf(content.as_bytes()),
            trace: self.trace_headers.into(),
        })
    }
}

pub async fn inject(
    State(operations): State<Operations>,
    Extension(client): Extension<Client>,
    body: Result<Bytes, axum::extract::rejection::BytesRejection>,
) -> Result<Response, ApiError> {
    if let Some(why) = operations.handle.unavailable() {
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, why));
    }
    let body = body.map_err(|rejection| {
        ApiError::new(
            rejection.status(),
            "Failed to buffer the request body: length limit exceeded",
        )
    })?;
    let injection = parse::<Request>(&body)?.check()?;
    let mut answer = InjectResponse::default();
    let mut generated = Vec::new();
    let (mut tried, mut stored, mut octets) = (false, false, 0);
    for recipient in &injection.recipients {
        match message(&operations, &client, &injection, recipient).await {
            Ok(message) => {
                octets += message.body.len();
                generated.push((recipient.email.as_str(), message));
            }
            Err(why) => fail(&mut answer, &recipient.email, &why),
        }
        if generated.len() == TOGETHER || octets >= TOGETHER_OCTETS {
            (tried, octets) = (true, 0);
            stored |= store(&operations, std::mem::take(&mut generated), &mut answer).await;
        }
    }
    let tried = tried || !generated.is_empty();
    if !generated.is_empty() {
        stored |= store(&operations, generated, &mut answer).await;
    }
    let status = if stored || !tried { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok((status, Json(answer)).into_response())
}

fn fail(answer: &mut InjectResponse, recipient: &str, why: &str) {
    answer.fail_count += 1;
    answer.failed_recipients.push(recipient.into());
    answer.errors.push(format!("{recipient}: {why}"));
}

async fn message(
    operations: &Operations,
    client: &Client,
    injection: &Injection,
    recipient: &Recipient,
) -> Result<Message, String> {
    let mailbox = Mailbox::parse(&recipient.email).map_err(|error| error.0.to_string())?;
    let mut meta = Meta::new();
    meta.insert("reception_protocol".into(), "HTTP".into());
    meta.insert("received_from".into(), client.peer.to_string().into());
    if !recipient.metadata.is_empty() {
        meta.insert("extra".into(), Value::Object(recipient.metadata.clone()));
    }
    if let Some(name) = &recipient.name {
        meta.insert("name".into(), name.as_str().into());
    }
    let message = Message {
        id: operations.handle.new_id(),
        envelope: Envelope { sender: injection.sender.clone(), recipients: vec![mailbox] },
        remaining: RecipientSet::all(1),
        meta,
        schedule: Default::default(),
        attempts: 0,
        body: injection.content.clone(),
    };
    let mut message = match operations.handle.generate(message).await {
        Generated::Proceed(message) => message,
        Generated::Reject(reply) => return Err(reply.to_string()),
        Generated::Failed(why) => {
            tracing::error!("{why}");
            return Err("policy failed; its error is in the diagnostic log".into());
        }
    };
    add_trace(operations, client, injection, &mut message);
    Ok(message)
}

fn add_trace(
    operations: &Operations,
    client: &Client,
    injection: &Injection,
    message: &mut Message,
) {
    let handle = &operations.handle;
    let recipients = &message.envelope.recipients;
    if injection.trace.received_header {
        let field = format!(
            "Received: from {} by {} (kumod)\r\n  with HTTP id {} for <{}>;\r\n  {}\r\n",
            client.peer.ip(),
            handle.hostname(),
            message.id,
            recipients.first().map_or("", |recipient| recipient.as_str()),
            kumo_core::date::rfc5322(handle.now().wall),
        );
        message.body = header::prepend_raw(&message.body, field);
    }
    if injection.trace.supplemental_header {
        let TraceHeaders { header_name, include_meta_names, .. } = &injection.trace;
        let field = trace::supplemental(header_name, recipients, include_meta_names, &message.meta);
        message.body = header::prepend_raw(&message.body, field);
    }
}

/// Whether they were stored.
async fn store(
    operations: &Operations,
    generated: Vec<(&str, Message)>,
    answer: &mut InjectResponse,
) -> bool {
    let (recipients, messages): (Vec<&str>, Vec<Message>) = generated.into_iter().unzip();
    let why = match operations.handle.submit(messages).await {
        Some(Submitted::Accepted(_)) => {
            answer.success_count += recipients.len() as u64;
            return true;
        }
        Some(Submitted::Refused(reply)) => reply.to_string(),
        None => "shutting down".into(),
    };
    recipients.into_iter().for_each(|recipient| fail(answer, recipient, &why));
    false
}
