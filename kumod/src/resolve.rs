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

/// For one question to policy, or to DNS.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Resolved {
    pub domain: String,
    pub source: String,
    /// `None`: it has none, or DNS didn't tell.
    pub mx: Option<MxHosts>,
    pub site: String,
    /// The ready queue's.
    pub queue_name: String,
    pub queue: QueueConfig,
    pub path: EgressPath,
    /// The path's and the queue's together.
    pub constraints: EffectiveConstraints,
}

/// `domain` may be a scheduled queue's whole name. The error says what policy failed at.
pub async fn resolve<P: Policy, R: Resolver>(
    policy: &P,
    resolver: &R,
    domain: &str,
    source: &str,
) -> Result<Resolved, String> {
    let queue = queue_config(policy, domain).await?;
    let found = site(resolver, domain, &queue.protocol).await;
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
    let question = EngineQuestion { question, message: None, response: None };
    match timeout(PATIENCE, policy.engine(question)).await {
        Ok(answered) => match answered.answer {
            Answer::Failed { why } => Err(why.into()),
            answer => Ok(answer),
        },
        Err(_) => Err(format!("policy didn't answer within {PATIENCE:?}")),
    }
}

/// `None`: DNS doesn't tell, or says that there are no hosts.
pub async fn site<R: Resolver>(
    resolver: &R,
    queue: &str,
    protocol: &DeliveryProtocol,
) -> Option<(Arc<str>, Arc<Hosts>)> {
    let destination = QueueName::parse(queue).destination();
    if let Some((site, hosts)) = mx::site_without_dns(destination, protocol) {
        return Some((site, Arc::new(hosts)));
    }
    let answer = timeout(PATIENCE, resolver.mx(destination)).await.ok()?;
    match mx::resolution(destination, answer) {
        Resolution::Found { site, hosts, .. } => Some((site, hosts)),
        Resolution::NullMx | Resolution::NoHosts | Resolution::Failed { .. } => None,
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
