//! The example policy of a sink does what its first lines say.
mod support;

use std::path::Path;
use std::time::{Duration, Instant};
use support::{Client, Home, Kumod};

/// The answer to one message, and how long it took.
fn answer(settings: &[(&str, &str)]) -> (u16, Duration) {
    let home = Home::new();
    let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/sink.lua");
    let spool = home.path("spool");
    let here = [("SINK_LISTEN", "127.0.0.1:0"), ("SINK_SPOOL", spool.to_str().unwrap())];
    let kumod = Kumod::start_in(&policy, &[&here[..], settings].concat());
    let mut client = Client::greet(kumod.address()).unwrap();
    let asked = Instant::now();
    let reply = client.send("a@client.example", &["b@sink.example"], "Subject: x\r\n\r\nx\r\n");
    let took = asked.elapsed();
    kumod.stop();
    (reply.unwrap().code, took)
}

#[test]
fn it_accepts_defers_refuses_and_takes_its_time() {
    assert_eq!(answer(&[]).0, 250);
    assert_eq!(answer(&[("SINK_4XX", "100")]).0, 451);
    assert_eq!(answer(&[("SINK_5XX", "100")]).0, 550);
    let (code, took) = answer(&[("SINK_LATENCY", "0.5")]);
    assert!(code == 250 && took >= Duration::from_millis(500), "{code} after {took:?}");
}
