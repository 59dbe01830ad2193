//! Whom a fault of a scenario can be aimed at: `target` names one, and a name that nobody has would be a fault that never strikes. Invariant: these
//! are the names that the ports of io-sim ask for.
use crate::options::{Destination, Options, TimedFault};
use crate::setup;
use crate::swarm::{PHASES, QUESTIONS};
use kumo_io_sim::fault::FaultKind::{self, *};

/// What policy's senders are asked for: to be made, and to send.
const SENDERS: [&str; 2] = ["sender", "send"];

/// Targets that an error names.
const SHOWN: usize = 16;

/// What is wrong with the fault's target.
pub fn check(options: &Options, fault: &TimedFault) -> Result<(), String> {
    let Some(target) = &fault.target else { return Ok(()) };
    let known = of(options, fault.what);
    if known.contains(target) {
        return Ok(());
    }
    let what = fault.what.name();
    Err(match known.as_slice() {
        [] => format!("{what} has no target"),
        known => {
            let more = if known.len() > SHOWN { ", …" } else { "" };
            let known = known[..known.len().min(SHOWN)].join(", ");
            format!("{what} can't be aimed at {target:?}; its targets are {known}{more}")
        }
    })
}

fn of(options: &Options, what: FaultKind) -> Vec<String> {
    match (what, what.port()) {
        (HostWallStep, _) => texts(&["back", "1970"]),
        (HostLostAddress, _) => {
            let proxied = options.proxy.iter().map(setup::proxied_address);
            setup::interfaces(options)
                .into_iter()
                .chain(proxied)
                .map(|one| one.to_string())
                .collect()
        }
        (FilesStall | FilesError, _) => maildirs(options),
        (NetPartition, _) => {
            let mut all = addresses(options);
            all.extend(clients(options));
            all
        }
        (PeerLostReply, _) => phases_and_hosts(options, &["dot"]),
        (DiskCorruptRecord | DiskCorruptBlock | DiskMissingFile, _) => texts(&["data", "meta"]),
        (what, "disk") if !is_of_all_paths(what) => texts(setup::disk_paths(options)),
        (_, "net" | "tls" | "proxy") => addresses(options),
        (_, "dns") => {
            let domains = options.destination.iter().map(|one| one.domain.clone());
            let named = options.proxy.iter().filter(|proxy| proxy.named);
            domains.chain(names(options)).chain(named.map(setup::proxy_name)).collect()
        }
        (_, "policy") => [texts(&QUESTIONS), texts(&SENDERS)].concat(),
        (_, "peer") => phases_and_hosts(options, &PHASES),
        (_, "client") => clients(options),
        _ => Vec::new(),
    }
}

/// Whoever cuts the power doesn't choose.
fn is_of_all_paths(what: FaultKind) -> bool {
    matches!(what, DiskCrashDrop | DiskCrashKeep | DiskCrashTear | DiskCrashReorder)
}

fn texts(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

fn names(options: &Options) -> Vec<String> {
    setup::servers(options).into_iter().map(|server| server.settings.name).collect()
}

/// A phase of everybody, a host at all phases, or a host at one.
fn phases_and_hosts(options: &Options, phases: &[&str]) -> Vec<String> {
    let names = names(options);
    let mut known = texts(phases);
    for name in &names {
        known.extend(phases.iter().map(|phase| format!("{name}/{phase}")));
    }
    known.extend(names);
    known
}

fn clients(options: &Options) -> Vec<String> {
    (0..options.load.clients).map(|number| setup::client_address(number).to_string()).collect()
}

/// Addresses that are dialled.
fn addresses(options: &Options) -> Vec<String> {
    let servers = setup::servers(options).into_iter().map(|server| server.settings.address.ip());
    let node = [setup::node_address().ip()];
    let front = options.load.through_proxy.then(|| setup::front_address().ip());
    let proxies = options.proxy.iter().flat_map(setup::proxy_hosts);
    servers.chain(node).chain(front).chain(proxies).map(|address| address.to_string()).collect()
}

fn maildirs(options: &Options) -> Vec<String> {
    let mut recipients = Vec::new();
    for Destination { domain, .. } in options.destination.iter().filter(|one| one.maildir) {
        for message in 0..options.load.messages {
            let of_message = 0..options.load.recipients_max;
            recipients.extend(of_message.map(|nth| setup::recipient(message, nth, domain)));
        }
    }
    recipients
}
