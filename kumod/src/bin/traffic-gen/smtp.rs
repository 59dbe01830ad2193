//! Sends over SMTP: one task a connection, one message after the other on it.
//! Invariant: every await ends by a deadline, and what a server may reply is bounded.
use super::arguments::Arguments;
use super::mail::{SENDER, Template, dot_stuffed};
use super::run::Run;
use bytes::BytesMut;
use kumo_core::limits::{SERVER_REPLY_LINE_OCTETS, SERVER_REPLY_LINES};
use kumo_core::port::{DialRequest, Network, Stream, TlsConnect, TlsVerification};
use kumo_core::random::Random;
use kumo_io_real::net::{RealNetwork, RealStream};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::lookup_host;
use tokio::task::JoinSet;
use tokio::time::timeout;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const OUR_NAME: &str = "traffic-gen.test";

/// What a worker needs, whichever connection it is on.
struct Target {
    network: RealNetwork,
    address: SocketAddr,
    host: String,
    starttls: bool,
    timeout: Duration,
}

pub async fn start(
    arguments: &Arguments,
    run: &Arc<Run>,
    senders: &mut JoinSet<()>,
) -> Result<(), String> {
    let template = Template::new(arguments)?;
    let name = arguments.target();
    let host = name.rsplit_once(':').map(|(host, _)| host.trim_matches(['[', ']']));
    let found = timeout(CONNECT_TIMEOUT, lookup_host(name)).await;
    let found = found.map_err(|_| format!("--target {name}: nobody resolves it"))?;
    let mut found = found.map_err(|error| format!("--target {name}: {error}; it is host:port"))?;
    let target = Arc::new(Target {
        network: RealNetwork::from_system().map_err(|error| error.text)?,
        address: found.next().ok_or_else(|| format!("--target {name}: it has no address"))?,
        host: host.unwrap_or(name).to_owned(),
        starttls: arguments.starttls,
        timeout: arguments.timeout,
    });
    for worker in 0..arguments.concurrency {
        let random = Random::new(u64::from(worker), "recipients");
        senders.spawn(work(target.clone(), template.clone(), run.clone(), random));
    }
    Ok(())
}

/// Sends until the run is over, on as many connections as it takes.
async fn work(target: Arc<Target>, template: Arc<Template>, run: Arc<Run>, mut random: Random) {
    let mut failures_in_a_row = 0;
    loop {
        match Connection::open(&target).await {
            Ok(connection) => {
                run.connected();
                failures_in_a_row = 0;
                if let End::Over = send_all(connection, &template, &run, &mut random).await {
                    return;
                }
            }
            Err(Lost(why)) => {
                failures_in_a_row += 1;
                run.trouble(&why);
            }
        }
        if !run.back_off(failures_in_a_row).await {
            return;
        }
    }
}

async fn send_all(
    mut connection: Connection,
    template: &Template,
    run: &Run,
    random: &mut Random,
) -> End {
    while let Some(mut numbers) = run.take(1).await {
        let number = numbers.next().expect("one was given");
        let recipient = template.recipient(number, random);
        let content = dot_stuffed(&template.content(number, &recipient));
        match connection.send(&recipient, &content).await {
            Sent::Accepted(latency) => run.accepted(1, latency),
            Sent::Refused(why) => run.failed(1, &why),
            Sent::Cut(Lost(why)) => {
                run.failed(1, &why);
                return End::Lost;
            }
            Sent::Unknown(Lost(why)) => {
                run.unknown(1, &why);
                return End::Lost;
            }
        }
    }
    connection.quit().await;
    End::Over
}

/// Of a connection.
enum End {
    /// There is nothing more to send.
    Over,
    Lost,
}

/// The connection is of no use any more, and why.
struct Lost(String);

enum Sent {
    /// With the time from the final dot to its reply.
    Accepted(Duration),
    Refused(String),
    /// Lost before the content was complete.
    Cut(Lost),
    /// Lost after that.
    Unknown(Lost),
}

struct Reply {
    code: u16,
    /// Every line, without codes.
    lines: Vec<String>,
}

impl Reply {
    fn describe(&self, command: &str) -> String {
        format!("{command}: {} {}", self.code, self.lines.join(" "))
    }

    fn is_positive(&self) -> bool {
        (200..300).contains(&self.code)
    }
}

struct Connection {
    stream: RealStream,
    unread: BytesMut,
    timeout: Duration,
    pipelining: bool,
}

impl Connection {
    async fn open(target: &Target) -> Result<Connection, Lost> {
        let request = DialRequest { remote: target.address, source_address: None };
        let dial = timeout(CONNECT_TIMEOUT.min(target.timeout), target.network.dial(request));
        let stream = match dial.await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(Lost(error.text)),
            Err(_) => return Err(Lost(format!("connect to {}: timed out", target.address))),
        };
        let timeout = target.timeout;
        let mut connection =
            Connection { stream, unread: BytesMut::new(), timeout, pipelining: false };
        let banner = connection.reply().await?;
        expect(&banner, "banner")?;
        let offers = connection.greet().await?;
        if !target.starttls {
            return Ok(connection);
        }
        if !offers.iter().any(|offer| offer.eq_ignore_ascii_case("STARTTLS")) {
            return Err(Lost("the server doesn't offer STARTTLS".into()));
        }
        connection = connection.starttls(&target.host).await?;
        connection.greet().await?;
        Ok(connection)
    }

    /// Yields what the server offers.
    async fn greet(&mut self) -> Result<Vec<String>, Lost> {
        self.write(format!("EHLO {OUR_NAME}\r\n").as_bytes()).await?;
        let reply = self.reply().await?;
        expect(&reply, "EHLO")?;
        self.pipelining = reply.lines.iter().any(|line| line.eq_ignore_ascii_case("PIPELINING"));
        Ok(reply.lines)
    }

    async fn starttls(mut self, host: &str) -> Result<Connection, Lost> {
        self.write(b"STARTTLS\r\n").await?;
        expect(&self.reply().await?, "STARTTLS")?;
        let connect =
            TlsConnect { server_name: host.to_owned(), verification: TlsVerification::None };
        let handshake = timeout(self.timeout, self.stream.upgrade_client(connect)).await;
        let (stream, _) = handshake
            .map_err(|_| Lost("TLS handshake: timed out".into()))?
            .map_err(|error| Lost(error.text))?;
        // What came in clear text before the handshake is nobody's word.
        Ok(Connection { stream, unread: BytesMut::new(), ..self })
    }

    /// One transaction. `content` is ready for DATA.
    async fn send(&mut self, recipient: &str, content: &[u8]) -> Sent {
        match self.envelope(recipient).await {
            Ok(None) => {}
            Ok(Some(why)) => return Sent::Refused(why),
            Err(lost) => return Sent::Cut(lost),
        }
        if let Err(lost) = self.write(content).await {
            return Sent::Cut(lost);
        }
        let sent = Instant::now();
        match self.reply().await {
            Ok(reply) if reply.is_positive() => Sent::Accepted(sent.elapsed()),
            Ok(reply) => Sent::Refused(reply.describe("final dot")),
            Err(lost) => Sent::Unknown(lost),
        }
    }

    /// Up to the go-ahead for the content. Yields why there is none.
    async fn envelope(&mut self, recipient: &str) -> Result<Option<String>, Lost> {
        let commands =
            [format!("MAIL FROM:<{SENDER}>"), format!("RCPT TO:<{recipient}>"), "DATA".into()];
        if self.pipelining {
            self.write(format!("{}\r\n", commands.join("\r\n")).as_bytes()).await?;
        }
        let mut refusal: Option<String> = None;
        for command in &commands {
            if !self.pipelining {
                self.write(format!("{command}\r\n").as_bytes()).await?;
            }
            let reply = self.reply().await?;
            if refusal.is_some() && reply.code == 354 {
                // Nobody is left to receive it, but the server waits for content.
                self.write(b".\r\n").await?;
                self.reply().await?;
            } else if !reply.is_positive() && reply.code != 354 {
                let verb = command.split(' ').next().unwrap_or(command);
                refusal.get_or_insert_with(|| reply.describe(verb));
                if !self.pipelining {
                    break;
                }
            }
        }
        if refusal.is_some() {
            self.write(b"RSET\r\n").await?;
            expect(&self.reply().await?, "RSET")?;
        }
        Ok(refusal)
    }

    /// Politeness; it doesn't matter what comes of it.
    async fn quit(mut self) {
        if self.write(b"QUIT\r\n").await.is_ok() {
            let _ = timeout(Duration::from_secs(1), self.reply()).await;
        }
        self.stream.shutdown().await;
    }

    async fn write(&mut self, data: &[u8]) -> Result<(), Lost> {
        match timeout(self.timeout, self.stream.write_all(data)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Lost(error.text)),
            Err(_) => Err(Lost(format!("the server took nothing for {:?}", self.timeout))),
        }
    }

    async fn reply(&mut self) -> Result<Reply, Lost> {
        let waited = self.timeout;
        let reply = within(waited, self.read_reply()).await?;
        if reply.code == 421 { Err(Lost(reply.describe("the server closes"))) } else { Ok(reply) }
    }

    async fn read_reply(&mut self) -> Result<Reply, Lost> {
        let mut lines = Vec::new();
        while lines.len() < SERVER_REPLY_LINES {
            let line = self.read_line().await?;
            let code = line.get(..3).and_then(|code| code.parse().ok());
            let Some(code) = code.filter(|code| (200..600).contains(code)) else {
                return Err(Lost(format!("this is no reply: {line:?}")));
            };
            lines.push(line.get(4..).unwrap_or_default().to_owned());
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(Reply { code, lines });
            }
        }
        Err(Lost(format!("a reply of more than {SERVER_REPLY_LINES} lines")))
    }

    async fn read_line(&mut self) -> Result<String, Lost> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line = self.unread.split_to(end + 1);
                return Ok(String::from_utf8_lossy(line.trim_ascii_end()).into_owned());
            }
            if self.unread.len() > SERVER_REPLY_LINE_OCTETS {
                return Err(Lost("a reply line without end".into()));
            }
            match self.stream.read(&mut self.unread).await {
                Ok(0) => return Err(Lost("the server closed the connection".into())),
                Ok(_) => {}
                Err(error) => return Err(Lost(error.text)),
            }
        }
    }
}

async fn within(
    time: Duration,
    reply: impl Future<Output = Result<Reply, Lost>>,
) -> Result<Reply, Lost> {
    timeout(time, reply).await.unwrap_or_else(|_| Err(Lost(format!("no reply within {time:?}"))))
}

fn expect(reply: &Reply, command: &str) -> Result<(), Lost> {
    if reply.is_positive() { Ok(()) } else { Err(Lost(reply.describe(command))) }
}
