//! How one connection to a destination is tried by way of a proxy (seed.md 12.5; D19, D23): which of the proxy's addresses, how long each, and what
//! their failures come to. Invariant: one attempt counts against its source once at most, however many addresses it tried.
use super::ProxyServer;
use crate::source_health::SourceFailure;
use crate::time::Duration;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

/// What a candidate's failure speaks against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// No interface has the local address.
    Unplumbed,
    /// The local address couldn't be used otherwise.
    Bind,
    /// The proxy couldn't be connected to, or broke off or stalled its handshake.
    Proxy,
    /// The proxy doesn't have the address it was asked for.
    ProxyBind,
    /// The destination, or what policy says of the proxy: nobody's health.
    Other,
}

/// One address of a proxy, or of the destination itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub candidate: SocketAddr,
    pub blame: Blame,
    /// Names what was tried with it.
    pub text: String,
}

/// Addresses of a proxy that a source may use, in their order. `option`: the name of the option that names the proxy.
pub fn candidates(
    source: &str,
    option: &str,
    server: &str,
    (addresses, port): (&[IpAddr], u16),
    source_address: Option<IpAddr>,
) -> Result<Vec<SocketAddr>, String> {
    if addresses.is_empty() {
        return Err(format!("source {source}: {option} {server} resolved to no usable addresses"));
    }
    let fits = |address: &&IpAddr| {
        source_address.is_none_or(|source| source.is_ipv4() == address.is_ipv4())
    };
    let fitting: Vec<SocketAddr> =
        addresses.iter().filter(fits).map(|address| SocketAddr::new(*address, port)).collect();
    match source_address {
        Some(address) if fitting.is_empty() => Err(format!(
            "source {source}: no {option} candidates remain after filtering {} resolved address(es) to match source_address \
             {address} family",
            addresses.len()
        )),
        _ => Ok(fitting),
    }
}

/// What one of so many candidates may take of the time that is left.
pub fn share(left: Duration, candidates: usize) -> Duration {
    left / u32::try_from(candidates.max(1)).unwrap_or(u32::MAX)
}

/// Why an attempt failed all of whose candidates did, and whether it counts against its source. `proxy`: the source's, as policy names it.
pub fn combine(
    source: &str,
    proxy: Option<&ProxyServer>,
    failures: &[Failure],
) -> (String, Option<SourceFailure>) {
    (text(source, proxy, failures), verdict(failures))
}

fn text(source: &str, proxy: Option<&ProxyServer>, failures: &[Failure]) -> String {
    match (failures, proxy) {
        ([only], None) => only.text.clone(),
        ([only], Some(proxy)) => format!("proxy {proxy} of source {source}: {}", only.text),
        (all, _) => {
            let each: Vec<String> = all
                .iter()
                .map(|failure| format!("{}: {}", failure.candidate, failure.text))
                .collect();
            let count = all.len().to_string();
            let each = each.join("; ");
            format!("failed to connect via any of {count} candidate(s) for source {source}: {each}")
        }
    }
}

fn verdict(failures: &[Failure]) -> Option<SourceFailure> {
    let is_local = |failure: &Failure| matches!(failure.blame, Blame::Unplumbed | Blame::Bind);
    if failures.iter().all(is_local) {
        let first = failures.first()?;
        return (first.blame == Blame::Unplumbed).then_some(SourceFailure::Unplumbed);
    }
    let of_proxy = |failure: &Failure| matches!(failure.blame, Blame::Proxy | Blame::ProxyBind);
    failures.iter().any(of_proxy).then_some(SourceFailure::ProxyUnhealthy)
}

/// In front of the errors of all hosts, where all are of one class.
pub fn hint(failures: &[Blame]) -> &'static str {
    let all = |blame: Blame| !failures.is_empty() && failures.iter().all(|one| *one == blame);
    if all(Blame::Unplumbed) {
        "the source's address is on no interface of this host (`ip address add` puts it there): "
    } else if all(Blame::ProxyBind) {
        "the proxy can't send from the source's address: "
    } else if all(Blame::Proxy) {
        "the source's proxy can't be reached: "
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    const BLAMES: [Blame; 5] =
        [Blame::Unplumbed, Blame::Bind, Blame::Proxy, Blame::ProxyBind, Blame::Other];

    fn failures(blames: &[Blame]) -> Vec<Failure> {
        let failure = |(n, blame): (usize, &Blame)| Failure {
            candidate: SocketAddr::new([10, 0, 0, n as u8].into(), 1080),
            blame: *blame,
            text: format!("error {n}"),
        };
        blames.iter().enumerate().map(failure).collect()
    }

    #[test]
    fn a_proxy_s_addresses_are_filtered_by_family() {
        let (four, six): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), "2001:db8::1".parse().unwrap());
        let of = |addresses: &[IpAddr], source_address| {
            candidates("s", "ha_proxy_server", "p.test:1", (addresses, 1), source_address)
        };
        let found = |addresses: &[IpAddr]| {
            Ok(addresses.iter().map(|address| SocketAddr::new(*address, 1)).collect::<Vec<_>>())
        };
        assert_eq!(of(&[six, four], None), found(&[six, four]));
        assert_eq!(of(&[six, four], Some(four)), found(&[four]));
        let none = "source s: ha_proxy_server p.test:1 resolved to no usable addresses";
        assert_eq!(of(&[], None), Err(none.into()));
        let filtered = "source s: no ha_proxy_server candidates remain after filtering 1 resolved address(es) to match \
                        source_address 10.0.0.1 family";
        assert_eq!(of(&[six], Some(four)), Err(filtered.into()));
    }

    #[test]
    fn one_failure_is_told_as_it_is_and_several_with_their_addresses() {
        let (text, _) = combine("s", None, &failures(&[Blame::Other]));
        assert_eq!(text, "error 0");
        let proxy: ProxyServer = "p.test:1080".parse().unwrap();
        let (text, _) = combine("s", Some(&proxy), &failures(&[Blame::Proxy]));
        assert_eq!(text, "proxy p.test:1080 of source s: error 0");
        let (text, _) = combine("s", Some(&proxy), &failures(&[Blame::Proxy, Blame::Other]));
        let expected = "failed to connect via any of 2 candidate(s) for source s: 10.0.0.0:1080: error 0; 10.0.0.1:1080: error 1";
        assert_eq!(text, expected);
    }

    #[test]
    fn an_attempt_counts_as_its_failures_together_say() {
        use Blame::{Bind, Other, Proxy, ProxyBind, Unplumbed};
        for (blames, expected) in [
            (vec![], None),
            (vec![Unplumbed], Some(SourceFailure::Unplumbed)),
            (vec![Unplumbed, Bind], Some(SourceFailure::Unplumbed)),
            (vec![Bind, Unplumbed], None),
            (vec![ProxyBind, ProxyBind], Some(SourceFailure::ProxyUnhealthy)),
            (vec![Unplumbed, Proxy], Some(SourceFailure::ProxyUnhealthy)),
            (vec![Other, Proxy], Some(SourceFailure::ProxyUnhealthy)),
            (vec![Other], None),
            (vec![Other, Unplumbed], None),
        ] {
            assert_eq!(combine("s", None, &failures(&blames)).1, expected, "{blames:?}");
        }
    }

    #[test]
    fn a_hint_stands_only_where_all_failures_are_of_one_class() {
        assert!(hint(&[Blame::Unplumbed, Blame::Unplumbed]).contains("ip address add"));
        assert!(hint(&[Blame::Proxy]).contains("can't be reached"));
        assert_eq!(hint(&[Blame::Proxy, Blame::Other]), "");
        assert!(hint(&[Blame::ProxyBind]).contains("can't send from"));
        assert_eq!(hint(&[]), "");
    }

    proptest! {
        /// However many candidates there are and however late each is, all of them get a turn and none goes beyond the end.
        #[test]
        fn each_candidate_gets_its_share(seconds in 1..1000u64, candidates in 1..64usize) {
            let mut left = Duration::from_secs(seconds);
            for tried in 0..candidates {
                let share = share(left, candidates - tried);
                prop_assert!(share > Duration::ZERO && share <= left);
                left -= share;
            }
        }

        #[test]
        fn what_has_nothing_to_do_with_proxies_never_speaks_against_one(which in prop::collection::vec(0..5usize, 0..8)) {
            let blames: Vec<Blame> = which.into_iter().map(|which| BLAMES[which]).collect();
            let counts = combine("s", None, &failures(&blames)).1;
            let of_proxy = blames.iter().any(|blame| matches!(blame, Blame::Proxy | Blame::ProxyBind));
            prop_assert_eq!(counts == Some(SourceFailure::ProxyUnhealthy), of_proxy);
        }
    }
}
