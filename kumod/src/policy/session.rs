//! The events of a receiving session, and of a message injected over HTTP.
//! Invariant: metadata and message come back from policy whatever policy did, also when it failed.
use super::address::EnvelopeAddress;
use super::error::PolicyError;
use super::events::{self, call};
use super::loan::Loan;
use super::message::{Draft, MessageObject, Recipients};
use super::meta::ConnectionMeta;
use super::reject::Raised;
use super::state::{CallError, State};
use kumo_core::address::ReversePath;
use kumo_core::message::{Message, Meta};
use kumo_core::smtp::server::{Answer, Asked, Question, Verdict};
use kumo_driver::policy::Generated;
use mlua::{IntoLuaMulti, MultiValue};

pub fn event_of(asked: &Asked) -> &'static str {
    match asked {
        Asked::ConnectionAccepted => events::CONNECTION_ACCEPTED,
        Asked::Ehlo { .. } => events::EHLO,
        Asked::AuthPlain { .. } => events::AUTH_PLAIN,
        Asked::MailFrom { .. } => events::MAIL_FROM,
        Asked::ListenerDomain { .. } => events::LISTENER_DOMAIN,
        Asked::RcptTo { .. } => events::RCPT_TO,
        Asked::Data { .. } => events::DATA,
        Asked::MessageReceived { .. } => events::MESSAGE_RECEIVED,
    }
}

/// The answer where no handler is registered.
pub fn unhandled(question: Question) -> Answer {
    let verdict = match question.what {
        Asked::Data { message } | Asked::MessageReceived { message } => Verdict::Message(message),
        _ => Verdict::Proceed,
    };
    Answer { meta: question.meta, verdict }
}

pub fn failed(meta: Meta, error: &PolicyError) -> Answer {
    tracing::error!(target: "policy", "{error}");
    Answer { meta, verdict: Verdict::Failed(error.to_string()) }
}

pub async fn ask(state: &mut State, question: Question) -> Answer {
    let event = event_of(&question.what);
    let meta = Loan::new(question.meta);
    let verdict = match question.what {
        Asked::Data { message } | Asked::MessageReceived { message } => {
            with_message(state, event, message, &meta).await
        }
        what => without_message(state, event, what, &meta).await,
    };
    let meta = meta.take_back();
    match verdict {
        Ok(verdict) => Answer { meta, verdict },
        Err(CallError::Raised(Raised { reply, disconnect: None })) => {
            Answer { meta, verdict: Verdict::Reject(reply) }
        }
        Err(CallError::Raised(Raised { reply, disconnect: Some(how) })) => {
            Answer { meta, verdict: Verdict::Disconnect { reply, how } }
        }
        Err(CallError::Failed(error)) => failed(meta, &error),
    }
}

fn connection(state: &State, meta: &Loan<Meta>) -> ConnectionMeta {
    ConnectionMeta { meta: meta.lend(), budget: state.budget().clone() }
}

async fn without_message(
    state: &mut State,
    event: &'static str,
    what: Asked,
    meta: &Loan<Meta>,
) -> Result<Verdict, CallError> {
    let made = session_arguments(state, &what, meta);
    let arguments = state.arguments(event, made)?;
    let Some(returned) = call(state, event, arguments).await? else { return Ok(Verdict::Proceed) };
    Ok(match what {
        Asked::Ehlo { .. } => returned.texts()?.map_or(Verdict::Proceed, Verdict::Extensions),
        Asked::AuthPlain { .. } => Verdict::Authenticated(returned.boolean()?),
        Asked::ListenerDomain { .. } => Verdict::ListenerDomain(returned.made()?),
        _ => {
            returned.nothing(state);
            Verdict::Proceed
        }
    })
}

fn session_arguments(
    state: &State,
    what: &Asked,
    meta: &Loan<Meta>,
) -> mlua::Result<MultiValue> {
    let lua = state.lua();
    let meta = connection(state, meta);
    match what {
        Asked::Ehlo { domain, extensions } => {
            (domain.as_str(), meta, extensions.clone()).into_lua_multi(lua)
        }
        Asked::AuthPlain { authz, authc, password } => {
            (authz.as_str(), authc.as_str(), password.as_str(), meta).into_lua_multi(lua)
        }
        Asked::MailFrom { sender } => (EnvelopeAddress(sender.clone()), meta).into_lua_multi(lua),
        Asked::RcptTo { recipient } => {
            let recipient = ReversePath::Mailbox(recipient.clone());
            (EnvelopeAddress(recipient), meta).into_lua_multi(lua)
        }
        Asked::ListenerDomain { domain, listener } => {
            (domain.as_str(), listener.as_str(), meta).into_lua_multi(lua)
        }
        Asked::ConnectionAccepted | Asked::Data { .. } | Asked::MessageReceived { .. } => {
            meta.into_lua_multi(lua)
        }
    }
}

async fn with_message(
    state: &mut State,
    event: &'static str,
    message: Message,
    meta: &Loan<Meta>,
) -> Result<Verdict, CallError> {
    let draft = Loan::new(Draft::new(message, Recipients::Free));
    let made = (message_object(state, &draft), connection(state, meta)).into_lua_multi(state.lua());
    let arguments = state.arguments(event, made)?;
    if let Some(returned) = call(state, event, arguments).await? {
        returned.nothing(state);
    }
    Ok(Verdict::Message(draft.take_back().message))
}

pub fn message_object(state: &State, draft: &Loan<Draft>) -> MessageObject {
    MessageObject { draft: draft.lend(), budget: state.budget().clone() }
}

/// `http_message_generated(msg)`.
pub async fn message_generated(state: &mut State, message: Message) -> Generated {
    const EVENT: &str = events::HTTP_MESSAGE_GENERATED;
    let draft = Loan::new(Draft::new(message, Recipients::Free));
    match generated(state, EVENT, &draft).await {
        Ok(()) => Generated::Proceed(draft.take_back().message),
        Err(CallError::Raised(raised)) => Generated::Reject(raised.reply),
        Err(CallError::Failed(error)) => {
            tracing::error!(target: "policy", "{error}");
            Generated::Failed(error.to_string())
        }
    }
}

async fn generated(
    state: &mut State,
    event: &str,
    draft: &Loan<Draft>,
) -> Result<(), CallError> {
    let made = message_object(state, draft).into_lua_multi(state.lua());
    let arguments = state.arguments(event, made)?;
    if let Some(returned) = call(state, event, arguments).await? {
        returned.nothing(state);
    }
    Ok(())
}
