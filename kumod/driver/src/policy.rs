//! The policy port: what the driver asks an operator's policy, and the senders that policy makes. Implemented over Lua by kumod,
//! from TOML by the simulator. A call may be dropped at its deadline; an implementation bounds its own instructions and memory.
use kumo_core::engine;
use kumo_core::message::Message;
use kumo_core::smtp::reply::Reply;
use kumo_core::smtp::server;
use std::future::Future;
use std::sync::Arc;

/// A question of the engine with what the engine doesn't hold.
pub struct EngineQuestion {
    pub question: engine::Question,
    /// For `ThrottleInsert` and `Requeue`.
    pub message: Option<Message>,
    /// For `Requeue`: the reply or generated response that led to it.
    pub response: Option<Reply>,
}

pub struct EngineAnswer {
    pub answer: engine::Answer,
    /// The message as policy left it, if policy changed it: written with the next update.
    pub message: Option<Message>,
}

/// What policy made of an injected message.
pub enum Generated {
    Proceed(Message),
    Reject(Reply),
    Failed(String),
}

/// Engine questions that need a handler; the others are always asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineHandled {
    pub throttle_insert: bool,
    pub requeue: bool,
}

/// What a sender is made for.
pub struct Opening {
    /// The event that makes it.
    pub constructor: Box<str>,
    /// Of a scheduled queue that it serves; it may come to serve others.
    pub domain: String,
    pub tenant: Option<String>,
    pub campaign: Option<String>,
    /// It is to take several messages at a time.
    pub is_batched: bool,
    pub hold: Hold,
}

/// Kept for as long as anything of a sender runs, also after it was given up.
#[derive(Clone)]
pub struct Hold(Arc<dyn Held>);

/// Who is told of a sender's afterlife, which ends when this is dropped.
pub trait Held: Send + Sync {
    fn late(&self);
}

impl Hold {
    pub fn new(held: Arc<dyn Held>) -> Hold {
        Hold(held)
    }

    /// The sender said what became of its messages when nobody waited for it any more.
    pub fn late(&self) {
        self.0.late();
    }
}

/// What a sender made of the messages it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    /// With the text of a 250.
    Taken(String),
    /// `closes`: it is done with, too.
    Rejected { reply: Reply, closes: bool },
    /// It raised an error, or has no answer; it is done with.
    Failed(String),
}

pub struct SendAnswer {
    pub sent: Sent,
    /// The messages that it changed, as it left them.
    pub changed: Vec<Message>,
}

/// What policy delivers with. Dropped when it is given up; then nothing of it may go on for longer than it must.
pub trait Sender: Send + 'static {
    /// `remaining` are the recipients of this attempt.
    fn send(&mut self, messages: Vec<Message>) -> impl Future<Output = SendAnswer> + Send;
    fn close(self) -> impl Future<Output = ()> + Send;
}

pub trait Policy: Send + Sync + 'static {
    type Sender: Sender;
    /// Which session events have a handler. Fixed once policy is loaded.
    fn handled(&self) -> server::Handled;
    fn engine_handled(&self) -> EngineHandled;
    fn session(&self, question: server::Question) -> impl Future<Output = server::Answer> + Send;
    fn engine(&self, question: EngineQuestion) -> impl Future<Output = EngineAnswer> + Send;
    /// `http_message_generated(msg)`, before the message is stored.
    fn message_generated(&self, message: Message) -> impl Future<Output = Generated> + Send;
    /// Makes a sender, or says why not.
    fn open_sender(
        &self,
        opening: Opening,
    ) -> impl Future<Output = Result<Self::Sender, String>> + Send;
}
