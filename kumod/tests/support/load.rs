//! Clients that send without a pause to whatever kumod runs just now, and the ledger of what they were told.
//! Invariant: a submission is in the ledger before its first octet is on the wire.
use super::choices::Choices;
use super::{Client, Reply};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub const CLIENTS: u64 = 8;
const MESSAGES_PER_CONNECTION: u64 = 12;
const MEAN_PAUSE: Duration = Duration::from_millis(4);
/// While there is nobody to send to.
const RETRY: Duration = Duration::from_millis(5);
/// What a recipient does; see `peer`.
const KINDS: [&str; 8] = ["plain", "plain", "plain", "slow", "later", "never", "busy", "silent"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The final dot was never sent, so it must never arrive.
    NotSent,
    /// It was sent and not answered, yet or for ever.
    Unanswered,
    Accepted,
    Refused,
}

#[derive(Clone, Debug)]
pub struct Submission {
    /// In the subject, and in each recipient's address.
    pub token: String,
    pub recipients: Vec<String>,
    pub content: String,
    pub end: End,
    pub dot_at: Option<Instant>,
}

#[derive(Default)]
struct Shared {
    address: Mutex<Option<SocketAddr>>,
    ledger: Mutex<Vec<Submission>>,
    waiting: AtomicUsize,
    over: AtomicBool,
}

pub struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    pub fn start(seed: u64) -> Load {
        let shared = Arc::new(Shared::default());
        let client = |number| {
            let shared = shared.clone();
            let choices = Choices::new(seed, 1 + number);
            std::thread::spawn(move || Sender { shared, choices, number, sent: 0 }.run())
        };
        let clients = (0..CLIENTS).map(client).collect();
        Load { shared, clients }
    }

    /// Whom to send to from now on.
    pub fn aim(&self, address: Option<SocketAddr>) {
        *self.shared.address.lock().unwrap() = address;
    }

    /// Clients that have sent a final dot and wait for the reply.
    pub fn waiting(&self) -> usize {
        self.shared.waiting.load(Ordering::SeqCst)
    }

    pub fn ledger(&self) -> MutexGuard<'_, Vec<Submission>> {
        self.shared.ledger.lock().unwrap()
    }

    /// No more mail; what is under way is brought to its end.
    pub fn finish(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            client.join().expect("a client doesn't panic");
        }
    }
}

struct Sender {
    shared: Arc<Shared>,
    choices: Choices,
    number: u64,
    sent: u64,
}

impl Sender {
    fn run(mut self) {
        while !self.is_over() {
            let address = *self.shared.address.lock().unwrap();
            match address.map(Client::greet) {
                Some(Ok(connection)) => self.converse(connection),
                Some(Err(_)) | None => std::thread::sleep(RETRY),
            }
        }
    }

    fn is_over(&self) -> bool {
        self.shared.over.load(Ordering::Relaxed)
    }

    fn converse(&mut self, mut connection: Client) {
        for _ in 0..=self.choices.below(MESSAGES_PER_CONNECTION) {
            if self.is_over() || !self.submit(&mut connection) {
                return;
            }
            std::thread::sleep(MEAN_PAUSE.mul_f64(self.choices.below(200) as f64 / 100.0));
        }
    }

    /// False: the connection is of no more use.
    fn submit(&mut self, connection: &mut Client) -> bool {
        let submission = self.compose();
        let (recipients, content) = (submission.recipients.clone(), submission.content.clone());
        let place = {
            let mut ledger = self.shared.ledger.lock().unwrap();
            ledger.push(submission);
            ledger.len() - 1
        };
        let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
        let begun = connection.begin("load@client.example", &recipients);
        if begun.and_then(|()| connection.write(&content)).is_err() {
            return false;
        }
        self.shared.waiting.fetch_add(1, Ordering::SeqCst);
        self.note(place, |submission| {
            (submission.end, submission.dot_at) = (End::Unanswered, Some(Instant::now()));
        });
        let told = connection.say(".");
        if let Ok(Reply { code, .. }) = told {
            let end = if code / 100 == 2 { End::Accepted } else { End::Refused };
            self.note(place, |submission| submission.end = end);
        }
        self.shared.waiting.fetch_sub(1, Ordering::SeqCst);
        told.is_ok()
    }

    fn note(&self, place: usize, change: impl FnOnce(&mut Submission)) {
        change(&mut self.shared.ledger.lock().unwrap()[place]);
    }

    fn compose(&mut self) -> Submission {
        self.sent += 1;
        let token = format!("{}-{}", self.number, self.sent);
        let recipient = |(n, kind)| format!("{kind}-{token}-{n}@sink.example");
        let kinds: Vec<&str> = (0..=self.choices.below(3))
            .map(|_| KINDS[self.choices.below(KINDS.len() as u64) as usize])
            .collect();
        let recipients = kinds.into_iter().enumerate().map(recipient).collect();
        let lines = if self.choices.one_in(10) { 400 } else { 1 + self.choices.below(20) };
        let mut content = format!("Subject: {token}\r\n\r\n");
        for _ in 0..lines {
            content.push_str(&format!("{:016x} is a line of {token}\r\n", self.choices.next()));
        }
        Submission { token, recipients, content, end: End::NotSent, dot_at: None }
    }
}
