//! [`LuaPolicy`]: the driver's `Policy` port over a pool of Lua states.
//! Invariant: an event without handler touches no Lua state. The engine caches configuration; nothing is cached here.
use super::PolicyOptions;
use super::error::PolicyError;
use super::events;
use super::places::Places;
use super::pool::Pool;
use super::program::Program;
use super::sender::{self, LuaSender};
use super::setup::{Phase, Setup};
use super::state::State;
use super::{engine, session};
use kumo_core::engine::{Answer, Question};
use kumo_core::message::Message;
use kumo_core::smtp::server::{self, Handled};
use kumo_driver::policy::{
    EngineAnswer, EngineHandled, EngineQuestion, Generated, Opening, Policy,
};
use mlua::MultiValue;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

/// An operator's policy, ready to be asked.
pub struct LuaPolicy {
    pool: Pool,
    places: Arc<Places>,
    events: BTreeSet<String>,
}

/// A policy whose `pre_init` and `init` have run.
pub struct Loaded {
    pub policy: LuaPolicy,
    pub setup: Setup,
    /// Each was logged already.
    pub warnings: Vec<String>,
}

impl LuaPolicy {
    /// Runs the file, then `pre_init` and `init`, in a state that is thrown away afterwards.
    pub async fn load(path: &Path, options: PolicyOptions) -> Result<Loaded, PolicyError> {
        let program = Program::read(path, options)?;
        let mut state = State::load(&program).await?;
        let setup = initialise(&mut state).await?;
        let events = state.events().into_iter().collect();
        let warnings = program.warnings();
        let places = Places::new(program.options.senders);
        let policy = LuaPolicy { pool: Pool::new(program), places, events };
        Ok(Loaded { policy, setup, warnings })
    }

    /// Runs the file alone, for a tool that asks what its handlers answer: what `init` does is the server's.
    pub async fn load_without_init(
        path: &Path,
        options: PolicyOptions,
    ) -> Result<LuaPolicy, PolicyError> {
        let program = Program::read(path, options)?;
        let events = State::load(&program).await?.events().into_iter().collect();
        let places = Places::new(program.options.senders);
        Ok(LuaPolicy { pool: Pool::new(program), places, events })
    }

    fn handles(&self, event: &str) -> bool {
        self.events.contains(event)
    }

    /// What policy was warned about so far, in order of text.
    pub fn warnings(&self) -> Vec<String> {
        self.pool.program().warnings()
    }

    /// States that wait for a question.
    pub fn idle_states(&self) -> usize {
        self.pool.idle_states()
    }
}

/// Calls `pre_init` and `init`, and yields what they asked for.
pub async fn initialise(state: &mut State) -> Result<Setup, PolicyError> {
    state.enter(Phase::Initialising);
    for event in [events::PRE_INIT, events::INIT] {
        let called = events::call_all(state, event, MultiValue::new()).await;
        called.map_err(|error| error.into_failure(event))?;
    }
    state.enter(Phase::Serving);
    Ok(state.take_setup())
}

impl Policy for LuaPolicy {
    type Sender = LuaSender;

    fn handled(&self) -> Handled {
        Handled {
            connection_accepted: self.handles(events::CONNECTION_ACCEPTED),
            ehlo: self.handles(events::EHLO),
            auth_plain: self.handles(events::AUTH_PLAIN),
            mail_from: self.handles(events::MAIL_FROM),
            rcpt_to: self.handles(events::RCPT_TO),
            listener_domain: self.handles(events::LISTENER_DOMAIN),
            data: self.handles(events::DATA),
            message_received: self.handles(events::MESSAGE_RECEIVED),
        }
    }

    fn engine_handled(&self) -> EngineHandled {
        EngineHandled {
            throttle_insert: self.handles(events::THROTTLE_INSERT),
            requeue: self.handles(events::REQUEUE),
        }
    }

    async fn session(&self, question: server::Question) -> server::Answer {
        if !self.handles(session::event_of(&question.what)) {
            return session::unhandled(question);
        }
        let mut lease = match self.pool.lease().await {
            Ok(lease) => lease,
            Err(error) => return session::failed(question.meta, &error),
        };
        let answer = session::ask(&mut lease, question).await;
        lease.finish();
        answer
    }

    async fn engine(&self, question: EngineQuestion) -> EngineAnswer {
        if let Some(answer) = self.without_lua(&question.question) {
            return engine::answered(answer);
        }
        let mut lease = match self.pool.lease().await {
            Ok(lease) => lease,
            Err(error) => return engine::answered(engine::failed(&error)),
        };
        let answer = ask_engine(&mut lease, question).await;
        lease.finish();
        answer
    }

    async fn message_generated(&self, message: Message) -> Generated {
        if !self.handles(events::HTTP_MESSAGE_GENERATED) {
            return Generated::Proceed(message);
        }
        let mut lease = match self.pool.lease().await {
            Ok(lease) => lease,
            Err(error) => return Generated::Failed(error.to_string()),
        };
        let generated = session::message_generated(&mut lease, message).await;
        lease.finish();
        generated
    }

    async fn open_sender(&self, opening: Opening) -> Result<LuaSender, String> {
        if !self.handles(&opening.constructor) {
            return Err(sender::no_handler(&opening.constructor).to_string());
        }
        sender::open(self.pool.program(), &self.places, opening).await
    }
}

impl LuaPolicy {
    /// The answer where no handler has to be asked.
    fn without_lua(&self, question: &Question) -> Option<Answer> {
        use kumo_core::engine::RequeueAnswer::Keep;
        match question {
            Question::Pool { name } if &**name == engine::UNSPECIFIED => {
                Some(engine::unspecified_pool())
            }
            Question::QueueConfig { .. } if !self.handles(events::QUEUE_CONFIG) => {
                Some(Answer::QueueConfig(Box::default()))
            }
            Question::EgressPath { .. } if !self.handles(events::EGRESS_PATH) => {
                Some(Answer::EgressPath(Box::default()))
            }
            Question::Pool { name } if !self.handles(events::EGRESS_POOL) => {
                Some(engine::failed(&engine::unknown_pool(name)))
            }
            Question::ThrottleInsert { .. } if !self.handles(events::THROTTLE_INSERT) => {
                Some(Answer::ThrottleInsert { until: None })
            }
            Question::Requeue { .. } if !self.handles(events::REQUEUE) => {
                Some(Answer::Requeue(Keep))
            }
            _ => None,
        }
    }
}

async fn ask_engine(state: &mut State, asked: EngineQuestion) -> EngineAnswer {
    let EngineQuestion { question, message, response } = asked;
    match (question, message) {
        (Question::QueueConfig { queue }, _) => {
            engine::answered(engine::queue_config(state, &queue).await)
        }
        (Question::Pool { name }, _) => engine::answered(engine::pool(state, &name).await),
        (Question::EgressPath { domain, source, site }, _) => {
            engine::answered(engine::egress_path(state, &domain, &source, &site).await)
        }
        (Question::ThrottleInsert { .. }, Some(message)) => {
            engine::throttle_insert(state, message).await
        }
        (Question::Requeue { reasons, increment_attempts, delay, .. }, Some(message)) => {
            let why = engine::Requeue { response, reasons, increment_attempts, delay };
            engine::requeue(state, message, &why).await
        }
        (Question::ThrottleInsert { message }, None)
        | (Question::Requeue { message, .. }, None) => {
            let why = format!("policy can't be asked about {message}: it couldn't be read");
            engine::answered(Answer::Failed { why: why.into() })
        }
    }
}
