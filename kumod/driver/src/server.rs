//! Receiving mail over SMTP: a task that accepts, and one for each connection, which drives `core::smtp::server`.
//! Invariant: the wait for a store is never given up, whatever the client does; every other wait has a deadline; 250 to a final
//! dot is written only by the machine, from the `Accountable` that `intake` yields.
use crate::health::Illness;
use crate::intake::{self, client_of, ill};
use crate::phase::Phase;
use crate::policy::Policy;
use crate::record::RecordEvent;
use crate::shared::Shared;
use crate::world::World;
use bytes::BytesMut;
use kumo_core::address::Mailbox;
use kumo_core::config::EsmtpListener;
use kumo_core::log::RecordKind;
use kumo_core::message::{Envelope, Message};
use kumo_core::port::{Listener, NetErrorKind, Network, Stream, TlsAccept};
use kumo_core::recipients::RecipientSet;
use kumo_core::smtp::reply::Reply;
use kumo_core::smtp::server::{
    Answer, Input, Output, Question, Rejection, Session, Settings, Submitted, Verdict,
};
use kumo_core::time::{Duration, Mono};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// After the process ran out of descriptors or memory.
const BACK_OFF: Duration = Duration::from_millis(200);
/// What a client that takes nothing more is given to take its last reply.
const GOODBYE: Duration = Duration::from_secs(5);
const TLS_HANDSHAKE: Duration = Duration::from_secs(30);

type StreamOf<W> = <<W as World>::Network as Network>::Stream;
type ListenerOf<W> = <<W as World>::Network as Network>::Listener;

/// One listener with what its connections share.
pub(crate) struct Service<W: World> {
    pub shared: Arc<Shared<W>>,
    pub listener: Arc<EsmtpListener>,
    pub hostname: Arc<str>,
    pub tls: Option<Arc<TlsAccept>>,
    pub connections: Arc<AtomicU64>,
}

impl<W: World> Clone for Service<W> {
    fn clone(&self) -> Self {
        Service {
            shared: self.shared.clone(),
            listener: self.listener.clone(),
            hostname: self.hostname.clone(),
            tls: self.tls.clone(),
            connections: self.connections.clone(),
        }
    }
}

/// Accepts until the process stops. `alive` is held by every connection, so that its receivers know when the last is gone.
pub(crate) async fn accept<W: World>(
    service: Service<W>,
    mut listener: ListenerOf<W>,
    alive: watch::Receiver<()>,
) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = service.shared.course.stopping() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (service, alive) = (service.clone(), alive.clone());
                service.connections.fetch_add(1, Ordering::Relaxed);
                service.shared.clone().spawn(async move {
                    let connections = service.connections.clone();
                    serve(service, stream, peer).await;
                    connections.fetch_sub(1, Ordering::Relaxed);
                    drop(alive);
                });
            }
            Err(error) => {
                if error.kind != NetErrorKind::Exhausted {
                    tracing::warn!("accepting a connection failed: {error}");
                }
                sleep(BACK_OFF).await;
            }
        }
    }
}

/// What a client is told instead of a banner, and whether that counts as a denied connection.
fn refusal<W: World>(service: &Service<W>) -> Option<(Reply, bool)> {
    let host = &service.hostname;
    let reply = |text: &str| Reply::new(421, &format!("4.3.2 {host} {text}"));
    let open = service.connections.load(Ordering::Relaxed);
    let illness = service.shared.health.illness();
    match service.shared.course.phase() {
        Phase::Stopping => Some((reply("shutting down"), true)),
        _ if illness == Some(Illness::DiskFull) => Some((ill(host, Illness::DiskFull), true)),
        Phase::Starting => Some((reply("waiting for spool startup. Try again soon!"), false)),
        Phase::Running if let Some(illness) = illness => Some((ill(host, illness), true)),
        Phase::Running if open > service.listener.max_connections => {
            Some((reply("too many concurrent sessions. Try later"), true))
        }
        Phase::Running => None,
    }
}

async fn serve<W: World>(service: Service<W>, stream: StreamOf<W>, peer: SocketAddr) {
    let counters = &service.shared.counters.esmtp_listener;
    counters.connections.add(1);
    counters.connections_total.add(1);
    let refusal = refusal(&service);
    if let Some((_, true)) = refusal {
        counters.connections_denied.add(1);
    }
    let settings = Settings {
        listener: service.listener.clone(),
        hostname: service.hostname.clone(),
        peer,
        local: stream.local_address().unwrap_or(service.listener.listen),
        handled: service.shared.world.policy().handled(),
        tls_available: service.tls.is_some(),
    };
    let machine = Session::new(settings, service.shared.ids.clone());
    let mut connection = Connection {
        service: &service,
        machine,
        stream: Some(stream),
        input: BytesMut::new(),
        output: BytesMut::new(),
        pending: None,
        ended: false,
    };
    connection.run(refusal.map(|(reply, _)| reply)).await;
    counters.connections.sub(1);
}

/// The end of something that the machine waits for.
enum Completed {
    Answer(Answer),
    Submitted(Submitted),
}

type Pending = Pin<Box<dyn Future<Output = Completed> + Send>>;

struct Connection<'a, W: World> {
    service: &'a Service<W>,
    machine: Session,
    /// `None` only while it is being upgraded, or once that failed.
    stream: Option<StreamOf<W>>,
    input: BytesMut,
    output: BytesMut,
    pending: Option<Pending>,
    /// Nothing more will come from the client.
    ended: bool,
}

enum Event {
    Completed(Completed),
    Read,
    Lost,
    Stop,
    Tick,
}

/// What to do once everything said before is on the wire.
enum Then {
    GoOn,
    StartTls,
    Close,
}

impl<W: World> Connection<'_, W> {
    async fn run(&mut self, refusal: Option<Reply>) {
        // A connection that came while the process stops has its refusal; telling it twice is no harm.
        let mut told_to_stop = refusal.is_some();
        self.handle(Input::Opened { refusal });
        loop {
            match self.perform().await {
                Then::GoOn => {}
                Then::StartTls => {
                    self.upgrade().await;
                    continue;
                }
                Then::Close => break self.close().await,
            }
            match self.next_event(told_to_stop).await {
                Event::Completed(Completed::Answer(answer)) => self.handle(Input::Answer(answer)),
                Event::Completed(Completed::Submitted(submitted)) => {
                    self.handle(Input::Submitted(submitted));
                }
                Event::Read => {
                    let input = std::mem::take(&mut self.input);
                    self.handle(Input::Bytes(&input));
                    self.input = input;
                    self.input.clear();
                }
                Event::Lost => {
                    self.ended = true;
                    self.handle(Input::Ended);
                }
                Event::Stop => {
                    told_to_stop = true;
                    self.handle(Input::Stop);
                }
                Event::Tick => self.handle(Input::Tick),
            }
        }
    }

    fn handle(&mut self, input: Input<'_>) {
        let now = self.service.shared.now();
        self.machine.handle(now, input);
    }

    async fn next_event(&mut self, told_to_stop: bool) -> Event {
        let now = self.service.shared.now().mono;
        let wake = self.machine.next_wake();
        let wake = wake.map_or(Duration::from_secs(3600), |(at, _)| at.since(now));
        let reads = !self.ended && self.machine.wants_bytes();
        let course = &self.service.shared.course;
        let Connection { pending, stream, input, .. } = self;
        let completed = async {
            match pending {
                Some(pending) => pending.await,
                None => std::future::pending().await,
            }
        };
        let read = async {
            match stream {
                Some(stream) if reads => stream.read(input).await,
                _ => std::future::pending().await,
            }
        };
        let event = tokio::select! {
            biased;
            completed = completed => Event::Completed(completed),
            read = read => match read {
                Ok(0) | Err(_) => Event::Lost,
                Ok(_) => Event::Read,
            },
            () = course.stopping(), if !told_to_stop => Event::Stop,
            () = sleep(wake) => Event::Tick,
        };
        if let Event::Completed(_) = event {
            self.pending = None;
        }
        event
    }

    /// Performs what the machine wants until it wants nothing.
    async fn perform(&mut self) -> Then {
        let mut then = Then::GoOn;
        loop {
            while let Some(output) = self.machine.poll() {
                match output {
                    Output::Send(octets) => self.output.extend_from_slice(&octets),
                    Output::Ask(question) => self.pending = Some(self.ask(question)),
                    Output::StartTls => then = Then::StartTls,
                    Output::Submit { messages, deadline } => {
                        self.pending = Some(self.submit(messages, deadline));
                    }
                    Output::Rejected(rejection) => {
                        log_rejection(&self.service.shared, rejection).await;
                    }
                    Output::Close => then = Then::Close,
                }
            }
            if self.output.is_empty() {
                return then;
            }
            self.write().await;
        }
    }

    async fn write(&mut self) {
        let output = self.output.split();
        let patience = self.service.listener.client_timeout;
        let Some(stream) = &mut self.stream else { return };
        if self.ended {
            return;
        }
        let written = timeout(patience, stream.write_all(&output)).await;
        if !matches!(written, Ok(Ok(()))) {
            self.ended = true;
            self.handle(Input::Ended);
        }
    }

    fn ask(&self, question: Question) -> Pending {
        let shared = self.service.shared.clone();
        let patience = self.service.listener.data_processing_timeout;
        Box::pin(async move {
            let asked = timeout(patience, shared.world.policy().session(question)).await;
            Completed::Answer(asked.unwrap_or_else(|_| {
                let why = format!("policy didn't answer within {patience:?}");
                Answer { meta: Default::default(), verdict: Verdict::Failed(why) }
            }))
        })
    }

    fn submit(&self, messages: Vec<Message>, deadline: Mono) -> Pending {
        let shared = self.service.shared.clone();
        Box::pin(async move {
            let count = messages.len() as u64;
            let submitted = intake::submit(&shared, messages, Some(deadline)).await;
            if let Submitted::Accepted(_) = submitted {
                shared.counters.esmtp_listener.messages.add(count);
            }
            Completed::Submitted(submitted)
        })
    }

    async fn upgrade(&mut self) {
        let tls = self.service.tls.clone().expect("STARTTLS is offered only where there is TLS");
        let stream = self.stream.take().expect("upgraded once");
        // What came with the command in clear is nobody's business now.
        self.input.clear();
        let info = match timeout(TLS_HANDSHAKE, stream.upgrade_server(tls)).await {
            Ok(Ok((stream, info))) => {
                self.stream = Some(stream);
                Some(info)
            }
            Ok(Err(_)) | Err(_) => {
                self.ended = true;
                None
            }
        };
        self.handle(Input::TlsDone(info));
    }

    async fn close(&mut self) {
        if let Some(stream) = &mut self.stream {
            let _ = timeout(GOODBYE, stream.shutdown()).await;
        }
        // A store that is still under way ends in the committer; its client is gone.
        if let Some(pending) = self.pending.take() {
            pending.await;
        }
    }
}

async fn log_rejection<W: World>(shared: &Shared<W>, rejection: Rejection) {
    shared.counters.esmtp_listener.rejections.add(1);
    let Rejection { sender, recipients, reply, meta, size } = rejection;
    let count = u32::try_from(recipients.len()).unwrap_or(u32::MAX);
    let message = Message {
        id: shared.new_id(),
        envelope: Envelope { sender, recipients },
        remaining: RecipientSet::all(count),
        meta,
        schedule: Default::default(),
        attempts: 0,
        body: Default::default(),
    };
    let recipients: Vec<&Mailbox> = message.envelope.recipients.iter().collect();
    let event = RecordEvent {
        kind: RecordKind::Rejection,
        when: shared.now().wall,
        message: &message,
        size,
        recipients,
        queue: "",
        site: "",
        response: reply,
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
