//! proxy-server as a process: SOCKS5 clients, ours and curl, through it to servers on this host, spliced and copied; kumod behind it while it
//! is killed, stopped and started again.
mod support;

use kumo_core::proxy::socks5::client::{Handshake, Output, Request};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::ask::kcli_json;
use support::{Client, Home, Kumod, PATIENCE, Sink, Sunk, wait_for};

struct ProxyServer {
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
}

impl ProxyServer {
    fn start(arguments: &[&str]) -> ProxyServer {
        ProxyServer::listening("127.0.0.1:0", arguments)
    }

    fn listening(at: &str, arguments: &[&str]) -> ProxyServer {
        let mut child = Command::new(env!("CARGO_BIN_EXE_proxy-server"))
            .args(["--listen", at])
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (said, stderr) = (Arc::new(Mutex::new(Vec::new())), child.stderr.take().unwrap());
        let lines = said.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
            }
        });
        let proxy = ProxyServer { child, said };
        proxy.address();
        proxy
    }

    fn listens(&self, what: &str) -> SocketAddr {
        let prefix = format!("{what} listener on ");
        wait_for("it to listen", PATIENCE, || {
            let said = self.said.lock().unwrap();
            said.iter().find_map(|line| line.strip_prefix(&prefix)?.parse().ok())
        })
    }

    fn address(&self) -> SocketAddr {
        self.listens("proxy")
    }

    fn signal(&self, signal: i32) {
        // SAFETY: a plain system call on our own child.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0);
    }
}

impl Drop for ProxyServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection through the proxy, or why there is none.
fn through(proxy: SocketAddr, to: SocketAddr, from: Option<&str>) -> Result<TcpStream, String> {
    let mut stream = TcpStream::connect(proxy).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let source = from.map(|from| from.parse().unwrap());
    let mut handshake = Handshake::new(Request { destination: to, source, credentials: None });
    loop {
        match handshake.poll() {
            Some(Output::Send(octets)) => stream.write_all(&octets).unwrap(),
            Some(Output::Done { rest, .. }) => {
                assert_eq!(rest, b"", "the destination waits");
                return Ok(stream);
            }
            Some(Output::Failed { text, .. }) => return Err(text),
            None => {
                let mut octets = [0; 300];
                match stream.read(&mut octets).unwrap() {
                    0 => handshake.ended(),
                    length => handshake.handle(&octets[..length]),
                }
            }
        }
    }
}

fn octets(count: usize) -> Vec<u8> {
    (0..count as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

#[test]
fn octets_go_both_ways_unharmed_and_each_end_is_passed_on() {
    const OCTETS: usize = 20_000_000;
    for arguments in [&[][..], &["--no-splice"]] {
        let proxy = ProxyServer::start(arguments);
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = server.local_addr().unwrap();
        // It answers once it has heard all, over a connection of which one half has ended.
        let serving = std::thread::spawn(move || {
            let (mut stream, _) = server.accept().unwrap();
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard).unwrap();
            stream.write_all(&heard).unwrap();
            heard.len()
        });
        let mut client = through(proxy.address(), to, None).unwrap();
        let sent = octets(OCTETS);
        let (mut writer, copy) = (client.try_clone().unwrap(), sent.clone());
        let writing = std::thread::spawn(move || {
            writer.write_all(&copy).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut back = Vec::new();
        client.read_to_end(&mut back).unwrap();
        writing.join().unwrap();
        assert_eq!(serving.join().unwrap(), OCTETS);
        assert!(back == sent, "{arguments:?}");
    }
}

#[test]
fn a_client_chooses_its_address_and_hears_why_it_cannot_have_it() {
    let proxy = ProxyServer::start(&[]);
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = server.local_addr().unwrap();
    let _stream = through(proxy.address(), to, Some("127.0.55.2")).unwrap();
    assert_eq!(server.accept().unwrap().1.ip().to_string(), "127.0.55.2");
    let error = through(proxy.address(), to, Some("10.99.55.2")).unwrap_err();
    assert_eq!(error, "it can't bind to 10.99.55.2: address type not supported");
    drop(server);
    let error = through(proxy.address(), to, None).unwrap_err();
    assert!(error.contains("connection refused"), "{error}");
}

#[test]
fn curl_understands_it() {
    let proxy = ProxyServer::start(&["--http-listen", "127.0.0.1:0"]);
    let status = proxy.listens("http");
    // Its own status, by its own proxy, by address and by name.
    for (option, host) in [("--socks5", "127.0.0.1"), ("--socks5-hostname", "localhost")] {
        let output = Command::new("curl")
            .args(["-sS", "--max-time", "20", option, &proxy.address().to_string()])
            .arg(format!("http://{host}:{}/proxy/status", status.port()))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("\"proxy_connection_count\":1"), "{output:?}");
    }
}

#[test]
fn what_is_no_handshake_or_has_no_end_is_closed() {
    let proxy = ProxyServer::start(&["--timeout-seconds", "1"]);
    for (said, at_least) in [(&b"EHLO x\r\n"[..], 0), (b"\x05", 900), (b"", 900)] {
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(said).unwrap();
        let began = Instant::now();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(at_least), "{said:?}: {took:?}");
        assert!(took < PATIENCE / 2, "{said:?}: {took:?}");
    }
}

#[test]
fn a_stop_lets_connections_end_and_an_address_in_use_is_one_clear_line() {
    let mut proxy = ProxyServer::start(&[]);
    let taken = proxy.address().to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_proxy-server"))
        .args(["--listen", &taken])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.starts_with(&format!("proxy-server: --listen {taken}: ")), "{said}");
    assert!(said.contains("choose an address of this host and a free port"), "{said}");

    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = through(proxy.address(), server.local_addr().unwrap(), None).unwrap();
    let (mut accepted, _) = server.accept().unwrap();
    proxy.signal(libc::SIGTERM);
    wait_for("it to accept nobody", PATIENCE, || TcpStream::connect(&taken).is_err().then_some(()));
    client.write_all(b"still here").unwrap();
    let mut heard = [0; 10];
    accepted.read_exact(&mut heard).unwrap();
    drop((client, accepted));
    let status = wait_for("it to end", PATIENCE, || proxy.child.try_wait().unwrap());
    assert!(status.success(), "{status}");
}

// ---- With kumod in front ----------------------------------------------------------------------------------

fn policy(home: &Home, sink: &Sink, proxy: SocketAddr) -> std::path::PathBuf {
    let handlers = format!(
        "kumo.on('get_egress_source', function(name)
           if name == 'direct' then
             return kumo.make_egress_source {{ name = name, ehlo_domain = 'direct.example' }}
           end
           return kumo.make_egress_source {{
             name = name, ehlo_domain = 'proxied.example', socks5_proxy_server = '{proxy}',
             socks5_proxy_source_address = '127.0.56.1',
             suspend_when_proxy_unhealthy = {{ duration = '3s' }},
           }}
         end)
         kumo.on('get_egress_pool', function(name)
           return kumo.make_egress_pool {{ name = name, entries = {{ {{ name = 'direct' }}, {{ name = 'proxied' }} }} }}
         end)
         kumo.on('get_queue_config', function()
           return kumo.make_queue_config {{
             egress_pool = 'pool', protocol = {{ smtp = {{ mx_list = {{ '{mx}' }} }} }},
             retry_interval = '1s', max_retry_interval = '1s',
           }}
         end)
         kumo.on('get_egress_path_config', function()
           return kumo.make_egress_path {{
             prohibited_hosts = {{}}, connect_timeout = '1s', idle_timeout = '1s', enable_tls = 'Disabled',
             max_deliveries_per_connection = 1,
           }}
         end)",
        mx = sink.as_mx()
    );
    home.policy_with_http(("spool", "spool"), "min_free_inodes = 0", &handlers)
}

fn send(kumod: &Kumod, numbers: std::ops::Range<usize>) {
    let mut client = Client::greet(kumod.address()).unwrap();
    for number in numbers {
        let content = format!("Subject: {number}\r\n\r\nx\r\n");
        let reply = client.send("ann@client.example", &["bob@sink.example"], &content).unwrap();
        assert_eq!(reply.code, 250, "{reply:?}");
    }
}

/// How often each greeting brought one of these messages, once all have arrived; none twice.
fn arrivals(sink: &Sink, numbers: std::ops::Range<usize>) -> (usize, usize) {
    let subjects: Vec<String> = numbers.map(|number| number.to_string()).collect();
    let of = |sunk: &[Sunk], greeting: &str| {
        let subject =
            |one: &Sunk| one.header("Subject").filter(|subject| subjects.contains(subject));
        sunk.iter()
            .filter(|one| one.is_taken() && one.greeting == greeting && subject(one).is_some())
            .count()
    };
    wait_for("all to arrive", PATIENCE, || {
        let counts =
            sink.with_sunk(|sunk| (of(sunk, "direct.example"), of(sunk, "proxied.example")));
        (counts.0 + counts.1 >= subjects.len()).then_some(counts)
    })
}

#[test]
fn mail_leaves_by_the_healthy_source_while_the_proxy_is_killed_stopped_and_started_again() {
    let (home, sink) = (Home::new(), Sink::start(()));
    let mut proxy = ProxyServer::start(&[]);
    let address = proxy.address();
    let kumod = Kumod::start(&policy(&home, &sink, address));
    let reason = || {
        let listed = kcli_json(&kumod, &["source-list", "--json"]);
        let sources = listed["sources"].as_array().unwrap();
        let proxied = sources.iter().find(|source| source["name"] == "proxied");
        proxied.and_then(|source| source["suspension"]["reason"].as_str().map(String::from))
    };
    let until_well =
        || wait_for("the suspension to end", PATIENCE, || reason().is_none().then_some(()));
    send(&kumod, 0..20);
    let (direct, proxied) = arrivals(&sink, 0..20);
    assert_eq!(direct + proxied, 20);
    assert!(proxied >= 9, "{proxied}");

    // Killed: refused at once.
    proxy.signal(libc::SIGKILL);
    proxy.child.wait().unwrap();
    send(&kumod, 20..30);
    assert_eq!(arrivals(&sink, 20..30), (10, 0));
    assert_eq!(reason().as_deref(), Some("ProxyUnhealthy"));

    proxy = ProxyServer::listening(&address.to_string(), &[]);
    until_well();
    send(&kumod, 30..50);
    let (direct, proxied) = arrivals(&sink, 30..50);
    assert_eq!(direct + proxied, 20);
    assert!(proxied >= 8, "{proxied}");

    // Paused: it takes connections and says nothing (D19).
    proxy.signal(libc::SIGSTOP);
    send(&kumod, 50..60);
    assert_eq!(arrivals(&sink, 50..60), (10, 0));
    assert_eq!(reason().as_deref(), Some("ProxyUnhealthy"));
    proxy.signal(libc::SIGCONT);
    until_well();
    send(&kumod, 60..80);
    let (direct, proxied) = arrivals(&sink, 60..80);
    assert_eq!(direct + proxied, 20);
    assert!(proxied >= 8, "{proxied}");
    assert_eq!(home.records_of("Bounce"), Vec::<serde_json::Value>::new());
    kumod.stop();
}
