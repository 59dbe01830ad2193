//! The policy port: what the driver asks an operator's policy. Implemented over Lua by kumod, from TOML by the
//! simulator. A call may be dropped at its deadline; an implementation bounds its own instructions and memory.
use kumo_core::engine;
use kumo_core::message::Message;
use kumo_core::smtp::reply::Reply;
use kumo_core::smtp::server;
use std::future::Future;

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

pub trait Policy: Send + Sync + 'static {
    /// Which session events have a handler. Fixed once policy is loaded.
    fn handled(&self) -> server::Handled;
    fn engine_handled(&self) -> EngineHandled;
    fn session(&self, question: server::Question) -> impl Future<Output = server::Answer> + Send;
    fn engine(&self, question: EngineQuestion) -> impl Future<Output = EngineAnswer> + Send;
    /// `http_message_generated(msg)`, before the message is stored.
    fn message_generated(&self, message: Message) -> impl Future<Output = Generated> + Send;
}
