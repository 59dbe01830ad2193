//! A transaction's way from the session (or an injection) into spool and engine. Invariant: `Accepted` carries the proof
//! that the messages are durable, or the waiver; the engine hears of a message only after that. A refused transaction
//! leaves nothing behind that would be delivered.
use crate::health::Illness;
use crate::record::RecordEvent;
use crate::shared::Shared;
use crate::world::World;
use kumo_core::address::Mailbox;
use kumo_core::commit::{Accountable, CommitOutcome, Refusal, Store, Waiver, Whose, Work};
use kumo_core::engine::{Admission, Input, InsertReason};
use kumo_core::limits::BODY_OCTETS;
use kumo_core::log::{PeerAddress, RecordKind};
use kumo_core::message::{Message, Meta};
use kumo_core::queue_name;
use kumo_core::record::{encode_data, encode_meta};
use kumo_core::smtp::reply::Reply;
use kumo_core::smtp::server::Submitted;
use kumo_core::time::Mono;
use std::net::SocketAddr;
use std::sync::Arc;

struct Addressed {
    message: Arc<Message>,
    queue: Arc<str>,
}

/// `deadline`: the client's own, if it is shorter than the spool's.
pub(crate) async fn submit<W: World>(
    shared: &Arc<Shared<W>>,
    messages: Vec<Message>,
    deadline: Option<Mono>,
) -> Submitted {
    let too_big = messages.iter().any(|message| message.body.len() > BODY_OCTETS);
    if let Some(reply) = refusal(shared, too_big) {
        return Submitted::Refused(reply);
    }
    let address = |message: Message| {
        let queue = queue_name::of_message(&message).into();
        Addressed { message: Arc::new(message), queue }
    };
    let (discarded, kept): (Vec<Addressed>, Vec<Addressed>) = messages
        .into_iter()
        .map(address)
        .partition(|addressed| &*addressed.queue == queue_name::NULL);
    let accountable = match store(shared, &kept, discarded.len(), deadline).await {
        Ok(accountable) => accountable,
        Err(reply) => return Submitted::Refused(reply),
    };
    for Addressed { message, queue } in discarded.iter().chain(&kept) {
        log_reception(shared, message, queue).await;
    }
    for addressed in kept {
        admit(shared, addressed).await;
    }
    Submitted::Accepted(accountable)
}

fn refusal<W: World>(shared: &Shared<W>, too_big: bool) -> Option<Reply> {
    let host = &shared.hostname;
    if shared.is_stopping() {
        return Some(Reply::new(421, &format!("4.3.2 {host} shutting down")));
    }
    if let Some(illness) = shared.health.illness() {
        return Some(ill(host, illness));
    }
    if too_big {
        return Some(Reply::new(552, "5.3.4 message too big"));
    }
    shared.is_full().then(|| Reply::new(452, &format!("4.3.1 {host} too many messages are queued")))
}

/// Ends the session, as the banner would have refused it.
pub(crate) fn ill(host: &str, illness: Illness) -> Reply {
    Reply::new(421, &format!("4.3.2 {host} {}. Try later", illness.text()))
}

async fn store<W: World>(
    shared: &Arc<Shared<W>>,
    kept: &[Addressed],
    discarded: usize,
    deadline: Option<Mono>,
) -> Result<Accountable, Reply> {
    if discarded > 0 {
        shared.counters.waived_null_queue.add(discarded as u64);
    }
    if kept.is_empty() {
        return Ok(Accountable::waived(Waiver::NullQueue));
    }
    let record = |addressed: &Addressed| Store {
        id: addressed.message.id,
        data: encode_data(&addressed.message),
        meta: encode_meta(&addressed.message),
    };
    let transaction = kept.iter().map(record).collect();
    let host = &shared.hostname;
    match shared.commit(Work::Store(transaction), deadline).await {
        Some(CommitOutcome::Durable(durable)) => {
            shared.counters.committed_messages.add(kept.len() as u64);
            Ok(Accountable::durable(durable))
        }
        Some(CommitOutcome::Waived(waiver)) => {
            shared.counters.committed_messages.add(kept.len() as u64);
            shared.counters.waived_flush_off.add(kept.len() as u64);
            Ok(Accountable::waived(waiver))
        }
        Some(CommitOutcome::TimedOut(Whose::Spool)) => {
            Err(Reply::new(451, "4.4.5 spool write timed out"))
        }
        Some(CommitOutcome::TimedOut(Whose::Caller)) => {
            Err(Reply::new(451, "4.4.5 data_processing_timeout exceeded (spool)"))
        }
        Some(CommitOutcome::Refused(Refusal::Unhealthy)) => Err(ill(host, Illness::Unhealthy)),
        Some(CommitOutcome::Refused(Refusal::Stopping)) | None => {
            Err(Reply::new(421, &format!("4.3.2 {host} shutting down")))
        }
        Some(CommitOutcome::Refused(Refusal::Full)) => {
            Err(Reply::new(451, &format!("4.3.1 {host} too many messages wait for the spool")))
        }
        Some(CommitOutcome::Failed(error)) => {
            tracing::error!("the spool did not take a message: {error}");
            Err(match shared.health.illness() {
                Some(illness) => ill(host, illness),
                None => {
                    Reply::new(421, &format!("4.3.0 {host} the spool did not take the message"))
                }
            })
        }
        Some(CommitOutcome::Written) => unreachable!("a store is durable, waived or refused"),
    }
}

async fn log_reception<W: World>(shared: &Shared<W>, message: &Message, queue: &str) {
    let recipients: Vec<&Mailbox> = message.envelope.recipients.iter().collect();
    let event = RecordEvent {
        kind: RecordKind::Reception,
        when: shared.now().wall,
        message,
        size: message.body.len() as u64,
        recipients,
        queue,
        site: "",
        response: Reply::new(250, ""),
        attempts: 0,
        peer_address: Some(client_of(&message.meta)),
        pool: None,
        source: None,
        source_address: None,
        delivery_protocol: None,
        tls: None,
        provider: None,
        session: None,
    };
    shared.record_or_count(event).await;
}

/// Who sent it, as its metadata says: the name given in EHLO, and the address.
pub(crate) fn client_of(meta: &Meta) -> PeerAddress {
    let text = |key: &str| meta.get(key).and_then(|value| value.as_str()).unwrap_or("");
    let from = text("received_from");
    let addr = from.parse::<SocketAddr>().map_or(from.into(), |socket| socket.ip().to_string());
    PeerAddress { name: text("ehlo_domain").into(), addr }
}

async fn admit<W: World>(shared: &Arc<Shared<W>>, Addressed { message, queue }: Addressed) {
    let admission = admission(&message, queue, InsertReason::Received);
    shared.messages.insert(message, &shared.counters);
    shared.tell_engine(Input::Admit(admission)).await;
}

/// What the engine has to know of a message.
pub(crate) fn admission(message: &Message, queue: Arc<str>, reason: InsertReason) -> Admission {
    Admission {
        id: message.id,
        queue,
        recipients: u32::try_from(message.envelope.recipients.len()).unwrap_or(u32::MAX),
        remaining: message.remaining.clone(),
        size: u32::try_from(message.body.len()).unwrap_or(u32::MAX),
        attempts: message.attempts,
        due: message.schedule.due,
        expires: message.schedule.expires,
        reason,
    }
}
