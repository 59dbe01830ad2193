//! Whether a message is a report about other mail: a bounce (RFC 3464) or a complaint (RFC 5965), both `multipart/report`
//! (RFC 6522). Invariant: one pass over the header and one over the body, whatever is in them; parts within parts
//! aren't looked into. What the report says is not read here.
use crate::header;
use alloc::borrow::Cow;
use alloc::string::String;
use memchr::memmem;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportKind {
    /// Out of band: a bounce that came as a message of its own.
    Oob,
    /// Abuse reporting format: what feedback loops send.
    Arf,
}

impl ReportKind {
    fn of_type(report_type: &str) -> Option<ReportKind> {
        let is = |name: &str| report_type.eq_ignore_ascii_case(name);
        match () {
            () if is("delivery-status") || is("global-delivery-status") => Some(ReportKind::Oob),
            () if is("feedback-report") => Some(ReportKind::Arf),
            () => None,
        }
    }
}

/// A report says what it is twice, in its own type and in that of the part that machines read.
pub fn kind(message: &[u8]) -> Option<ReportKind> {
    let content_type = header::first(message, "Content-Type")?;
    if !media_type(&content_type).eq_ignore_ascii_case("multipart/report") {
        return None;
    }
    let kind = ReportKind::of_type(&parameter(&content_type, "report-type")?)?;
    let boundary = parameter(&content_type, "boundary").filter(|text| !text.is_empty())?;
    let body = &message[header::header_end(message)..];
    parts(body, &boundary).any(|part| part_kind(part) == Some(kind)).then_some(kind)
}

fn part_kind(part: &[u8]) -> Option<ReportKind> {
    let content_type = header::first(part, "Content-Type")?;
    let media_type = media_type(&content_type);
    let is_message = media_type.get(..8)?.eq_ignore_ascii_case("message/");
    is_message.then(|| ReportKind::of_type(&media_type[8..])).flatten()
}

fn media_type(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or("").trim()
}

/// The parts of a multipart body (RFC 2046 5.1.1), each without its delimiter line.
fn parts<'a>(body: &'a [u8], boundary: &str) -> impl Iterator<Item = &'a [u8]> {
    let delimiter = [b"--", boundary.as_bytes()].concat();
    let mut rest = after_delimiter(body, &delimiter).map(|(_, rest)| rest);
    core::iter::from_fn(move || {
        let part = rest.take()?;
        let Some((part, next)) = after_delimiter(part, &delimiter) else { return Some(part) };
        rest = Some(next);
        Some(part)
    })
}

/// What stands before the next delimiter line, and after it.
fn after_delimiter<'a>(text: &'a [u8], delimiter: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let begins_line = |at: &usize| *at == 0 || text[at - 1] == b'\n';
    let at = memmem::find_iter(text, delimiter).find(begins_line)?;
    let end = memchr::memchr(b'\n', &text[at..]).map_or(text.len(), |length| at + length + 1);
    Some((&text[..at], &text[end..]))
}

/// The value of a parameter (RFC 2045 5.1), without quotes.
fn parameter<'a>(content_type: &'a str, name: &str) -> Option<Cow<'a, str>> {
    let mut rest = content_type.split_once(';')?.1;
    loop {
        let end = parameter_length(rest);
        let (attribute, value) = rest[..end].split_once('=').unwrap_or(("", ""));
        if attribute.trim().eq_ignore_ascii_case(name) {
            return Some(unquoted(value.trim()));
        }
        rest = rest.get(end + 1..)?;
    }
}

/// Up to the next semicolon that isn't quoted.
fn parameter_length(text: &str) -> usize {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let end = text.bytes().position(|byte| {
        if core::mem::take(&mut is_escaped) {
            return false;
        }
        is_escaped = is_quoted && byte == b'\\';
        is_quoted ^= byte == b'"';
        byte == b';' && !is_quoted
    });
    end.unwrap_or(text.len())
}

fn unquoted(value: &str) -> Cow<'_, str> {
    let Some(inner) = value.strip_prefix('"').and_then(|inner| inner.strip_suffix('"')) else {
        return Cow::Borrowed(value);
    };
    let mut text = String::with_capacity(inner.len());
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        text.extend(match character {
            '\\' => characters.next(),
            other => Some(other),
        });
    }
    Cow::Owned(text)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A report with one part that machines read.
    pub fn report(report_type: &str, part_type: &str) -> String {
        format!(
            "From: mailer-daemon@x.test\r\nContent-Type: multipart/report;\r\n\tboundary=\"b;\\\"1\";\r\n \
             report-type={report_type}\r\n\r\npreamble\r\n--b;\"1\r\n\r\nSorry.\r\n--b;\"1\r\n\
             Content-Type: {part_type}\r\n\r\nReporting-MTA: dns; x.test\r\n--b;\"1--\r\n"
        )
    }

    #[test]
    fn a_report_is_known_by_its_type_and_its_part() {
        let oob = Some(ReportKind::Oob);
        for (report_type, part_type, expected) in [
            ("delivery-status", "message/delivery-status", oob),
            ("\"Delivery-Status\"", "Message/Delivery-Status; charset=utf-8", oob),
            ("global-delivery-status", "message/global-delivery-status", oob),
            ("feedback-report", "message/feedback-report", Some(ReportKind::Arf)),
            ("feedback-report", "message/delivery-status", None),
            ("delivery-status", "text/plain", None),
            ("delivery-status", "message/rfc822", None),
            ("disposition-notification", "message/disposition-notification", None),
        ] {
            let message = report(report_type, part_type);
            assert_eq!(kind(message.as_bytes()), expected, "{report_type}, {part_type}");
            let bare = message.replace("\r\n", "\n");
            assert_eq!(kind(bare.as_bytes()), expected, "{report_type}, {part_type}");
        }
    }

    #[test]
    fn what_only_looks_like_a_report_is_none() {
        let good = report("delivery-status", "message/delivery-status");
        for (what, instead) in [
            ("multipart/report", "multipart/mixed"),
            ("boundary=", "border="),
            ("\r\n--b;\"1\r\n", "\r\n --b;\"1\r\n"),
            ("report-type=delivery-status", "x=\"; report-type=delivery-status\""),
            ("Content-Type: multipart", "X-Content-Type: multipart"),
        ] {
            assert!(good.contains(what));
            assert_eq!(kind(good.replace(what, instead).as_bytes()), None, "{what} as {instead}");
        }
        // Within another message.
        let forwarded = format!("Content-Type: message/rfc822\r\n\r\n{good}");
        assert_eq!(kind(forwarded.as_bytes()), None);
    }

    /// A boundary that could be a field's name, so that each part's header would go on to the end of the message.
    #[test]
    fn a_part_ends_at_the_next_delimiter() {
        let head =
            "Content-Type: multipart/report; report-type=feedback-report; boundary=\"a:b\"\r\n\r\n";
        let body = "--a:b\r\n".repeat(100);
        let found: usize = parts(body.as_bytes(), "a:b").map(<[u8]>::len).sum();
        assert_eq!(found, 0, "no part reaches into the next one");
        let last = "Content-Type: message/feedback-report\r\n";
        assert_eq!(kind(format!("{head}{body}{last}").as_bytes()), Some(ReportKind::Arf));
    }

    proptest! {
        #[test]
        fn no_content_panics(
            pieces in proptest::collection::vec(prop::sample::select(&[
                "Content-Type: multipart/report", "; report-type=delivery-status", "; boundary=", "a", "\"", "\\", ";",
                "=", "\r\n", "\n", "--a", "--", "message/delivery-status", "\u{e9}", " ",
            ][..]), 0..30),
        ) {
            kind(pieces.concat().as_bytes());
        }
    }
}
