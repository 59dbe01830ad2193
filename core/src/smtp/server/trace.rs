//! The fields a host adds to what it receives: Received (RFC 5321 4.4) and the supplemental field that carries
//! recipient and chosen metadata as base64 JSON (core.md 2.1). Nothing here decides whether they are added.
use crate::address::Mailbox;
use crate::date;
use crate::id::SpoolId;
use crate::message::Meta;
use crate::port::TlsInfo;
use crate::smtp::base64;
use crate::time::Wall;
use alloc::format;
use alloc::string::String;
use core::fmt::Write;
use core::net::IpAddr;

/// Octets of base64 on one line of a folded field.
const FOLDED_OCTETS: usize = 72;

pub struct Reception<'a> {
    pub greeting_domain: &'a str,
    pub hostname: &'a str,
    pub peer: IpAddr,
    pub local: IpAddr,
    pub tls: Option<&'a TlsInfo>,
    pub authenticated: bool,
}

/// `recipient` is left out where one field serves several messages.
pub fn received(
    from: &Reception<'_>,
    id: SpoolId,
    recipient: Option<&Mailbox>,
    now: Wall,
) -> String {
    let protocol = match (from.tls, from.authenticated) {
        (Some(_), true) => "ESMTPSA",
        (Some(_), false) => "ESMTPS",
        (None, _) => "ESMTP",
    };
    let mut text = String::with_capacity(320);
    let mut add = |part: core::fmt::Arguments<'_>| {
        text.write_fmt(part).expect("writing to a String doesn't fail");
    };
    add(format_args!("Received: from {} ({})\r\n", from.greeting_domain, from.peer));
    add(format_args!("  by {} (kumod {})\r\n  with {protocol}", from.hostname, from.local));
    if let Some(tls) = from.tls {
        add(format_args!(" ({}:{})", tls.protocol, tls.cipher));
    }
    add(format_args!(" id {id}"));
    if let Some(recipient) = recipient {
        add(format_args!("\r\n  for <{recipient}>"));
    }
    add(format_args!(";\r\n  {}\r\n", date::rfc5322(now)));
    text
}

/// `include`: names of the metadata that go into it.
pub fn supplemental(
    field: &str,
    recipients: &[Mailbox],
    include: &[String],
    meta: &Meta,
) -> String {
    let mut object = Meta::new();
    for name in include {
        if let Some(value) = meta.get(name) {
            object.insert(name.clone(), value.clone());
        }
    }
    let addresses = || recipients.iter().map(|recipient| recipient.as_str());
    let recipient = match recipients {
        [one] => one.as_str().into(),
        _ => addresses().collect::<serde_json::Value>(),
    };
    object.insert("recipient".into(), recipient);
    object.insert("_@_".into(), "\\_/".into());
    let encoded = base64::encode(format!("{}", serde_json::Value::Object(object)).as_bytes());
    let mut text = format!("{field}: ");
    let mut rest = encoded.as_str();
    while rest.len() > FOLDED_OCTETS {
        let (line, after) = rest.split_at(FOLDED_OCTETS);
        text.push_str(line);
        text.push_str("\r\n\t");
        rest = after;
    }
    text.push_str(rest);
    text.push_str("\r\n");
    text
}
