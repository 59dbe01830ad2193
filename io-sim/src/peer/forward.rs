//! The way on from a server that is half of a mail loop: what it has stored it sends to the next, as a simple client of its own. Invariant:
//! only one Received field is added. It gives up after some tries; nobody's ledger counts on it.
use super::Server;
use crate::lines::{Heard, Wire, stuffed};
use crate::net::SimStream;
use kumo_core::date;
use kumo_core::port::{DialRequest, Network};
use kumo_core::time::Duration;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(300);
const PAUSE: Duration = Duration::from_secs(60);
const TRIES: u32 = 20;

pub struct Onward {
    pub to: SocketAddr,
    pub sender: String,
    pub recipients: Vec<String>,
    pub content: Vec<u8>,
}

enum Failed {
    ForGood,
    ForNow,
}

pub async fn forward(server: Arc<Server>, mut onward: Onward) {
    let name = &server.settings.name;
    let when = date::rfc5322(server.universe.now().wall);
    let field = format!("Received: from loop.example by {name} with ESMTP;\r\n\t{when}\r\n");
    onward.content.splice(0..0, field.into_bytes());
    for _ in 0..TRIES {
        match once(&server, &onward).await {
            Ok(()) | Err(Failed::ForGood) => return,
            Err(Failed::ForNow) => sleep(PAUSE).await,
        }
    }
}

async fn once(server: &Server, onward: &Onward) -> Result<(), Failed> {
    let source_address = Some(server.settings.address.ip());
    let request = DialRequest { remote: onward.to, source_address };
    let dialled = timeout(PATIENCE, server.network.dial(request)).await;
    let stream = dialled.map_err(|_| Failed::ForNow)?.map_err(|_| Failed::ForNow)?;
    let mut wire = Wire::new(stream);
    expect(&mut wire, b"", 220).await?;
    expect(&mut wire, format!("EHLO {}\r\n", server.settings.name).as_bytes(), 250).await?;
    expect(&mut wire, format!("MAIL FROM:<{}>\r\n", onward.sender).as_bytes(), 250).await?;
    for recipient in &onward.recipients {
        expect(&mut wire, format!("RCPT TO:<{recipient}>\r\n").as_bytes(), 250).await?;
    }
    expect(&mut wire, b"DATA\r\n", 354).await?;
    expect(&mut wire, &stuffed(&onward.content), 250).await?;
    // It is there; what comes now is courtesy.
    let _ = expect(&mut wire, b"QUIT\r\n", 221).await;
    Ok(())
}

async fn expect(wire: &mut Wire<SimStream>, said: &[u8], code: u16) -> Result<(), Failed> {
    if !wire.say(said, PATIENCE).await {
        return Err(Failed::ForNow);
    }
    match wire.reply(PATIENCE).await {
        Heard::Reply(reply) if reply.code == code => Ok(()),
        Heard::Reply(reply) if reply.is_permanent() => Err(Failed::ForGood),
        _ => Err(Failed::ForNow),
    }
}
