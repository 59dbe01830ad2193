//! What the driver itself makes of options: where it dials and from where, how it greets, what it does when that fails.
//! What the machines make of theirs is shown in core.
use super::memory::Line;
use super::*;
use kumo_core::config::egress::{EnableTls, IpLookupStrategy};
use kumo_core::config::queue::MxListEntry;
use std::net::IpAddr;
use std::time::Instant;

/// A node under `policy`, told to take its leave by the test.
async fn started(policy: FixedPolicy) -> (MemoryWorld, Node<MemoryWorld>) {
    let world = MemoryWorld::new(policy);
    let node = Node::start(world.clone(), config()).await.unwrap();
    (world, node)
}

async fn send_one(world: &MemoryWorld) {
    let mut stream = client(&world.network).await;
    assert!(send(&mut stream, "joe@example.com").await.starts_with("250"));
}

/// What is recorded of the first attempt to deliver a message.
async fn first_attempt(policy: FixedPolicy, sink: &Sink) -> Line {
    let (world, node) = started(policy).await;
    sink.listen(&world.network).await;
    send_one(&world).await;
    until("an attempt", || kinds(&world).len() == 2).await;
    timeout(PATIENCE, node.stop()).await.expect("a stop ends in time");
    world.lines.lines.lock().unwrap()[1].clone()
}

/// The first connection that a message leads to; nobody answers it.
async fn first_dialled(policy: FixedPolicy) -> DialRequest {
    let (world, node) = started(policy).await;
    let before = world.network.dialled.lock().unwrap().len();
    send_one(&world).await;
    // The client's own comes first.
    let ours = before + 1;
    until("a connection", || world.network.dialled.lock().unwrap().len() > ours).await;
    timeout(PATIENCE, node.stop()).await.expect("a stop ends in time");
    world.network.dialled.lock().unwrap()[ours].clone()
}

#[tokio::test]
async fn a_listener_has_its_own_name_and_its_number_of_connections() {
    let world = MemoryWorld::new(FixedPolicy::to(sink_address()));
    let mut config = config();
    config.listeners[0].hostname = Some("mx.example".into());
    config.listeners[0].max_connections = 1;
    let node = Node::start(world.clone(), config).await.unwrap();
    let request = DialRequest { remote: here(), source_address: None };
    let mut first = world.network.dial(request.clone()).await.unwrap();
    assert_eq!(reply(&mut first).await, "220 mx.example kumod\r\n");
    let mut second = world.network.dial(request).await.unwrap();
    let refusal = reply(&mut second).await;
    assert_eq!(refusal, "421 4.3.2 mx.example too many concurrent sessions. Try later\r\n");
    assert_eq!(node.handle().counters().esmtp_listener.connections_denied.get(), 1);
    timeout(PATIENCE, node.stop()).await.expect("a stop ends in time");
}

#[tokio::test]
async fn a_session_dials_what_list_path_and_source_say() {
    let listed = |port| {
        let address = Some(IpAddr::from([192, 0, 2, 33]));
        let entry = MxListEntry { name: "relay.example".into(), address, port };
        let mut policy = FixedPolicy::to(sink_address());
        policy.queue.protocol = DeliveryProtocol::Smtp { mx_list: vec![entry] };
        policy.path.smtp_port = 2525;
        policy
    };
    let dialled = first_dialled(listed(None)).await;
    assert_eq!(dialled.remote, "192.0.2.33:2525".parse().unwrap());
    assert_eq!(dialled.source_address, None);
    let dialled = first_dialled(listed(Some(2526))).await;
    assert_eq!(dialled.remote.port(), 2526);
    let mut policy = listed(Some(2526));
    policy.source.remote_port = Some(2527);
    policy.source.source_address = Some(IpAddr::from([192, 0, 2, 44]));
    let dialled = first_dialled(policy).await;
    assert_eq!(dialled.remote.port(), 2527);
    assert_eq!(dialled.source_address, Some(IpAddr::from([192, 0, 2, 44])));
}

#[tokio::test]
async fn the_family_of_addresses_is_the_paths_to_choose() {
    for (strategy, expected) in [
        (IpLookupStrategy::Ipv4AndIpv6, "192.0.2.1:25"),
        (IpLookupStrategy::Ipv6Only, "[2001:db8::1]:25"),
    ] {
        let mut policy = FixedPolicy::to(sink_address());
        policy.queue.protocol = DeliveryProtocol::Smtp { mx_list: Vec::new() };
        policy.path.ip_lookup_strategy = strategy;
        assert_eq!(first_dialled(policy).await.remote, expected.parse().unwrap(), "{strategy:?}");
    }
}

#[tokio::test]
async fn a_host_that_does_not_answer_costs_connect_timeout() {
    let mut policy = FixedPolicy::to(sink_address());
    policy.path.connect_timeout = Duration::from_millis(200);
    let (world, node) = started(policy).await;
    *world.network.silent.lock().unwrap() = Some(sink_address());
    send_one(&world).await;
    until("a failure", || kinds(&world).len() == 2).await;
    let text = world.lines.lines.lock().unwrap()[1].text.clone();
    assert!(text.contains("no connection to 192.0.2.8:25 within 200ms"), "{text}");
    timeout(PATIENCE, node.stop()).await.expect("a stop ends in time");
}

#[tokio::test]
async fn the_name_given_in_ehlo_is_the_paths_else_the_sources_else_the_hosts() {
    for (path, source, expected) in [
        (None, None, "EHLO here.example"),
        (None, Some("source.example"), "EHLO source.example"),
        (Some("path.example"), Some("source.example"), "EHLO path.example"),
    ] {
        let mut policy = FixedPolicy::to(sink_address());
        policy.path.ehlo_domain = path.map(Into::into);
        policy.source.ehlo_domain = source.map(Into::into);
        let sink = Sink::default();
        assert_eq!(first_attempt(policy, &sink).await.kind, RecordKind::Delivery);
        assert_eq!(sink.commands.lock().unwrap()[0], expected);
    }
}

/// Two messages, each over a connection of its own, to a server whose TLS is broken: how often TLS was tried, and what
/// became of the first one.
async fn over_broken_tls(change: fn(&mut FixedPolicy)) -> (usize, RecordKind) {
    let mut policy = FixedPolicy::to(sink_address());
    policy.path.enable_tls = EnableTls::Opportunistic;
    policy.path.max_deliveries_per_connection = 1;
    change(&mut policy);
    let (world, node) = started(policy).await;
    let sink = Sink { offers_starttls: true, ..Sink::default() };
    sink.listen(&world.network).await;
    for records in [2, 4] {
        send_one(&world).await;
        until("an attempt", || kinds(&world).len() == records).await;
    }
    timeout(PATIENCE, node.stop()).await.expect("a stop ends in time");
    let commands = sink.commands.lock().unwrap();
    (commands.iter().filter(|line| *line == "STARTTLS").count(), kinds(&world)[1])
}

#[tokio::test]
async fn broken_tls_is_done_without_and_remembered_where_the_path_says_so() {
    use RecordKind::{Delivery, TransientFailure};
    assert_eq!(over_broken_tls(|_| {}).await, (2, TransientFailure));
    let reconnecting = |policy: &mut FixedPolicy| {
        policy.path.opportunistic_tls_reconnect_on_failed_handshake = true;
    };
    assert_eq!(over_broken_tls(reconnecting).await, (2, Delivery));
    let remembering = |policy: &mut FixedPolicy| {
        policy.path.remember_broken_tls = Some(Duration::from_secs(60));
    };
    assert_eq!(over_broken_tls(remembering).await, (1, Delivery));
}

#[tokio::test]
async fn a_verdict_that_does_not_come_holds_a_stop_up_for_system_shutdown_timeout() {
    let mut policy = FixedPolicy::to(sink_address());
    policy.path.system_shutdown_timeout = Some(Duration::from_millis(100));
    let (world, node) = started(policy).await;
    let sink = Sink::default();
    sink.verdicts.lock().unwrap().push("");
    sink.listen(&world.network).await;
    send_one(&world).await;
    until("the final dot", || sink.bodies.lock().unwrap().len() == 1).await;
    let asked = Instant::now();
    timeout(PATIENCE, node.stop()).await.expect("a stop ends in time");
    assert!(asked.elapsed() < Duration::from_secs(4), "the stop took {:?}", asked.elapsed());
}

#[tokio::test]
async fn records_bear_the_paths_provider_and_the_lists_host() {
    let mut policy = FixedPolicy::to(sink_address());
    let address = Some(sink_address().ip());
    let entry = MxListEntry { name: "relay.example".into(), address, port: None };
    policy.queue.protocol = DeliveryProtocol::Smtp { mx_list: vec![entry] };
    policy.path.provider_name = Some("big".into());
    let line = first_attempt(policy, &Sink::default()).await;
    assert_eq!(line.kind, RecordKind::Delivery);
    assert_eq!(line.provider.as_deref(), Some("big"));
    assert_eq!(line.peer.as_deref(), Some("relay.example"));
}
