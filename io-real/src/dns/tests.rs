//! The resolver against BIND's named, which we did not write, and against servers that don't answer.
use super::named::Named;
use super::*;
use std::net::{TcpListener, UdpSocket};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

fn zone() -> String {
    let mut zone = "$TTL 300\n\
        @ IN SOA ns.example.test. hostmaster.example.test. 1 3600 600 86400 77\n\
        @ IN NS ns\n\
        ns IN A 127.0.0.1\n\
        @ 120 IN MX 20 Backup.Example.TEST.\n\
        @ 120 IN MX 10 mx2\n\
        @ 120 IN MX 10 mx1\n\
        mx1 60 IN A 192.0.2.1\n\
        mx1 90 IN AAAA 2001:db8::1\n\
        mx2 IN A 192.0.2.2\n\
        six IN AAAA 2001:db8::6\n\
        alias IN CNAME mx1\n\
        domain-alias IN CNAME @\n\
        dangling IN CNAME gone\n\
        null IN MX 0 .\n\
        *.wild IN MX 10 mx1\n\
        under_score IN MX 5 _weird.mx_\n\
        only-text IN TXT \"no address here\"\n\
        xn--bcher-kva IN MX 10 mx1\n"
        .to_owned();
    // BIND takes 100 records of one name and type.
    for n in 0..100 {
        zone += &format!("many IN MX {} a-rather-long-name-{n}.example.test.\n", 100 - n);
        zone += &format!("many IN A 192.0.2.{n}\n");
    }
    zone
}

fn named() -> Named {
    Named::start(&[("example.test", zone()), ("broken.test", "this is no zone file\n".into())])
}

fn hosts(text: &str) -> Hosts {
    let mut hosts = Hosts::default();
    hosts.read_hosts_conf(text.as_bytes()).expect("read from memory");
    hosts
}

fn impatient(server: SocketAddr) -> RealResolver {
    let mut options = ResolverOpts::default();
    options.timeout = Duration::from_secs(1);
    options.attempts = 1;
    RealResolver::build(configuration(vec![server]), options, Hosts::default()).expect("built")
}

async fn mx(resolver: &RealResolver, domain: &str) -> Result<MxAnswer, DnsError> {
    timeout(PATIENCE, resolver.mx(domain)).await.expect("an answer in time")
}

async fn addresses(
    resolver: &RealResolver,
    host: &str,
    strategy: IpLookupStrategy,
) -> Result<AddressAnswer, DnsError> {
    timeout(PATIENCE, resolver.addresses(host, strategy)).await.expect("an answer in time")
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().expect("an address")).collect()
}

fn pairs(answer: &MxAnswer) -> Vec<(u16, &str)> {
    answer.records.iter().map(|(preference, host)| (*preference, &**host)).collect()
}

#[tokio::test]
async fn mx_records_come_by_preference_in_lower_case_without_the_last_dot() {
    let named = named();
    let resolver = RealResolver::with_servers(vec![named.address]).expect("built");
    let expected =
        [(10, "mx1.example.test"), (10, "mx2.example.test"), (20, "backup.example.test")];
    for domain in ["example.test", "EXAMPLE.Test", "example.test.", "domain-alias.example.test"] {
        let answer = mx(&resolver, domain).await.expect(domain);
        assert_eq!(pairs(&answer), expected, "{domain}");
        assert!(answer.ttl <= Duration::from_secs(120), "{domain}: {:?}", answer.ttl);
        assert!(answer.ttl > Duration::from_secs(100), "{domain}: {:?}", answer.ttl);
        assert!(!answer.secure);
    }
    let odd = mx(&resolver, "under_score.example.test").await.expect("underscores are no obstacle");
    assert_eq!(pairs(&odd), [(5, "_weird.mx_.example.test")]);
    let idn = mx(&resolver, "bücher.example.test").await.expect("U-labels become A-labels");
    assert_eq!(pairs(&idn), [(10, "mx1.example.test")]);
}

#[tokio::test]
async fn a_null_mx_is_one_record_with_an_empty_host() {
    let named = named();
    let resolver = RealResolver::with_servers(vec![named.address]).expect("built");
    let answer = mx(&resolver, "null.example.test").await.expect("an answer");
    assert_eq!(pairs(&answer), [(0, "")]);
}

#[tokio::test]
async fn nodata_is_empty_nxdomain_is_no_such_domain_and_servfail_is_neither() {
    let named = named();
    let resolver = RealResolver::with_servers(vec![named.address]).expect("built");
    let none = mx(&resolver, "mx1.example.test").await.expect("the name exists");
    assert_eq!(none.records, []);
    assert_eq!(none.ttl, Duration::from_secs(77), "the SOA says how long");

    for gone in ["gone.example.test", "dangling.example.test", "some.invalid"] {
        assert_eq!(mx(&resolver, gone).await, Err(DnsError::NoSuchDomain(gone.into())));
    }
    // broken.test: SERVFAIL. elsewhere.test: REFUSED, since named isn't its server.
    for failing in ["broken.test", "elsewhere.test"] {
        let error = mx(&resolver, failing).await.expect_err(failing);
        let DnsError::Failed(text) = &error else { panic!("{failing}: {error:?}") };
        assert!(text.starts_with(&format!("DNS look-up of MX {failing}: ")), "{text}");
        let error = addresses(&resolver, failing, IpLookupStrategy::Ipv4AndIpv6).await;
        assert!(matches!(error, Err(DnsError::Failed(_))), "{failing}: {error:?}");
    }
}

#[tokio::test]
async fn each_strategy_asks_for_its_families_in_its_order() {
    use IpLookupStrategy::*;
    let named = named();
    let resolver = RealResolver::with_servers(vec![named.address]).expect("built");
    let (v4, v6) = ("192.0.2.1", "2001:db8::1");
    for (host, strategy, expected) in [
        ("mx1", Ipv4Only, vec![v4]),
        ("mx1", Ipv6Only, vec![v6]),
        ("mx1", Ipv4AndIpv6, vec![v4, v6]),
        ("mx1", Ipv4ThenIpv6, vec![v4]),
        ("mx1", Ipv6ThenIpv4, vec![v6]),
        ("alias", Ipv4AndIpv6, vec![v4, v6]),
        ("mx2", Ipv6ThenIpv4, vec!["192.0.2.2"]),
        ("mx2", Ipv6Only, vec![]),
        ("six", Ipv4ThenIpv6, vec!["2001:db8::6"]),
        ("six", Ipv4AndIpv6, vec!["2001:db8::6"]),
        ("only-text", Ipv4AndIpv6, vec![]),
    ] {
        let name = format!("{host}.example.test");
        let answer = addresses(&resolver, &name, strategy).await.expect(host);
        assert_eq!(answer.addresses, ips(&expected), "{host} {strategy:?}");
        assert!(answer.ttl <= Duration::from_secs(300), "{host} {strategy:?} {:?}", answer.ttl);
    }
    for strategy in [Ipv4Only, Ipv6Only, Ipv4AndIpv6, Ipv4ThenIpv6, Ipv6ThenIpv4] {
        let gone = addresses(&resolver, "gone.example.test", strategy).await;
        assert_eq!(gone, Err(DnsError::NoSuchDomain("gone.example.test".into())), "{strategy:?}");
    }
}

#[tokio::test]
async fn a_truncated_answer_is_fetched_over_tcp_and_cut_to_our_limits() {
    let named = named();
    let resolver = RealResolver::with_servers(vec![named.address]).expect("built");
    let answer = mx(&resolver, "many.example.test").await.expect("an answer");
    assert_eq!(answer.records.len(), MX_HOSTS);
    let best = "a-rather-long-name-99.example.test";
    assert_eq!(pairs(&answer)[0], (1, best), "the best are kept");
    let answer = addresses(&resolver, "many.example.test", IpLookupStrategy::Ipv4Only).await;
    assert_eq!(answer.expect("an answer").addresses.len(), PLAN_ADDRESSES);
}

#[tokio::test]
async fn answers_are_cached_and_their_ttl_runs_down() {
    let named = named();
    let resolver = impatient(named.address);
    let fresh = mx(&resolver, "example.test").await.expect("an answer");
    drop(named);
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let cached = mx(&resolver, "example.test").await.expect("from the cache");
    assert_eq!(cached.records, fresh.records);
    assert!(cached.ttl < fresh.ttl, "{:?} {:?}", cached.ttl, fresh.ttl);
    let uncached = mx(&resolver, "null.example.test").await;
    assert!(matches!(uncached, Err(DnsError::Failed(_))), "{uncached:?}");
}

#[tokio::test]
async fn a_thousand_look_ups_at_once_all_get_their_answer() {
    let named = named();
    let resolver = Arc::new(RealResolver::with_servers(vec![named.address]).expect("built"));
    let tasks: Vec<_> = (0..1_000)
        .map(|n| {
            let resolver = resolver.clone();
            tokio::spawn(async move { mx(&resolver, &format!("n{n}.wild.example.test")).await })
        })
        .collect();
    for task in tasks {
        let answer = task.await.expect("no panic").expect("an answer");
        assert_eq!(pairs(&answer), [(10, "mx1.example.test")]);
    }
}

#[tokio::test]
async fn silence_and_a_closed_port_are_failures_and_no_verdict() {
    // The same port for both; others may have it for TCP.
    let (silent, _backlog_only) = (0..100)
        .find_map(|_| {
            let silent = UdpSocket::bind("127.0.0.1:0").expect("bound");
            let address = silent.local_addr().expect("bound");
            Some((silent, TcpListener::bind(address).ok()?))
        })
        .expect("a port that is free for both");
    let address = silent.local_addr().expect("bound");
    let unanswered = mx(&impatient(address), "example.test").await;
    assert!(matches!(unanswered, Err(DnsError::Failed(_))), "{unanswered:?}");

    let closed = {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("bound");
        socket.local_addr().expect("bound")
    };
    let refused = mx(&impatient(closed), "example.test").await;
    assert!(matches!(refused, Err(DnsError::Failed(_))), "{refused:?}");
}

#[tokio::test]
async fn the_hosts_file_goes_first_and_makes_a_name_exist() {
    let named = named();
    let own = hosts("192.0.2.99 mx1.example.test relay.example.test\n");
    let resolver =
        RealResolver::build(configuration(vec![named.address]), ResolverOpts::default(), own)
            .expect("built");
    let answer = addresses(&resolver, "mx1.example.test", IpLookupStrategy::Ipv4Only).await;
    assert_eq!(answer.expect("from hosts").addresses, ips(&["192.0.2.99"]));
    let answer = mx(&resolver, "relay.example.test").await.expect("the name exists");
    assert_eq!(answer.records, []);
    let local = addresses(&resolver, "localhost", IpLookupStrategy::Ipv4AndIpv6).await;
    assert_eq!(local.expect("always there").addresses, ips(&["127.0.0.1", "::1"]));
    assert_eq!(mx(&resolver, "localhost").await.expect("exists").records, []);
}

#[tokio::test]
async fn a_literal_is_its_own_answer_and_nonsense_is_no_verdict() {
    let closed = "127.0.0.1:9".parse().expect("an address");
    let resolver = impatient(closed);
    for (text, strategy, expected) in [
        ("192.0.2.5", IpLookupStrategy::Ipv4AndIpv6, vec!["192.0.2.5"]),
        ("2001:db8::5", IpLookupStrategy::Ipv6Only, vec!["2001:db8::5"]),
        ("2001:db8::5", IpLookupStrategy::Ipv4Only, vec![]),
    ] {
        let answer = addresses(&resolver, text, strategy).await.expect(text);
        assert_eq!(answer.addresses, ips(&expected), "{text}");
    }
    for nonsense in ["", ".", "a..b", &"a".repeat(64), &"abc.".repeat(80)] {
        let error = mx(&resolver, nonsense).await;
        assert!(matches!(error, Err(DnsError::Failed(_))), "{nonsense:?}: {error:?}");
    }
    assert!(RealResolver::with_servers(Vec::new()).is_err());
}

#[test]
fn two_families_are_merged_without_a_false_verdict() {
    let some = |text: &str| Ok(address_answer(ips(&[text]), Duration::from_secs(9)));
    let none = || Ok(address_answer(Vec::new(), Duration::from_secs(5)));
    let gone = || Err(DnsError::NoSuchDomain("x".into()));
    let failed = || Err(DnsError::Failed("servfail".into()));
    let both = Ok(address_answer(ips(&["192.0.2.1", "::1"]), Duration::from_secs(9)));
    assert_eq!(merge(some("192.0.2.1"), some("::1")), both);
    assert_eq!(merge(some("::1"), failed()), some("::1"));
    assert_eq!(merge(failed(), some("::1")), some("::1"));
    assert_eq!(merge(some("::1"), gone()), some("::1"));
    assert_eq!(merge(none(), failed()), failed());
    assert_eq!(merge(gone(), none()), none());
    assert_eq!(merge(none(), none()), none());
    assert_eq!(merge(gone(), gone()), gone());
    assert_eq!(merge(gone(), failed()), failed());
    assert_eq!(merge(failed(), gone()), failed());
}
