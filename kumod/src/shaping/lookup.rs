//! What DNS says of domains, for shaping. Invariant: each look-up ends within [`DEADLINE`], and at most [`AT_ONCE`] run at the
//! same time for one load. Answers are kept by the resolver, not here.
use kumo_core::engine::Resolution;
use kumo_core::mx;
use kumo_core::port::{DnsError, MxAnswer, Resolver};
use kumo_core::shaping::Looked;
use kumo_io_real::dns::RealResolver;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::task::JoinSet;

pub const DEADLINE: Duration = Duration::from_secs(5);
pub const AT_ONCE: usize = 32;

type Answer = Pin<Box<dyn Future<Output = Result<MxAnswer, DnsError>> + Send>>;

/// Who is asked for MX records.
#[derive(Clone)]
pub struct MxLookup(Arc<dyn Fn(Box<str>) -> Answer + Send + Sync>);

impl std::fmt::Debug for MxLookup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MxLookup")
    }
}

impl MxLookup {
    pub fn new(ask: impl Fn(Box<str>) -> Answer + Send + Sync + 'static) -> MxLookup {
        MxLookup(Arc::new(ask))
    }

    /// The servers of this host, known once somebody asks.
    pub fn of_system() -> MxLookup {
        let resolver: Arc<OnceLock<Result<RealResolver, DnsError>>> = Arc::default();
        MxLookup::new(move |domain| {
            let resolver = resolver.clone();
            Box::pin(async move {
                match resolver.get_or_init(RealResolver::from_system) {
                    Ok(resolver) => resolver.mx(&domain).await,
                    Err(error) => Err(error.clone()),
                }
            })
        })
    }

    pub async fn look_up(&self, domain: &str) -> Looked {
        if let Some((site, _)) = mx::literal_site(domain) {
            return Looked::Site { site, hosts: vec![domain.into()] };
        }
        let answer = tokio::time::timeout(DEADLINE, (self.0)(domain.into())).await;
        let late = || Err(DnsError::Failed(format!("no answer within {DEADLINE:?}")));
        match mx::resolution(domain, answer.unwrap_or_else(|_| late())) {
            Resolution::Found { site, hosts, .. } => {
                let names = hosts.by_preference.iter().flat_map(|(_, names)| names);
                Looked::Site { site, hosts: names.map(|name| String::from(&**name)).collect() }
            }
            Resolution::NullMx => Looked::NullMx,
            Resolution::NoHosts => Looked::Failed("there is no such domain".into()),
            Resolution::Failed { why } => Looked::Failed(why.into()),
        }
    }

    pub async fn look_up_all(&self, domains: BTreeSet<Box<str>>) -> BTreeMap<Box<str>, Looked> {
        let mut waiting = domains.into_iter();
        let (mut running, mut found) = (JoinSet::new(), BTreeMap::new());
        loop {
            while running.len() < AT_ONCE
                && let Some(domain) = waiting.next()
            {
                let lookup = self.clone();
                running.spawn(async move {
                    let looked = lookup.look_up(&domain).await;
                    (domain, looked)
                });
            }
            match running.join_next().await {
                None => return found,
                Some(Ok((domain, looked))) => drop(found.insert(domain, looked)),
                Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            }
        }
    }

    /// The hosts of a site, to which mail for `domain` goes. Where DNS doesn't say, those that the site's name allows for.
    pub async fn hosts(&self, domain: &str, site: &str) -> Vec<String> {
        if site.starts_with(mx::LISTED) {
            return mx::site_hosts(site);
        }
        match self.look_up(domain).await {
            Looked::Site { hosts, .. } => hosts,
            Looked::NullMx | Looked::Failed(_) => mx::site_hosts(site),
        }
    }
}
