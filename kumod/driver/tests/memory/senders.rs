//! Policy's senders as a test scripts them. What they do is a list of acts; what they saw is a list of what happened.
use kumo_core::id::SpoolId;
use kumo_core::message::Message;
use kumo_core::smtp::reply::Reply;
use kumo_core::time::Duration;
use kumo_driver::policy::{Hold, Opening, SendAnswer, Sender, Sent};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use tokio::time::sleep;

/// What a sender, or a constructor, does next; without one left it takes what it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// The constructor fails, or hangs.
    NotMade,
    HangInConstructor,
    Take,
    Reject(u16),
    Fail,
    Hang,
    /// Hangs; who waited gone, it says something nevertheless.
    SpeakLate,
    HangInClose,
}

/// What happened, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Opened { domain: String, tenant: Option<String>, is_batched: bool },
    Sent(Vec<SpoolId>),
    Closed,
    Dropped,
}

#[derive(Clone, Default)]
pub struct Senders {
    pub acts: Arc<Mutex<VecDeque<Act>>>,
    pub seen: Arc<Mutex<Vec<Seen>>>,
}

impl Senders {
    pub fn script(&self, acts: &[Act]) {
        self.acts.lock().unwrap().extend(acts);
    }

    fn next_if(&self, wanted: impl Fn(&Act) -> bool) -> Option<Act> {
        let mut acts = self.acts.lock().unwrap();
        acts.pop_front_if(|act| wanted(act))
    }

    /// Every act was done, or begun.
    pub fn is_done(&self) -> bool {
        self.acts.lock().unwrap().is_empty()
    }

    fn see(&self, what: Seen) {
        self.seen.lock().unwrap().push(what);
    }

    pub fn count(&self, which: impl Fn(&Seen) -> bool) -> usize {
        self.seen.lock().unwrap().iter().filter(|seen| which(seen)).count()
    }

    pub async fn open(&self, opening: Opening) -> Result<ScriptedSender, String> {
        let Opening { domain, tenant, is_batched, hold, .. } = opening;
        match self.next_if(|act| matches!(act, Act::NotMade | Act::HangInConstructor)) {
            Some(Act::NotMade) => return Err("event make.x: policy.lua:3: no".into()),
            Some(_) => std::future::pending().await,
            None => {}
        }
        self.see(Seen::Opened { domain, tenant, is_batched });
        Ok(ScriptedSender { senders: self.clone(), hold })
    }
}

pub struct ScriptedSender {
    senders: Senders,
    hold: Hold,
}

impl Sender for ScriptedSender {
    async fn send(&mut self, messages: Vec<Message>) -> SendAnswer {
        self.senders.see(Seen::Sent(messages.iter().map(|message| message.id).collect()));
        let sent = match self.senders.next_if(|act| *act != Act::HangInClose) {
            Some(Act::Reject(code)) => {
                Sent::Rejected { reply: Reply::new(code, "no"), closes: code == 421 }
            }
            Some(Act::Fail) => Sent::Failed("event make.x: policy.lua:7: boom".into()),
            Some(Act::Hang) => std::future::pending().await,
            Some(Act::SpeakLate) => {
                let late = Late(self.hold.clone());
                std::future::pending::<()>().await;
                drop(late);
                unreachable!("nobody waits for ever")
            }
            Some(Act::NotMade | Act::HangInConstructor | Act::HangInClose) => {
                unreachable!("that isn't asked of send")
            }
            Some(Act::Take) | None => Sent::Taken(format!("took {}", messages.len())),
        };
        SendAnswer { sent, changed: Vec::new() }
    }

    async fn close(self) {
        if self.senders.next_if(|act| *act == Act::HangInClose).is_some() {
            std::future::pending::<()>().await;
        }
        self.senders.see(Seen::Closed);
    }
}

impl Drop for ScriptedSender {
    fn drop(&mut self) {
        self.senders.see(Seen::Dropped);
    }
}

/// Goes on for a second after its call was dropped, and then has something to say.
struct Late(Hold);

impl Drop for Late {
    fn drop(&mut self) {
        let hold = self.0.clone();
        tokio::spawn(async move {
            sleep(Duration::from_secs(1)).await;
            hold.late();
        });
    }
}
