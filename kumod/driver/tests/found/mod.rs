//! Bugs of the driver that the simulator found, each as a small test. The seeds that found them stand in `scenarios/regress/seeds.txt`.
use super::*;
use kumo_core::record::decode_meta;

async fn remaining(world: &MemoryWorld) -> Vec<u32> {
    let id = *world.spool.ids().first().expect("the message is there");
    let meta = world.spool.page(Family::Meta, id).expect("its envelope is there");
    decode_meta(id, &meta).unwrap().remaining.iter().collect()
}

#[tokio::test]
async fn a_recipient_whose_bounce_never_got_to_disk_stays_in_the_spool() {
    let mut policy = FixedPolicy::to(sink_address());
    policy.queue.retry_interval = Duration::from_secs(1);
    let world = MemoryWorld::new(policy);
    world.lines.fails.store(true, Ordering::Relaxed);
    let sink = Sink::default();
    sink.verdicts.lock().unwrap().push("451 4.2.0 later\r\n");
    sink.listen(&world.network).await;
    let mut config = config();
    config.listeners[0].batch_handling = BatchHandling::BatchByDomain;
    let node = Node::start(world.clone(), config).await.unwrap();
    send_to_two(&world).await;
    use RecordKind::{Bounce, Delivery, Reception, TransientFailure};
    assert!(node.handle().drained(PATIENCE).await);
    assert_eq!(kinds(&world), [Reception, Bounce, TransientFailure, Delivery]);
    timeout(PATIENCE, node.stop()).await.expect("a stop ends in time");
    assert_eq!(remaining(&world).await, [0], "nobody could know what became of the first");
    world.lines.fails.store(false, Ordering::Relaxed);
    let node = Node::start(world.clone(), NodeConfig { seed: 2, ..super::config() }).await.unwrap();
    until("the next life to be done with it", || world.spool.len() == 0).await;
    assert_eq!(kinds(&world).last(), Some(&Bounce));
    timeout(PATIENCE, node.stop()).await.expect("a stop ends in time");
}

/// Takes octets of a body only after the node has given up, but while it still says goodbye, and returns what came in all.
async fn hear_late(network: MemoryNetwork) -> Vec<u8> {
    let mut listener = network.listen(sink_address()).await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    stream.write_all(b"220 sink\r\n").await.unwrap();
    let mut buffer = bytes::BytesMut::new();
    for answer in ["250 sink\r\n", "250 ok\r\n", "250 ok\r\n", "354 go on\r\n"] {
        while !buffer.ends_with(b"\r\n") {
            stream.read(&mut buffer).await.unwrap();
        }
        buffer.clear();
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut heard = bytes::BytesMut::new();
    while let Ok(1..) = stream.read(&mut heard).await {}
    heard.to_vec()
}

#[tokio::test]
async fn nothing_follows_a_body_that_could_not_be_written_whole() {
    let mut policy = FixedPolicy::to(sink_address());
    policy.path.data_timeout = Duration::from_secs(1);
    policy.path.enable_pipelining = false;
    let world = MemoryWorld::new(policy);
    let heard = tokio::spawn(hear_late(world.network.clone()));
    let node = Node::start(world.clone(), config()).await.unwrap();
    let mut stream = client(&world.network).await;
    assert!(say(&mut stream, "MAIL FROM:<a@c.example>\r\n").await.starts_with("250"));
    assert!(say(&mut stream, "RCPT TO:<joe@example.com>\r\n").await.starts_with("250"));
    assert!(say(&mut stream, "DATA\r\n").await.starts_with("354"));
    let body = "a line of the body\r\n".repeat(2_000);
    assert!(say(&mut stream, &format!("{body}.\r\n")).await.starts_with("250"));
    let heard = timeout(PATIENCE, heard).await.expect("it gives up").unwrap();
    assert!(!heard.is_empty() && heard.len() < body.len(), "{} octets", heard.len());
    assert!(
        !heard.ends_with(b"\r\n.\r\n"),
        "a part of the body was closed as if it were the whole"
    );
    timeout(PATIENCE, node.stop()).await.expect("a stop ends in time");
}
