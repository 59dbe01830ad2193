//! Behaviours of a whole policy, each with a few lines of Lua. What one file does is tested beside it.
mod budget;
mod config;
mod engine;
mod helpers;
mod loading;
mod message;
mod sender;
mod session;

use super::{Loaded, LuaPolicy, PolicyError, PolicyOptions};
use kumo_core::address::{Mailbox, ReversePath};
use kumo_core::id::SpoolId;
use kumo_core::message::{Envelope, Message, Meta, Schedule};
use kumo_core::recipients::RecipientSet;
use kumo_core::smtp::server::{Answer, Asked, Question, Verdict};
use kumo_driver::policy::Policy;

const OPTIONS: PolicyOptions =
    PolicyOptions { states: 2, senders: 2, uses: 100, instructions: 2_000_000, memory: 16 << 20 };

/// `source` with `kumo` at hand, on line 1.
async fn try_load(source: &str) -> Result<Loaded, PolicyError> {
    load_with(source, OPTIONS).await
}

async fn load_with(source: &str, options: PolicyOptions) -> Result<Loaded, PolicyError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.lua");
    std::fs::write(&path, format!("local kumo = require 'kumo' {source}")).unwrap();
    LuaPolicy::load(&path, options).await
}

async fn load(source: &str) -> LuaPolicy {
    try_load(source).await.unwrap_or_else(|error| panic!("{error}")).policy
}

/// The error's text from the file's name on.
fn text(error: PolicyError) -> String {
    short(&error.to_string())
}

fn short(error: &str) -> String {
    let folder = |word: &str| match word.rfind("/policy.lua") {
        Some(at) => word[at + 1..].to_string(),
        None => word.to_string(),
    };
    error.split(' ').map(folder).collect::<Vec<_>>().join(" ")
}

fn message(body: &'static str) -> Message {
    let mailbox = |text| Mailbox::parse(text).unwrap();
    Message {
        id: SpoolId([7; 16]),
        envelope: Envelope {
            sender: ReversePath::parse("from@sender.test").unwrap(),
            recipients: vec![mailbox("a@one.test"), mailbox("b@two.test")],
        },
        remaining: RecipientSet::all(2),
        meta: Meta::new(),
        schedule: Schedule::default(),
        attempts: 3,
        body: body.into(),
    }
}

async fn ask(policy: &LuaPolicy, what: Asked) -> Answer {
    let mut meta = Meta::new();
    meta.insert("received_from".into(), "192.0.2.1:25".into());
    policy.session(Question { meta, what }).await
}

async fn verdict(source: &str, what: Asked) -> Verdict {
    ask(&load(source).await, what).await.verdict
}

/// The text of a failed answer.
fn failure(verdict: Verdict) -> String {
    match verdict {
        Verdict::Failed(text) => short(&text),
        other => panic!("not a failure: {other:?}"),
    }
}
