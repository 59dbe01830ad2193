//! The progress watchdog of the real kumod, against servers that wedge a connection: silent after STARTTLS, a body taken an octet a second, silent
//! after DATA. Others' mail goes on; what was in hand is put back, without an attempt counted. And an operator who looks and cuts off.
mod support;

use serde_json::Value;
use socket2::{Domain, Socket, Type};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};
use support::ask::{http, kcli, kcli_json};
use support::{Client, Home, Kumod, PATIENCE, Sink, wait_for};

const THRESHOLD: Duration = Duration::from_secs(2);

/// How a server wedges those who connect to it.
#[derive(Clone, Copy)]
enum Wedge {
    SilentAfterStartTls,
    TakesAnOctetASecond,
    SilentAfterData,
}

/// Serves each connection on a thread of its own, which ends with the process.
fn wedged(wedge: Wedge) -> SocketAddr {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    // So that a body that isn't read soon stands still.
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    socket.bind(&any.into()).and_then(|()| socket.listen(16)).expect("loopback has room");
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || serve(stream.expect("a connection"), wedge));
        }
    });
    address
}

fn serve(stream: TcpStream, wedge: Wedge) -> Option<()> {
    let mut reader = BufReader::with_capacity(1024, stream.try_clone().ok()?);
    let say = |line: &str| (&stream).write_all(format!("{line}\r\n").as_bytes()).ok();
    say("220 wedged ESMTP")?;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.split_whitespace().next()?.to_ascii_uppercase().as_str() {
            "EHLO" if matches!(wedge, Wedge::SilentAfterStartTls) => {
                say("250-wedged\r\n250 STARTTLS")?;
            }
            "STARTTLS" => {
                say("220 go ahead")?;
                wait_for_the_end(&stream)?;
            }
            "DATA" => {
                say("354 go ahead")?;
                match wedge {
                    Wedge::TakesAnOctetASecond => loop {
                        reader.read_exact(&mut [0]).ok()?;
                        thread::sleep(Duration::from_secs(1));
                    },
                    _ => wait_for_the_end(&stream)?,
                }
            }
            _ => say("250 fine")?,
        }
    }
}

/// Takes all that comes, and says nothing.
fn wait_for_the_end(mut stream: &TcpStream) -> Option<()> {
    let mut buffer = [0; 4096];
    while stream.read(&mut buffer).ok()? > 0 {}
    None
}

/// `wedged.example` to the server, everything else to the sink.
fn policy(home: &Home, server: SocketAddr, sink: &Sink) -> PathBuf {
    let handlers = format!(
        "kumo.on('get_queue_config', function(domain)
           local mx = '{mx}'
           if domain == 'wedged.example' then mx = '[{ip}]:{port}' end
           return kumo.make_queue_config {{
             protocol = {{ smtp = {{ mx_list = {{ mx }} }} }}, retry_interval = '1s',
           }}
         end)
         kumo.on('get_egress_path_config', function()
           return kumo.make_egress_path {{
             prohibited_hosts = {{}}, enable_tls = 'OpportunisticInsecure', starttls_timeout = '1m',
             dispatcher_progress_watchdog_timeout = '{threshold}s', idle_timeout = '1s', connection_limit = 1,
           }}
         end)",
        mx = sink.as_mx(),
        ip = server.ip(),
        port = server.port(),
        threshold = THRESHOLD.as_secs(),
    );
    home.policy_with_http(("spool", "spool"), "min_free_inodes = 0", &handlers)
}

fn send(kumod: &Kumod, recipient: &str, content: &str) {
    let mut client = Client::greet(kumod.address()).unwrap();
    let reply = client.send("ann@client.example", &[recipient], content).unwrap();
    assert_eq!(reply.code, 250, "{reply:?}");
}

fn ready_queue(kumod: &Kumod, server: SocketAddr) -> String {
    wait_for("the ready queue", PATIENCE, || {
        let queues = kcli_json(kumod, &["queue-summary", "--json"]);
        let names = queues["ready"].as_array()?.iter().filter_map(|queue| queue["name"].as_str());
        names.map(String::from).find(|name| name.contains(&server.port().to_string()))
    })
}

fn inspect(kumod: &Kumod, queue: &str) -> Value {
    kcli_json(kumod, &["inspect-ready-q", "--json", queue])
}

fn delayed(home: &Home) -> Value {
    wait_for("a Delayed record", PATIENCE, || home.records_of("Delayed").into_iter().next())
}

fn aborted_by_watchdog(kumod: &Kumod) -> Option<String> {
    let (_, metrics) = http(kumod, "GET", "/metrics?prefix=dispatcher_watchdog", "");
    metrics.lines().find(|line| !line.starts_with('#')).map(Into::into)
}

/// Ten messages to the sink, each sent when the one before has arrived: none waits for what is wedged.
fn others_go_on(kumod: &Kumod, sink: &Sink, before: usize) {
    for number in 1..=10 {
        let began = Instant::now();
        send(kumod, "joe@well.example", "Subject: x\r\n\r\nx\r\n");
        wait_for("another's mail", PATIENCE, || {
            (sink.sunk().len() == before + number).then_some(())
        });
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }
}

#[test]
fn a_body_that_is_taken_an_octet_a_second_is_cut_off_and_put_back() {
    let (home, sink) = (Home::new(), Sink::start(()));
    let server = wedged(Wedge::TakesAnOctetASecond);
    let kumod = Kumod::start(&policy(&home, server, &sink));
    let line = format!("{}\r\n", "x".repeat(998));
    let content = format!("Subject: big\r\n\r\n{}", line.repeat(9_000));
    send(&kumod, "joe@wedged.example", &content);
    let began = Instant::now();
    let queue = ready_queue(&kumod, server);
    others_go_on(&kumod, &sink, 0);
    let record = delayed(&home);
    let took = began.elapsed();
    assert!((THRESHOLD..THRESHOLD * 3).contains(&took), "{took:?}");
    let response = &record["response"];
    let text = response["content"].as_str().unwrap();
    let expected = "dispatcher watchdog aborted task; phase=DeliveringMessage detail=\"send msg with 1 recip(s)\" session=";
    assert!(text.starts_with(expected), "{text}");
    assert_eq!((response["code"].as_u64(), record["num_attempts"].as_u64()), (Some(451), Some(0)));
    let session = record["session_id"].as_str().unwrap();
    assert!(text.contains(session), "{record}");
    assert_eq!(
        (record["site"].as_str(), record["delivery_protocol"].as_str()),
        (Some(queue.as_str()), Some("ESMTP"))
    );
    let metric = format!("dispatcher_watchdog_aborted_total{{service=\"smtp_client:{queue}\"}} 1");
    assert_eq!(aborted_by_watchdog(&kumod), Some(metric));
    assert_eq!(kumod.said_with("dispatcher watchdog aborted task").len(), 1);
    kumod.stop();
}

#[test]
fn a_server_that_is_silent_after_starttls_is_given_up_and_its_lease_is_free() {
    let (home, sink) = (Home::new(), Sink::start(()));
    let server = wedged(Wedge::SilentAfterStartTls);
    let kumod = Kumod::start(&policy(&home, server, &sink));
    send(&kumod, "joe@wedged.example", "Subject: x\r\n\r\nx\r\n");
    let queue = ready_queue(&kumod, server);
    let first = wait_for("a handshake", PATIENCE, || {
        let dispatcher = inspect(&kumod, &queue)["dispatchers"][0].clone();
        (dispatcher["detail"] == "STARTTLS").then_some(dispatcher)
    });
    assert_eq!(first["phase"], "AttemptingConnection");
    wait_for("another connection", PATIENCE, || {
        let dispatchers = inspect(&kumod, &queue)["dispatchers"].clone();
        let is_other = |one: &Value| one["session_id"] != first["session_id"];
        dispatchers.as_array()?.iter().any(is_other).then_some(())
    });
    let said = kumod.said_with(
        "dispatcher watchdog aborted task; phase=AttemptingConnection detail=\"STARTTLS\"",
    );
    assert!(!said.is_empty(), "{:?}", kumod.said());
    others_go_on(&kumod, &sink, 0);
    wait_for("ten deliveries", PATIENCE, || {
        (home.records_of("Delivery").len() == 10).then_some(())
    });
    kumod.stop();
    let failed = home.records_of("TransientFailure").remove(0);
    let text = failed["response"]["content"].as_str().unwrap();
    assert!(text.starts_with("dispatcher watchdog aborted task; phase=Attempting"), "{failed}");
    assert_eq!(failed["num_attempts"], 1, "a connection that failed is an attempt");
    assert!(text.contains(failed["session_id"].as_str().unwrap()), "{failed}");
    assert_eq!(failed["peer_address"]["addr"], server.ip().to_string());
}

#[test]
fn an_operator_looks_into_a_queue_and_cuts_a_connection_off() {
    let (home, sink) = (Home::new(), Sink::start(()));
    let server = wedged(Wedge::SilentAfterData);
    let kumod = Kumod::start(&policy(&home, server, &sink));
    send(&kumod, "joe@wedged.example", "Subject: x\r\n\r\nx\r\n");
    let queue = ready_queue(&kumod, server);
    let session = wait_for("a delivery", PATIENCE, || {
        let inspected = inspect(&kumod, &queue);
        let dispatcher = &inspected["dispatchers"][0];
        let is_sending = dispatcher["phase"] == "DeliveringMessage";
        is_sending.then(|| dispatcher["session_id"].as_str().unwrap().to_string())
    });
    let text = kcli(&kumod, &["inspect-ready-q", "--connections", "--sched-q", &queue]).well();
    for line in [
        "watchdog threshold: 2s",
        "concurrent dispatchers: 1",
        "  wedged.example",
        "connections: 1",
        "DeliveringMessage for ",
    ] {
        assert!(text.contains(line), "{line:?} isn't in {text}");
    }
    let explained = kcli(&kumod, &["explain-queue", &queue]).well();
    let expected =
        format!("connection {session}: DeliveringMessage (send msg with 1 recip(s)) for ");
    assert!(explained.contains(&expected), "{explained}");
    let ordered = kcli(&kumod, &["abort-ready-q-conn", &queue, &session]);
    assert_eq!(ordered.well(), format!("aborted {session}\n"));
    let record = delayed(&home);
    assert_eq!(
        record["response"]["content"],
        "KumoMTA internal: returning message to scheduled queue"
    );
    assert_eq!(record["session_id"].as_str(), Some(session.as_str()));
    assert_eq!(aborted_by_watchdog(&kumod), None, "it had no part in it");
    let again = kcli(&kumod, &["abort-ready-q-conn", &queue, &session]);
    assert_eq!(again.code, Some(1));
    let expected = format!("no matching dispatcher for queue={queue} session={session}");
    assert!(again.err.contains(&expected), "{again:?}");
    let unknown = kcli(&kumod, &["inspect-ready-q", "nonsense"]);
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.err.contains("no such ready queue nonsense"), "{unknown:?}");
    kumod.stop();
}
