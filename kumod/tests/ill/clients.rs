//! Clients that go on until they are told to stop, whatever they are answered, and one that only looks at banners. They
//! remember what they were told, and when. What that should have been is the tests' to say.
use super::mail::{Accepted, content, note};
use super::support::{Client, PATIENCE, Reply, wait_for};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const CLIENTS: usize = 4;
/// Of one client between two messages, and between two looks at the banner.
const PAUSE: Duration = Duration::from_millis(10);

pub struct Refusal {
    pub at: Instant,
    pub subject: usize,
    pub text: String,
    /// It was the answer to a final dot.
    pub of_a_store: bool,
}

#[derive(Default)]
pub struct Told {
    pub accepted: Accepted,
    /// For now.
    pub refused: Vec<Refusal>,
    /// By what was refused for good; nothing should be.
    pub for_good: Vec<String>,
}

impl Told {
    /// The answers to final dots that weren't 250.
    pub fn failed_stores(&self) -> impl Iterator<Item = &Refusal> {
        self.refused.iter().filter(|refusal| refusal.of_a_store)
    }

    pub fn nothing_is_refused_for_good(&self) {
        assert_eq!(
            self.for_good,
            Vec::<String>::new(),
            "the spool is no reason to refuse for good"
        );
    }
}

pub struct Clients {
    told: Arc<Mutex<Told>>,
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    /// Messages of so many octets, with the subjects from `first` on.
    pub fn start(address: SocketAddr, first: usize, octets: usize) -> Clients {
        let (told, over) = (Arc::<Mutex<Told>>::default(), Arc::<AtomicBool>::default());
        let client = |number: usize| {
            let (told, over) = (told.clone(), over.clone());
            std::thread::spawn(move || {
                let subjects = (0..).map(|n| first + number + CLIENTS * n);
                for subject in subjects.take_while(|_| !over.load(Ordering::Relaxed)) {
                    submit(address, subject, octets, &told);
                    std::thread::sleep(PAUSE);
                }
            })
        };
        let threads = (0..CLIENTS).map(client).collect();
        Clients { told, over, threads }
    }

    pub fn told<T>(&self, look: impl FnOnce(&Told) -> T) -> T {
        look(&self.told.lock().unwrap())
    }

    /// Waits until so many more were told so.
    pub fn wait_for(&self, what: &str, more: usize, count: impl Fn(&Told) -> usize) {
        let before = self.told(&count);
        wait_for(what, PAUSE + PATIENCE, || (self.told(&count) >= before + more).then_some(()));
    }

    pub fn wait_for_accepted(&self, more: usize) {
        self.wait_for("accepted mail", more, |told| told.accepted.len());
    }

    /// When a message that had been sent whole was first refused.
    pub fn first_failed_store(&self) -> Option<Instant> {
        self.told(|told| told.failed_stores().map(|refusal| refusal.at).min())
    }

    pub fn stop(self) -> Told {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a client doesn't panic");
        }
        std::mem::take(&mut self.told.lock().unwrap())
    }
}

/// One message in a connection of its own. A connection that goes away without an answer tells nothing.
fn submit(address: SocketAddr, subject: usize, octets: usize, told: &Mutex<Told>) {
    let Ok((reply, of_a_store)) = one_message(address, subject, octets) else { return };
    let (at, mut told) = (Instant::now(), told.lock().unwrap());
    match reply.code {
        250 => note(&mut told.accepted, subject, &reply),
        400..500 => told.refused.push(Refusal { at, subject, text: reply.text, of_a_store }),
        _ => told.for_good.push(reply.text),
    }
}

/// The answer to the final dot, or to what was refused before it.
fn one_message(
    address: SocketAddr,
    subject: usize,
    octets: usize,
) -> std::io::Result<(Reply, bool)> {
    let (mut client, banner) = Client::connect(address)?;
    if banner.code != 220 {
        return Ok((banner, false));
    }
    let commands = [
        "EHLO client.example",
        "MAIL FROM:<ann@client.example>",
        "RCPT TO:<bob@sink.example>",
        "DATA",
    ];
    for command in commands {
        let reply = client.say(command)?;
        if reply.code >= 400 {
            return Ok((reply, false));
        }
    }
    client.write(&content(subject, octets))?;
    Ok((client.say(".")?, true))
}

/// Looks at the banner all the time.
pub struct Banners {
    seen: Arc<Mutex<Vec<(Instant, Reply)>>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Banners {
    pub fn watch(address: SocketAddr) -> Banners {
        let (seen, over) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<AtomicBool>::default());
        let (sees, ends) = (seen.clone(), over.clone());
        let thread = std::thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                if let Ok((_, banner)) = Client::connect(address) {
                    sees.lock().unwrap().push((Instant::now(), banner));
                }
                std::thread::sleep(PAUSE);
            }
        });
        Banners { seen, over, thread: Some(thread) }
    }

    /// Those since then, with their times.
    pub fn since(&self, since: Instant) -> Vec<(Instant, Reply)> {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|(at, _)| *at >= since).cloned().collect()
    }

    /// The first with this code since then.
    pub fn first(&self, code: u16, since: Instant) -> (Instant, Reply) {
        wait_for(&format!("a banner with {code}"), PATIENCE, || {
            self.since(since).into_iter().find(|(_, banner)| banner.code == code)
        })
    }
}

impl Drop for Banners {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
