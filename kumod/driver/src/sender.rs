//! Deliveries through a sender that policy makes (`custom_lua`): one sender a session, one batch at a time.
//! Invariant: as for any session; a sender that doesn't answer in time is given up with what it was given, whose outcome is then unknown, and
//! what it says later is counted and reaches nobody. How many messages go together is the engine's to say.
use crate::client::{
    Answered, Command, End, Link, Part, STOP_GRACE, connection_of, outcome_of, reply_of,
};
use crate::policy::{Hold, Opening, Policy, SendAnswer, Sender, Sent};
use crate::shared::{Connection, SPOOL_DEADLINE};
use crate::world::World;
use kumo_core::config::queue::CustomLua;
use kumo_core::dispatcher::{Detail, Phase};
use kumo_core::engine::{CloseCause, Outcome};
use kumo_core::id::{OpId, SpoolId};
use kumo_core::marks::{Mark, reached};
use kumo_core::message::Message;
use kumo_core::queue_name::QueueName;
use kumo_core::recipients::RecipientSet;
use kumo_core::smtp::client::Fate;
use kumo_core::smtp::reply::Reply;
use kumo_core::time::Duration;
use std::pin::pin;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// For the sender's `close`.
const CLOSE: Duration = Duration::from_secs(2);

pub(crate) async fn run<W: World>(
    link: &Link<W>,
    lua: &CustomLua,
    hold: Hold,
    commands: &mut mpsc::Receiver<Command>,
) -> End {
    let connection = connection_of(link, None, None, None);
    link.activity.connected(&Arc::new(connection.clone()));
    let patience = link.target.path.connect_timeout;
    let opening = opening(link, lua, hold);
    let opened = timeout(patience, link.shared.world.policy().open_sender(opening)).await;
    let opened = opened.unwrap_or_else(|_| {
        link.outlived();
        let constructor = &lua.constructor;
        Err(format!(
            "event {constructor}: no sender within {patience:?}: it didn't return, or too many other senders are in use"
        ))
    });
    let sender = match opened {
        Ok(sender) => sender,
        Err(why) => {
            tracing::error!(target: "policy", "{why}");
            return End::never(CloseCause::ConnectFailed, internal(&why), connection);
        }
    };
    link.ready().await;
    let session = Session {
        link,
        constructor: &lua.constructor,
        is_batched: lua.batch_size > 1,
        connection: connection.into(),
    };
    session.run(sender, commands).await;
    End::done()
}

fn opening<W: World>(link: &Link<W>, lua: &CustomLua, hold: Hold) -> Opening {
    let name = QueueName::parse(&link.target.queue);
    Opening {
        constructor: lua.constructor.clone(),
        domain: name.domain.into(),
        tenant: name.tenant.map(Into::into),
        campaign: name.campaign.map(Into::into),
        is_batched: lua.batch_size > 1,
        hold,
    }
}

fn internal(why: &str) -> Reply {
    Reply::new(400, &format!("KumoMTA internal: {why}"))
}

struct Session<'a, W: World> {
    link: &'a Link<W>,
    constructor: &'a str,
    is_batched: bool,
    connection: Arc<Connection>,
}

/// A message of a batch: what to send to whom, or why it can't be sent.
enum Item {
    Loaded(Arc<Message>, RecipientSet),
    Not(Outcome),
}

/// How a batch ended.
enum Heard {
    Answer(SendAnswer),
    /// In time there was no answer.
    Nothing,
}

/// What comes after a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    GoOn,
    Close,
    /// Nothing is to be asked of the sender any more.
    Drop,
}

impl<W: World> Session<'_, W> {
    async fn run(&self, mut sender: SenderOf<W>, commands: &mut mpsc::Receiver<Command>) {
        let idle = self.link.target.path.idle_timeout;
        loop {
            let next = match timeout(idle, commands.recv()).await {
                Ok(Some(Command::DeliverBatch { op, messages })) => {
                    self.deliver(&mut sender, op, messages, commands).await
                }
                Ok(Some(Command::Deliver { .. })) => {
                    unreachable!("policy's senders are given batches")
                }
                Ok(Some(Command::Close) | None) | Err(_) => Next::Close,
            };
            match next {
                Next::GoOn => {}
                Next::Close => return self.close(sender).await,
                Next::Drop => return,
            }
        }
    }

    async fn close(&self, sender: SenderOf<W>) {
        self.link.enter(Phase::Closing, None);
        if timeout(CLOSE, sender.close()).await.is_err() {
            let constructor = self.constructor;
            tracing::warn!(target: "policy", "{constructor}: close didn't return within {CLOSE:?}");
            self.link.outlived();
        }
    }

    async fn deliver(
        &self,
        sender: &mut SenderOf<W>,
        op: OpId,
        messages: Vec<(SpoolId, RecipientSet)>,
        commands: &mut mpsc::Receiver<Command>,
    ) -> Next {
        self.link.begin(op);
        self.link.enter(Phase::DeliveringMessage, None);
        let items = self.load(messages).await;
        if self.link.shared.health.suspends_delivery() {
            self.link.not_now(op).await;
            return Next::GoOn;
        }
        let given: Vec<Message> = items.iter().filter_map(Item::for_sender).collect();
        if given.is_empty() {
            let parts = items.into_iter().map(Item::untried).collect();
            return self.tell(op, parts, Next::GoOn).await;
        }
        if !self.link.body_begins() {
            return Next::Drop;
        }
        let detail = Detail::Lua { is_batch: self.is_batched };
        self.link.enter(Phase::DeliveringMessage, Some(detail));
        let (heard, stops) = self.hear(sender, given, commands).await;
        let next = match &heard {
            Heard::Answer(answer) => next_after(&answer.sent, stops),
            Heard::Nothing => Next::Drop,
        };
        if next == Next::Drop {
            self.link.outlived();
        }
        let parts = parts(items, heard);
        self.tell(op, parts, next).await
    }

    async fn tell(&self, op: OpId, parts: Vec<Part>, next: Next) -> Next {
        let goes_on = next == Next::GoOn;
        self.link.batch_attempted(op, parts, &self.connection, goes_on).await;
        if goes_on {
            self.link.ready().await;
        }
        next
    }

    /// Where the spool is slow, those that haven't been asked for in time go in another batch.
    async fn load(&self, messages: Vec<(SpoolId, RecipientSet)>) -> Vec<Item> {
        let mut items = Vec::with_capacity(messages.len());
        let shared = &self.link.shared;
        let began = shared.now().mono;
        for (id, recipients) in messages {
            if shared.now().mono.since(began) >= SPOOL_DEADLINE {
                items.push(Item::Not(Outcome::Returned));
                continue;
            }
            items.push(match shared.load(id).await {
                Ok(message) => Item::Loaded(message, recipients),
                Err(error) => Item::Not(self.link.unloaded(id, &error)),
            });
        }
        items
    }

    /// What the sender says in time, and whether the process stops meanwhile.
    async fn hear(
        &self,
        sender: &mut SenderOf<W>,
        given: Vec<Message>,
        commands: &mut mpsc::Receiver<Command>,
    ) -> (Heard, bool) {
        let path = &self.link.target.path;
        let now = || self.link.shared.now().mono;
        let mut give_up_at = now() + path.data_dot_timeout;
        let mut stops = false;
        let mut answer = pin!(sender.send(given));
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => return (Heard::Answer(answer), stops),
                command = commands.recv(), if !stops => {
                    assert!(matches!(command, Some(Command::Close) | None), "one at a time");
                    stops = true;
                    let grace = path.system_shutdown_timeout.unwrap_or(STOP_GRACE).min(STOP_GRACE);
                    give_up_at = give_up_at.min(now() + grace);
                }
                () = sleep(give_up_at.since(now())) => {
                    self.give_up(stops);
                    return (Heard::Nothing, stops);
                }
            }
        }
    }

    fn give_up(&self, stops: bool) {
        if stops {
            reached(Mark::StoppingSession);
        }
        reached(Mark::SenderGivenUp);
        let constructor = self.constructor;
        tracing::error!(
            target: "policy",
            ready_queue = %self.link.target.ready_queue,
            "{constructor}: its sender was given up before it said what became of its messages"
        );
    }
}

fn parts(items: Vec<Item>, heard: Heard) -> Vec<Part> {
    let (fate, mut changed) = match heard {
        Heard::Nothing => (Fate::Unknown, Vec::new()),
        Heard::Answer(SendAnswer { sent, changed }) => (fate_of(sent), changed),
    };
    let part = |item| match item {
        Item::Loaded(message, recipients) => {
            let change = changed.iter().position(|one| one.id == message.id);
            let is_changed = change.is_some();
            let replies = replies(&fate, &recipients);
            let message = change.map_or(message.clone(), |at| {
                // As the sender left it, but for whom it is still to be delivered to.
                let remaining = message.remaining.clone();
                Arc::new(Message { remaining, ..changed.swap_remove(at) })
            });
            let tried = Some(Answered { message, is_changed, replies });
            Part { outcome: outcome_of(&fate), tried }
        }
        untried => untried.untried(),
    };
    items.into_iter().map(part).collect()
}

type SenderOf<W> = <<W as World>::Policy as Policy>::Sender;

fn next_after(sent: &Sent, stops: bool) -> Next {
    match sent {
        Sent::Failed(why) => {
            tracing::error!(target: "policy", "{why}");
            Next::Close
        }
        Sent::Rejected { closes: true, .. } => Next::Close,
        Sent::Taken(_) | Sent::Rejected { .. } if stops => Next::Close,
        Sent::Taken(_) | Sent::Rejected { .. } => Next::GoOn,
    }
}

fn fate_of(sent: Sent) -> Fate {
    match sent {
        Sent::Taken(text) => Fate::Delivered(Reply::new(250, &text)),
        Sent::Rejected { reply, .. } if reply.code >= 500 => Fate::Refused(reply),
        Sent::Rejected { reply, .. } => Fate::Deferred(reply),
        Sent::Failed(why) => Fate::Deferred(internal(&why)),
    }
}

/// The same for each recipient.
fn replies(fate: &Fate, recipients: &RecipientSet) -> Vec<(u32, Reply)> {
    let reply = reply_of(fate.clone());
    recipients.iter().filter_map(|index| Some((index, reply.clone()?))).collect()
}

impl Item {
    fn for_sender(&self) -> Option<Message> {
        match self {
            Item::Loaded(message, recipients) => {
                Some(Message { remaining: recipients.clone(), ..(**message).clone() })
            }
            Item::Not(_) => None,
        }
    }

    fn untried(self) -> Part {
        match self {
            Item::Not(outcome) => Part { outcome, tried: None },
            Item::Loaded(..) => Part { outcome: Outcome::Returned, tried: None },
        }
    }
}
