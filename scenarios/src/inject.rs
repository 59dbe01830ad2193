//! Clients of the HTTP kind: they hand messages to the node's own interface. Invariant: an answer that never comes is ambiguous, as it is for
//! any client whose connection breaks; a refused or ambiguous message is tried again as a new submission.
use crate::node::{Command, Injected, Injections, Make};
use crate::options::Load;
use crate::setup::Task;
use kumo_core::address::{Mailbox, ReversePath};
use kumo_core::message::{Envelope, Message, Schedule};
use kumo_core::recipients::RecipientSet;
use kumo_core::time::Duration;
use kumo_io_sim::client::{self, MessageWork};
use kumo_io_sim::ledger::{Answer, Event, Submission};
use kumo_io_sim::universe::Universe;
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout};

const PATIENCE: Duration = Duration::from_secs(120);

pub async fn run(
    universe: Arc<Universe>,
    door: Injections,
    load: Load,
    tasks: Vec<Task>,
    seed: u64,
) {
    let began = Instant::now();
    for (at, work) in tasks {
        sleep_until(began + at).await;
        for attempt in 0..=load.retries {
            let submission = Submission { message: work.message, attempt };
            if hand_in(&universe, &door, &work, submission, seed).await {
                break;
            }
            sleep(load.pause).await;
        }
    }
}

/// True: there is no need to try again.
async fn hand_in(
    universe: &Universe,
    door: &Injections,
    work: &MessageWork,
    submission: Submission,
    seed: u64,
) -> bool {
    let Some(node) = door.borrow().clone() else { return false };
    let content = client::content(work.message, submission.attempt, work.size, seed);
    let recipients = work.recipients.clone();
    let event = Event::Submitting { submission, recipients, content: content.clone() };
    universe.write(event);
    let (answer, answered) = oneshot::channel();
    let make = maker(work, content);
    let sent = node.send(Command::Inject { make, answer }).await;
    let answer = match timeout(PATIENCE, answered).await {
        _ if sent.is_err() => Answer::Never,
        Ok(Ok(Injected::Accepted(id))) => Answer::Accepted { ids: vec![id] },
        Ok(Ok(Injected::Refused(code))) => Answer::Refused { code },
        Ok(Err(_)) | Err(_) => Answer::Ambiguous,
    };
    let done = match &answer {
        Answer::Accepted { .. } => true,
        Answer::Refused { code } => (550..600).contains(code),
        Answer::Ambiguous | Answer::Never => false,
    };
    universe.write(Event::Answered { submission, answer });
    done
}

fn maker(work: &MessageWork, content: Vec<u8>) -> Make {
    let sender = ReversePath::parse(&work.sender).expect("a scenario's own address");
    let recipients: Vec<Mailbox> = work
        .recipients
        .iter()
        .map(|recipient| Mailbox::parse(recipient).expect("a scenario's own address"))
        .collect();
    Box::new(move |id| {
        let count = u32::try_from(recipients.len()).expect("a handful");
        // What the HTTP listener puts before a message, so that servers can tell its id.
        let mut body = format!("Received: by here.example (kumod) id {id};\r\n").into_bytes();
        body.extend_from_slice(&content);
        Message {
            id,
            envelope: Envelope { sender, recipients },
            remaining: RecipientSet::all(count),
            meta: Default::default(),
            schedule: Schedule::default(),
            attempts: 0,
            body: body.into(),
        }
    })
}
