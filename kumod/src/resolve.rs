//! What a domain's mail comes to: its queue's configuration, its site, its ready queue, its egress path and the ceilings of both (seed.md 8). For
//! the server and for the tools that load a policy without running it. Invariant: asks policy and DNS as the engine asks them; a
//! domain that DNS doesn't know is resolved as far as one can.
use crate::http::api::MxHosts;
use kumo_core::ceilings::EffectiveConstraints;
use kumo_core::config::queue::DeliveryProtocol;
use kumo_core::config::{EgressPath, QueueConfig};
use kumo_core::engine::{self, Answer, Hosts, Question, Resolution};
use kumo_core::mx;
use kumo_core::port::Resolver;
use kumo_core::queue_name::QueueName;
use kumo_core::time::Duration;
use kumo_driver::policy::{EngineQuestion, Policy};
use std::sync::Arc;
use tokio::time::timeout;

/// For one question to policy, and for the one to DNS: together less than kcli waits, so that a DNS that is silent costs the hosts alone.
const PATIENCE: Duration = Duration::from_secs(10);
const DNS_PATIENCE: Duration = Duration::from_secs(5);

pub struct Resolved {
    pub domain: String,
    pub source: String,
    /// `None`: the DNS has no part in it, or didn't tell.
    pub mx: Option<MxHosts>,
    /// Why not: the DNS didn't tell, or says that there is no such domain, or that it takes no mail.
    pub mx_failure: Option<String>,
    pub site: String,
    /// The ready queue's.
    pub queue_name: String,
    pub queue: QueueConfig,
    pub path: EgressPath,
    /// The path's and the queue's together.
    pub constraints: EffectiveConstraints,
}

/// Whether there is anything to resolve.
pub fn check(domain: &str, source: &str) -> Result<(), String> {
    if QueueName::parse(domain).destination().is_empty() {
        return Err(format!(
            "'{domain}' names no domain; give one such as example.com, or a queue such as tenant@example.com"
        ));
    }
    if source.is_empty() {
        return Err("an egress source has a name; leave it out for 'unspecified'".into());
    }
    Ok(())
}

/// `domain` may be a scheduled queue's whole name. The error says what policy failed at.
pub async fn resolve<P: Policy, R: Resolver>(
    policy: &P,
    resolver: &R,
    domain: &str,
    source: &str,
) -> Result<Resolved, String> {
    let queue = queue_config(policy, domain).await?;
    let (found, mx_failure) = match site(resolver, domain, &queue.protocol).await {
        Ok(found) => (Some(found), None),
        Err(why) => (None, Some(why)),
    };
    let destination = QueueName::parse(domain).destination();
    let name = found.as_ref().map_or(destination, |(site, _)| site).to_string();
    let path = egress_path(policy, destination, source, &name).await?;
    let constraints = EffectiveConstraints::of_path(&path);
    let of_dns = |(site, hosts): (Arc<str>, Arc<Hosts>)| mx_hosts(&queue.protocol, site, &hosts);
    Ok(Resolved {
        domain: domain.into(),
        source: source.into(),
        queue_name: engine::ready_queue_name(source, &name, &queue.protocol),
        constraints: constraints.merge(EffectiveConstraints::of_queue(&queue)),
        mx: found.and_then(of_dns),
        mx_failure,
        site: name,
        queue,
        path,
    })
}

pub async fn queue_config<P: Policy>(policy: &P, queue: &str) -> Result<QueueConfig, String> {
    match ask(policy, Question::QueueConfig { queue: queue.into() }).await? {
        Answer::QueueConfig(config) => Ok(*config),
        other => unreachable!("a queue's configuration was asked for: {other:?}"),
    }
}

async fn egress_path<P: Policy>(
    policy: &P,
    domain: &str,
    source: &str,
    site: &str,
) -> Result<EgressPath, String> {
    let question =
        Question::EgressPath { domain: domain.into(), source: source.into(), site: site.into() };
    match ask(policy, question).await? {
        Answer::EgressPath(path) => Ok(*path),
        other => unreachable!("an egress path was asked for: {other:?}"),
    }
}

async fn ask<P: Policy>(policy: &P, question: Question) -> Result<Answer, String> {
    let what = question.to_string();
    let question = EngineQuestion { question, message: None, response: None };
    match timeout(PATIENCE, policy.engine(question)).await {
        Ok(answered) => match answered.answer {
            Answer::Failed { why } => Err(why.into()),
            answer => Ok(answer),
        },
        Err(_) => Err(format!("{what} didn't answer within {PATIENCE:?}")),
    }
}

/// The error says that there are no hosts, or why DNS doesn't tell.
pub async fn site<R: Resolver>(
    resolver: &R,
    queue: &str,
    protocol: &DeliveryProtocol,
) -> Result<(Arc<str>, Arc<Hosts>), String> {
    let destination = QueueName::parse(queue).destination();
    if let Some((site, hosts)) = mx::site_without_dns(destination, protocol) {
        return Ok((site, Arc::new(hosts)));
    }
    let answer = timeout(DNS_PATIENCE, resolver.mx(destination)).await;
    let answer = answer.map_err(|_| {
        format!("the DNS didn't answer about {destination} within {DNS_PATIENCE:?}")
    })?;
    match mx::resolution(destination, answer) {
        Resolution::Found { site, hosts, .. } => Ok((site, hosts)),
        Resolution::NullMx => Err(format!("{destination} takes no mail: its MX record says so")),
        Resolution::NoHosts => Err(format!("there is no domain {destination}")),
        Resolution::Failed { why } => Err(why.into()),
    }
}

/// Only where the DNS was asked.
pub fn mx_hosts(protocol: &DeliveryProtocol, site: Arc<str>, hosts: &Hosts) -> Option<MxHosts> {
    let DeliveryProtocol::Smtp { mx_list } = protocol else { return None };
    let by_preference = hosts.by_preference.iter().map(|(preference, names)| {
        (preference.to_string(), names.iter().map(|name| name.as_ref().into()).collect())
    });
    mx_list.is_empty().then(|| MxHosts {
        site_name: site.as_ref().into(),
        by_preference: by_preference.collect(),
        is_mx: hosts.is_mx,
        is_domain_literal: hosts.is_domain_literal,
        is_secure: hosts.is_secure,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{LuaPolicy, PolicyOptions};
    use kumo_core::config::egress::IpLookupStrategy;
    use kumo_core::port::{AddressAnswer, DnsError, MxAnswer};
    use kumo_core::time::Duration;
    use std::future::pending;

    enum Dns {
        Hosts(&'static [(u16, &'static str)]),
        Fails(DnsError),
        IsSilent,
    }

    impl Resolver for Dns {
        async fn mx(&self, _: &str) -> Result<MxAnswer, DnsError> {
            let records = match self {
                Dns::Hosts(records) => records,
                Dns::Fails(error) => return Err(error.clone()),
                Dns::IsSilent => return pending().await,
            };
            let records = records.iter().map(|(n, host)| (*n, (*host).into())).collect();
            Ok(MxAnswer { records, ttl: Duration::from_secs(60), secure: false })
        }

        async fn addresses(&self, _: &str, _: IpLookupStrategy) -> Result<AddressAnswer, DnsError> {
            unreachable!("no address is needed")
        }
    }

    /// Shows what the path's handler was asked in its `provider_name`.
    const POLICY: &str = "local kumo = require 'kumo'
        kumo.on('init', function() error('init ran') end)
        kumo.on('get_queue_config', function(domain)
          if domain == 'list.test' then
            return kumo.make_queue_config { protocol = { smtp = { mx_list = { 'a', 'b:26' } } } }
          elseif domain == 'broken.test' then
            error('no such customer')
          end
        end)
        kumo.on('get_egress_path_config', function(domain, source, site)
          return kumo.make_egress_path { provider_name = domain .. ' ' .. source .. ' ' .. site }
        end)";

    async fn resolved(domain: &str, dns: Dns) -> Result<Resolved, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.lua");
        std::fs::write(&path, POLICY).unwrap();
        let policy = LuaPolicy::load_without_init(&path, PolicyOptions::default()).await;
        resolve(&policy.unwrap_or_else(|error| panic!("{error}")), &dns, domain, "s").await
    }

    #[tokio::test]
    async fn policy_and_dns_are_asked_as_the_engine_asks_them() {
        let two = || Dns::Hosts(&[(20, "b.mx.test"), (10, "a.mx.test")]);
        let fails = || Dns::Fails(DnsError::Failed("SERVFAIL".into()));
        let gone = || Dns::Fails(DnsError::NoSuchDomain("d.test".into()));
        for (domain, dns, asked, queue, has_mx) in [
            ("d.test", two(), "d.test s (a|b).mx.test", "s->(a|b).mx.test@smtp_client", true),
            (
                "c:t@d.test!r.test",
                two(),
                "r.test s (a|b).mx.test",
                "s->(a|b).mx.test@smtp_client",
                true,
            ),
            (
                "[192.0.2.1]",
                fails(),
                "[192.0.2.1] s [192.0.2.1]",
                "s->[192.0.2.1]@smtp_client",
                true,
            ),
            (
                "list.test",
                fails(),
                "list.test s mx_list:a,b:26",
                "s->mx_list:a,b:26@smtp_client",
                false,
            ),
            ("d.test", fails(), "d.test s d.test", "s->d.test@smtp_client", false),
            ("t@d.test", gone(), "d.test s d.test", "s->d.test@smtp_client", false),
            ("d.test", Dns::Hosts(&[(0, "")]), "d.test s d.test", "s->d.test@smtp_client", false),
        ] {
            let found = resolved(domain, dns).await.unwrap();
            assert_eq!(found.path.provider_name.as_deref(), Some(asked), "{domain}");
            assert_eq!((found.queue_name.as_str(), found.mx.is_some()), (queue, has_mx));
        }
    }

    #[tokio::test]
    async fn what_policy_fails_at_is_said() {
        let why = resolved("broken.test", Dns::IsSilent).await.err().unwrap();
        assert!(why.contains("get_queue_config") && why.contains("no such customer"), "{why}");
    }

    /// Real time: what waits is the product's own deadline.
    #[tokio::test]
    async fn a_silent_dns_costs_the_hosts_alone_and_less_time_than_kcli_has() {
        assert!(PATIENCE * 2 + DNS_PATIENCE < Duration::from_secs(30));
        let found = resolved("d.test", Dns::IsSilent).await.unwrap();
        assert_eq!((found.queue_name.as_str(), found.mx), ("s->d.test@smtp_client", None));
        let why = found.mx_failure.expect("a reason");
        assert_eq!(why, "the DNS didn't answer about d.test within 5s");
    }
}
