//! The header of a raw message: reading its fields and editing them, everything else left octet for octet.
//! Invariant: one pass over the header, whatever is in it; an edit adds only lines that end with CRLF. A header ends
//! at the first empty line, or before the first line that is no field (RFC 5322 2.1 has no header without fields).
//! MIME structure and encoded words are not this file's business.
use crate::message::Meta;
use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::{Bytes, BytesMut};
use memchr::memchr;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a header field's name is made of printable ASCII characters without a colon, this isn't: {0:?}"
)]
pub struct FieldNameError(pub String);

/// One field as it stands in the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// Where its first octet stands in the message.
    pub offset: usize,
    /// Name, colon, value and line ends.
    pub whole: &'a [u8],
    pub name: &'a str,
    /// Everything between the colon and the last line end.
    pub raw_value: &'a [u8],
}

impl<'a> Field<'a> {
    pub fn is_named(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    /// On one line, without surrounding space; octets that aren't UTF-8 are replaced.
    pub fn value(&self) -> Cow<'a, str> {
        let trimmed = self.raw_value.trim_ascii();
        if memchr(b'\n', trimmed).is_none() && memchr(b'\r', trimmed).is_none() {
            return String::from_utf8_lossy(trimmed);
        }
        let mut text = String::from_utf8_lossy(trimmed).into_owned();
        text.retain(|c| c != '\r' && c != '\n');
        Cow::Owned(text)
    }
}

/// The fields of a message's header, in order.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    message: &'a [u8],
    at: usize,
}

pub fn fields(message: &[u8]) -> Fields<'_> {
    Fields { message, at: 0 }
}

/// End of the line that begins at `at`, line end included.
fn line_end(message: &[u8], at: usize) -> usize {
    let end = memchr(b'\n', &message[at..]).map_or(message.len(), |found| at + found + 1);
    #[cfg(test)]
    work::add(end - at);
    end
}

/// Length of a field's name, and where its value begins, if `line` is the first line of a field.
fn split_name(line: &[u8]) -> Option<(&str, usize)> {
    #[cfg(test)]
    work::add(line.len());
    let colon = memchr(b':', line)?;
    // RFC 5322 4.5.8: old mail has space before the colon.
    let name = line[..colon].trim_ascii_end();
    let is_name = !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
    is_name.then(|| core::str::from_utf8(name).ok()).flatten().map(|name| (name, colon + 1))
}

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    fn next(&mut self) -> Option<Field<'a>> {
        let message = self.message;
        let start = self.at;
        let mut end = line_end(message, start);
        let (name, value) = split_name(&message[start..end])?;
        while matches!(message.get(end), Some(b' ' | b'\t')) {
            end = line_end(message, end);
        }
        self.at = end;
        let whole = &message[start..end];
        let raw = &whole[value..];
        let raw = raw.strip_suffix(b"\n").unwrap_or(raw);
        let raw_value = raw.strip_suffix(b"\r").unwrap_or(raw);
        Some(Field { offset: start, whole, name, raw_value })
    }
}

/// Where the header ends: the offset of the empty line, or of the body where there is none.
pub fn header_end(message: &[u8]) -> usize {
    let mut all = fields(message);
    all.by_ref().for_each(drop);
    all.at
}

/// The first value of that name (ASCII case doesn't matter), on one line.
pub fn first<'a>(message: &'a [u8], name: &str) -> Option<Cow<'a, str>> {
    fields(message).find(|field| field.is_named(name)).map(|field| field.value())
}

pub fn all<'a>(message: &'a [u8], name: &str) -> Vec<Cow<'a, str>> {
    fields(message).filter(|field| field.is_named(name)).map(|field| field.value()).collect()
}

/// How many hosts the message has passed, for the loop limit (RFC 5321 6.3).
pub fn count_received(message: &[u8]) -> usize {
    fields(message).filter(|field| field.is_named("Received")).count()
}

/// `name: value` with CRLF. Line ends within the value become folds, so that a value can't add another field.
pub fn render(name: &str, value: &str) -> Result<String, FieldNameError> {
    let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && b != b':');
    if !is_name {
        return Err(FieldNameError(name.chars().take(80).collect()));
    }
    let mut text = String::with_capacity(name.len() + value.len() + 4);
    text.push_str(name);
    text.push_str(": ");
    let lines = value.split(['\r', '\n']).filter(|line| !line.trim().is_empty());
    for (position, line) in lines.enumerate() {
        if position > 0 {
            text.push_str("\r\n");
            text.push_str(if line.starts_with([' ', '\t']) { "" } else { "\t" });
        }
        text.extend(line.chars().filter(|c| *c != '\0'));
    }
    text.push_str("\r\n");
    Ok(text)
}

/// The message with `part` put in at `at`.
fn insert(message: &Bytes, at: usize, part: &str) -> Bytes {
    let mut edited = BytesMut::with_capacity(message.len() + part.len());
    edited.extend_from_slice(&message[..at]);
    edited.extend_from_slice(part.as_bytes());
    edited.extend_from_slice(&message[at..]);
    edited.freeze()
}

/// The message without a header gets one: a field needs an empty line between itself and a body that follows.
fn with_separator(message: &[u8], end: usize, mut field: String) -> String {
    let rest = &message[end..];
    let separated = rest.starts_with(b"\r\n") || rest.starts_with(b"\n") || rest.is_empty();
    if !separated {
        field.push_str("\r\n");
    }
    field
}

pub fn prepend(message: &Bytes, name: &str, value: &str) -> Result<Bytes, FieldNameError> {
    let field = render(name, value)?;
    Ok(prepend_raw(message, field))
}

/// `field` is one or more complete fields, CRLF included.
pub fn prepend_raw(message: &Bytes, field: String) -> Bytes {
    // Its first line tells: a message to many isn't read to the end of its folds for each of them.
    let has_header = split_name(&message[..line_end(message, 0)]).is_some();
    let field = if has_header { field } else { with_separator(message, 0, field) };
    insert(message, 0, &field)
}

/// Puts the field at the end of the header.
pub fn append(message: &Bytes, name: &str, value: &str) -> Result<Bytes, FieldNameError> {
    let field = render(name, value)?;
    let end = header_end(message);
    let mut field = with_separator(message, end, field);
    if end > 0 && message[end - 1] != b'\n' {
        field.insert_str(0, "\r\n");
    }
    Ok(insert(message, end, &field))
}

pub fn remove_all(message: &Bytes, name: &str) -> Bytes {
    remove_where(message, |field| field.is_named(name))
}

/// Removes the fields for which `unwanted` is true; the same message if there are none.
pub fn remove_where(message: &Bytes, unwanted: impl Fn(&Field<'_>) -> bool) -> Bytes {
    let mut kept = BytesMut::new();
    let mut from = 0;
    for field in fields(message).filter(|field| unwanted(field)) {
        if kept.capacity() == 0 {
            kept.reserve(message.len());
        }
        kept.extend_from_slice(&message[from..field.offset]);
        from = field.offset + field.whole.len();
    }
    if from == 0 {
        return message.clone();
    }
    kept.extend_from_slice(&message[from..]);
    kept.freeze()
}

/// A field's name as a metadata name: lower case, `-` as `_`.
pub fn meta_name(name: &str) -> String {
    name.chars().map(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() }).collect()
}

/// Puts the fields for which `wanted` is true into `meta`; of several with one name the first counts.
pub fn import(message: &[u8], meta: &mut Meta, wanted: impl Fn(&str) -> bool) {
    let mut seen = alloc::collections::BTreeSet::new();
    for field in fields(message).filter(|field| wanted(field.name)) {
        let name = meta_name(field.name);
        if seen.insert(name.clone()) {
            meta.insert(name, field.value().into_owned().into());
        }
    }
}

/// How many octets this thread looked at to find fields, for tests that bound it.
#[cfg(test)]
pub mod work {
    use core::cell::Cell;

    std::thread_local! {
        static OCTETS: Cell<usize> = const { Cell::new(0) };
    }

    pub fn add(octets: usize) {
        OCTETS.set(OCTETS.get() + octets);
    }

    pub fn of(work: impl FnOnce()) -> usize {
        let before = OCTETS.get();
        work();
        OCTETS.get() - before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SAMPLE: &[u8] = b"Received: one\r\nSubject: a\r\n  folded\r\n\tvalue\r\nX-One: 1\r\nx-one:2\r\n\r\nBody: no\r\n";

    #[test]
    fn fields_are_found_by_name_and_unfolded() {
        assert_eq!(first(SAMPLE, "SUBJECT").unwrap(), "a  folded\tvalue");
        assert_eq!(all(SAMPLE, "X-ONE"), ["1", "2"]);
        assert_eq!(first(SAMPLE, "Body"), None);
        assert_eq!(count_received(SAMPLE), 1);
        assert_eq!(&SAMPLE[header_end(SAMPLE)..], b"\r\nBody: no\r\n");
    }

    #[test]
    fn edits_touch_nothing_else() {
        let message = Bytes::from_static(SAMPLE);
        let edited = prepend(&message, "A", "1").unwrap();
        assert_eq!(edited, [b"A: 1\r\n", SAMPLE].concat());
        let edited = append(&message, "Z", "9").unwrap();
        assert!(edited.ends_with(b"x-one:2\r\nZ: 9\r\n\r\nBody: no\r\n"));
        assert_eq!(remove_all(&edited, "z"), message);
        assert!(remove_all(&message, "Subject").starts_with(b"Received: one\r\nX-One: 1\r\n"));
        assert_eq!(remove_all(&message, "absent"), message);
    }

    #[test]
    fn a_message_without_header_or_without_body_is_edited_too() {
        let edit = |text: &'static [u8]| {
            let message = Bytes::from_static(text);
            let (front, back) = (prepend(&message, "A", "1"), append(&message, "A", "1"));
            assert_eq!(front, back, "{text:?}");
            front.unwrap()
        };
        assert_eq!(edit(b""), "A: 1\r\n");
        assert_eq!(edit(b"\r\nbody\r\n"), "A: 1\r\n\r\nbody\r\n");
        assert_eq!(edit(b"just text\r\n"), "A: 1\r\n\r\njust text\r\n");
        let header_only = append(&Bytes::from_static(b"B: 2\r\n"), "A", "1").unwrap();
        assert_eq!(header_only, "B: 2\r\nA: 1\r\n");
        let cut = append(&Bytes::from_static(b"B: 2"), "A", "1").unwrap();
        assert_eq!(cut, "B: 2\r\nA: 1\r\n");
    }

    #[test]
    fn a_value_cannot_add_a_field() {
        let field = render("A", "x\r\nBcc: y\r\n\r\nbody").unwrap();
        assert_eq!(field, "A: x\r\n\tBcc: y\r\n\tbody\r\n");
        assert_eq!(fields(field.as_bytes()).count(), 1);
        for name in ["", "a b", "a:b", "a\r\nb", "é"] {
            assert!(render(name, "v").is_err(), "{name}");
        }
    }

    #[test]
    fn imported_names_are_lower_case_with_underscores() {
        let mut meta = Meta::new();
        import(SAMPLE, &mut meta, |name| name.to_ascii_lowercase().starts_with("x-"));
        assert_eq!(serde_json::to_string(&meta).unwrap(), r#"{"x_one":"1"}"#);
    }

    /// Fold and field bombs: each octet is looked at once for its line's end and once for a colon.
    #[test]
    fn header_bombs_take_one_pass() {
        let bomb = |lines: &[&[u8]]| Bytes::from(lines.concat());
        for (bomb, fields) in [
            (bomb(&[&b"Received: b\r\n".repeat(100_000)]), 100_000),
            (bomb(&[b"Received: b\r\n", &b" x\r\n".repeat(100_000)]), 1),
            (bomb(&[b"Received:", &b"\r\n ".repeat(100_000)]), 1),
            (bomb(&[b"Received:", &b"\n\t".repeat(100_000)]), 1),
            (bomb(&[b"Received: b\r\n", &b"a".repeat(1_000_000)]), 1),
            (bomb(&[&b"a".repeat(1_000_000)]), 0),
            (bomb(&[&b":\r\n".repeat(100_000)]), 0),
        ] {
            let work = work::of(|| assert_eq!(count_received(&bomb), fields));
            assert!(work <= 2 * bomb.len(), "{work} octets of {}", bomb.len());
            let work = work::of(|| drop(first(&bomb, "absent")));
            assert!(work <= 2 * bomb.len(), "{work} octets of {}", bomb.len());
            let work = work::of(|| assert_eq!(remove_all(&bomb, "absent"), bomb));
            assert!(work <= 2 * bomb.len(), "{work} octets of {}", bomb.len());
        }
    }

    proptest! {
        #[test]
        fn the_fields_are_the_header(message in "([A-Ca-c:\r\n \t-]|\r\n){0,60}") {
            let end = header_end(message.as_bytes());
            let joined: Vec<u8> =
                fields(message.as_bytes()).flat_map(|field| field.whole.to_vec()).collect();
            prop_assert_eq!(&joined[..], &message.as_bytes()[..end]);
        }
    }
}
