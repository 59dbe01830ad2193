//! The engine's questions: to policy and to the DNS. Invariant: each gets one answer by its deadline, at worst `Failed`.
//! What policy says is passed on as it is, but for what it says when it fails on a message: that may quote the message.
use crate::policy::{EngineAnswer, EngineQuestion, Policy};
use crate::shared::Shared;
use crate::world::World;
use kumo_core::engine::{Answer, Input, Question, Resolution};
use kumo_core::id::{OpId, SpoolId};
use kumo_core::message::Message;
use kumo_core::mx;
use kumo_core::port::Resolver;
use kumo_core::smtp::reply::Reply;
use kumo_core::time::{Duration, Mono};
use std::sync::Arc;
use tokio::time::timeout;

pub(crate) fn ask<W: World>(shared: &Arc<Shared<W>>, op: OpId, question: Question, deadline: Mono) {
    let task = shared.clone();
    shared.spawn(async move {
        let left = deadline.since(task.now().mono);
        let is_on_message =
            matches!(question, Question::ThrottleInsert { .. } | Question::Requeue { .. });
        let answered = timeout(left, answer(&task, question.clone())).await;
        let mut answer = answered.unwrap_or_else(|_| Answer::Failed {
            why: format!("{question} didn't answer within {left:.0?}").into(),
        });
        if let Answer::Failed { why } = &mut answer {
            tracing::error!(target: "policy", "{why}");
            if is_on_message {
                *why = "policy failed on a message; the diagnostic log says how".into();
            }
        }
        task.tell_engine(Input::Answer { op, answer }).await;
    });
}

async fn answer<W: World>(shared: &Arc<Shared<W>>, question: Question) -> Answer {
    // Not for ever: who asks has a deadline.
    let _permit = match question {
        Question::ThrottleInsert { .. } | Question::Requeue { .. } => {
            Some(shared.asking.acquire().await.expect("never closed"))
        }
        _ => None,
    };
    let (message, response) = match subject(shared, &question).await {
        Ok(subject) => subject,
        Err(why) => return Answer::Failed { why: why.into() },
    };
    let message = message.map(|message| (*message).clone());
    let asked = EngineQuestion { question, message, response };
    let EngineAnswer { answer, message } = shared.world.policy().engine(asked).await;
    if let Some(message) = message {
        // As policy left it; the update that follows writes it down.
        shared.messages.insert(Arc::new(message), &shared.counters);
    }
    answer
}

type Subject = (Option<Arc<Message>>, Option<Reply>);

/// The message that a question is about, and the response that led to it.
async fn subject<W: World>(
    shared: &Arc<Shared<W>>,
    question: &Question,
) -> Result<Subject, String> {
    let load = async |id: SpoolId| shared.load(id).await.map_err(|error| error.to_string());
    match question {
        Question::ThrottleInsert { message } => Ok((Some(load(*message).await?), None)),
        Question::Requeue { message, attempt, .. } => {
            match attempt.and_then(|attempt| shared.peek_attempt(attempt, *message)) {
                Some((message, reply)) => Ok((Some(message), reply)),
                None => Ok((Some(load(*message).await?), None)),
            }
        }
        _ => Ok((None, None)),
    }
}

pub(crate) fn resolve<W: World>(
    shared: &Arc<Shared<W>>,
    op: OpId,
    domain: Arc<str>,
    deadline: Mono,
) {
    let task = shared.clone();
    shared.spawn(async move {
        let left = deadline.since(task.now().mono);
        let resolution = find(&task, &domain, left).await;
        task.tell_engine(Input::Resolved { op, resolution }).await;
    });
}

async fn find<W: World>(shared: &Shared<W>, domain: &str, left: Duration) -> Resolution {
    match timeout(left, shared.world.resolver().mx(domain)).await {
        Ok(answer) => mx::resolution(domain, answer),
        Err(_) => Resolution::Failed { why: format!("no answer about {domain} in time").into() },
    }
}
