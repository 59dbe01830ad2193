//! The made-up mail: whom it is for, and what is in it.
//! Invariant: content has CRLF line ends only. Every worker draws its recipients from a seed of its own.
use super::arguments::{Arguments, WeightedDomain};
use bytes::Bytes;
use kumo_core::date;
use kumo_core::random::Random;
use kumo_core::time::Wall;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

pub const SENDER: &str = "sender@traffic-gen.test";
const LINE: &[u8] =
    b"This line is here to give the message a size; it says nothing and means nothing.";

/// What the messages of a run have in common.
pub struct Template {
    body: Bytes,
    header: String,
    domains: Vec<WeightedDomain>,
    suffix: String,
    total_weight: u64,
}

impl Template {
    pub fn new(arguments: &Arguments) -> Result<Arc<Template>, String> {
        let body = match &arguments.body_file {
            None => filler(arguments.body_size),
            Some(path) => {
                let content = std::fs::read(path);
                with_crlf(&content.map_err(|error| format!("{}: {error}", path.display()))?)
            }
        };
        Ok(Arc::new(Template {
            body,
            header: arguments.headers.concat(),
            total_weight: arguments.domains.iter().map(|domain| u64::from(domain.weight)).sum(),
            domains: arguments.domains.clone(),
            suffix: arguments.domain_suffix.clone(),
        }))
    }

    pub fn recipient(&self, number: u64, random: &mut Random) -> String {
        let mut at = random.below(self.total_weight);
        let drawn = self.domains.iter().find(|domain| {
            let weight = u64::from(domain.weight);
            let is_it = at < weight;
            at = at.saturating_sub(weight);
            is_it
        });
        let domain = &drawn.expect("what was drawn is below the sum of all weights").domain;
        match self.suffix.as_str() {
            "" => format!("user-{number}@{domain}"),
            suffix => format!("user-{number}@{domain}.{suffix}"),
        }
    }

    /// Header, empty line, body.
    pub fn content(&self, number: u64, to: &str) -> Vec<u8> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = Wall(i64::try_from(now.as_nanos()).unwrap_or(i64::MAX));
        let header = format!(
            "From: Traffic Generator <{SENDER}>\r\nTo: {to}\r\nSubject: message {number}\r\n\
             Date: {}\r\nMessage-ID: <{number}.{}@traffic-gen.test>\r\n{}\r\n",
            date::rfc5322(now),
            now.0,
            self.header
        );
        [header.as_bytes(), &self.body].concat()
    }
}

/// Lines that add up to so many octets, the last one shorter where they must.
fn filler(octets: usize) -> Bytes {
    let mut body = Vec::with_capacity(octets + 2);
    while body.len() + 2 < octets {
        let room = (octets - body.len() - 2).min(LINE.len());
        body.extend_from_slice(&LINE[..room]);
        body.extend_from_slice(b"\r\n");
    }
    body.into()
}

/// Every line end becomes CRLF, and the last line gets one.
fn with_crlf(data: &[u8]) -> Bytes {
    let mut text = Vec::with_capacity(data.len() + data.len() / 32);
    for line in data.split_inclusive(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        text.extend_from_slice(line.strip_suffix(b"\r").unwrap_or(line));
        text.extend_from_slice(b"\r\n");
    }
    text.into()
}

/// As DATA wants it: dots at the beginning of lines doubled, the final dot added (RFC 5321 4.5.2).
pub fn dot_stuffed(content: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(content.len() + 16);
    for line in content.split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(b".") {
            wire.push(b'.');
        }
        wire.extend_from_slice(line);
    }
    wire.extend_from_slice(b".\r\n");
    wire
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn template(line: &[&str]) -> Arc<Template> {
        let whole = std::iter::once("traffic-gen").chain(line.iter().copied());
        Template::new(&Arguments::try_parse_from(whole).unwrap()).unwrap()
    }

    #[test]
    fn the_body_has_the_size_that_was_asked_for() {
        for size in [0, 3, 79, 80, 81, 82, 83, 1024, 16_384] {
            let body = filler(size);
            assert!(body.len() <= size && body.len() + 2 >= size, "{size}: {}", body.len());
            assert!(body.is_empty() || body.ends_with(b"\r\n"));
        }
    }

    #[test]
    fn domains_are_drawn_by_weight_and_carry_the_suffix() {
        let template = template(&["--domain", "a.test:9", "--domain", "b.test"]);
        let mut random = Random::new(1, "recipients");
        let all: Vec<String> = (0..1000).map(|n| template.recipient(n, &mut random)).collect();
        assert!(all.iter().all(|recipient| recipient.ends_with(".test.mx-sink.test")));
        let seldom = all.iter().filter(|recipient| recipient.contains("@b.test.")).count();
        assert!((50..200).contains(&seldom), "{seldom}");
    }

    #[test]
    fn content_is_a_message_with_the_fields_asked_for() {
        let template =
            template(&["--header", "X-One: 1", "--header", "X-Two: 2", "--body-size", "10"]);
        let content = String::from_utf8(template.content(7, "to@d.test")).unwrap();
        let (header, body) = content.split_once("\r\n\r\n").unwrap();
        assert!(header.contains("\r\nTo: to@d.test\r\n"));
        assert!(header.ends_with("\r\nX-One: 1\r\nX-Two: 2"));
        assert_eq!(body, "This lin\r\n");
    }

    #[test]
    fn a_body_file_is_sent_with_crlf_and_its_dots_doubled() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), ".one\n..two\r\nend").unwrap();
        let template = template(&["--body-file", file.path().to_str().unwrap()]);
        assert_eq!(template.body, ".one\r\n..two\r\nend\r\n");
        assert_eq!(dot_stuffed(&template.body), b"..one\r\n...two\r\nend\r\n.\r\n");
    }
}
