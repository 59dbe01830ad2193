//! A world in memory, small enough to see through: streams are pipes, the spool a map, the DNS a table. It is kind, has no
//! faults but a few on demand, and runs under tokio and under madsim. What goes wrong in every way is io-sim's.
use bytes::{Bytes, BytesMut};
use kumo_core::config::egress::{EnableTls, IpLookupStrategy};
use kumo_core::config::queue::{DeliveryProtocol, MxListEntry};
use kumo_core::config::{EgressPath, EgressPool, EgressSource, PoolEntry, QueueConfig};
use kumo_core::engine::{Answer, Question, RequeueAnswer, ResolvedPool};
use kumo_core::id::SpoolId;
use kumo_core::log::{RecordKind, SourceAddress};
use kumo_core::message::Message;
use kumo_core::port::*;
use kumo_core::smtp::server;
use kumo_core::time::{Duration, Mono, Now, Wall};
use kumo_driver::policy::{
    EngineAnswer, EngineHandled, EngineQuestion, Generated, Opening, Policy,
};
use kumo_driver::record::{RecordEvent, Recorder};
use kumo_driver::world::World;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::time::Instant;

pub mod senders;

use senders::{ScriptedSender, Senders};

type Pages = BTreeMap<(Family, SpoolId), Bytes>;

#[derive(Clone, Default)]
pub struct MemorySpool {
    pages: Arc<Mutex<Pages>>,
    pub may_lack_records: bool,
    /// Their bodies can't be read.
    pub unreadable: Arc<Mutex<BTreeSet<SpoolId>>>,
    pub ills: Arc<Mutex<Ills>>,
}

/// What is wrong with a spool.
#[derive(Clone, Debug, Default)]
pub struct Ills {
    /// Every write fails so.
    pub writes: Option<SpoolErrorKind>,
    /// Until it is opened again.
    pub read_only: bool,
    pub free: FreeSpace,
    pub writes_tried: u64,
}

impl Ills {
    fn of_a_write(&mut self) -> Result<(), SpoolError> {
        self.writes_tried += 1;
        let kind = self.writes.or(self.read_only.then_some(SpoolErrorKind::Io));
        kind.map_or(Ok(()), |kind| Err(SpoolError { kind, text: "it hurts".into() }))
    }
}

impl MemorySpool {
    pub fn page(&self, family: Family, id: SpoolId) -> Option<Bytes> {
        self.pages.lock().unwrap().get(&(family, id)).cloned()
    }

    pub fn ids(&self) -> BTreeSet<SpoolId> {
        self.pages.lock().unwrap().keys().map(|(_, id)| *id).collect()
    }

    pub fn len(&self) -> usize {
        self.pages.lock().unwrap().len()
    }
}

impl Spool for MemorySpool {
    fn is_atomic_across_families(&self) -> bool {
        true
    }
    fn may_lack_records(&self) -> bool {
        self.may_lack_records
    }
    async fn apply(&self, batch: Vec<SpoolOperation>, _: SyncMode) -> Result<(), SpoolError> {
        self.ills.lock().unwrap().of_a_write()?;
        let mut pages = self.pages.lock().unwrap();
        for operation in batch {
            match operation {
                SpoolOperation::Put { family, key, value } => {
                    drop(pages.insert((family, key), value))
                }
                SpoolOperation::Delete { family, key } => drop(pages.remove(&(family, key))),
            }
        }
        Ok(())
    }
    async fn sync(&self, _: Family) -> Result<(), SpoolError> {
        self.ills.lock().unwrap().of_a_write()
    }
    async fn get(&self, family: Family, key: SpoolId) -> Result<Option<Bytes>, SpoolError> {
        if family == Family::Data && self.unreadable.lock().unwrap().contains(&key) {
            return Err(SpoolError { kind: SpoolErrorKind::Other, text: "no such file".into() });
        }
        Ok(self.page(family, key))
    }
    async fn scan(
        &self,
        family: Family,
        from: Option<SpoolId>,
        limit: usize,
        _: bool,
    ) -> Result<ScanPage, SpoolError> {
        let pages = self.pages.lock().unwrap();
        let from = from.unwrap_or(SpoolId([0; 16]));
        let mut rest = pages.range((family, from)..).take_while(|((of, _), _)| *of == family);
        let entries = rest.by_ref().take(limit).map(|((_, id), v)| (*id, v.clone())).collect();
        let next = rest.next().map(|((_, id), _)| *id);
        Ok(ScanPage { entries, next, damaged: Vec::new() })
    }
    async fn compact(&self, _: Family) -> Result<(), SpoolError> {
        Ok(())
    }
    fn properties(&self, _: Family) -> SpoolProperties {
        SpoolProperties::default()
    }
    async fn free_space(&self, _: Family) -> Result<FreeSpace, SpoolError> {
        Ok(self.ills.lock().unwrap().free)
    }
    async fn reopen(&self, _: Family) -> Result<(), SpoolError> {
        self.ills.lock().unwrap().read_only = false;
        Ok(())
    }
    async fn close(&self) -> Result<(), SpoolError> {
        Ok(())
    }
}

type Arrivals = mpsc::Sender<(Pipe, SocketAddr)>;

/// Every listener of one test, by address.
#[derive(Clone, Default)]
pub struct MemoryNetwork {
    listeners: Arc<Mutex<HashMap<SocketAddr, Arrivals>>>,
    /// Who dials it gets no answer at all.
    pub silent: Arc<Mutex<Option<SocketAddr>>>,
    pub dialled: Arc<Mutex<Vec<DialRequest>>>,
}

pub struct Pipe {
    stream: DuplexStream,
    local: SocketAddr,
}

pub struct Arrived {
    local: SocketAddr,
    arrivals: mpsc::Receiver<(Pipe, SocketAddr)>,
}

fn refused(text: &str) -> NetError {
    NetError { kind: NetErrorKind::Refused, text: text.into() }
}

impl Network for MemoryNetwork {
    type Stream = Pipe;
    type Listener = Arrived;
    async fn dial(&self, request: DialRequest) -> Result<Pipe, NetError> {
        self.dialled.lock().unwrap().push(request.clone());
        let is_silent = *self.silent.lock().unwrap() == Some(request.remote);
        if is_silent {
            std::future::pending::<()>().await;
        }
        let listener = self.listeners.lock().unwrap().get(&request.remote).cloned();
        let listener = listener.ok_or_else(|| refused("connection refused"))?;
        let local: SocketAddr = "192.0.2.99:40000".parse().unwrap();
        let (ours, theirs) = tokio::io::duplex(4096);
        let arrived = Pipe { stream: theirs, local: request.remote };
        listener.send((arrived, local)).await.map_err(|_| refused("connection refused"))?;
        Ok(Pipe { stream: ours, local })
    }
    async fn listen(&self, address: SocketAddr) -> Result<Arrived, NetError> {
        let (sender, arrivals) = mpsc::channel(16);
        self.listeners.lock().unwrap().insert(address, sender);
        Ok(Arrived { local: address, arrivals })
    }
    fn prepare_tls(&self, _: &TlsAccept) -> Result<(), NetError> {
        Ok(())
    }
}

impl Listener for Arrived {
    type Stream = Pipe;
    async fn accept(&mut self) -> Result<(Pipe, SocketAddr), NetError> {
        self.arrivals.recv().await.ok_or_else(|| refused("nobody can dial any more"))
    }
    fn local_address(&self) -> SocketAddr {
        self.local
    }
}

fn broken(error: std::io::Error) -> NetError {
    NetError { kind: NetErrorKind::Reset, text: error.to_string() }
}

impl Stream for Pipe {
    fn local_address(&self) -> Option<SocketAddr> {
        Some(self.local)
    }
    async fn read(&mut self, buffer: &mut BytesMut) -> Result<usize, NetError> {
        self.stream.read_buf(buffer).await.map_err(broken)
    }
    async fn write_watched(
        &mut self,
        mut data: &[u8],
        taken: &mut (dyn FnMut(usize) + Send),
    ) -> Result<(), NetError> {
        while !data.is_empty() {
            let written = self.stream.write(data).await.map_err(broken)?;
            data = &data[written..];
            taken(written);
        }
        Ok(())
    }
    async fn shutdown(&mut self) {
        let _ = self.stream.shutdown().await;
    }
    async fn upgrade_client(self, _: TlsConnect) -> Result<(Pipe, TlsInfo), NetError> {
        Err(NetError { kind: NetErrorKind::Tls, text: "there is no TLS here".into() })
    }
    async fn upgrade_server(self, _: Arc<TlsAccept>) -> Result<(Pipe, TlsInfo), NetError> {
        Err(NetError { kind: NetErrorKind::Tls, text: "there is no TLS here".into() })
    }
}

/// `domain` has the MX `mx.domain`, and every host the addresses 192.0.2.1 and 2001:db8::1.
#[derive(Clone, Default)]
pub struct TableResolver;

impl Resolver for TableResolver {
    async fn mx(&self, domain: &str) -> Result<MxAnswer, DnsError> {
        let records = vec![(10, format!("mx.{domain}").into())];
        Ok(MxAnswer { records, ttl: Duration::from_secs(300), secure: false })
    }
    async fn addresses(
        &self,
        _: &str,
        strategy: IpLookupStrategy,
    ) -> Result<AddressAnswer, DnsError> {
        let v4 = IpAddr::from([192, 0, 2, 1]);
        let v6 = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]);
        let addresses = match strategy {
            IpLookupStrategy::Ipv4Only => vec![v4],
            IpLookupStrategy::Ipv6Only => vec![v6],
            IpLookupStrategy::Ipv6ThenIpv4 => vec![v6, v4],
            IpLookupStrategy::Ipv4AndIpv6 | IpLookupStrategy::Ipv4ThenIpv6 => vec![v4, v6],
        };
        Ok(AddressAnswer { addresses, ttl: Duration::from_secs(300), secure: false })
    }
}

/// The executor's own clock, virtual under madsim.
#[derive(Clone)]
pub struct ExecutorHost(Instant);

impl Host for ExecutorHost {
    fn now(&self) -> Now {
        let nanos = u64::try_from(self.0.elapsed().as_nanos()).unwrap();
        let wall = Wall(1_795_000_000_000_000_000 + i64::try_from(nanos).unwrap());
        Now { mono: Mono(nanos), wall }
    }
    fn hostname(&self) -> String {
        "here.example".into()
    }
    fn interfaces(&self) -> Vec<IpAddr> {
        Vec::new()
    }
    fn memory(&self) -> MemoryStatus {
        MemoryStatus { used_octets: 0, limit_octets: 1 << 40 }
    }
    fn seed(&self) -> u64 {
        7
    }
}

/// Of the journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Disk {
    #[default]
    Kind,
    Stalled,
    Full,
}

#[derive(Clone, Default)]
pub struct MemoryFiles {
    pub delivered: Arc<Mutex<Vec<MaildirDelivery>>>,
    pub journal: Arc<Mutex<BTreeMap<u64, Vec<u8>>>>,
    pub disk: Arc<Mutex<Disk>>,
    /// Zeros count as room enough.
    pub free: Arc<Mutex<FreeSpace>>,
}

impl Files for MemoryFiles {
    async fn deliver_to_maildir(&self, delivery: MaildirDelivery) -> Result<String, String> {
        let name = delivery.name.clone();
        self.delivered.lock().unwrap().push(delivery);
        Ok(name)
    }
    async fn newest_journal_segment(&self) -> Result<u64, String> {
        Ok(self.journal.lock().unwrap().keys().last().copied().unwrap_or(0))
    }
    async fn append_to_journal(&self, segment: u64, data: Vec<u8>) -> Result<(), String> {
        let disk = || *self.disk.lock().unwrap();
        while disk() == Disk::Stalled {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if disk() == Disk::Full {
            return Err("no space left".into());
        }
        self.journal.lock().unwrap().entry(segment).or_default().extend(data);
        Ok(())
    }
    async fn free_space(&self, _: &str) -> Result<FreeSpace, String> {
        Ok(*self.free.lock().unwrap())
    }
    async fn trim_journal(&self, oldest_kept: u64) -> Result<(), String> {
        self.journal.lock().unwrap().retain(|segment, _| *segment >= oldest_kept);
        Ok(())
    }
}

/// Everything by default, with what a test wants changed.
#[derive(Clone)]
pub struct FixedPolicy {
    pub queue: QueueConfig,
    pub path: EgressPath,
    pub source: EgressSource,
    /// What it says when it is asked about a message, always in vain; it doesn't want to be asked without.
    pub failure: Option<&'static str>,
    pub senders: Senders,
}

impl FixedPolicy {
    /// Sends everything to one address, without TLS.
    pub fn to(address: SocketAddr) -> FixedPolicy {
        let name = format!("[{}]", address.ip()).into();
        let entry = MxListEntry { name, address: None, port: Some(address.port()) };
        let protocol = DeliveryProtocol::Smtp { mx_list: vec![entry] };
        let path = EgressPath { enable_tls: EnableTls::Disabled, ..EgressPath::default() };
        FixedPolicy {
            queue: QueueConfig { protocol, ..QueueConfig::default() },
            path,
            source: EgressSource::named("unspecified"),
            failure: None,
            senders: Senders::default(),
        }
    }
}

impl Policy for FixedPolicy {
    type Sender = ScriptedSender;
    fn handled(&self) -> server::Handled {
        server::Handled::default()
    }
    fn engine_handled(&self) -> EngineHandled {
        let is_asked = self.failure.is_some();
        EngineHandled { throttle_insert: is_asked, requeue: is_asked }
    }
    async fn session(&self, question: server::Question) -> server::Answer {
        server::Answer { meta: question.meta, verdict: server::Verdict::Proceed }
    }
    async fn engine(&self, question: EngineQuestion) -> EngineAnswer {
        let answer = match question.question {
            Question::ThrottleInsert { .. } | Question::Requeue { .. }
                if self.failure.is_some() =>
            {
                Answer::Failed { why: self.failure.unwrap_or_default().into() }
            }
            Question::QueueConfig { .. } => Answer::QueueConfig(Box::new(self.queue.clone())),
            Question::Pool { name } => {
                let entries = vec![PoolEntry { name: "unspecified".into(), weight: 1 }];
                let ttl = Duration::from_secs(60);
                let pool = EgressPool { name: name.as_ref().into(), entries, ttl };
                let sources = vec![Arc::new(self.source.clone())];
                Answer::Pool(Box::new(ResolvedPool { pool, sources }))
            }
            Question::EgressPath { .. } => Answer::EgressPath(Box::new(self.path.clone())),
            Question::ThrottleInsert { .. } => Answer::ThrottleInsert { until: None },
            Question::Requeue { .. } => Answer::Requeue(RequeueAnswer::Keep),
        };
        EngineAnswer { answer, message: None }
    }
    async fn message_generated(&self, message: Message) -> Generated {
        Generated::Proceed(message)
    }
    async fn open_sender(&self, opening: Opening) -> Result<ScriptedSender, String> {
        self.senders.open(opening).await
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub kind: RecordKind,
    pub id: SpoolId,
    pub code: u16,
    pub text: String,
    pub recipients: Vec<String>,
    pub peer: Option<String>,
    pub provider: Option<String>,
    pub source_address: Option<SourceAddress>,
}

/// The log. While it is `unsettled`, what is recorded isn't on disk yet; while it `fails`, it never will be.
#[derive(Clone, Default)]
pub struct Lines {
    pub lines: Arc<Mutex<Vec<Line>>>,
    pub unsettled: Arc<AtomicBool>,
    pub fails: Arc<AtomicBool>,
}

impl Recorder for Lines {
    async fn record(&self, event: RecordEvent<'_>) {
        self.lines.lock().unwrap().push(Line {
            kind: event.kind,
            id: event.message.id,
            code: event.response.code,
            text: event.response.content.clone(),
            recipients: event.recipients.iter().map(|r| r.as_str().to_string()).collect(),
            peer: event.peer_address.map(|peer| peer.name),
            provider: event.provider.map(Into::into),
            source_address: event.source_address,
        });
    }

    async fn settled(&self) -> bool {
        while self.unsettled.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        !self.fails.load(Ordering::Relaxed)
    }
}

#[derive(Clone)]
pub struct MemoryWorld {
    pub spool: MemorySpool,
    pub network: MemoryNetwork,
    pub host: ExecutorHost,
    pub files: MemoryFiles,
    pub policy: FixedPolicy,
    pub lines: Lines,
}

impl MemoryWorld {
    pub fn new(policy: FixedPolicy) -> MemoryWorld {
        MemoryWorld {
            spool: MemorySpool::default(),
            network: MemoryNetwork::default(),
            host: ExecutorHost(Instant::now()),
            files: MemoryFiles::default(),
            policy,
            lines: Lines::default(),
        }
    }
}

impl World for MemoryWorld {
    type Spool = MemorySpool;
    type Network = MemoryNetwork;
    type Resolver = TableResolver;
    type Host = ExecutorHost;
    type Files = MemoryFiles;
    type Policy = FixedPolicy;
    type Recorder = Lines;

    fn spool(&self) -> &MemorySpool {
        &self.spool
    }
    fn network(&self) -> &MemoryNetwork {
        &self.network
    }
    fn resolver(&self) -> &TableResolver {
        &TableResolver
    }
    fn host(&self) -> &ExecutorHost {
        &self.host
    }
    fn files(&self) -> &MemoryFiles {
        &self.files
    }
    fn policy(&self) -> &FixedPolicy {
        &self.policy
    }
    fn recorder(&self) -> &Lines {
        &self.lines
    }
}
