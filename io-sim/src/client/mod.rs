//! Scripted clients: they hand in messages as a patient client does, check every reply, tell the ledger what they were told, and misbehave
//! where a fault says so. Invariant: no wait without a limit; each attempt at a message ends in one `Answered`. Whether what they were told
//! came true is not known here.
//!
//! - [`dialogue`]: one connection and what must hold for its replies. [`transaction`]: one attempt over it.
//! - [`content`]: what is sent. [`mischief`]: what is done instead of, or before, a proper transaction.
mod content;
mod dialogue;
mod mischief;
mod transaction;

#[cfg(test)]
mod tests;

pub use content::content;

use crate::ledger::{Answer, Event, Submission};
use crate::net::SimNetwork;
use crate::universe::Universe;
use dialogue::Dialogue;
use kumo_core::port::{DialRequest, Network};
use kumo_core::random::Random;
use kumo_core::time::Duration;
use mischief::Mischief;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::time::{Instant, sleep_until, timeout};
use transaction::{Errand, Manner};

/// A connection isn't kept longer without a message to send.
const KEPT: Duration = Duration::from_secs(10);

/// One logical message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageWork {
    pub message: u32,
    /// Without angle brackets; empty for the null sender.
    pub sender: String,
    pub recipients: Vec<String>,
    /// Octets of the body, without the header.
    pub size: usize,
}

#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// Its own, by which faults know it.
    pub address: IpAddr,
    pub server: SocketAddr,
    /// Further attempts at a message.
    pub retries: u32,
    /// Between attempts at a message.
    pub pause: Duration,
    /// For a connection, a reply, a write.
    pub patience: Duration,
    pub pipelining: bool,
    pub messages_per_connection: u32,
}

impl ClientSettings {
    pub fn new(address: IpAddr, server: SocketAddr) -> ClientSettings {
        ClientSettings {
            address,
            server,
            retries: 5,
            pause: Duration::from_secs(60),
            patience: Duration::from_secs(300),
            pipelining: true,
            messages_per_connection: 10,
        }
    }
}

/// What is still to be done about a message.
struct Task {
    work: MessageWork,
    /// Those it still has to go to.
    recipients: Vec<String>,
    attempt: u32,
}

struct Client<N: Network> {
    universe: Arc<Universe>,
    network: Arc<N>,
    settings: ClientSettings,
    who: String,
    /// With the messages sent over it.
    connection: Option<(Dialogue<N::Stream>, u32)>,
}

/// [`send_all`] over the simulated network.
pub async fn run(
    universe: Arc<Universe>,
    settings: ClientSettings,
    work: Vec<(Duration, MessageWork)>,
) {
    let network = SimNetwork::of_host(&universe, settings.address);
    send_all(universe, Arc::new(network), settings, work).await;
}

/// Sends each message not before its time, counted from the call, one after another; returns when all are accepted or given up.
pub async fn send_all<N: Network>(
    universe: Arc<Universe>,
    network: Arc<N>,
    settings: ClientSettings,
    work: Vec<(Duration, MessageWork)>,
) {
    let began = Instant::now();
    let who = settings.address.to_string();
    let mut client = Client { universe, network, settings, who, connection: None };
    let mut number = 0;
    let mut tasks = BTreeMap::new();
    for (due, work) in work {
        let recipients = work.recipients.clone();
        tasks.insert((due, number), Task { work, recipients, attempt: 1 });
        number += 1;
    }
    while let Some(((due, _), mut task)) = tasks.pop_first() {
        if due.saturating_sub(began.elapsed()) > KEPT {
            client.quit().await;
        }
        sleep_until(began + due).await;
        task.recipients = client.attempt(&task).await;
        if !task.recipients.is_empty() && task.attempt <= client.settings.retries {
            task.attempt += 1;
            tasks.insert((began.elapsed() + client.settings.pause, number), task);
            number += 1;
        }
    }
    client.quit().await;
}

impl<N: Network> Client<N> {
    /// Returns the recipients for whom another attempt may be worth it.
    async fn attempt(&mut self, task: &Task) -> Vec<String> {
        let submission = Submission { message: task.work.message, attempt: task.attempt };
        let seed = self.universe.seed;
        let number = u64::from(submission.message) << 16 | u64::from(submission.attempt);
        let mut random = Random::new(seed ^ number, &format!("client {}", self.who));
        let manner = match mischief::draw(&self.universe, &self.who, &mut random) {
            Mischief::Manner(manner) => manner,
            Mischief::Garbage(garbage) => {
                self.babble(garbage, &mut random).await;
                Manner::Proper
            }
        };
        let Some(mut dialogue) = self.connected().await else {
            self.universe.write(Event::Answered { submission, answer: Answer::Never });
            return task.recipients.clone();
        };
        let errand = Errand {
            submission,
            sender: task.work.sender.clone(),
            recipients: task.recipients.clone(),
            content: content(submission.message, submission.attempt, task.work.size, seed),
        };
        let outcome = transaction::send(&mut dialogue.0, errand, manner, &mut random).await;
        dialogue.1 += 1;
        let answer = outcome.answer;
        self.universe.write(Event::Answered { submission, answer });
        if dialogue.0.is_open() {
            self.connection = Some(dialogue);
        }
        outcome.again
    }

    /// The connection there is, if it is good for another message, or a new one.
    async fn connected(&mut self) -> Option<(Dialogue<N::Stream>, u32)> {
        let most = self.settings.messages_per_connection;
        if let Some((mut dialogue, sent)) = self.connection.take() {
            if sent < most && dialogue.is_quiet().await {
                return Some((dialogue, sent));
            }
            dialogue.quit().await;
        }
        let mut dialogue = self.dial().await?;
        dialogue.greet().await.then_some((dialogue, 0))
    }

    async fn dial(&self) -> Option<Dialogue<N::Stream>> {
        let source_address = Some(self.settings.address);
        let request = DialRequest { remote: self.settings.server, source_address };
        let dialled = timeout(self.settings.patience, self.network.dial(request)).await;
        let stream = dialled.ok()?.ok()?;
        Some(Dialogue::new(self.universe.clone(), stream, &self.who, &self.settings))
    }

    /// Says something that is no SMTP over a connection that is good for nothing else then.
    async fn babble(&mut self, garbage: mischief::Garbage, random: &mut Random) {
        let dialogue = match garbage.is_before_the_greeting() {
            true => self.dial().await,
            false => self.connected().await.map(|(dialogue, _)| dialogue),
        };
        if let Some(mut dialogue) = dialogue {
            dialogue.babble(&garbage.octets(random)).await;
        }
    }

    async fn quit(&mut self) {
        if let Some((mut dialogue, _)) = self.connection.take() {
            dialogue.quit().await;
        }
    }
}
