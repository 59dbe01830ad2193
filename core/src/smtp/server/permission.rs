//! What mail to a domain may be (core.md 2.1): anything where it is relayed, reports where the listener domain says
//! `log_oob` or `log_arf`; and what then becomes of it. Invariant: without a reason to relay nothing but a report is
//! kept. Who asks policy, and when, is `transaction`'s and `reception`'s business.
use crate::config::ListenerDomain;
use crate::config::listener::ReportHandling;
use crate::message::Message;
use crate::report::{self, ReportKind};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permission {
    relays: bool,
    oob: ReportHandling,
    arf: ReportHandling,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Disposition {
    /// A report that is only to be recorded.
    Drop,
    Keep,
    Refuse,
}

impl Permission {
    pub fn relay(relays: bool) -> Permission {
        Permission { relays, oob: ReportHandling::Ignore, arf: ReportHandling::Ignore }
    }

    /// `domain` is the recipient's.
    pub fn add(&mut self, domain: &ListenerDomain) {
        self.relays |= domain.relay_to;
        self.oob = domain.log_oob;
        self.arf = domain.log_arf;
    }

    pub fn takes_anything(self) -> bool {
        self.takes() != [false; 3]
    }

    /// Bounces, complaints, other mail.
    fn takes(self) -> [bool; 3] {
        let report = |handling| self.relays || handling != ReportHandling::Ignore;
        [report(self.oob), report(self.arf), self.relays]
    }

    fn disposition(self, kind: Option<ReportKind>) -> Disposition {
        let handling = match kind {
            Some(ReportKind::Oob) => self.oob,
            Some(ReportKind::Arf) => self.arf,
            None => ReportHandling::Ignore,
        };
        match handling {
            ReportHandling::LogThenRelay => Disposition::Keep,
            ReportHandling::LogThenDrop => Disposition::Drop,
            ReportHandling::Ignore if self.relays => Disposition::Keep,
            ReportHandling::Ignore => Disposition::Refuse,
        }
    }
}

/// The permissions of one transaction's recipients, which all take the same kinds of content.
#[derive(Debug, Default)]
pub struct Permissions {
    first: Option<Permission>,
    /// Of those domains where it matters what the content is.
    by_domain: BTreeMap<Box<str>, Permission>,
}

impl Permissions {
    pub fn agree_with(&self, permission: Permission) -> bool {
        self.first.is_none_or(|first| first.takes() == permission.takes())
    }

    pub fn note(&mut self, domain: &str, permission: Permission) {
        self.first.get_or_insert(permission);
        if permission != Permission::relay(true) && !self.by_domain.contains_key(domain) {
            self.by_domain.insert(domain.into(), permission);
        }
    }

    /// Recipients that policy added are its own decision. A message to several is dropped only if all agree.
    pub fn disposition(&self, message: &Message) -> Disposition {
        if self.by_domain.is_empty() {
            return Disposition::Keep;
        }
        let kind = report::kind(&message.body);
        let recipients = message.envelope.recipients.iter();
        let of_each = recipients.map(|recipient| match self.by_domain.get(recipient.domain()) {
            Some(permission) => permission.disposition(kind),
            None => Disposition::Keep,
        });
        of_each.max().unwrap_or(Disposition::Keep)
    }
}
