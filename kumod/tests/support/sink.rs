//! A scripted SMTP server, and the ledger of what it has seen: the test's own memory, outside of kumod.
use super::PATIENCE;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Content the peer will not exceed.
const CONTENT_OCTETS: u64 = 64 * 1024 * 1024;

/// What is said to a final dot, after a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The message is taken, and the peer told so.
    Taken,
    /// It is taken, and the connection closed without a word.
    TakenInSilence,
    /// Neither: the reply, which isn't 2yz.
    Says(&'static str),
}

pub trait Behaviour: Send + Sync + 'static {
    fn recipient(&self, _recipient: &str) -> &'static str {
        "250 2.1.5 ok"
    }

    /// `before`: how many final dots came before this one.
    fn final_dot(&self, _sunk: &Sunk, _before: usize) -> (Duration, Verdict) {
        (Duration::ZERO, Verdict::Taken)
    }
}

/// Takes everything.
impl Behaviour for () {}

/// One message that came as far as its final dot.
#[derive(Clone, Debug)]
pub struct Sunk {
    /// How the peer called itself.
    pub greeting: String,
    pub sender: String,
    /// Those that were accepted.
    pub recipients: Vec<String>,
    pub content: String,
    /// When the last octet was read.
    pub at: Instant,
    /// When the peer was told, and what; `None` while it waits, or if it was gone before.
    pub answered: Option<(Instant, Verdict)>,
}

impl Sunk {
    pub fn is_taken(&self) -> bool {
        matches!(self.answered, Some((_, Verdict::Taken | Verdict::TakenInSilence)))
    }

    /// A field's value in one line.
    pub fn header(&self, name: &str) -> Option<String> {
        let (head, _) = self.content.split_once("\r\n\r\n")?;
        let unfolded = head.replace("\r\n ", " ").replace("\r\n\t", " ");
        let field = |line: &str| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then(|| value.to_string())
        };
        unfolded.lines().find_map(field)
    }
}

#[derive(Default)]
struct Ledger {
    sunk: Mutex<Vec<Sunk>>,
    /// Transactions between MAIL and the reply to their final dot.
    in_flight: AtomicUsize,
    /// Of those, the ones whose connection went away.
    cut: AtomicUsize,
    /// Transactions ever begun.
    begun: AtomicUsize,
    closed: AtomicBool,
}

pub struct Sink {
    address: SocketAddr,
    ledger: Arc<Ledger>,
}

impl Sink {
    pub fn start(behaviour: impl Behaviour) -> Sink {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let ledger = Arc::new(Ledger::default());
        let (shared, behaviour) = (ledger.clone(), Arc::new(behaviour));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if shared.closed.load(Ordering::Relaxed) {
                    return;
                }
                let (ledger, behaviour) = (shared.clone(), behaviour.clone());
                std::thread::spawn(move || {
                    // A peer that goes away is part of the tests.
                    let _ = Session::over(stream, ledger, behaviour).and_then(Session::run);
                });
            }
        });
        Sink { address, ledger }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `[127.0.0.1]:PORT`, for `mx_list`.
    pub fn as_mx(&self) -> String {
        format!("[{}]:{}", self.address.ip(), self.address.port())
    }

    /// Everything that came as far as its final dot, in the order of that.
    pub fn sunk(&self) -> Vec<Sunk> {
        self.ledger.sunk.lock().unwrap().clone()
    }

    pub fn with_sunk<T>(&self, look: impl FnOnce(&[Sunk]) -> T) -> T {
        look(&self.ledger.sunk.lock().unwrap())
    }

    pub fn in_flight(&self) -> usize {
        self.ledger.in_flight.load(Ordering::SeqCst)
    }

    /// Grows with each transaction.
    pub fn activity(&self) -> usize {
        self.ledger.begun.load(Ordering::SeqCst)
    }

    /// Returns once nothing has begun for a while, or when patience ends.
    pub fn rest(&self, quiet: Duration, patience: Duration) {
        let started = Instant::now();
        let (mut seen, mut since) = (self.activity(), started);
        while since.elapsed() < quiet && started.elapsed() < patience {
            std::thread::sleep(Duration::from_millis(50));
            let now = self.activity();
            if now != seen {
                (seen, since) = (now, Instant::now());
            }
        }
    }

    /// Transactions whose connection went away before they were over.
    pub fn cut(&self) -> usize {
        self.ledger.cut.load(Ordering::SeqCst)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.ledger.closed.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

struct Session<B> {
    stream: BufReader<TcpStream>,
    ledger: Arc<Ledger>,
    behaviour: Arc<B>,
    greeting: String,
    sender: Option<String>,
    recipients: Vec<String>,
}

impl<B: Behaviour> Session<B> {
    fn over(stream: TcpStream, ledger: Arc<Ledger>, behaviour: Arc<B>) -> io::Result<Session<B>> {
        stream.set_read_timeout(Some(PATIENCE * 4))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let stream = BufReader::new(stream);
        let (greeting, sender, recipients) = (String::new(), None, Vec::new());
        Ok(Session { stream, ledger, behaviour, greeting, sender, recipients })
    }

    fn run(mut self) -> io::Result<()> {
        self.say("220 sink.example ESMTP")?;
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let upper = line.trim_end().to_ascii_uppercase();
            match upper.split([' ', ':']).next().unwrap_or("") {
                "EHLO" => {
                    self.greeting = line.trim_end()[4..].trim_start().to_string();
                    self.say("250-sink.example\r\n250-8BITMIME\r\n250 PIPELINING")?;
                }
                "MAIL" => {
                    self.begin(path_of(&line));
                    self.say("250 2.1.0 ok")?;
                }
                "RCPT" => {
                    let recipient = path_of(&line);
                    let reply = self.behaviour.recipient(&recipient);
                    if reply.starts_with('2') {
                        self.recipients.push(recipient);
                    }
                    self.say(reply)?;
                }
                "DATA" if self.recipients.is_empty() => self.say("554 5.5.1 no recipients")?,
                "DATA" => {
                    self.say("354 go on")?;
                    if !self.data()? {
                        return Ok(());
                    }
                }
                "RSET" => {
                    self.end();
                    self.say("250 2.0.0 ok")?;
                }
                "QUIT" => {
                    self.end();
                    return self.say("221 2.0.0 bye");
                }
                _ => self.say("250 2.0.0 ok")?,
            }
        }
    }

    fn begin(&mut self, sender: String) {
        self.end();
        self.sender = Some(sender);
        self.ledger.begun.fetch_add(1, Ordering::SeqCst);
        self.ledger.in_flight.fetch_add(1, Ordering::SeqCst);
    }

    fn end(&mut self) {
        self.recipients.clear();
        if self.sender.take().is_some() {
            self.ledger.in_flight.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// False: the connection is to be closed.
    fn data(&mut self) -> io::Result<bool> {
        let content = self.content()?;
        let sunk = Sunk {
            greeting: self.greeting.clone(),
            sender: self.sender.clone().unwrap_or_default(),
            recipients: self.recipients.clone(),
            content,
            at: Instant::now(),
            answered: None,
        };
        let (place, delay, verdict) = {
            let mut ledger = self.ledger.sunk.lock().unwrap();
            let place = ledger.len();
            let (delay, verdict) = self.behaviour.final_dot(&sunk, place);
            ledger.push(sunk);
            (place, delay, verdict)
        };
        std::thread::sleep(delay);
        // Said to be taken before the peer can have heard it: it may be killed in between.
        self.ledger.sunk.lock().unwrap()[place].answered = Some((Instant::now(), verdict));
        match verdict {
            Verdict::Taken => self.say("250 2.6.0 taken")?,
            Verdict::Says(reply) => self.say(reply)?,
            Verdict::TakenInSilence => {
                self.end();
                return Ok(false);
            }
        }
        self.end();
        Ok(true)
    }

    fn content(&mut self) -> io::Result<String> {
        let mut content = Vec::new();
        loop {
            let start = content.len();
            let mut rest = (&mut self.stream).take(CONTENT_OCTETS);
            if rest.read_until(b'\n', &mut content)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match &content[start..] {
                b".\r\n" => {
                    content.truncate(start);
                    return String::from_utf8(content).map_err(io::Error::other);
                }
                [b'.', ..] => drop(content.remove(start)),
                _ => {}
            }
        }
    }

    fn say(&mut self, reply: &str) -> io::Result<()> {
        self.stream.get_mut().write_all(format!("{reply}\r\n").as_bytes())
    }
}

impl<B> Drop for Session<B> {
    /// Whatever ended the session, its transaction is over.
    fn drop(&mut self) {
        if self.sender.is_some() {
            self.ledger.in_flight.fetch_sub(1, Ordering::SeqCst);
            self.ledger.cut.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// What stands between `<` and `>`.
fn path_of(line: &str) -> String {
    let inner = line.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    inner.map_or("", |(path, _)| path).to_string()
}
