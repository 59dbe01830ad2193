//! What several tests of this crate need.
use kumo_core::address::{Mailbox, ReversePath};
use kumo_core::id::SpoolIdGenerator;
use kumo_core::message::{Envelope, Message};
use kumo_core::recipients::RecipientSet;
use kumo_core::time::Wall;

/// The `n`-th message of a test, with a body of so many octets.
pub fn message(n: u64, octets: usize) -> Message {
    let mut message = message_to("somebody@example.com");
    message.id = SpoolIdGenerator::new(n).next(Wall(1_795_000_000_000_000_000));
    message.body = vec![b'x'; octets].into();
    message
}

pub fn message_to(recipient: &str) -> Message {
    Message {
        id: SpoolIdGenerator::new(0).next(Wall(1_795_000_000_000_000_000)),
        envelope: Envelope {
            sender: ReversePath::parse("sender@example.com").expect("a test's own address"),
            recipients: vec![Mailbox::parse(recipient).expect("a test's own address")],
        },
        remaining: RecipientSet::all(1),
        meta: Default::default(),
        schedule: Default::default(),
        attempts: 0,
        body: "Subject: test\r\n\r\nhello\r\n".into(),
    }
}
