//! Performs conclusions: writes the records, hands the update or removal to the committer. Invariant: records come
//! first, so that what is removed has been logged; the engine hears of each conclusion once, from the committer or from here.
//! A recipient whose last word isn't on disk stays in the spool, whatever becomes of the message's others: the next life tries again.
use crate::committer::{Submission, Waiter};
use crate::record::{RecordEvent, Recorder};
use crate::shared::{Attempt, Connection, LoadError, Shared};
use crate::world::World;
use bytes::Bytes;
use kumo_core::address::Mailbox;
use kumo_core::canary::{self, Canary};
use kumo_core::commit::Work;
use kumo_core::engine::{Conclusion, Input, Note, Reason, Then};
use kumo_core::id::OpId;
use kumo_core::log::RecordKind;
use kumo_core::marks::{Mark, reached};
use kumo_core::message::Message;
use kumo_core::recipients::RecipientSet;
use kumo_core::record::encode_meta;
use kumo_core::smtp::reply::Reply;
use kumo_core::time::Duration;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::sleep;

/// One conclusion to be performed.
pub(crate) struct Job {
    pub op: OpId,
    pub conclusion: Box<Conclusion>,
}

/// Conclusions that have to read their message from the spool, at one time.
const LOADING: usize = 64;
/// Before a message that couldn't be read is read again; it doubles each time, up to 32 seconds.
const PAUSE: Duration = Duration::from_millis(500);
const TRIES: u32 = 5;
/// What is said of a message whose reply got lost on our side.
const NO_REPLY: &str = "the outcome was not recorded";

pub(crate) async fn run<W: World>(shared: Arc<Shared<W>>, mut jobs: mpsc::UnboundedReceiver<Job>) {
    let loading = Arc::new(Semaphore::new(LOADING));
    while let Some(Job { op, conclusion }) = jobs.recv().await {
        let id = conclusion.message;
        let attempt = conclusion.attempt.and_then(|attempt| shared.take_attempt(attempt, id));
        // Policy may have changed the message since the attempt.
        let kept = shared.messages.get(id);
        let in_memory = kept.or_else(|| attempt.as_ref().map(|attempt| attempt.message.clone()));
        let subject = in_memory.map(Subject::whole);
        let needs = needs_of(&shared, &conclusion);
        let waits = is_last_word(&conclusion) || shared.unlogged(conclusion.message).is_some();
        if !waits && (subject.is_some() || needs == Needs::Nothing) {
            conclude(&shared, op, &conclusion, attempt, subject).await;
            continue;
        }
        // Others don't wait for its message to be read, or for its record to be on disk.
        let (task, loading) = (shared.clone(), loading.clone());
        shared.spawn(async move {
            let subject = match subject {
                None if needs != Needs::Nothing => {
                    match load_patiently(&task, &loading, &conclusion, needs).await {
                        Ok(subject) => Some(subject),
                        Err(error) => {
                            remember_unlogged(&task, &conclusion);
                            return leave(&task, op, &conclusion, &error.to_string()).await;
                        }
                    }
                }
                subject => subject,
            };
            conclude(&task, op, &conclusion, attempt, subject).await;
        });
    }
}

/// Whether it ends recipients with nothing but a record to show for it. Once that is lost nobody knows what became of them, so
/// it is on disk before the spool forgets them (I1). Of a delivery the peer has the message to show.
fn is_last_word(conclusion: &Conclusion) -> bool {
    conclusion.then != Then::Nothing && last_words(conclusion).next().is_some()
}

/// The recipients that a conclusion ends with nothing but a record to show for it.
fn last_words(conclusion: &Conclusion) -> impl Iterator<Item = &RecipientSet> {
    let ends = |kind| {
        matches!(kind, RecordKind::Bounce | RecordKind::Expiration | RecordKind::AdminBounce)
    };
    conclusion.notes.iter().filter(move |note| ends(note.kind)).map(|note| &note.recipients)
}

fn remember_unlogged<W: World>(shared: &Shared<W>, conclusion: &Conclusion) {
    last_words(conclusion).for_each(|ended| shared.remember_unlogged(conclusion.message, ended));
}

/// The spool keeps what it has, for an operator or for the next life; the engine goes on as if it were done.
async fn leave<W: World>(shared: &Shared<W>, op: OpId, conclusion: &Conclusion, why: &str) {
    reached(Mark::ConcludedWithoutMessage);
    if conclusion.then == Then::Remove {
        shared.forget_unlogged(conclusion.message);
    }
    tracing::error!(id = %conclusion.message, "what became of a message isn't written to the spool: {why}");
    shared.tell_engine(Input::Concluded { op, stored: true }).await;
}

/// The message that a conclusion is about. Its body may have been left in the spool.
struct Subject {
    message: Arc<Message>,
    size: u64,
    /// So that few bodies are in memory at one time; held as long as it is needed.
    _permit: Option<OwnedSemaphorePermit>,
}

impl Subject {
    fn whole(message: Arc<Message>) -> Subject {
        let size = message.body.len() as u64;
        Subject { message, size, _permit: None }
    }
}

/// What of a message a conclusion asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    Nothing,
    Envelope,
    Everything,
}

fn needs_of<W: World>(shared: &Shared<W>, conclusion: &Conclusion) -> Needs {
    let updates = matches!(conclusion.then, Then::Update { .. });
    let recorder = shared.world.recorder();
    if updates || conclusion.notes.iter().any(|note| recorder.quotes_header(note.kind)) {
        return Needs::Everything;
    }
    if conclusion.notes.is_empty() { Needs::Nothing } else { Needs::Envelope }
}

/// An update is the engine's to repeat and soon given up; an end is tried until the process stops.
async fn load_patiently<W: World>(
    shared: &Shared<W>,
    loading: &Arc<Semaphore>,
    conclusion: &Conclusion,
    needs: Needs,
) -> Result<Subject, LoadError> {
    let mut tries = 0;
    loop {
        let permit = loading.clone().acquire_owned().await.expect("never closed");
        let result = load(shared, conclusion, needs).await;
        tries += 1;
        let gives_up = conclusion.then != Then::Remove && tries == TRIES;
        match result {
            Ok(subject) => return Ok(Subject { _permit: Some(permit), ..subject }),
            Err(LoadError::Unavailable(why)) if !gives_up => {
                drop(permit);
                tracing::warn!(id = %conclusion.message, "a message can't be read, trying again: {why}");
                let pause = sleep(PAUSE * (1 << tries.min(6)));
                if shared.unless_stopping(pause).await.is_none() {
                    return Err(LoadError::Unavailable(why));
                }
            }
            Err(error) => return Err(error),
        }
    }
}

async fn load<W: World>(
    shared: &Shared<W>,
    conclusion: &Conclusion,
    needs: Needs,
) -> Result<Subject, LoadError> {
    if needs == Needs::Everything {
        return shared.load(conclusion.message).await.map(Subject::whole);
    }
    let record = shared.load_envelope(conclusion.message).await?;
    let size = u64::from(record.size);
    let message = Arc::new(record.into_message(Bytes::new()));
    Ok(Subject { message, size, _permit: None })
}

async fn conclude<W: World>(
    shared: &Arc<Shared<W>>,
    op: OpId,
    conclusion: &Conclusion,
    attempt: Option<Attempt>,
    subject: Option<Subject>,
) {
    let mut logged = true;
    if let Some(subject) = &subject {
        for note in &conclusion.notes {
            logged &= log(shared, conclusion, note, attempt.as_ref(), subject).await;
        }
    }
    count(shared, conclusion);
    if is_last_word(conclusion) {
        let settled = async {
            logged && shared.unless_stopping(shared.world.recorder().settled()).await == Some(true)
        };
        if !settled.await {
            remember_unlogged(shared, conclusion);
        }
    }
    let work = match shared.unlogged(conclusion.message) {
        None => work_of(shared, conclusion, subject),
        Some(unlogged) => match work_for_unlogged(shared, conclusion, subject, unlogged).await {
            Ok(work) => work,
            // The engine tries the removal again, without the records.
            Err(LoadError::Unavailable(_)) if conclusion.then == Then::Remove => {
                return shared.tell_engine(Input::Concluded { op, stored: false }).await;
            }
            Err(error) => return leave(shared, op, conclusion, &error.to_string()).await,
        },
    };
    match work {
        Some(work) => {
            let ends = (conclusion.then == Then::Remove).then_some(conclusion.message);
            let submission =
                Submission { work, waiter: Waiter::Engine { op, ends }, deadline: None };
            if shared.committer.send(submission).await.is_err() {
                shared.tell_engine(Input::Concluded { op, stored: false }).await;
            }
        }
        None => shared.tell_engine(Input::Concluded { op, stored: true }).await,
    }
}

fn work_of<W: World>(
    shared: &Shared<W>,
    conclusion: &Conclusion,
    subject: Option<Subject>,
) -> Option<Work> {
    let id = conclusion.message;
    match (&conclusion.then, subject) {
        (Then::Nothing, _) => None,
        (Then::Remove, _) if canary::planted(Canary::RemovalDropped) => None,
        (Then::Remove, _) => {
            shared.messages.remove(id);
            Some(Work::Remove { id })
        }
        (Then::Update { attempts, due, remaining }, Some(subject)) => {
            let mut next = (*subject.message).clone();
            (next.attempts, next.remaining) = (*attempts, remaining.clone());
            next.schedule.due = Some(*due);
            let meta = encode_meta(&next);
            shared.messages.insert(Arc::new(next), &shared.counters);
            Some(Work::Update { id, meta })
        }
        // It couldn't be read, so its state can't be written either; the engine has it.
        (Then::Update { .. }, None) => None,
    }
}

/// The last word on some recipients isn't on disk: the spool goes on holding them, though the engine is done with them.
async fn work_for_unlogged<W: World>(
    shared: &Shared<W>,
    conclusion: &Conclusion,
    subject: Option<Subject>,
    unlogged: RecipientSet,
) -> Result<Option<Work>, LoadError> {
    let id = conclusion.message;
    let why = "the last word on some of its recipients isn't on disk";
    let mut remaining = unlogged;
    let (attempts, due) = match &conclusion.then {
        Then::Nothing => return Ok(None),
        Then::Remove => (conclusion.attempts, None),
        Then::Update { attempts, due, remaining: others } => {
            others.iter().for_each(|index| remaining.insert(index));
            (*attempts, Some(*due))
        }
    };
    tracing::error!(%id, "{why}; the spool keeps them");
    let whole = subject.filter(|subject| subject.message.body.len() as u64 == subject.size);
    let message = match whole {
        Some(subject) => subject.message,
        None => shared.load(id).await?,
    };
    let mut next = (*message).clone();
    (next.attempts, next.remaining, next.schedule.due) = (attempts, remaining, due);
    let meta = encode_meta(&next);
    match conclusion.then {
        Then::Remove => shared.messages.remove(id),
        _ => shared.messages.insert(Arc::new(next), &shared.counters),
    }
    Ok(Some(Work::Update { id, meta }))
}

fn count<W: World>(shared: &Shared<W>, conclusion: &Conclusion) {
    for note in &conclusion.notes {
        let recipients = u64::from(note.recipients.len());
        let client = &shared.counters.smtp_client;
        match note.kind {
            RecordKind::Delivery => client.messages.add(recipients),
            RecordKind::TransientFailure => client.transiently_failed.add(recipients),
            RecordKind::Bounce | RecordKind::Expiration | RecordKind::AdminBounce => {
                client.failed.add(recipients);
            }
            _ => {}
        }
    }
}

/// One record for each different response. False: one that can't be done without found no room.
async fn log<W: World>(
    shared: &Arc<Shared<W>>,
    conclusion: &Conclusion,
    note: &Note,
    attempt: Option<&Attempt>,
    subject: &Subject,
) -> bool {
    let message = &*subject.message;
    let ending = conclusion.session.and_then(|session| shared.ending(session));
    let connection = match (attempt, &ending) {
        (Some(attempt), _) => attempt.connection.clone(),
        (None, Some(ending)) => ending.connection.clone(),
        (None, None) => Arc::new(Connection::default()),
    };
    for (reply, recipients) in responses(note, attempt, ending.map(|ending| ending.reply)) {
        let recipients: Vec<&Mailbox> = recipients
            .into_iter()
            .filter_map(|index| message.envelope.recipients.get(index as usize))
            .collect();
        let event = RecordEvent {
            kind: note.kind,
            when: shared.now().wall,
            message,
            size: subject.size,
            recipients,
            queue: &conclusion.queue,
            site: conclusion.site.as_deref().unwrap_or(""),
            response: reply,
            attempts: conclusion.attempts,
            peer_address: connection.peer.clone(),
            pool: conclusion.pool.as_deref(),
            source: conclusion.source.as_deref(),
            source_address: connection.source_address.clone(),
            delivery_protocol: (!connection.protocol.is_empty()).then_some(connection.protocol),
            tls: connection.tls.as_ref(),
            provider: connection.provider.as_deref(),
            session: (!connection.session.is_empty()).then(|| connection.session.clone()),
        };
        if !is_last_word(conclusion) {
            shared.record_or_count(event).await;
            continue;
        }
        let taken = shared.unless_stopping(shared.world.recorder().record(event)).await;
        if taken.is_none() {
            return false;
        }
    }
    true
}

fn responses(
    note: &Note,
    attempt: Option<&Attempt>,
    ending: Option<Reply>,
) -> Vec<(Reply, Vec<u32>)> {
    let all = |recipients: &RecipientSet| recipients.iter().collect::<Vec<u32>>();
    match &note.reason {
        Reason::Generated { code, internal, text } => {
            let prefix = if *internal { "KumoMTA internal: " } else { "" };
            let content = format!("{prefix}{text}");
            let reply = Reply { code: code.code, enhanced: code.enhanced, content, command: None };
            vec![(reply, all(&note.recipients))]
        }
        Reason::SessionEnd => {
            let reply = ending.unwrap_or_else(|| Reply::new(400, NO_REPLY));
            vec![(reply, all(&note.recipients))]
        }
        Reason::PeerReply => by_reply(note, attempt),
    }
}

fn by_reply(note: &Note, attempt: Option<&Attempt>) -> Vec<(Reply, Vec<u32>)> {
    let mut grouped: Vec<(Reply, Vec<u32>)> = Vec::new();
    for index in note.recipients.iter() {
        let found = attempt.and_then(|attempt| {
            attempt.replies.iter().find(|(of, _)| *of == index).map(|(_, reply)| reply.clone())
        });
        let reply = found.unwrap_or_else(|| Reply::new(400, NO_REPLY));
        match grouped.iter_mut().find(|(known, _)| *known == reply) {
            Some((_, recipients)) => recipients.push(index),
            None => grouped.push((reply, vec![index])),
        }
    }
    grouped
}
