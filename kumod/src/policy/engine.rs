//! The engine's questions: configuration, throttling of promotion, requeueing.
//! Invariant: without a handler the answer is the documented default; a name that policy doesn't know is a failure
//! that says which handler is missing.
use super::error::PolicyError;
use super::events::{self, call, call_until_return, call_until_value};
use super::loan::Loan;
use super::message::{Draft, Recipients};
use super::session::message_object;
use super::state::{CallError, State};
use kumo_core::config::options::Constructed;
use kumo_core::config::{EgressPath, EgressPool, EgressSource, PoolEntry, QueueConfig};
use kumo_core::engine::{Answer, InsertReason, RequeueAnswer, ResolvedPool};
use kumo_core::message::Message;
use kumo_core::queue_name::{self, QueueName};
use kumo_core::smtp::reply::Reply;
use kumo_core::time::{Duration, Wall};
use kumo_driver::policy::EngineAnswer;
use mlua::{IntoLuaMulti, MultiValue};
use std::sync::Arc;

/// The pool and the source that need no handler.
pub const UNSPECIFIED: &str = "unspecified";

pub fn failed(error: &PolicyError) -> Answer {
    Answer::Failed { why: error.to_string().into() }
}

pub fn answered(answer: Answer) -> EngineAnswer {
    EngineAnswer { answer, message: None }
}

fn or_failed(event: &str, answer: Result<Answer, CallError>) -> Answer {
    answer.unwrap_or_else(|error| failed(&error.into_failure(event)))
}

/// Asks for what the constructor of `T` makes.
async fn made<T: Constructed + Clone + 'static>(
    state: &mut State,
    event: &str,
    arguments: impl IntoLuaMulti,
) -> Result<Option<T>, CallError> {
    let arguments = arguments.into_lua_multi(state.lua());
    let arguments = state.arguments(event, arguments)?;
    let returned = match events::is_multiple(event) {
        true => call_until_value(state, event, arguments).await?,
        false => call(state, event, arguments).await?,
    };
    returned.map_or(Ok(None), |returned| returned.made())
}

pub async fn queue_config(state: &mut State, queue: &str) -> Answer {
    let name = QueueName::parse(queue);
    let arguments = (name.domain, name.tenant, name.campaign, name.routing_domain);
    let config = made::<QueueConfig>(state, events::QUEUE_CONFIG, arguments).await;
    let answer = config.map(|config| Answer::QueueConfig(Box::new(config.unwrap_or_default())));
    or_failed(events::QUEUE_CONFIG, answer)
}

pub async fn egress_path(state: &mut State, domain: &str, source: &str, site: &str) -> Answer {
    let path = made::<EgressPath>(state, events::EGRESS_PATH, (domain, source, site)).await;
    let answer = path.map(|path| Answer::EgressPath(Box::new(path.unwrap_or_default())));
    or_failed(events::EGRESS_PATH, answer)
}

/// The pool of every queue that names none.
pub fn unspecified_pool() -> Answer {
    let source = EgressSource::named(UNSPECIFIED);
    let entries = vec![PoolEntry { name: UNSPECIFIED.into(), weight: 1 }];
    let pool = EgressPool { name: UNSPECIFIED.into(), entries, ttl: source.ttl };
    Answer::Pool(Box::new(ResolvedPool { pool, sources: vec![Arc::new(source)] }))
}

/// The text where a handler is missing, or doesn't know the name.
pub fn unknown(what: &str, name: &str, event: &str, constructor: &str) -> PolicyError {
    PolicyError {
        event: Some(event.into()),
        place: None,
        text: format!("there is no {what} {name:?}; its handler has to return {constructor}{{…}}"),
    }
}

pub fn unknown_pool(name: &str) -> PolicyError {
    unknown("egress pool", name, events::EGRESS_POOL, EgressPool::CONSTRUCTOR)
}

pub async fn pool(state: &mut State, name: &str) -> Answer {
    or_failed(events::EGRESS_POOL, resolve_pool(state, name).await)
}

async fn resolve_pool(state: &mut State, name: &str) -> Result<Answer, CallError> {
    let pool = made::<EgressPool>(state, events::EGRESS_POOL, name).await?;
    let mut pool = pool.ok_or_else(|| CallError::Failed(unknown_pool(name)))?;
    pool.entries.retain(|entry| entry.weight > 0);
    let mut sources = Vec::with_capacity(pool.entries.len());
    for entry in &pool.entries {
        sources.push(Arc::new(source(state, &entry.name).await?));
    }
    Ok(Answer::Pool(Box::new(ResolvedPool { pool, sources })))
}

async fn source(state: &mut State, name: &str) -> Result<EgressSource, CallError> {
    let found = match name {
        UNSPECIFIED => Some(EgressSource::named(UNSPECIFIED)),
        _ => made::<EgressSource>(state, events::EGRESS_SOURCE, name).await?,
    };
    found.ok_or_else(|| {
        let constructor = EgressSource::CONSTRUCTOR;
        CallError::Failed(unknown("egress source", name, events::EGRESS_SOURCE, constructor))
    })
}

/// The message as policy left it, if it changed it.
pub fn changed(draft: Draft) -> Option<Message> {
    draft.changed.then_some(draft.message)
}

pub async fn throttle_insert(state: &mut State, message: Message) -> EngineAnswer {
    const EVENT: &str = events::THROTTLE_INSERT;
    let draft = Loan::new(Draft::new(message, Recipients::Fixed));
    let made = message_object(state, &draft).into_lua_multi(state.lua());
    let called = match state.arguments(EVENT, made) {
        Ok(arguments) => call_until_return(state, EVENT, arguments).await,
        Err(error) => Err(error),
    };
    let draft = draft.take_back();
    if let Err(error) = called {
        return answered(failed(&error.into_failure(EVENT)));
    }
    let until = draft.message.schedule.due.filter(|_| draft.due_was_set);
    EngineAnswer { answer: Answer::ThrottleInsert { until }, message: changed(draft) }
}

/// What `requeue_message` is told besides the message.
pub struct Requeue {
    pub response: Option<Reply>,
    pub reasons: Vec<InsertReason>,
    pub increment_attempts: bool,
    pub delay: Option<Duration>,
}

pub async fn requeue(state: &mut State, message: Message, why: &Requeue) -> EngineAnswer {
    const EVENT: &str = events::REQUEUE;
    let queue = queue_name::of_message(&message);
    let draft = Loan::new(Draft::new(message, Recipients::Fixed));
    let made = requeue_arguments(state, &draft, why);
    let called = match state.arguments(EVENT, made) {
        Ok(arguments) => call_until_return(state, EVENT, arguments).await,
        Err(error) => Err(error),
    };
    let draft = draft.take_back();
    let answer = match called {
        Ok(()) => Answer::Requeue(requeue_answer(&queue, &draft)),
        Err(CallError::Raised(raised)) => {
            Answer::Requeue(RequeueAnswer::Reject(raised.reply.reply_code()))
        }
        Err(CallError::Failed(error)) => return answered(failed(&error)),
    };
    EngineAnswer { answer, message: changed(draft) }
}

fn requeue_arguments(
    state: &State,
    draft: &Loan<Draft>,
    why: &Requeue,
) -> mlua::Result<MultiValue> {
    let response = why.response.as_ref().map(|reply| reply.to_string().replace('\n', " "));
    // Their variants are called as operators know them.
    let reasons: Vec<String> = why.reasons.iter().map(|reason| format!("{reason:?}")).collect();
    let delay = why.delay.map(|delay| match delay.subsec_nanos() {
        0 => mlua::Value::Integer(i64::try_from(delay.as_secs()).unwrap_or(i64::MAX)),
        _ => mlua::Value::Number(delay.as_secs_f64()),
    });
    let object = message_object(state, draft);
    (object, response, reasons, why.increment_attempts, delay).into_lua_multi(state.lua())
}

fn requeue_answer(queue_before: &str, draft: &Draft) -> RequeueAnswer {
    let queue = queue_name::of_message(&draft.message);
    match draft.message.schedule.due {
        _ if queue != queue_before => RequeueAnswer::Move { queue: queue.into() },
        Some(due) if draft.due_was_set => RequeueAnswer::Due(due),
        // `msg:set_due(nil)`: as soon as possible.
        None if draft.due_was_set => RequeueAnswer::Due(Wall(0)),
        _ => RequeueAnswer::Keep,
    }
}
