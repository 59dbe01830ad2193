//! One record as one line of JSON, field by field as operators' tools know them (core.md 7.2).
//! Invariant: whatever the message holds, a line is valid JSON and UTF-8, ends with the one line feed in it, and has
//! a bounded length. Strings and numbers go straight into the buffer: this runs once for every event of every message.
use super::select::Selection;
use kumo_core::date;
use kumo_core::id::SpoolId;
use kumo_core::log::{PeerAddress, SourceAddress};
use kumo_core::port::TlsInfo;
use kumo_core::smtp::reply::{EnhancedCode, Reply};
use kumo_core::time::Wall;
use kumo_driver::record::RecordEvent;

/// Bounces aren't classified.
const CLASSIFICATION: &str = ",\"bounce_classification\":\"Uncategorized\"";

/// Appends the record and a line feed to `out`.
pub fn render(event: &RecordEvent<'_>, selection: &Selection, node_id: &str, out: &mut Vec<u8>) {
    let message = event.message;
    raw(out, "{\"type\":\"");
    raw(out, event.kind.name());
    raw(out, "\",\"id\":\"");
    spool_id(out, message.id);
    text(out, "\",\"sender\":", message.envelope.sender.as_str());
    recipients(out, event);
    text(out, ",\"queue\":", event.queue);
    text(out, ",\"site\":", event.site);
    number(out, ",\"size\":", event.size as i64);
    response(out, &event.response);
    peer_address(out, event.peer_address.as_ref());
    moment(out, ",\"timestamp\":", ",\"event_time\":\"", event.when);
    moment(out, ",\"created\":", ",\"created_time\":\"", message.id.created());
    number(out, ",\"num_attempts\":", i64::from(event.attempts));
    raw(out, CLASSIFICATION);
    text_or_null(out, ",\"egress_pool\":", event.pool);
    text_or_null(out, ",\"egress_source\":", event.source);
    source_address(out, event.source_address.as_ref());
    raw(out, ",\"feedback_report\":null,\"meta\":{");
    selection.write_meta(&message.meta, out);
    raw(out, "},\"headers\":{");
    selection.write_headers(&message.body, out);
    text_or_null(out, "},\"delivery_protocol\":", event.delivery_protocol);
    let reception = message.meta.get("reception_protocol").and_then(|value| value.as_str());
    text_or_null(out, ",\"reception_protocol\":", reception);
    text(out, ",\"nodeid\":", node_id);
    tls(out, event.tls);
    text_if_any(out, ",\"provider_name\":", event.provider);
    text_if_any(out, ",\"session_id\":", event.session.as_deref());
    raw(out, "}\n");
}

fn raw(out: &mut Vec<u8>, piece: &str) {
    out.extend_from_slice(piece.as_bytes());
}

fn text(out: &mut Vec<u8>, before: &str, value: &str) {
    raw(out, before);
    string(out, value);
}

fn text_or_null(out: &mut Vec<u8>, before: &str, value: Option<&str>) {
    match value {
        Some(value) => text(out, before, value),
        None => {
            raw(out, before);
            raw(out, "null");
        }
    }
}

fn text_if_any(out: &mut Vec<u8>, before: &str, value: Option<&str>) {
    if let Some(value) = value {
        text(out, before, value);
    }
}

fn number(out: &mut Vec<u8>, before: &str, value: i64) {
    raw(out, before);
    if value < 0 {
        out.push(b'-');
    }
    let mut digits = [0; 20];
    let mut first = digits.len();
    let mut rest = value.unsigned_abs();
    loop {
        first -= 1;
        digits[first] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[first..]);
}

fn list<'a>(out: &mut Vec<u8>, values: impl Iterator<Item = &'a str>) {
    for (position, value) in values.enumerate() {
        text(out, if position == 0 { "[" } else { "," }, value);
    }
    out.push(b']');
}

/// A string where there is one, an array otherwise.
fn recipients(out: &mut Vec<u8>, event: &RecordEvent<'_>) {
    raw(out, ",\"recipient\":");
    match event.recipients[..] {
        [] => raw(out, "[]"),
        [one] => string(out, one.as_str()),
        _ => list(out, event.recipients.iter().map(|mailbox| mailbox.as_str())),
    }
}

fn response(out: &mut Vec<u8>, reply: &Reply) {
    number(out, ",\"response\":{\"code\":", i64::from(reply.code));
    match reply.enhanced {
        Some(EnhancedCode { class, subject, detail }) => {
            number(out, ",\"enhanced_code\":{\"class\":", i64::from(class));
            number(out, ",\"subject\":", i64::from(subject));
            number(out, ",\"detail\":", i64::from(detail));
            raw(out, "}");
        }
        None => raw(out, ",\"enhanced_code\":null"),
    }
    text(out, ",\"content\":", &reply.content);
    text_or_null(out, ",\"command\":", reply.command.as_deref());
    raw(out, "}");
}

fn peer_address(out: &mut Vec<u8>, peer: Option<&PeerAddress>) {
    let Some(peer) = peer else {
        return raw(out, ",\"peer_address\":null");
    };
    text(out, ",\"peer_address\":{\"name\":", &peer.name);
    text(out, ",\"addr\":", &peer.addr);
    raw(out, "}");
}

fn source_address(out: &mut Vec<u8>, source: Option<&SourceAddress>) {
    let Some(source) = source else {
        return raw(out, ",\"source_address\":null");
    };
    text(out, ",\"source_address\":{\"address\":", &source.address);
    text_if_any(out, ",\"server\":", source.server.as_deref());
    text_if_any(out, ",\"protocol\":", source.protocol.as_deref());
    raw(out, "}");
}

fn tls(out: &mut Vec<u8>, tls: Option<&TlsInfo>) {
    let Some(tls) = tls else { return };
    text(out, ",\"tls_cipher\":", &tls.cipher);
    text(out, ",\"tls_protocol_version\":", &tls.protocol);
    if !tls.peer_subject.is_empty() {
        raw(out, ",\"tls_peer_subject_name\":");
        list(out, tls.peer_subject.iter().map(String::as_str));
    }
}

/// Whole seconds, then RFC 3339.
fn moment(out: &mut Vec<u8>, seconds: &str, date_text: &str, when: Wall) {
    number(out, seconds, when.unix_seconds());
    raw(out, date_text);
    out.extend_from_slice(&date::rfc3339_octets(when));
    out.push(b'"');
}

const HEXADECIMAL: &[u8; 16] = b"0123456789abcdef";

fn spool_id(out: &mut Vec<u8>, id: SpoolId) {
    for byte in id.0 {
        let pair = [HEXADECIMAL[usize::from(byte >> 4)], HEXADECIMAL[usize::from(byte & 15)]];
        out.extend_from_slice(&pair);
    }
}

/// A JSON string. Most have nothing to escape, so runs of plain octets are found and copied at once.
pub fn string(out: &mut Vec<u8>, value: &str) {
    out.push(b'"');
    let mut rest = value.as_bytes();
    while let Some(at) = first_special(rest) {
        out.extend_from_slice(&rest[..at]);
        escape(out, rest[at]);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

fn is_special(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// Looks at 16 octets at a time, without a branch for each, which the compiler turns into vector instructions.
fn first_special(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    for block in bytes.chunks_exact(16) {
        if block.iter().fold(false, |found, byte| found | is_special(*byte)) {
            break;
        }
        at += 16;
    }
    bytes[at..].iter().position(|byte| is_special(*byte)).map(|found| at + found)
}

fn escape(out: &mut Vec<u8>, byte: u8) {
    let short = match byte {
        b'"' => b'"',
        b'\\' => b'\\',
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        _ => {
            raw(out, "\\u00");
            let digits = [HEXADECIMAL[usize::from(byte >> 4)], HEXADECIMAL[usize::from(byte & 15)]];
            return out.extend_from_slice(&digits);
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}
