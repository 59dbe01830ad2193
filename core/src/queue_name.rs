//! The names of scheduled queues: `campaign:tenant@domain!routing_domain`, each part but the domain optional.
use crate::message::{Envelope, Message, Meta};
use crate::recipients::RecipientSet;
use alloc::string::String;
use core::fmt;

/// The scheduled queue whose messages are recorded on arrival and discarded.
pub const NULL: &str = "null";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueName<'a> {
    pub campaign: Option<&'a str>,
    pub tenant: Option<&'a str>,
    pub domain: &'a str,
    pub routing_domain: Option<&'a str>,
}

impl<'a> QueueName<'a> {
    /// Splits a name; every text is some queue's name.
    pub fn parse(text: &'a str) -> QueueName<'a> {
        let (left, routing_domain) = match text.rsplit_once('!') {
            Some((left, routing)) if !routing.is_empty() => (left, Some(routing)),
            _ => (text, None),
        };
        let Some((owner, domain)) = left.rsplit_once('@') else {
            return QueueName { campaign: None, tenant: None, domain: left, routing_domain };
        };
        let present = |part: &'a str| (!part.is_empty()).then_some(part);
        let (campaign, tenant) = match owner.split_once(':') {
            Some((campaign, tenant)) => (present(campaign), present(tenant)),
            None => (None, present(owner)),
        };
        QueueName { campaign, tenant, domain, routing_domain }
    }

    /// The domain whose hosts the mail goes to.
    pub fn destination(&self) -> &'a str {
        self.routing_domain.unwrap_or(self.domain)
    }

    pub fn render(&self) -> String {
        alloc::format!("{self}")
    }
}

impl fmt::Display for QueueName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.campaign, self.tenant) {
            (Some(campaign), tenant) => write!(f, "{campaign}:{}@", tenant.unwrap_or(""))?,
            (None, Some(tenant)) => write!(f, "{tenant}@")?,
            (None, None) => {}
        }
        f.write_str(self.domain)?;
        self.routing_domain.map_or(Ok(()), |routing| write!(f, "!{routing}"))
    }
}

/// The scheduled queue a message belongs to: its `queue` metadata, or what its `campaign`, `tenant` and
/// `routing_domain` metadata and its first remaining recipient make.
pub fn of_message(message: &Message) -> String {
    of(&message.envelope, &message.remaining, &message.meta)
}

/// As [`of_message`], for a message whose body isn't at hand.
pub fn of(envelope: &Envelope, remaining: &RecipientSet, meta: &Meta) -> String {
    let text = |name: &str| {
        meta.get(name).and_then(|value| value.as_str()).filter(|text| !text.is_empty())
    };
    if let Some(queue) = text("queue") {
        return queue.into();
    }
    let first = remaining.iter().next().unwrap_or(0) as usize;
    let domain = envelope.recipients.get(first).map_or("", |mailbox| mailbox.domain());
    let name = QueueName {
        campaign: text("campaign"),
        tenant: text("tenant"),
        domain,
        routing_domain: text("routing_domain"),
    };
    name.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_a_round_trip() {
        for text in
            ["d.test", "t@d.test", "c:@d.test", "c:t@d.test", "c:t@d.test!r.test", "d.test!r.test"]
        {
            assert_eq!(QueueName::parse(text).render(), text);
        }
        let full = QueueName::parse("c:t@d!r");
        assert_eq!((full.campaign, full.tenant), (Some("c"), Some("t")));
        assert_eq!(full.destination(), "r");
        assert_eq!(QueueName::parse("d").destination(), "d");
    }
}
