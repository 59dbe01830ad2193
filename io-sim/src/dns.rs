//! The `Resolver` port over a table of zones, with the `dns.*` faults. Invariant: a look-up asks the table for the truth first, and a
//! fault changes only what the node is told of it. No cache (that is the engine's), no DNSSEC, no wire format.
use crate::fault::FaultKind;
use crate::universe::Universe;
use crate::waits::WaitKind;
use kumo_core::config::egress::IpLookupStrategy;
use kumo_core::limits::PLAN_ADDRESSES;
use kumo_core::port::{AddressAnswer, DnsError, MxAnswer, Resolver};
use kumo_core::random::Random;
use kumo_core::time::Duration;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::time::sleep;

/// A chain of aliases is followed so far; a longer one, or a ring, leads nowhere.
const ALIASES: usize = 8;
/// What a second try over TCP takes at least, and up to this much more.
const SECOND_TRY: Duration = Duration::from_secs(2);
const SECOND_TRY_SPREAD: Duration = Duration::from_secs(4);

/// All names there are, in lower case without a trailing dot. A name with addresses and no MX stands in for itself.
#[derive(Clone, Debug)]
pub struct Zones {
    pub mx: BTreeMap<String, Vec<(u16, String)>>,
    pub addresses: BTreeMap<String, Vec<IpAddr>>,
    /// As CNAME: another name for everything about a name.
    pub aliases: BTreeMap<String, String>,
    pub ttl: Duration,
    /// What an answer takes.
    pub latency: Duration,
}

impl Default for Zones {
    fn default() -> Zones {
        Zones {
            mx: BTreeMap::new(),
            addresses: BTreeMap::new(),
            aliases: BTreeMap::new(),
            ttl: Duration::from_secs(300),
            latency: Duration::from_millis(10),
        }
    }
}

impl Zones {
    pub fn with_mx(mut self, domain: &str, records: &[(u16, &str)]) -> Zones {
        let records = records.iter().map(|(preference, host)| (*preference, normal(host)));
        self.mx.entry(normal(domain)).or_default().extend(records);
        self
    }

    pub fn with_address(mut self, host: &str, address: IpAddr) -> Zones {
        self.addresses.entry(normal(host)).or_default().push(address);
        self
    }

    pub fn with_alias(mut self, name: &str, means: &str) -> Zones {
        self.aliases.insert(normal(name), normal(means));
        self
    }

    fn canonical<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        let mut name = name;
        for _ in 0..=ALIASES {
            match self.aliases.get(name) {
                Some(means) => name = means,
                None => return Some(name),
            }
        }
        None
    }

    /// The canonical name, if there is anything of that name.
    fn find<'a>(&'a self, name: &'a str) -> Result<&'a str, DnsError> {
        let canonical = self.canonical(name).ok_or_else(|| {
            DnsError::Failed(format!("SERVFAIL for {name}: its aliases lead nowhere"))
        })?;
        match self.mx.contains_key(canonical) || self.addresses.contains_key(canonical) {
            true => Ok(canonical),
            false => Err(DnsError::NoSuchDomain(name.into())),
        }
    }

    fn mx_of(&self, name: &str) -> Result<MxAnswer, DnsError> {
        let found = self.mx.get(self.find(name)?).map_or(&[][..], Vec::as_slice);
        let records = found.iter().map(|(preference, host)| (*preference, host.as_str().into()));
        Ok(MxAnswer { records: records.collect(), ttl: self.ttl, secure: false })
    }

    fn addresses_of(
        &self,
        name: &str,
        strategy: IpLookupStrategy,
    ) -> Result<AddressAnswer, DnsError> {
        let all = self.addresses.get(self.find(name)?).map_or(&[][..], Vec::as_slice);
        Ok(AddressAnswer { addresses: chosen(all, strategy), ttl: self.ttl, secure: false })
    }
}

fn normal(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

/// As the real resolver chooses: a second family only if the first is empty, or after it.
fn chosen(all: &[IpAddr], strategy: IpLookupStrategy) -> Vec<IpAddr> {
    let family = |v4: bool| all.iter().copied().filter(move |address| address.is_ipv4() == v4);
    let either = |v4: bool| match family(v4).next() {
        Some(_) => family(v4).collect(),
        None => family(!v4).collect(),
    };
    let mut chosen: Vec<IpAddr> = match strategy {
        IpLookupStrategy::Ipv4Only => family(true).collect(),
        IpLookupStrategy::Ipv6Only => family(false).collect(),
        IpLookupStrategy::Ipv4ThenIpv6 => either(true),
        IpLookupStrategy::Ipv6ThenIpv4 => either(false),
        IpLookupStrategy::Ipv4AndIpv6 => family(true).chain(family(false)).collect(),
    };
    chosen.truncate(PLAN_ADDRESSES);
    chosen
}

pub struct SimResolver {
    universe: Arc<Universe>,
    life: u64,
    random: Mutex<Random>,
}

impl SimResolver {
    pub fn new(universe: &Arc<Universe>, life: u64) -> SimResolver {
        let random = Random::new(universe.seed ^ life.rotate_left(32), "dns");
        SimResolver { universe: universe.clone(), life, random: Mutex::new(random) }
    }

    fn zones(&self) -> &Zones {
        &self.universe.settings.zones
    }

    fn strikes(&self, what: FaultKind, name: &str) -> bool {
        self.universe.faults.strikes(what, name).is_some()
    }

    async fn pause(&self, time: Duration) {
        sleep(time).await;
        self.universe.lives.alive(self.life).await;
    }

    /// What a look-up goes through before there is an answer.
    async fn ask(&self, name: &str) -> Result<(), DnsError> {
        self.universe.lives.alive(self.life).await;
        self.pause(self.zones().latency).await;
        if let Some(strike) = self.universe.faults.strikes(FaultKind::DnsDelay, name) {
            match strike.amount {
                Some(amount) => sleep(amount).await,
                None => self.universe.faults.over(FaultKind::DnsDelay, name).await,
            }
            self.universe.lives.alive(self.life).await;
        }
        if self.strikes(FaultKind::DnsServfail, name) {
            return Err(DnsError::Failed(format!("SERVFAIL for {name}")));
        }
        if self.strikes(FaultKind::DnsTruncated, name) {
            self.ask_again(name).await?;
        }
        Ok(())
    }

    /// The second try, over TCP.
    async fn ask_again(&self, name: &str) -> Result<(), DnsError> {
        let (time, fails) = {
            let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
            (SECOND_TRY + random.duration_up_to(SECOND_TRY_SPREAD), random.below(2) == 0)
        };
        self.pause(time).await;
        match fails {
            true => Err(DnsError::Failed(format!("truncated answer for {name}; no TCP"))),
            false => Ok(()),
        }
    }

    /// A fault that hides a name that is there.
    fn hide(&self, name: &str) -> Result<(), DnsError> {
        match self.strikes(FaultKind::DnsNoSuchDomain, name) {
            true => Err(DnsError::NoSuchDomain(name.into())),
            false => Ok(()),
        }
    }

    fn ttl(&self, truth: Duration, name: &str) -> Duration {
        if self.strikes(FaultKind::DnsTtlZero, name) { Duration::ZERO } else { truth }
    }

    fn told_mx(&self, truth: MxAnswer, name: &str) -> MxAnswer {
        let records = if self.strikes(FaultKind::DnsNoData, name) {
            Vec::new()
        } else if self.strikes(FaultKind::DnsNullMx, name) {
            vec![(0, "".into())]
        } else if self.strikes(FaultKind::DnsLame, name) {
            vec![(10, format!("lame.{name}").into())]
        } else {
            truth.records
        };
        MxAnswer { records, ttl: self.ttl(truth.ttl, name), secure: truth.secure }
    }

    fn told_addresses(
        &self,
        truth: AddressAnswer,
        name: &str,
        strategy: IpLookupStrategy,
    ) -> AddressAnswer {
        let addresses = if self.strikes(FaultKind::DnsNoData, name) {
            Vec::new()
        } else if self.strikes(FaultKind::DnsLoopback, name) {
            vec![loopback(strategy)]
        } else {
            truth.addresses
        };
        AddressAnswer { addresses, ttl: self.ttl(truth.ttl, name), secure: truth.secure }
    }
}

fn loopback(strategy: IpLookupStrategy) -> IpAddr {
    match strategy {
        IpLookupStrategy::Ipv6Only => Ipv6Addr::LOCALHOST.into(),
        _ => Ipv4Addr::LOCALHOST.into(),
    }
}

impl Resolver for SimResolver {
    async fn mx(&self, domain: &str) -> Result<MxAnswer, DnsError> {
        let name = normal(domain);
        let _waiting = self.universe.waits.begin(WaitKind::Resolve, self.universe.now().mono);
        self.ask(&name).await?;
        let truth = self.zones().mx_of(&name)?;
        self.hide(&name)?;
        Ok(self.told_mx(truth, &name))
    }

    async fn addresses(
        &self,
        host: &str,
        strategy: IpLookupStrategy,
    ) -> Result<AddressAnswer, DnsError> {
        if let Ok(literal) = host.parse::<IpAddr>() {
            let addresses = chosen(&[literal], strategy);
            return Ok(AddressAnswer { addresses, ttl: self.zones().ttl, secure: false });
        }
        let name = normal(host);
        let _waiting = self.universe.waits.begin(WaitKind::Resolve, self.universe.now().mono);
        self.ask(&name).await?;
        let truth = self.zones().addresses_of(&name, strategy)?;
        self.hide(&name)?;
        Ok(self.told_addresses(truth, &name, strategy))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::fault::Fault;
    use crate::policy::PolicyTable;
    use crate::universe::Settings;
    use kumo_core::engine::Resolution;
    use kumo_core::mx;
    use std::time::Duration;
    use tokio::time::timeout;

    /// A universe for the tests of the small ports, in its first life.
    pub(crate) fn universe(zones: Zones, policy: PolicyTable) -> Arc<Universe> {
        let settings = Settings {
            disk: Default::default(),
            net: Default::default(),
            interfaces: Vec::new(),
            policy,
            zones,
        };
        let universe = Universe::new(7, settings);
        assert_eq!(universe.lives.begin(), 1);
        universe
    }

    pub(crate) fn fault(what: FaultKind, amount: Option<Duration>, target: Option<&str>) -> Fault {
        Fault { what, chance: 1000, amount, target: target.map(Into::into) }
    }

    const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
    const BOTH: IpLookupStrategy = IpLookupStrategy::Ipv4AndIpv6;

    fn world() -> (Arc<Universe>, SimResolver) {
        let zones = Zones::default()
            .with_mx("A.test", &[(10, "mx.a.test"), (20, "mx2.a.test.")])
            .with_address("mx.a.test", V6)
            .with_address("mx.a.test", V4)
            .with_address("b.test", V4)
            .with_alias("c.test", "a.test")
            .with_alias("x.test", "y.test")
            .with_alias("y.test", "x.test");
        let universe = universe(zones, PolicyTable::default());
        let resolver = SimResolver::new(&universe, 1);
        (universe, resolver)
    }

    fn missing(name: &str) -> DnsError {
        DnsError::NoSuchDomain(name.into())
    }

    #[madsim::test]
    async fn without_faults_the_table_is_told() {
        let (universe, resolver) = world();
        let began = universe.now().mono;
        let answer = resolver.mx("a.test").await.unwrap();
        assert_eq!(answer.records, [(10, "mx.a.test".into()), (20, "mx2.a.test".into())]);
        assert_eq!(answer.ttl, Duration::from_secs(300));
        assert!(universe.now().mono.since(began) >= universe.settings.zones.latency);
        assert_eq!(resolver.mx("C.Test.").await, Ok(answer));
        assert_eq!(resolver.mx("b.test").await.unwrap().records, []);
        assert_eq!(resolver.mx("d.test").await, Err(missing("d.test")));
        assert!(matches!(resolver.mx("x.test").await, Err(DnsError::Failed(_))));
        assert_eq!(resolver.addresses("mx2.a.test", BOTH).await, Err(missing("mx2.a.test")));
        assert!(resolver.addresses("a.test", BOTH).await.unwrap().addresses.is_empty());
        assert!(universe.waits.standing().is_empty());
    }

    #[madsim::test]
    async fn families_come_as_the_strategy_says() {
        let (_universe, resolver) = world();
        for (host, strategy, expected) in [
            ("mx.a.test", IpLookupStrategy::Ipv4Only, vec![V4]),
            ("mx.a.test", IpLookupStrategy::Ipv6Only, vec![V6]),
            ("mx.a.test", IpLookupStrategy::Ipv4AndIpv6, vec![V4, V6]),
            ("mx.a.test", IpLookupStrategy::Ipv6ThenIpv4, vec![V6]),
            ("b.test", IpLookupStrategy::Ipv6ThenIpv4, vec![V4]),
            ("b.test", IpLookupStrategy::Ipv6Only, vec![]),
            ("192.0.2.1", IpLookupStrategy::Ipv4Only, vec![V4]),
        ] {
            let answer = resolver.addresses(host, strategy).await.unwrap();
            assert_eq!(answer.addresses, expected, "{host} {strategy:?}");
        }
    }

    #[madsim::test]
    async fn each_fault_changes_what_is_told_of_its_target() {
        let (universe, resolver) = world();
        let begin = |what| universe.faults.begin(fault(what, None, Some("a.test")));
        for what in [
            FaultKind::DnsServfail,
            FaultKind::DnsNoSuchDomain,
            FaultKind::DnsNoData,
            FaultKind::DnsNullMx,
            FaultKind::DnsLame,
            FaultKind::DnsTtlZero,
            FaultKind::DnsLoopback,
        ] {
            let id = begin(what);
            let told = mx::resolution("a.test", resolver.mx("a.test").await);
            let is_as_ordered = match (what, &told) {
                (FaultKind::DnsServfail, Resolution::Failed { why }) => why.contains("SERVFAIL"),
                (FaultKind::DnsNoSuchDomain, Resolution::NoHosts)
                | (FaultKind::DnsNullMx, Resolution::NullMx) => true,
                (FaultKind::DnsNoData, Resolution::Found { hosts, .. }) => !hosts.is_mx,
                (FaultKind::DnsLame, Resolution::Found { site, .. }) => &**site == "lame.a.test",
                (FaultKind::DnsTtlZero, Resolution::Found { ttl, hosts, .. }) => {
                    ttl.is_zero() && hosts.by_preference.len() == 2
                }
                (FaultKind::DnsLoopback, Resolution::Found { hosts, .. }) => hosts.is_mx,
                _ => false,
            };
            assert!(is_as_ordered, "{what:?}: {told:?}");
            assert!(resolver.mx("b.test").await.is_ok(), "{what:?}");
            let struck = u64::from(what != FaultKind::DnsLoopback);
            assert_eq!(universe.faults.fired()[what as usize], struck);
            universe.faults.end(id);
        }
        assert_eq!(resolver.addresses("lame.a.test", BOTH).await, Err(missing("lame.a.test")));
        universe.faults.begin(fault(FaultKind::DnsLoopback, None, Some("b.test")));
        let told = resolver.addresses("b.test", BOTH).await.unwrap();
        assert_eq!(told.addresses, [IpAddr::from([127, 0, 0, 1])]);
    }

    #[madsim::test]
    async fn a_delay_lasts_its_amount_or_as_long_as_the_fault() {
        let (universe, resolver) = world();
        let amount = Duration::from_secs(5);
        let id = universe.faults.begin(fault(FaultKind::DnsDelay, Some(amount), None));
        let began = universe.now().mono;
        resolver.mx("a.test").await.unwrap();
        assert!(universe.now().mono.since(began) >= amount);
        universe.faults.end(id);
        universe.faults.begin(fault(FaultKind::DnsDelay, None, None));
        let mut asked = Box::pin(resolver.mx("a.test"));
        assert!(timeout(Duration::from_secs(60), &mut asked).await.is_err());
        assert_eq!(universe.waits.standing()[0].0, WaitKind::Resolve);
        universe.faults.heal();
        assert!(timeout(Duration::from_secs(1), asked).await.unwrap().is_ok());
    }

    #[madsim::test]
    async fn a_truncated_answer_takes_a_second_try_that_may_fail() {
        let (universe, resolver) = world();
        universe.faults.begin(fault(FaultKind::DnsTruncated, None, None));
        let mut failed = 0;
        for _ in 0..40 {
            let began = universe.now().mono;
            failed += usize::from(resolver.mx("a.test").await.is_err());
            let time = universe.now().mono.since(began);
            assert!((2..=6).contains(&time.as_secs()), "{time:?}");
        }
        assert!((8..=32).contains(&failed), "{failed}");
    }

    #[madsim::test]
    async fn a_dead_life_gets_no_answer() {
        let (universe, resolver) = world();
        let mut asked = Box::pin(resolver.mx("a.test"));
        assert!(timeout(Duration::from_millis(1), &mut asked).await.is_err());
        universe.lives.end();
        assert!(timeout(Duration::from_secs(60), asked).await.is_err());
    }
}
