//! One outgoing session: from the engine's `Open` to `SessionClosed`. Finds the addresses, dials them in order, drives
//! `core::smtp::client` over the connection that answers, and tells the engine what became of each delivery.
//! Invariant: what the engine hears goes through the [`Fence`]; once that is shut, nothing this task says reaches it. Every wait
//! has the machine's deadline or one of its own.
use crate::activity::Activity;
use crate::counters::Counters;
use crate::dial::{self, Dialled, NotDialled};
use crate::engine_loop::Mail;
use crate::local;
use crate::plan;
use crate::policy::{Held, Hold};
use crate::sender;
use crate::shared::{Attempt, Connection, Ending, LoadError, Shared, lock};
use crate::world::World;
use bytes::BytesMut;
use kumo_core::config::queue::DeliveryProtocol;
use kumo_core::dispatcher::{Detail, Phase};
use kumo_core::engine::{CloseCause, Input as EngineInput, Outcome, Outcomes, Target};
use kumo_core::id::{OpId, SessionId, SpoolId};
use kumo_core::log::{PeerAddress, SourceAddress};
use kumo_core::marks::{Mark, reached};
use kumo_core::message::Message;
use kumo_core::mx::{Candidate, Plan};
use kumo_core::port::{Network, Spool, Stream, TlsInfo};
use kumo_core::proxy::connect::{self, Blame};
use kumo_core::recipients::RecipientSet;
use kumo_core::smtp::client::{Closed, Fate, Input, Job, Output, Report, Session, Settings};
use kumo_core::smtp::reply::Reply;
use kumo_core::source_health::SourceFailure;
use kumo_core::time::{Duration, Mono};
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// What the engine asks of a session.
#[derive(Debug)]
pub(crate) enum Command {
    Deliver {
        op: OpId,
        message: SpoolId,
        recipients: RecipientSet,
    },
    /// For policy's senders, which get nothing else.
    DeliverBatch {
        op: OpId,
        messages: Vec<(SpoolId, RecipientSet)>,
    },
    Close,
}

/// A delivery, a close, and a second close at the stop: more can't be outstanding.
const COMMANDS: usize = 8;
/// To say QUIT and shut the connection down.
const GOODBYE: Duration = Duration::from_secs(2);
/// For a verdict after the final dot, once the process stops (D22).
pub(crate) const STOP_GRACE: Duration = Duration::from_secs(6);

#[derive(Clone, Copy, Debug)]
pub(crate) struct Outstanding {
    pub op: OpId,
    pub body_began: bool,
}

/// What was cut off. `body_began`: the peer may have what it had in hand.
pub(crate) struct Fenced {
    pub body_began: bool,
}

#[derive(Debug, Default)]
struct FenceState {
    shut: bool,
    /// The task, or what it began, goes on although nobody waits for it any more; counted once, until it ends.
    outlived: bool,
    outstanding: Option<Outstanding>,
    /// The last delivery whose completion went on its way.
    completed: Option<OpId>,
}

/// Between a session's task and the engine.
#[derive(Debug, Default)]
pub(crate) struct Fence(Mutex<FenceState>);

impl Fence {
    fn begin(&self, op: OpId) {
        lock(&self.0).outstanding = Some(Outstanding { op, body_began: false });
    }

    /// Whether it may: not once what is in hand was taken back.
    fn body_begins(&self) -> bool {
        let mut state = lock(&self.0);
        if let Some(outstanding) = &mut state.outstanding {
            outstanding.body_began = true;
        }
        !state.shut
    }

    /// Whether the completion may still be told.
    fn complete(&self) -> bool {
        let mut state = lock(&self.0);
        let outstanding = state.outstanding.take();
        if !state.shut {
            state.completed = outstanding.map(|outstanding| outstanding.op);
        }
        !state.shut
    }

    fn is_open(&self) -> bool {
        !lock(&self.0).shut
    }

    /// By the task itself, at its end. False if it was shut already.
    fn end(&self) -> bool {
        !std::mem::replace(&mut lock(&self.0).shut, true)
    }

    /// By the engine's loop. `given`: the delivery that the loop hasn't heard the end of. `None` if there is nothing to be cut off: the task has
    /// ended, or its completion is on the way, and what it says next counts. Counted before the task can see it and end.
    fn abort(&self, given: Option<OpId>, counters: &Counters) -> Option<Fenced> {
        let mut state = lock(&self.0);
        let is_on_the_way = given.is_some() && state.completed == given;
        if is_on_the_way || std::mem::replace(&mut state.shut, true) {
            return None;
        }
        state.outlive(counters);
        let outstanding = state.outstanding.take();
        Some(Fenced { body_began: outstanding.is_some_and(|outstanding| outstanding.body_began) })
    }
}

impl FenceState {
    fn outlive(&mut self, counters: &Counters) {
        if !std::mem::replace(&mut self.outlived, true) {
            counters.fenced_tasks.add(1);
        }
    }
}

/// The engine loop's end of a session.
pub(crate) struct SessionTask {
    commands: mpsc::Sender<Command>,
    abort: Box<dyn Fn(Option<OpId>) -> Option<Fenced> + Send>,
    pub activity: Arc<Activity>,
    pub ready_queue: Arc<str>,
    /// The delivery it was told of, until its completion is heard.
    pub given: Option<OpId>,
}

impl SessionTask {
    pub fn start<W: World>(shared: &Arc<Shared<W>>, id: SessionId, target: Target) -> SessionTask {
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let fence = Arc::new(Fence::default());
        let activity = Arc::new(Activity::new(session_uuid(shared), shared.now().mono));
        let link = Link {
            shared: shared.clone(),
            id,
            target: Arc::new(target),
            fence: fence.clone(),
            activity: activity.clone(),
        };
        let ready_queue = link.target.ready_queue.clone();
        let presence = Presence::of(&link);
        let task = shared.runtime.spawn(run(link, presence, inbox));
        let shared = shared.clone();
        let abort = move |given| {
            let fenced = fence.abort(given, &shared.counters);
            if fenced.is_some() {
                task.abort();
            }
            fenced
        };
        SessionTask { commands, abort: Box::new(abort), activity, ready_queue, given: None }
    }

    /// Gives the command back if the session has ended; its `SessionClosed` is on the way to the engine.
    pub fn tell(&mut self, command: Command) -> Option<Command> {
        let op = match &command {
            Command::Deliver { op, .. } | Command::DeliverBatch { op, .. } => Some(*op),
            Command::Close => self.given,
        };
        match self.commands.try_send(command) {
            Ok(()) => {
                self.given = op;
                None
            }
            Err(mpsc::error::TrySendError::Closed(command)) => Some(command),
            Err(mpsc::error::TrySendError::Full(command)) => {
                panic!("a session was told more than it can have outstanding: {command:?}")
            }
        }
    }

    /// From here on it isn't heard any more, unless there is nothing to be cut off.
    pub fn abort(&self) -> Option<Fenced> {
        (self.abort)(self.given)
    }
}

/// What a session's task holds on to.
pub(crate) struct Link<W: World> {
    pub shared: Arc<Shared<W>>,
    pub id: SessionId,
    pub target: Arc<Target>,
    fence: Arc<Fence>,
    pub activity: Arc<Activity>,
}

/// A session's end as the engine and the records want it.
pub(crate) struct End {
    pub cause: CloseCause,
    /// For those who waited for the session; `None` if it was ready once.
    pub ending: Option<Ending>,
}

impl End {
    pub fn done() -> End {
        End { cause: CloseCause::Done, ending: None }
    }

    pub fn never(cause: CloseCause, reply: Reply, connection: Connection) -> End {
        End { cause, ending: Some(Ending { reply, connection: Arc::new(connection) }) }
    }
}

/// What became of a message of a batch.
pub(crate) struct Part {
    pub outcome: Outcome,
    pub tried: Option<Answered>,
}

/// A message that was sent, with the replies for its recipients.
pub(crate) struct Answered {
    pub message: Arc<Message>,
    /// By whom it was sent with; the update that follows writes it down.
    pub is_changed: bool,
    pub replies: Vec<(u32, Reply)>,
}

/// A delivery under way: what is needed to report it.
pub(crate) struct Delivery {
    pub op: OpId,
    pub message: Arc<Message>,
}

impl<W: World> Link<W> {
    /// The engine's loop takes its mail as long as the process lives; once it is gone, nobody is left to tell.
    async fn tell(&self, input: EngineInput) {
        let _ = self.shared.engine.send(Mail::FromSession { session: self.id, input }).await;
    }

    pub fn enter(&self, phase: Phase, detail: Option<Detail>) {
        self.activity.enter(self.shared.now().mono, phase, detail);
    }

    pub async fn ready(&self) {
        self.enter(Phase::Idle, None);
        if self.fence.is_open() {
            self.tell(EngineInput::SessionReady { session: self.id }).await;
        }
    }

    /// The engine may end this session for it.
    async fn source_failed(&self, failure: SourceFailure, why: &str) {
        if self.fence.is_open() {
            self.shared.source_failures.note(&self.target.source.name, failure, why);
            let session = self.id;
            self.tell(EngineInput::SourceFailed { session, failure }).await;
        }
    }

    pub fn begin(&self, op: OpId) {
        self.fence.begin(op);
    }

    /// False: it mustn't, and nobody waits for what comes of it.
    #[must_use]
    pub fn body_begins(&self) -> bool {
        self.fence.body_begins()
    }

    /// Tells the engine what became of a delivery.
    pub async fn attempted(
        &self,
        delivery: Delivery,
        fates: Vec<(u32, Fate)>,
        connection: &Arc<Connection>,
        reusable: bool,
    ) {
        let Delivery { op, message, .. } = delivery;
        let outcomes = outcomes_of(&fates);
        let replies = fates.into_iter().filter_map(|(index, fate)| Some((index, reply_of(fate)?)));
        let replies = replies.collect();
        if !self.fence.complete() {
            self.shared.counters.late_completions.add(1);
            return;
        }
        let concluded = match &outcomes {
            Outcomes::Uniform(outcome) => *outcome != Outcome::Returned,
            Outcomes::Each(each) => each.iter().any(|(_, outcome)| *outcome != Outcome::Returned),
        };
        // Nobody would come for it: what wasn't tried isn't concluded.
        if concluded {
            let connection = connection.clone();
            self.shared.keep_attempt(op, Attempt { message, replies, connection });
        }
        self.tell(EngineInput::Attempted { op, outcomes, reusable }).await;
    }

    /// The spool has fallen ill since the message was handed over: it isn't sent, for its removal couldn't be written.
    pub async fn not_now(&self, op: OpId) {
        if !self.fence.complete() {
            return;
        }
        let outcomes = Outcomes::Uniform(Outcome::Paused);
        self.tell(EngineInput::Attempted { op, outcomes, reusable: true }).await;
        self.ready().await;
    }

    /// Tells the engine what became of each message of a batch, in its order.
    pub async fn batch_attempted(
        &self,
        op: OpId,
        parts: Vec<Part>,
        connection: &Arc<Connection>,
        reusable: bool,
    ) {
        if !self.fence.complete() {
            self.shared.counters.late_completions.add(1);
            return;
        }
        let mut outcomes = Vec::with_capacity(parts.len());
        for Part { outcome, tried } in parts {
            outcomes.push(Outcomes::Uniform(outcome));
            if let Some(Answered { message, is_changed, replies }) = tried {
                if is_changed {
                    self.shared.messages.insert(message.clone(), &self.shared.counters);
                }
                let connection = connection.clone();
                self.shared.keep_attempt(op, Attempt { message, replies, connection });
            }
        }
        self.tell(EngineInput::BatchAttempted { op, outcomes, reusable }).await;
    }

    /// What was begun can't be made to end at once: it is counted until it does.
    pub fn outlived(&self) {
        lock(&self.fence.0).outlive(&self.shared.counters);
    }

    /// The message couldn't be read: nobody's fault but ours, so only a delay. The session is as good as before.
    pub async fn not_loaded(&self, op: OpId, id: SpoolId, error: &LoadError) {
        if !self.fence.complete() {
            return;
        }
        let outcome = self.unloaded(id, error);
        let outcomes = Outcomes::Uniform(outcome);
        self.tell(EngineInput::Attempted { op, outcomes, reusable: true }).await;
        self.ready().await;
    }

    /// What it means for a message that it couldn't be read.
    pub fn unloaded(&self, id: SpoolId, error: &LoadError) -> Outcome {
        reached(Mark::LoadFailed);
        match error {
            LoadError::Missing => {
                self.missing(id);
                Outcome::Gone
            }
            error => {
                tracing::error!("a delivery couldn't begin: {error}");
                Outcome::Deferred(Reply::new(400, "").reply_code())
            }
        }
    }

    /// Of a spool without damage: what was refused, seen before it was durable, and gone with a failed sync.
    fn missing(&self, id: SpoolId) {
        if self.shared.world.spool().may_lack_records() {
            let _: LoadError = self.shared.damaged(id, "its envelope isn't in the spool any more");
        } else {
            tracing::error!(%id, "message {id} isn't in the spool any more, and is forgotten");
        }
    }
}

fn outcomes_of(fates: &[(u32, Fate)]) -> Outcomes {
    match fates {
        [(_, only)] => Outcomes::Uniform(outcome_of(only)),
        many => {
            Outcomes::Each(many.iter().map(|(index, fate)| (*index, outcome_of(fate))).collect())
        }
    }
}

pub(crate) fn outcome_of(fate: &Fate) -> Outcome {
    match fate {
        Fate::Delivered(reply) => Outcome::Delivered(reply.reply_code()),
        Fate::Deferred(reply) => Outcome::Deferred(reply.reply_code()),
        Fate::Refused(reply) => Outcome::Refused(reply.reply_code()),
        Fate::Unknown => Outcome::Unknown,
        Fate::Returned => Outcome::Returned,
    }
}

pub(crate) fn reply_of(fate: Fate) -> Option<Reply> {
    match fate {
        Fate::Delivered(reply) | Fate::Deferred(reply) | Fate::Refused(reply) => Some(reply),
        Fate::Unknown | Fate::Returned => None,
    }
}

/// A delivery that couldn't begin since its session had ended.
pub(crate) fn returned(op: OpId) -> EngineInput {
    reached(Mark::SessionEndedUntold);
    let outcomes = Outcomes::Uniform(Outcome::Returned);
    EngineInput::Attempted { op, outcomes, reusable: false }
}

/// Counts a session for as long as its task is there, or what it began, however that ends.
pub(crate) struct Presence<W: World>(Arc<Shared<W>>, Arc<Fence>);

impl<W: World> Presence<W> {
    fn of(link: &Link<W>) -> Arc<Presence<W>> {
        let client = &link.shared.counters.smtp_client;
        client.connections.add(1);
        client.connections_total.add(1);
        Arc::new(Presence(link.shared.clone(), link.fence.clone()))
    }
}

impl<W: World> Held for Presence<W> {
    fn late(&self) {
        self.0.counters.late_completions.add(1);
    }
}

impl<W: World> Drop for Presence<W> {
    fn drop(&mut self) {
        self.0.counters.smtp_client.connections.sub(1);
        if lock(&self.1.0).outlived {
            self.0.counters.fenced_tasks.sub(1);
        }
    }
}

async fn run<W: World>(
    link: Link<W>,
    presence: Arc<Presence<W>>,
    mut commands: mpsc::Receiver<Command>,
) {
    link.enter(Phase::AttemptingConnection, None);
    let end = match &*link.target.protocol {
        DeliveryProtocol::Smtp { mx_list } => match plan::make(&link, mx_list).await {
            Ok(Plan::Dial(candidates)) => smtp(&link, candidates, &mut commands).await,
            Ok(other) => refused_by_plan(&link, other),
            Err(why) => connect_failed(&link, &why),
        },
        DeliveryProtocol::Maildir { .. } | DeliveryProtocol::Null => {
            local::run(&link, &mut commands).await
        }
        DeliveryProtocol::CustomLua(lua) => {
            sender::run(&link, lua, Hold::new(presence.clone()), &mut commands).await
        }
    };
    if !link.fence.end() {
        return;
    }
    // What came too late to be obeyed: from here on the engine's loop gets its commands back.
    commands.close();
    // Waits for a command that is just being sent, which takes no time.
    while let Some(command) = commands.recv().await {
        if let Command::Deliver { op, .. } | Command::DeliverBatch { op, .. } = command {
            link.tell(returned(op)).await;
        }
    }
    if let Some(ending) = end.ending {
        link.shared.keep_ending(link.id, ending);
    }
    let closed = EngineInput::SessionClosed { session: link.id, cause: end.cause };
    link.tell(closed).await;
}

fn refused_by_plan<W: World>(link: &Link<W>, plan: Plan) -> End {
    let connection = connection_of(link, None, None, None);
    let (cause, code, text) = match plan {
        Plan::Prohibited(Candidate { host, address }) => {
            let ip = address.ip();
            let text = format!(
                "5.4.4 {host}/{ip} is on the list of prohibited_hosts {:?}",
                link.target
                    .path
                    .prohibited_hosts
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
            );
            (CloseCause::Prohibited, 550, text)
        }
        Plan::Skipped => {
            let text =
                "4.4.4 KumoMTA internal: MX consisted solely of hosts on the skip_hosts list";
            (CloseCause::Skipped, 451, text.to_string())
        }
        Plan::NoHosts | Plan::Dial(_) => {
            let text = "4.4.4 KumoMTA internal: MX didn't resolve to any hosts";
            (CloseCause::NoHosts, 451, text.to_string())
        }
    };
    End::never(cause, Reply::new(code, &text), connection)
}

fn connect_failed<W: World>(link: &Link<W>, why: &str) -> End {
    let text = format!("KumoMTA internal: failed to connect to any candidate hosts: {why}");
    let connection = connection_of(link, None, None, None);
    End::never(CloseCause::ConnectFailed, Reply::new(400, &text), connection)
}

pub(crate) fn connection_of<W: World>(
    link: &Link<W>,
    candidate: Option<&Candidate>,
    source_address: Option<SourceAddress>,
    tls: Option<TlsInfo>,
) -> Connection {
    let peer = candidate.map(|candidate| PeerAddress {
        name: candidate.host.clone(),
        addr: candidate.address.ip().to_string(),
    });
    let protocol = match &*link.target.protocol {
        DeliveryProtocol::Smtp { .. } if link.target.path.use_lmtp => "LMTP",
        DeliveryProtocol::Smtp { .. } => "ESMTP",
        DeliveryProtocol::Maildir { .. } => "Maildir",
        DeliveryProtocol::Null => "Null",
        DeliveryProtocol::CustomLua(_) => "Lua",
    };
    let provider = link.target.path.provider_name.as_deref().map(Into::into);
    let session = link.activity.session.clone();
    Connection { peer, source_address, tls, protocol, session, provider }
}

/// A UUID for the session's records: version 4 in form, its bits from the node's seed.
fn session_uuid<W: World>(shared: &Shared<W>) -> String {
    let bits = (u128::from(shared.seed()) << 64) | u128::from(shared.seed());
    let hex = format!("{:032x}", (bits & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62));
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

// ---- SMTP -------------------------------------------------------------------------------------------------

/// What one candidate came to.
enum Tried {
    /// The session was ready once, or is no longer wanted.
    Ended(End),
    Failed {
        why: String,
        blame: Blame,
        /// What is broken is the way to all hosts.
        is_cut_off: bool,
    },
    /// TLS doesn't work there: once more without.
    BrokenTls { why: String },
}

async fn smtp<W: World>(
    link: &Link<W>,
    candidates: Vec<Candidate>,
    commands: &mut mpsc::Receiver<Command>,
) -> End {
    let mut errors: Vec<String> = Vec::new();
    let mut blames = Vec::new();
    for candidate in &candidates {
        let path = &link.target.path;
        let now = link.shared.now().mono;
        let skip_tls = link.shared.has_broken_tls(&link.target.site, now);
        let mut tried = try_candidate(link, candidate, skip_tls, commands).await;
        if let Tried::BrokenTls { why } = &tried {
            if let Some(remember) = path.remember_broken_tls {
                link.shared.remember_broken_tls(&link.target.site, now + remember, now);
            }
            let again = path.opportunistic_tls_reconnect_on_failed_handshake
                || path.remember_broken_tls.is_some();
            errors.push(format!("{}/{}: {why}", candidate.host, candidate.address.ip()));
            if !again {
                blames.push(Blame::Other);
                continue;
            }
            reached(Mark::TlsFallback);
            tried = try_candidate(link, candidate, true, commands).await;
        }
        match tried {
            Tried::Ended(end) => return end,
            Tried::Failed { why, blame, is_cut_off } => {
                blames.push(blame);
                errors.push(format!("{}/{}: {why}", candidate.host, candidate.address.ip()));
                if is_cut_off {
                    break;
                }
            }
            Tried::BrokenTls { why } => {
                blames.push(Blame::Other);
                errors.push(why);
            }
        }
    }
    let hint = connect::hint(&blames);
    connect_failed(link, &format!("{hint}{}", errors.join(", ")))
}

async fn try_candidate<W: World>(
    link: &Link<W>,
    candidate: &Candidate,
    skip_tls: bool,
    commands: &mut mpsc::Receiver<Command>,
) -> Tried {
    let path = &link.target.path;
    link.enter(Phase::AttemptingConnection, Some(Detail::Banner));
    link.activity.touch(link.shared.now().mono);
    let dialled = match dial::dial(link, candidate.address).await {
        Ok(dialled) => dialled,
        Err(NotDialled { why, blame, counts }) => {
            if let Some(failure) = counts {
                link.source_failed(failure, &why).await;
            }
            return Tried::Failed { why, blame, is_cut_off: counts.is_some() };
        }
    };
    let Dialled { stream, rest, source_address } = dialled;
    let source = &link.target.source;
    let ehlo_domain = path.ehlo_domain.as_deref().or(source.ehlo_domain.as_deref());
    let settings = Settings {
        path: path.clone(),
        ehlo_domain: ehlo_domain.unwrap_or(&link.shared.hostname).into(),
        host: candidate.host.clone(),
        skip_tls,
    };
    let connection = Arc::new(connection_of(link, Some(candidate), source_address, None));
    link.activity.connected(&connection);
    let dialogue = Dialogue {
        link,
        connection,
        machine: Session::new(settings),
        stream: Some(stream),
        input: rest,
        delivery: None,
        was_ready: false,
        writable: true,
        give_up_at: None,
    };
    dialogue.run(commands).await
}

/// The machine and its connection.
struct Dialogue<'a, W: World> {
    link: &'a Link<W>,
    connection: Arc<Connection>,
    machine: Session,
    /// `None` only while it is being upgraded.
    stream: Option<<W::Network as Network>::Stream>,
    input: BytesMut,
    delivery: Option<Delivery>,
    was_ready: bool,
    /// False once a write has failed or was given up: what came after it would be taken for what should have followed.
    writable: bool,
    /// The process stops: when a verdict that is still awaited has to be given up.
    give_up_at: Option<Mono>,
}

enum Event {
    Command(Option<Command>),
    Read(bool),
    Tick,
}

impl<W: World> Dialogue<'_, W> {
    async fn run(mut self, commands: &mut mpsc::Receiver<Command>) -> Tried {
        self.handle(Input::Connected);
        if !self.input.is_empty() {
            self.take_input();
        }
        loop {
            if let Some(closed) = self.perform().await {
                return self.closed(closed).await;
            }
            match self.next_event(commands).await {
                Event::Command(Some(command)) => self.obey(command).await,
                // The engine's loop is gone, and the process with it.
                Event::Command(None) => self.handle(Input::Abort),
                Event::Read(true) => self.take_input(),
                Event::Read(false) => self.handle(Input::Ended),
                Event::Tick => self.tick(),
            }
        }
    }

    fn handle(&mut self, input: Input<'_>) {
        let now = self.link.shared.now();
        let heard = self.machine.replies_heard();
        self.machine.handle(now, input);
        let (phase, detail) = self.machine.progress();
        self.link.activity.enter(now.mono, phase, detail);
        if self.machine.replies_heard() > heard {
            self.link.activity.touch(now.mono);
        }
    }

    fn take_input(&mut self) {
        let input = std::mem::take(&mut self.input);
        self.handle(Input::Bytes(&input));
        self.input = input;
        self.input.clear();
    }

    async fn next_event(&mut self, commands: &mut mpsc::Receiver<Command>) -> Event {
        let now = self.link.shared.now().mono;
        let wake = self.machine.next_wake().map_or(Duration::from_secs(600), |at| at.since(now));
        let wake = self.give_up_at.map_or(wake, |at| wake.min(at.since(now)));
        // Lost in a handshake: its failure has ended the session, or will.
        let Some(stream) = &mut self.stream else { return Event::Read(false) };
        tokio::select! {
            biased;
            command = commands.recv() => Event::Command(command),
            read = stream.read(&mut self.input) => Event::Read(matches!(read, Ok(1..))),
            () = sleep(wake) => Event::Tick,
        }
    }

    fn tick(&mut self) {
        let now = self.link.shared.now().mono;
        if self.give_up_at.is_some_and(|at| at <= now) {
            reached(Mark::StoppingSession);
            self.handle(Input::Abort);
        } else {
            self.handle(Input::Tick);
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            // Every wait of the machine has a deadline of its own; the watchdog is for one that doesn't keep them.
            Command::Deliver { op, message, recipients } => {
                self.deliver(op, message, recipients).await;
            }
            Command::DeliverBatch { .. } => unreachable!("batches are for policy's senders"),
            Command::Close if self.delivery.is_none() => self.handle(Input::Close),
            // The process stops while a message is under way (D22).
            Command::Close if self.machine.has_sent_final_dot() => {
                let grace = self.link.target.path.system_shutdown_timeout.unwrap_or(STOP_GRACE);
                let now = self.link.shared.now().mono;
                self.give_up_at = Some(now + grace.min(STOP_GRACE));
                self.handle(Input::Close);
            }
            Command::Close => self.handle(Input::Abort),
        }
    }

    async fn deliver(&mut self, op: OpId, id: SpoolId, recipients: RecipientSet) {
        self.link.begin(op);
        self.link.enter(Phase::DeliveringMessage, None);
        let message = match self.link.shared.load(id).await {
            Ok(message) => message,
            Err(error) => return self.link.not_loaded(op, id, &error).await,
        };
        if self.link.shared.health.suspends_delivery() {
            return self.link.not_now(op).await;
        }
        let addressed = recipients
            .iter()
            .filter_map(|index| {
                Some((index, message.envelope.recipients.get(index as usize)?.clone()))
            })
            .collect();
        let job = Job {
            sender: message.envelope.sender.clone(),
            recipients: addressed,
            body: message.body.clone(),
        };
        self.delivery = Some(Delivery { op, message });
        self.handle(Input::Deliver(job));
    }

    /// Performs what the machine wants until it wants nothing. `Some`: it is over.
    async fn perform(&mut self) -> Option<Closed> {
        let mut pending = BytesMut::new();
        loop {
            let Some(output) = self.machine.poll() else {
                if pending.is_empty() {
                    return None;
                }
                self.send(&mut pending).await;
                continue;
            };
            match output {
                Output::Send(octets) if pending.is_empty() && octets.len() >= 8192 => {
                    // A body's block goes out as it is.
                    self.write(&octets).await;
                }
                Output::Send(octets) => pending.extend_from_slice(&octets),
                Output::StartTls => self.upgrade().await,
                Output::Ready => {
                    self.was_ready = true;
                    self.link.ready().await;
                }
                Output::Report(Report { fates, reusable }) => {
                    let delivery = self.delivery.take().expect("reported once, after Deliver");
                    self.give_up_at = None;
                    self.link.attempted(delivery, fates, &self.connection, reusable).await;
                }
                Output::Closed(closed) => {
                    if self.writable
                        && !pending.is_empty()
                        && let Some(stream) = &mut self.stream
                    {
                        // A QUIT nobody waits for.
                        let _ = timeout(GOODBYE, stream.write_all(&pending)).await;
                    }
                    return Some(closed);
                }
            }
        }
    }

    async fn send(&mut self, pending: &mut BytesMut) {
        let octets = pending.split();
        self.write(&octets).await;
    }

    async fn write(&mut self, octets: &[u8]) {
        let is_body = self.machine.has_begun_body();
        if is_body && !self.link.body_begins() {
            return self.handle(Input::Ended);
        }
        let now = self.link.shared.now().mono;
        let patience =
            self.machine.next_wake().map_or(Duration::from_secs(600), |at| at.since(now));
        let Some(stream) = &mut self.stream else { return self.handle(Input::Ended) };
        if !self.writable {
            return;
        }
        let link = self.link;
        let mut taken = |count| {
            if is_body {
                link.activity.took(link.shared.now().mono, count);
            }
        };
        let written = timeout(patience, stream.write_watched(octets, &mut taken)).await;
        self.writable = matches!(written, Ok(Ok(())));
        match written {
            Ok(Ok(())) => self.handle(Input::Flushed),
            Ok(Err(_)) => self.last_words().await,
            Err(_) => self.handle(Input::Tick),
        }
    }

    /// The peer doesn't take more, but may have said why.
    async fn last_words(&mut self) {
        let Some(stream) = &mut self.stream else { return self.handle(Input::Ended) };
        let input = &mut self.input;
        let listen = async {
            while input.len() < kumo_core::limits::READ_CHUNK_OCTETS {
                let Ok(1..) = stream.read(input).await else { break };
            }
        };
        let _ = timeout(GOODBYE, listen).await;
        let input = std::mem::take(&mut self.input);
        if !input.is_empty() {
            self.handle(Input::Bytes(&input));
        }
        self.handle(Input::Ended);
    }

    async fn upgrade(&mut self) {
        let stream = self.stream.take().expect("upgraded once");
        let patience = self.link.target.path.starttls_timeout;
        let connect = self.machine.tls_connect();
        let upgraded = timeout(patience, stream.upgrade_client(connect)).await;
        let done = match upgraded {
            Ok(Ok((stream, info))) => {
                self.stream = Some(stream);
                let tls = Some(info.clone());
                self.connection = Arc::new(Connection { tls, ..(*self.connection).clone() });
                self.link.activity.connected(&self.connection);
                Ok(info)
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("the TLS handshake took longer than {patience:?}")),
        };
        self.handle(Input::TlsDone(done));
    }

    /// What stands between: it may be what doesn't work.
    fn by_way_of(&self) -> String {
        let source = &self.link.target.source;
        source.proxy().map_or(String::new(), |proxy| {
            format!(" (by way of proxy {} of source {})", proxy.server(), source.name)
        })
    }

    async fn closed(mut self, closed: Closed) -> Tried {
        if let Some(mut stream) = self.stream.take() {
            let _ = timeout(GOODBYE, stream.shutdown()).await;
        }
        match closed {
            Closed::NeverReady { why, tls_failed: true } => Tried::BrokenTls { why },
            Closed::NeverReady { why, tls_failed: false } => {
                let why = format!("{why}{}", self.by_way_of());
                Tried::Failed { why, blame: Blame::Other, is_cut_off: false }
            }
            Closed::Broken { why } => {
                tracing::debug!(ready_queue = %self.link.target.ready_queue, "connection lost: {why}");
                Tried::Ended(End::done())
            }
            Closed::Done => Tried::Ended(End::done()),
        }
    }
}
