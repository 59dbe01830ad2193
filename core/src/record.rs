//! How a message lies in the spool: a meta record and a data record, versioned and checksummed, format 1.
//!
//! ```text
//! "KM" or "KD"   magic: meta or data
//! 1              format version, one octet
//! length         of the payload, u32 little endian
//! checksum       CRC-32C of magic, version, length, the message's id and the payload, u32 little endian
//! payload
//! ```
//!
//! A data record's payload is the body. A meta record's is postcard of [`MetaPayload`], whose metadata is JSON text.
//! Invariants: bytes that were not written as this id's record of this kind are an error, never a message (the id
//! is part of the checksum, so that a record under another's key is damage); what the engine needs at enumeration
//! is in the meta record; format 1 is decoded for ever (I22). Where records are put is the committer's business.
use crate::id::SpoolId;
use crate::limits;
use crate::message::{Envelope, Message, Meta, Schedule};
use crate::recipients::RecipientSet;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;
use crc::{CRC_32_ISCSI, Crc, Table};
use serde::{Deserialize, Serialize};

static CRC32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

const VERSION: u8 = 1;
const HEADER_OCTETS: usize = 11;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Meta,
    Data,
}

impl Kind {
    fn magic(self) -> [u8; 2] {
        match self {
            Kind::Meta => *b"KM",
            Kind::Data => *b"KD",
        }
    }
}

/// Why bytes aren't a record. Each is a reason for quarantine, never for removal (D4).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("the record is cut short: {0} octets")]
    Short(usize),
    #[error("the record doesn't begin as a record of this kind does")]
    Foreign,
    #[error("the record has format version {0}; this kumod reads version {VERSION}")]
    Version(u8),
    #[error("the record says it is {said} octets long, and is {found}")]
    Length { said: usize, found: usize },
    #[error("the record's checksum doesn't fit: it is damaged, or another message's")]
    Checksum,
    #[error("the record's content can't be read: {0}")]
    Content(&'static str),
}

/// A meta record, read. Becomes a [`Message`] with the body of its data record.
#[derive(Clone, Debug, PartialEq)]
pub struct MetaRecord {
    pub id: SpoolId,
    pub envelope: Envelope,
    pub remaining: RecipientSet,
    pub meta: Meta,
    pub schedule: Schedule,
    pub attempts: u16,
    /// Octets of the body.
    pub size: u32,
}

impl MetaRecord {
    pub fn into_message(self, body: Bytes) -> Message {
        let MetaRecord { id, envelope, remaining, meta, schedule, attempts, size: _ } = self;
        Message { id, envelope, remaining, meta, schedule, attempts, body }
    }
}

/// The order of the fields is the format.
#[derive(Serialize, Deserialize)]
struct MetaPayload<E, R, S> {
    envelope: E,
    remaining: R,
    schedule: S,
    attempts: u16,
    size: u32,
    meta: String,
}

/// The meta record of a message.
pub fn encode_meta(message: &Message) -> Bytes {
    let meta = serde_json::to_string(&message.meta).expect("a map with text keys is JSON");
    let payload = MetaPayload {
        envelope: &message.envelope,
        remaining: &message.remaining,
        schedule: &message.schedule,
        attempts: message.attempts,
        size: u32::try_from(message.body.len()).expect("a body is smaller than a record may be"),
        meta,
    };
    let header = Vec::from([0; HEADER_OCTETS]);
    let record = postcard::to_extend(&payload, header).expect("these types always serialise");
    seal(Kind::Meta, message.id, record)
}

/// The data record of a message.
pub fn encode_data(message: &Message) -> Bytes {
    let mut record = Vec::with_capacity(HEADER_OCTETS + message.body.len());
    record.resize(HEADER_OCTETS, 0);
    record.extend_from_slice(&message.body);
    seal(Kind::Data, message.id, record)
}

/// Fills in the header that `record` has room for.
fn seal(kind: Kind, id: SpoolId, mut record: Vec<u8>) -> Bytes {
    let length = record.len() - HEADER_OCTETS;
    assert!(length <= limits::RECORD_OCTETS, "a record of {length} octets");
    record[..2].copy_from_slice(&kind.magic());
    record[2] = VERSION;
    record[3..7].copy_from_slice(&(length as u32).to_le_bytes());
    let checksum = checksum(id, &record[..7], &record[HEADER_OCTETS..]);
    record[7..HEADER_OCTETS].copy_from_slice(&checksum.to_le_bytes());
    Bytes::from(record)
}

fn checksum(id: SpoolId, header: &[u8], payload: &[u8]) -> u32 {
    let mut digest = CRC32C.digest();
    digest.update(header);
    digest.update(&id.0);
    digest.update(payload);
    digest.finalize()
}

/// Proves that `record` is `id`'s record of this kind; its payload follows the header.
fn check(kind: Kind, id: SpoolId, record: &[u8]) -> Result<(), RecordError> {
    let (header, payload) =
        record.split_at_checked(HEADER_OCTETS).ok_or(RecordError::Short(record.len()))?;
    if header[..2] != kind.magic() {
        return Err(RecordError::Foreign);
    }
    if header[2] != VERSION {
        return Err(RecordError::Version(header[2]));
    }
    let number = |from: usize| {
        u32::from_le_bytes([header[from], header[from + 1], header[from + 2], header[from + 3]])
    };
    let said = number(3) as usize;
    if said != payload.len() {
        return Err(RecordError::Length { said, found: payload.len() });
    }
    match checksum(id, &header[..7], payload) == number(7) {
        true => Ok(()),
        false => Err(RecordError::Checksum),
    }
}

/// Reads `id`'s meta record.
pub fn decode_meta(id: SpoolId, record: &[u8]) -> Result<MetaRecord, RecordError> {
    check(Kind::Meta, id, record)?;
    type Owned = MetaPayload<Envelope, RecipientSet, Schedule>;
    let payload: Owned = postcard::from_bytes(&record[HEADER_OCTETS..])
        .map_err(|_| RecordError::Content("not what format 1 holds"))?;
    let meta = serde_json::from_str(&payload.meta)
        .map_err(|_| RecordError::Content("its metadata isn't a JSON object"))?;
    let recipients = payload.envelope.recipients.len();
    if recipients == 0 || recipients > limits::RECIPIENTS_PER_MESSAGE {
        return Err(RecordError::Content("no recipients, or too many"));
    }
    if payload.remaining.iter().any(|index| index as usize >= recipients) {
        return Err(RecordError::Content("it speaks of a recipient that isn't there"));
    }
    let MetaPayload { envelope, remaining, schedule, attempts, size, .. } = payload;
    Ok(MetaRecord { id, envelope, remaining, meta, schedule, attempts, size })
}

/// Reads `id`'s data record: the body, without copying it.
pub fn decode_data(id: SpoolId, record: &Bytes) -> Result<Bytes, RecordError> {
    check(Kind::Data, id, record)?;
    Ok(record.slice(HEADER_OCTETS..))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::{Mailbox, ReversePath};
    use crate::time::Wall;
    use proptest::prelude::*;

    fn message() -> Message {
        let mailbox = |text| Mailbox::parse(text).unwrap();
        let recipients = Vec::from([mailbox("a@b.test"), mailbox("c@d.test")]);
        let mut remaining = RecipientSet::all(2);
        remaining.remove(0);
        let mut meta = Meta::new();
        meta.insert("tenant".into(), "t1".into());
        Message {
            id: "0bf5fd16e70411f1a1b2c3d4e5f60718".parse().unwrap(),
            envelope: Envelope { sender: ReversePath::Mailbox(mailbox("s@x.test")), recipients },
            remaining,
            meta,
            schedule: Schedule { due: None, expires: Some(Wall(1_795_000_000_000_000_000)) },
            attempts: 3,
            body: Bytes::from_static(b"Subject: hi\r\n\r\nbody\r\n"),
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| alloc::format!("{byte:02x}")).collect()
    }

    #[test]
    fn a_message_comes_back_as_it_went() {
        let message = message();
        let body = decode_data(message.id, &encode_data(&message)).unwrap();
        let record = decode_meta(message.id, &encode_meta(&message)).unwrap();
        assert_eq!(record.size as usize, message.body.len());
        assert_eq!(record.into_message(body), message);
    }

    /// Format 1 as it was first written. If this fails, the format changed: give it a new version instead.
    #[test]
    fn format_1_stays_as_it_is() {
        assert_eq!(hex(&encode_meta(&message())), GOLDEN_META);
        assert_eq!(hex(&encode_data(&message())), GOLDEN_DATA);
        let body = decode_data(message().id, &unhex(GOLDEN_DATA)).unwrap();
        let record = decode_meta(message().id, &unhex(GOLDEN_META)).unwrap();
        assert_eq!(record.into_message(body), message());
    }

    fn unhex(text: &str) -> Bytes {
        let octet = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
        (0..text.len()).step_by(2).map(octet).collect()
    }

    const GOLDEN_META: &str = "4b4d013c000000ade693d101087340782e7465737402086140622e7465737408\
        6340642e746573740002000180809cbdabbf8fe93103150f7b2274656e616e74223a227431227d";
    const GOLDEN_DATA: &str = "4b4401150000001cf1d6c85375626a6563743a2068690d0a0d0a626f64790d0a";

    #[test]
    fn every_flipped_bit_is_noticed() {
        let message = message();
        for (record, is_meta) in [(encode_meta(&message), true), (encode_data(&message), false)] {
            for bit in 0..record.len() * 8 {
                let mut damaged = record.to_vec();
                damaged[bit / 8] ^= 1 << (bit % 8);
                let noticed = match is_meta {
                    true => decode_meta(message.id, &damaged).is_err(),
                    false => decode_data(message.id, &Bytes::from(damaged)).is_err(),
                };
                assert!(noticed, "bit {bit}");
            }
        }
    }

    #[test]
    fn a_record_under_the_wrong_key_or_of_the_wrong_kind_is_damage() {
        let message = message();
        let other = SpoolId([7; 16]);
        let meta = encode_meta(&message);
        assert_eq!(decode_meta(other, &meta), Err(RecordError::Checksum));
        assert_eq!(decode_data(message.id, &meta), Err(RecordError::Foreign));
        assert_eq!(decode_meta(message.id, &meta[..5]), Err(RecordError::Short(5)));
        let cut = meta.len() - 1;
        assert!(matches!(decode_meta(message.id, &meta[..cut]), Err(RecordError::Length { .. })));
    }

    #[test]
    fn a_later_version_is_named() {
        let mut later = encode_meta(&message()).to_vec();
        later[2] = 2;
        let error = decode_meta(message().id, &later).unwrap_err();
        assert!(alloc::format!("{error}").contains("version 2"), "{error}");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let id = SpoolId([1; 16]);
            // Sealed, so that what lies behind the checksum is reached too.
            let mut record = Vec::from([0; HEADER_OCTETS]);
            record.extend_from_slice(&bytes);
            let sealed = seal(Kind::Meta, id, record);
            let _ = decode_meta(id, &sealed);
            let _ = decode_meta(id, &bytes);
            let _ = decode_data(id, &Bytes::from(bytes));
        }
    }
}
