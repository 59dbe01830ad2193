//! Which metadata and header fields a record carries: names, with `*` at the end for all that begin alike.
//! Metadata names are compared as they stand, header names without regard to case. Without header names, the body isn't
//! looked at; nothing else is ever parsed out of it.
use super::line;
use crate::policy::encoded_word;
use kumo_core::header::{self, Field};
use kumo_core::limits::{LOG_HEADER_FIELDS, LOG_HEADER_OCTETS};
use kumo_core::message::Meta;
use std::borrow::Cow;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Exactly(String),
    BeginsWith(String),
}

#[derive(Clone, Debug)]
pub struct Selection {
    meta: Vec<Pattern>,
    headers: Vec<Pattern>,
}

fn patterns(names: &[String]) -> Vec<Pattern> {
    let pattern = |name: &String| match name.strip_suffix('*') {
        Some(beginning) => Pattern::BeginsWith(beginning.into()),
        None => Pattern::Exactly(name.clone()),
    };
    names.iter().map(pattern).collect()
}

impl Pattern {
    fn takes_meta(&self, name: &str) -> bool {
        match self {
            Pattern::Exactly(wanted) => wanted == name,
            Pattern::BeginsWith(beginning) => name.starts_with(beginning.as_str()),
        }
    }

    /// The name under which the field is logged: as configured, or the message's where that says less.
    fn takes_header<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        match self {
            Pattern::Exactly(wanted) => wanted.eq_ignore_ascii_case(name).then_some(wanted),
            Pattern::BeginsWith(beginning) => {
                let head = name.get(..beginning.len());
                head.is_some_and(|head| head.eq_ignore_ascii_case(beginning)).then_some(name)
            }
        }
    }
}

/// A header field that is to be logged, and under which name.
struct Chosen<'a> {
    name: &'a str,
    field: Field<'a>,
}

impl Chosen<'_> {
    fn is_alike(&self, other: &Chosen<'_>) -> bool {
        self.name.eq_ignore_ascii_case(other.name)
    }
}

impl Selection {
    pub fn new(meta: &[String], headers: &[String]) -> Selection {
        Selection { meta: patterns(meta), headers: patterns(headers) }
    }

    pub fn quotes_header(&self) -> bool {
        !self.headers.is_empty()
    }

    /// The members of a JSON object, without its braces. Names that the message doesn't have are left out.
    pub fn write_meta(&self, meta: &Meta, out: &mut Vec<u8>) {
        if self.meta.is_empty() {
            return;
        }
        let is_chosen = |name: &str| self.meta.iter().any(|pattern| pattern.takes_meta(name));
        let chosen = meta.iter().filter(|(name, _)| is_chosen(name));
        for (position, (name, value)) in chosen.enumerate() {
            member(out, position, name);
            serde_json::to_writer(&mut *out, value).expect("a Vec takes any JSON value");
        }
    }

    /// Likewise for the header of `message`: a string for a field that is there once, an array otherwise.
    pub fn write_headers(&self, message: &[u8], out: &mut Vec<u8>) {
        if self.headers.is_empty() {
            return;
        }
        let chosen: Vec<Chosen<'_>> = header::fields(message)
            .filter_map(|field| self.choose(field))
            .take(LOG_HEADER_FIELDS)
            .collect();
        let mut written = 0;
        for (position, first) in chosen.iter().enumerate() {
            if chosen[..position].iter().any(|before| before.is_alike(first)) {
                continue;
            }
            member(out, written, first.name);
            written += 1;
            write_values(out, first, &chosen[position + 1..]);
        }
    }

    fn choose<'a>(&'a self, field: Field<'a>) -> Option<Chosen<'a>> {
        let name = self.headers.iter().find_map(|pattern| pattern.takes_header(field.name))?;
        Some(Chosen { name, field })
    }
}

fn member(out: &mut Vec<u8>, position: usize, name: &str) {
    if position > 0 {
        out.push(b',');
    }
    line::string(out, name);
    out.push(b':');
}

fn write_values(out: &mut Vec<u8>, first: &Chosen<'_>, rest: &[Chosen<'_>]) {
    let mut others = rest.iter().filter(|other| other.is_alike(first)).peekable();
    if others.peek().is_none() {
        return line::string(out, &value(&first.field));
    }
    out.push(b'[');
    line::string(out, &value(&first.field));
    for other in others {
        out.push(b',');
        line::string(out, &value(&other.field));
    }
    out.push(b']');
}

/// On one line, decoded, and cut where it is longer than anybody needs in a log.
fn value<'a>(field: &Field<'a>) -> Cow<'a, str> {
    let raw = &field.raw_value[..field.raw_value.len().min(LOG_HEADER_OCTETS)];
    let value = Field { raw_value: raw, ..*field }.value();
    match value.contains("=?") {
        true => Cow::Owned(encoded_word::decode(&value)),
        false => value,
    }
}
