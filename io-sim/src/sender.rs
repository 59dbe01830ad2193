//! Policy's senders as a scenario's table has them: how long each call takes, and how often it ends in which way. Invariant: a message is in the
//! ledger exactly if its sender took it, before the node hears of it; each copy of it was one call.
use crate::ledger::Event;
use crate::lives::Place;
use crate::policy::{Course, FAILED, course, rejection};
use crate::universe::Universe;
use crate::waits::WaitKind;
use kumo_core::header;
use kumo_core::message::Message;
use kumo_core::random::Random;
use kumo_core::smtp::reply::Reply;
use kumo_core::time::Duration;
use kumo_driver::policy::{Hold, Opening, SendAnswer, Sender, Sent};
use serde::Deserialize;
use std::future::pending;
use std::sync::Arc;
use tokio::time::sleep;

/// As the ledger names what senders deliver to.
pub const SERVER: &str = "sender";

/// Per mille of calls: what is left of a thousand takes what it is given.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Behaviour {
    #[serde(with = "kumo_core::config::duration::text")]
    pub takes_in: Duration,
    pub defers_per_mille: u64,
    pub refuses_per_mille: u64,
    /// 421: the sender is done with.
    pub leaves_per_mille: u64,
    pub fails_per_mille: u64,
    /// Without end, before it has taken anything.
    pub hangs_per_mille: u64,
    /// Without end, once it has taken everything.
    pub forgets_per_mille: u64,
    /// Of constructors.
    pub not_made_per_mille: u64,
}

impl Default for Behaviour {
    fn default() -> Behaviour {
        Behaviour {
            takes_in: Duration::from_millis(20),
            defers_per_mille: 0,
            refuses_per_mille: 0,
            leaves_per_mille: 0,
            fails_per_mille: 0,
            hangs_per_mille: 0,
            forgets_per_mille: 0,
            not_made_per_mille: 0,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Take,
    Defer,
    Refuse,
    Leave,
    Fail,
    Hang,
    Forget,
}

impl Behaviour {
    fn draw(&self, random: &mut Random) -> Act {
        let acts = [
            (Act::Defer, self.defers_per_mille),
            (Act::Refuse, self.refuses_per_mille),
            (Act::Leave, self.leaves_per_mille),
            (Act::Fail, self.fails_per_mille),
            (Act::Hang, self.hangs_per_mille),
            (Act::Forget, self.forgets_per_mille),
        ];
        let mut drawn = random.below(1000);
        for (act, share) in acts {
            if drawn < share {
                return act;
            }
            drawn -= share;
        }
        Act::Take
    }
}

pub struct SimSender {
    universe: Arc<Universe>,
    life: u64,
    behaviour: Behaviour,
    random: Random,
    /// Otherwise it delivers the first of what it is given, as Lua's `send` does.
    is_batched: bool,
    /// As long as there is something of it.
    _hold: Hold,
}

impl SimSender {
    pub fn make(
        universe: &Arc<Universe>,
        life: u64,
        behaviour: Behaviour,
        seed: u64,
        Opening { is_batched, hold, .. }: Opening,
    ) -> Result<SimSender, String> {
        let mut random = Random::new(seed, "sender");
        if random.below(1000) < behaviour.not_made_per_mille {
            return Err(FAILED.into());
        }
        let universe = universe.clone();
        Ok(SimSender { universe, life, behaviour, random, is_batched, _hold: hold })
    }

    fn sink(&self, messages: &[Message], reply_lost: bool) {
        let takes = if self.is_batched { messages.len() } else { 1 };
        for message in &messages[..takes] {
            self.universe.write(Event::Sunk {
                submission: submission_of(message),
                recipients: recipients_of(message),
                reply_lost,
                server: SERVER.into(),
                client: None,
                content: message.body.to_vec(),
            });
        }
    }

    fn refuse(&self, messages: &[Message], code: u16) -> Sent {
        for message in messages {
            self.universe.write(Event::PeerRefused {
                submission: submission_of(message),
                recipients: recipients_of(message),
                code,
                server: SERVER.into(),
            });
        }
        rejected(code)
    }

    async fn perform(&mut self, messages: &[Message]) -> Sent {
        let act = self.behaviour.draw(&mut self.random);
        sleep(self.behaviour.takes_in).await;
        self.universe.lives.alive(self.life).await;
        match act {
            Act::Defer => rejected(451),
            Act::Leave => rejected(421),
            Act::Refuse => self.refuse(messages, 550),
            Act::Fail => Sent::Failed(FAILED.into()),
            Act::Hang => pending().await,
            Act::Take | Act::Forget => {
                let _ = self.universe.lives.step(self.life, Place::Elsewhere).await;
                self.sink(messages, act == Act::Forget);
                if act == Act::Forget {
                    pending::<()>().await;
                }
                Sent::Taken(format!("2.0.0 took {}", messages.len()))
            }
        }
    }

    /// Policy's own rejection, which no server has to answer for.
    fn reject(&self, messages: &[Message]) -> Sent {
        messages.iter().for_each(|one| self.universe.write(Event::PolicyRejected { id: one.id }));
        Sent::Rejected { reply: rejection(), closes: false }
    }
}

impl Sender for SimSender {
    async fn send(&mut self, messages: Vec<Message>) -> SendAnswer {
        self.universe.lives.alive(self.life).await;
        let universe = self.universe.clone();
        let _waiting = universe.waits.begin(WaitKind::Sender, universe.now().mono);
        let sent = match course(&universe, self.life, "send", true).await {
            Course::Answers => self.perform(&messages).await,
            Course::Fails => Sent::Failed(FAILED.into()),
            Course::Rejects => self.reject(&messages),
        };
        SendAnswer { sent, changed: Vec::new() }
    }

    async fn close(self) {
        self.universe.lives.alive(self.life).await;
    }
}

fn rejected(code: u16) -> Sent {
    let reply = Reply::new(code, "as the scenario has it");
    Sent::Rejected { reply, closes: code == 421 }
}

fn submission_of(message: &Message) -> Option<crate::ledger::Submission> {
    header::first(&message.body, "X-Sim").and_then(|mark| mark.parse().ok())
}

/// Those of this attempt.
fn recipients_of(message: &Message) -> Vec<String> {
    let all = &message.envelope.recipients;
    let these = message.remaining.iter().filter_map(|index| all.get(index as usize));
    these.map(|recipient| recipient.as_str().into()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::Zones;
    use crate::dns::tests::{fault, universe};
    use crate::fault::FaultKind;
    use crate::ledger::Submission;
    use crate::policy::{PolicyTable, SimPolicy};
    use kumo_core::address::{Mailbox, ReversePath};
    use kumo_core::id::SpoolIdGenerator;
    use kumo_core::message::Envelope;
    use kumo_core::recipients::RecipientSet;
    use kumo_core::time::Wall;
    use kumo_driver::policy::{Held, Policy};
    use serde_json::{Value, json};
    use tokio::time::timeout;

    const MINUTE: Duration = Duration::from_secs(60);

    struct Nobody;

    impl Held for Nobody {
        fn late(&self) {}
    }

    fn message() -> Message {
        Message {
            id: SpoolIdGenerator::new(1).next(Wall(0)),
            envelope: Envelope {
                sender: ReversePath::Null,
                recipients: ["joe@a.test", "ann@a.test"]
                    .map(|one| Mailbox::parse(one).unwrap())
                    .into(),
            },
            remaining: RecipientSet::all(1),
            meta: Default::default(),
            schedule: Default::default(),
            attempts: 0,
            body: "X-Sim: 3/1\r\n\r\nhello\r\n".into(),
        }
    }

    fn world(behaviour: Value) -> (Arc<Universe>, SimPolicy) {
        let Value::Object(table) = json!({ "senders": { "make.x": behaviour } }) else {
            unreachable!("it is a table")
        };
        let universe = universe(Zones::default(), PolicyTable::parse(table).unwrap());
        let policy = SimPolicy::new(&universe, 1);
        (universe, policy)
    }

    async fn open(policy: &SimPolicy, constructor: &str) -> Result<SimSender, String> {
        let opening = Opening {
            constructor: constructor.into(),
            domain: "a.test".into(),
            tenant: None,
            campaign: None,
            is_batched: false,
            hold: Hold::new(Arc::new(Nobody)),
        };
        policy.open_sender(opening).await
    }

    /// What became of a call, if it ended, and what the ledger says.
    async fn outcome(behaviour: Value) -> (Option<Sent>, Vec<Event>) {
        let (universe, policy) = world(behaviour);
        let mut sender = open(&policy, "make.x").await.unwrap();
        let sent = timeout(MINUTE, sender.send(vec![message()])).await.ok();
        let events =
            universe.ledger.read(|entries| entries.iter().map(|one| one.event.clone()).collect());
        (sent.map(|answer| answer.sent), events)
    }

    fn sunk(reply_lost: bool) -> Event {
        Event::Sunk {
            submission: Some(Submission { message: 3, attempt: 1 }),
            recipients: vec!["joe@a.test".into()],
            reply_lost,
            server: SERVER.into(),
            client: None,
            content: message().body.to_vec(),
        }
    }

    #[madsim::test]
    async fn a_call_ends_as_the_table_says() {
        let taken = Sent::Taken("2.0.0 took 1".into());
        assert_eq!(outcome(json!({})).await, (Some(taken), vec![sunk(false)]));
        for (key, code) in [("defers_per_mille", 451), ("leaves_per_mille", 421)] {
            assert_eq!(outcome(json!({ key: 1000 })).await, (Some(rejected(code)), vec![]));
        }
        let (sent, events) = outcome(json!({ "refuses_per_mille": 1000 })).await;
        assert_eq!(sent, Some(rejected(550)));
        assert!(matches!(&events[..], [Event::PeerRefused { code: 550, .. }]), "{events:?}");
        let failed = Sent::Failed(FAILED.into());
        assert_eq!(outcome(json!({ "fails_per_mille": 1000 })).await, (Some(failed), vec![]));
        assert_eq!(outcome(json!({ "hangs_per_mille": 1000 })).await, (None, vec![]));
        assert_eq!(outcome(json!({ "forgets_per_mille": 1000 })).await, (None, vec![sunk(true)]));
        assert_eq!(outcome(json!({ "takes_in": "2 minutes" })).await, (None, vec![]));
    }

    #[madsim::test]
    async fn a_constructor_fails_where_it_is_told_to_or_unknown() {
        let (universe, policy) = world(json!({ "not_made_per_mille": 1000 }));
        assert_eq!(open(&policy, "make.x").await.err().as_deref(), Some(FAILED));
        assert!(open(&policy, "make.y").await.err().unwrap().contains("make.y"));
        universe.faults.begin(fault(FaultKind::PolicyHang, None, Some("sender")));
        assert!(timeout(MINUTE, open(&policy, "make.x")).await.is_err());
    }

    #[madsim::test]
    async fn faults_strike_calls() {
        let (universe, policy) = world(json!({}));
        let mut sender = open(&policy, "make.x").await.unwrap();
        let id = universe.faults.begin(fault(FaultKind::PolicyReject, None, Some("send")));
        let sent = sender.send(vec![message()]).await.sent;
        assert_eq!(sent, Sent::Rejected { reply: rejection(), closes: false });
        let expected = Event::PolicyRejected { id: message().id };
        universe.ledger.read(|entries| assert_eq!(entries[0].event, expected));
        universe.faults.end(id);
        universe.faults.begin(fault(FaultKind::PolicyError, None, Some("send")));
        assert_eq!(sender.send(vec![message()]).await.sent, Sent::Failed(FAILED.into()));
    }
}
