//! Every way in which this world can be bad, by name, and which of them are in force. Invariant: nothing goes wrong that isn't listed here,
//! and whatever goes wrong is counted when it strikes, not when it is ordered. What a fault does stands with the port that asks for it.
use kumo_core::random::Random;
use kumo_core::time::Duration;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

macro_rules! fault_kinds {
    ($($kind:ident $name:literal $help:literal)+) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum FaultKind { $($kind),+ }

        impl FaultKind {
            pub const ALL: &'static [FaultKind] = &[$(FaultKind::$kind),+];

            /// As scenarios write it: the port, a dot, what happens.
            pub fn name(self) -> &'static str {
                match self { $(FaultKind::$kind => $name),+ }
            }

            /// What it does, with its target and amount.
            pub fn help(self) -> &'static str {
                match self { $(FaultKind::$kind => $help),+ }
            }
        }
    };
}

fault_kinds! {
    DiskStall "disk.stall" "a write or sync takes `amount` longer, or until the end of the fault without one"
    DiskBusy "disk.busy" "a log turns a write away, with nothing of it written"
    DiskWriteError "disk.write-error" "a write fails with EIO; a part of it may be there"
    DiskSyncError "disk.sync-error" "a sync fails with EIO; a log takes nothing more until it is opened again"
    DiskNoSpace "disk.no-space" "every write fails with ENOSPC until the end of the fault"
    DiskReadError "disk.read-error" "a get or scan fails with EIO"
    DiskCorruptRecord "disk.corrupt-record" "at its beginning: a bit flips in one stored value; target: data or meta"
    DiskCorruptBlock "disk.corrupt-block" "at its beginning: a range of neighbouring records of one family can't be read any more; target: data or meta"
    DiskMissingFile "disk.missing-file" "at its beginning: as corrupt-block, with errors until the next start and a hole from then on"
    DiskBackgroundErrors "disk.background-errors" "the count of background errors grows at each look"
    DiskSlowCompaction "disk.slow-compaction" "a compaction takes `amount` longer and its backlog shows"
    DiskCrashDrop "disk.crash-drop" "at a power cut: unsynced writes are gone"
    DiskCrashKeep "disk.crash-keep" "at a power cut: unsynced writes are there all the same"
    DiskCrashTear "disk.crash-tear" "at a power cut: a part of an unacknowledged write is there, or half of its value"
    DiskCrashReorder "disk.crash-reorder" "at a power cut: a later unsynced write is there, an earlier one isn't"
    NetPartialRead "net.partial-read" "a read brings a part of what has arrived"
    NetPartialWrite "net.partial-write" "a write leaves in pieces that arrive apart"
    NetBackPressure "net.back-pressure" "a connection takes few octets until its other end reads"
    NetHalfClose "net.half-close" "one direction of a connection ends while the other goes on"
    NetReset "net.reset" "a connection is reset at some octet"
    NetBlackHole "net.black-hole" "a connection attempt is never answered; target: the address dialled"
    NetSilence "net.silence" "a connection that stands delivers nothing more; target: the address dialled"
    NetRefuse "net.refuse" "a connection attempt is refused; target: the address dialled"
    NetLatency "net.latency" "what is sent arrives up to `amount` later; target: the address dialled"
    NetPartition "net.partition" "nothing passes between the node and the rest of the world, in either direction"
    NetExhausted "net.exhausted" "no descriptor is left for a connection, in or out"
    DnsServfail "dns.servfail" "SERVFAIL; target: the name asked for"
    DnsDelay "dns.delay" "an answer takes `amount` longer, or never comes without one"
    DnsNoSuchDomain "dns.nxdomain" "NXDOMAIN for a name that exists"
    DnsTruncated "dns.truncated" "a truncated answer: the second try over TCP takes longer or fails"
    DnsNoData "dns.no-data" "an empty answer"
    DnsNullMx "dns.null-mx" "the domain says that it takes no mail"
    DnsLoopback "dns.loopback" "a name leads to a loopback address"
    DnsLame "dns.lame" "an MX leads to a name that doesn't exist"
    DnsTtlZero "dns.ttl-zero" "an answer with a TTL of zero"
    TlsStall "tls.stall" "the other end of a handshake falls silent"
    TlsGarbage "tls.garbage" "the other end of a handshake answers with something that isn't TLS"
    TlsWrongCertificate "tls.wrong-certificate" "the certificate is somebody else's"
    ProxyRefuse "proxy.refuse" "a proxy refuses connections"
    ProxyHang "proxy.hang" "a proxy takes a connection and passes nothing on"
    ProxyHalfOpen "proxy.half-open" "a proxy passes on in one direction only"
    ProxyFlap "proxy.flap" "a proxy drops a connection in its midst"
    HostWallStep "host.wall-step" "at its beginning: the wall clock jumps by `amount`, back if `target` is back, to 1970 if it is 1970"
    HostLostAddress "host.lost-address" "a source address is gone from its interface; target: the address"
    HostMemoryPressure "host.memory-pressure" "memory is nearly used up"
    PolicyHang "policy.hang" "a policy call never returns"
    PolicyError "policy.error" "a policy call fails"
    PolicySlow "policy.slow" "a policy call takes `amount` longer"
    PolicyReject "policy.reject" "a policy call about a message rejects it"
    PolicyNoSources "policy.no-sources" "policy's pools have no sources"
    PeerHang "peer.hang" "a server falls silent; target: the phase"
    PeerDrop "peer.drop" "a server closes the connection; target: the phase"
    PeerTransient "peer.4xx" "a server answers 4yz; target: the phase"
    PeerPermanent "peer.5xx" "a server answers 5yz; target: the phase"
    PeerGarbage "peer.garbage" "a server answers with something that is no reply; target: the phase"
    PeerSlow "peer.slow" "a server answers octet by octet, or `amount` later; target: the phase"
    PeerLostReply "peer.lost-reply" "a server stores a message and closes before it says so"
    ClientDisconnect "client.disconnect" "a client closes its connection somewhere"
    ClientSlow "client.slow" "a client sends octet by octet, `amount` apart"
    ClientDeaf "client.deaf" "a client sends on and reads no replies"
    ClientGarbage "client.garbage" "a client sends something that is no SMTP"
    ClientPipelines "client.pipelines" "a client sends a transaction without waiting for a single reply"
    LogStall "log.stall" "the log takes no records"
    LogFailure "log.failure" "what was logged can't be synced"
    FilesError "files.error" "a maildir delivery fails"
    FilesStall "files.stall" "a maildir delivery takes `amount` longer"
    JournalStall "files.journal-stall" "the journal's disk takes nothing"
    JournalFull "files.journal-full" "the journal's disk is full"
    NodeKill "node.kill" "the process is killed and started again after `amount`"
    NodePowerCut "node.power-cut" "the machine loses power and starts again after `amount`"
    NodeKillInRecovery "node.kill-in-recovery" "the next start is cut off by a power cut while the spool is being read"
    NodePause "node.pause" "the process stands still for `amount`"
    NodeStop "node.stop" "the process is stopped gracefully and started again after `amount`"
}

impl FaultKind {
    pub fn named(name: &str) -> Option<FaultKind> {
        FaultKind::ALL.iter().copied().find(|kind| kind.name() == name)
    }

    pub fn port(self) -> &'static str {
        self.name().split_once('.').map_or("", |(port, _)| port)
    }
}

/// In thousandths.
pub type PerMille = u32;

#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    pub what: FaultKind,
    /// How often it strikes where it could; 1000 is always.
    pub chance: PerMille,
    /// `None`: as the kind has it.
    pub amount: Option<Duration>,
    /// `None`: everybody.
    pub target: Option<Box<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FaultId(u64);

/// A fault that has just struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strike {
    pub amount: Option<Duration>,
}

struct State {
    active: BTreeMap<FaultId, Fault>,
    /// By kind, so that asking costs nothing while there is none.
    standing: Vec<u32>,
    fired: Vec<u64>,
    random: Random,
    next: u64,
    healed: bool,
}

pub struct Faults {
    state: Mutex<State>,
    /// Not a `watch`: that wakes its waiters in an order drawn from a counter of the process.
    changes: Notify,
}

impl Faults {
    pub fn new(seed: u64) -> Faults {
        let kinds = FaultKind::ALL.len();
        let state = State {
            active: BTreeMap::new(),
            standing: vec![0; kinds],
            fired: vec![0; kinds],
            random: Random::new(seed, "faults"),
            next: 1,
            healed: false,
        };
        Faults { state: Mutex::new(state), changes: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn begin(&self, fault: Fault) -> FaultId {
        let mut state = self.state();
        let id = FaultId(state.next);
        state.next += 1;
        state.standing[fault.what as usize] += 1;
        state.active.insert(id, fault);
        drop(state);
        self.changes.notify_waiters();
        id
    }

    /// Ending twice is harmless.
    pub fn end(&self, id: FaultId) {
        let mut state = self.state();
        if let Some(fault) = state.active.remove(&id) {
            state.standing[fault.what as usize] -= 1;
        }
        drop(state);
        self.changes.notify_waiters();
    }

    /// Ends all of them, and whatever else goes wrong by chance.
    pub fn heal(&self) {
        let mut state = self.state();
        state.healed = true;
        state.active.clear();
        state.standing.fill(0);
        drop(state);
        self.changes.notify_waiters();
    }

    /// Whether a fault of that kind, against `target` or against everybody, strikes now. Draws its chance, and counts it if so.
    pub fn strikes(&self, what: FaultKind, target: &str) -> Option<Strike> {
        self.strikes_one_of(what, &[target])
    }

    /// As [`Faults::strikes`], for somebody with several names: one draw for each fault that is aimed at any of them.
    pub fn strikes_one_of(&self, what: FaultKind, targets: &[&str]) -> Option<Strike> {
        let mut state = self.state();
        if state.standing[what as usize] == 0 {
            return None;
        }
        let State { active, random, fired, .. } = &mut *state;
        for fault in active.values() {
            let aimed = fault.target.as_deref().is_none_or(|aim| targets.contains(&aim));
            if fault.what != what || !aimed {
                continue;
            }
            if random.below(1000) < u64::from(fault.chance) {
                fired[what as usize] += 1;
                return Some(Strike { amount: fault.amount });
            }
        }
        None
    }

    /// Whether such a fault is in force, without a draw or a count.
    pub fn is_active(&self, what: FaultKind, target: &str) -> bool {
        let state = self.state();
        state.standing[what as usize] > 0
            && state.active.values().any(|fault| {
                fault.what == what && fault.target.as_deref().is_none_or(|aim| aim == target)
            })
    }

    /// Whether nothing goes wrong any more: for troubles that aren't faults in force, such as a busy mailbox.
    pub fn are_healed(&self) -> bool {
        self.state().healed
    }

    /// For faults that strike once, at their beginning.
    pub fn count(&self, what: FaultKind) {
        self.state().fired[what as usize] += 1;
    }

    /// How often each kind has struck, in the order of [`FaultKind::ALL`].
    pub fn fired(&self) -> Vec<u64> {
        self.state().fired.clone()
    }

    /// Returns once no fault of that kind against `target` is in force.
    pub async fn over(&self, what: FaultKind, target: &str) {
        loop {
            let changed = self.changes.notified();
            if !self.is_active(what, target) {
                return;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(what: FaultKind, chance: PerMille, target: Option<&str>) -> Fault {
        Fault { what, chance, amount: None, target: target.map(Into::into) }
    }

    #[test]
    fn a_fault_strikes_whom_it_is_aimed_at_while_it_is_in_force_and_is_counted() {
        let faults = Faults::new(1);
        assert_eq!(faults.strikes(FaultKind::DnsServfail, "a"), None);
        let id = faults.begin(fault(FaultKind::DnsServfail, 1000, Some("a")));
        assert!(faults.strikes(FaultKind::DnsServfail, "a").is_some());
        assert_eq!(faults.strikes(FaultKind::DnsServfail, "b"), None);
        assert_eq!(faults.strikes(FaultKind::DnsDelay, "a"), None);
        faults.end(id);
        faults.end(id);
        assert_eq!(faults.strikes(FaultKind::DnsServfail, "a"), None);
        assert_eq!(faults.fired()[FaultKind::DnsServfail as usize], 1);
    }

    #[test]
    fn chances_are_kept_roughly() {
        let faults = Faults::new(7);
        faults.begin(fault(FaultKind::NetReset, 100, None));
        let struck = (0..10_000).filter(|_| faults.strikes(FaultKind::NetReset, "").is_some());
        assert!((800..1200).contains(&struck.count()));
    }

    #[test]
    fn names_are_unique_and_found() {
        for kind in FaultKind::ALL {
            assert_eq!(FaultKind::named(kind.name()), Some(*kind));
            assert!(!kind.port().is_empty() && !kind.help().is_empty());
        }
    }
}
