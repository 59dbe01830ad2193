//! Senders that policy makes for a queue's `custom_lua`: the object that a constructor returns, and its `send` or `send_batch`.
//! Invariant: a sender has a Lua state and a thread of its own from its constructor to its `close`; it is called by nobody else, and is
//! dropped once nobody waits for it, whatever it was doing. What can't be dropped, a thread that blocks, keeps its place until it ends.
use super::engine::changed;
use super::error::{OWN_CODE, PolicyError};
use super::events::call;
use super::loan::Loan;
use super::message::{Draft, Recipients};
use super::places::{Claim, Place, Places};
use super::program::Program;
use super::reject::{Raised, clean};
use super::session::message_object;
use super::setup::{Handler, place_of};
use super::state::{CallError, State};
use super::turn;
use kumo_core::message::Message;
use kumo_core::smtp::server::Disconnect;
use kumo_driver::policy::{Hold, Opening, SendAnswer, Sender, Sent};
use mlua::{Function, IntoLuaMulti, MultiValue, Table, Value as Lv};
use std::sync::Arc;
use std::thread;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

/// Looked up by Lua, within the budget: the object may have a metatable.
const METHODS: &str = "local object = ... return object.send, object.send_batch, object.close";

/// The session's end of a sender. Without it, and without an answer that is awaited, the sender ends.
pub struct LuaSender {
    constructor: Box<str>,
    calls: mpsc::Sender<Call>,
    claim: Claim,
}

enum Call {
    Send(Vec<Message>, oneshot::Sender<SendAnswer>),
    Close(oneshot::Sender<()>),
}

pub fn no_handler(constructor: &str) -> PolicyError {
    PolicyError {
        event: Some(constructor.into()),
        place: None,
        text: format!(
            "custom_lua names this constructor, but there is no kumo.on('{constructor}', …)"
        ),
    }
}

/// Waits until there may be another; whoever asks has the deadline.
pub async fn open(
    program: &Arc<Program>,
    places: &Arc<Places>,
    opening: Opening,
) -> Result<LuaSender, String> {
    let (claim, place) = places.take(&opening).await?;
    let constructor = opening.constructor.clone();
    let (calls, inbox) = mpsc::channel(1);
    let (made, answer) = oneshot::channel();
    let task = Task { program: program.clone(), opening, calls: inbox, _place: place };
    let runtime = Handle::current();
    thread::Builder::new()
        .name("sender".into())
        .spawn(move || {
            turn::give_way();
            runtime.block_on(task.run(made))
        })
        .map_err(|error| format!("event {constructor}: it can't have a thread: {error}"))?;
    match answer.await {
        Ok(made) => made.map(|()| LuaSender { constructor, calls, claim }),
        Err(_) => Err(gone(&constructor)),
    }
}

fn gone(constructor: &str) -> String {
    format!("event {constructor}: its thread has ended")
}

impl Sender for LuaSender {
    async fn send(&mut self, messages: Vec<Message>) -> SendAnswer {
        let (reply, answer) = oneshot::channel();
        let answered = match self.calls.send(Call::Send(messages, reply)).await {
            Ok(()) => answer.await.ok(),
            Err(_) => None,
        };
        let failed = || Sent::Failed(gone(&self.constructor));
        answered.unwrap_or_else(|| SendAnswer { sent: failed(), changed: Vec::new() })
    }

    async fn close(self) {
        let (reply, closed) = oneshot::channel();
        if self.calls.send(Call::Close(reply)).await.is_ok() {
            // Gone is closed, too.
            let _ = closed.await;
        }
        self.claim.has_ended();
    }
}

/// What runs on a sender's thread.
struct Task {
    program: Arc<Program>,
    opening: Opening,
    calls: mpsc::Receiver<Call>,
    _place: Arc<Place>,
}

impl Task {
    async fn run(mut self, mut made: oneshot::Sender<Result<(), String>>) {
        let object = tokio::select! {
            biased;
            object = Object::make(&self.program, &self.opening) => object,
            () = made.closed() => return,
        };
        let (mut object, said) = match object {
            Ok(object) => (Some(object), Ok(())),
            Err(error) => (None, Err(error.to_string())),
        };
        if made.send(said).is_err() {
            return self.hold().late();
        }
        while let Some(object) = &mut object
            && let Some(call) = self.calls.recv().await
        {
            if !self.serve(object, call).await {
                return;
            }
        }
    }

    fn hold(&self) -> &Hold {
        &self.opening.hold
    }

    /// False: it was the last call.
    async fn serve(&self, object: &mut Object, call: Call) -> bool {
        match call {
            Call::Send(messages, mut reply) => {
                let answer = tokio::select! {
                    biased;
                    answer = object.send(messages) => answer,
                    () = reply.closed() => return false,
                };
                let Err(SendAnswer { sent, .. }) = reply.send(answer) else { return true };
                self.hold().late();
                let constructor = &self.opening.constructor;
                tracing::warn!(target: "policy", ?sent, "{constructor}: it answered too late");
                false
            }
            Call::Close(mut reply) => {
                tokio::select! {
                    biased;
                    () = object.close() => {}
                    () = reply.closed() => {}
                }
                let _ = reply.send(());
                false
            }
        }
    }
}

/// What the constructor returned, in the state in which it was made.
struct Object {
    state: State,
    itself: Table,
    send: Handler,
    /// As errors call it.
    send_event: String,
    is_batched: bool,
    close: Option<Handler>,
    close_event: String,
}

impl Object {
    async fn make(program: &Arc<Program>, opening: &Opening) -> Result<Object, PolicyError> {
        let state = State::load(program).await?;
        let made = Object::construct(state, opening).await;
        made.map_err(|error| match error {
            CallError::Failed(error) => error,
            CallError::Raised(raised) => PolicyError {
                event: Some(opening.constructor.as_ref().into()),
                place: None,
                text: raised.to_string(),
            },
        })
    }

    async fn construct(mut state: State, opening: &Opening) -> Result<Object, CallError> {
        let event = &*opening.constructor;
        let Opening { domain, tenant, campaign, .. } = opening;
        let arguments = (domain.as_str(), tenant.as_deref(), campaign.as_deref());
        let arguments = arguments.into_lua_multi(state.lua());
        let arguments = state.arguments(event, arguments)?;
        let returned = call(&mut state, event, arguments).await?;
        let returned = returned.ok_or_else(|| CallError::Failed(no_handler(event)))?;
        let (itself, place) = returned.table()?;
        let (send, send_batch, close) = methods(&mut state, event, &itself).await?;
        let is_batched = opening.is_batched || send.is_none();
        let (name, method) = match is_batched {
            true => ("send_batch", send_batch),
            false => ("send", send.clone()),
        };
        let Some(method) = method else {
            let text = missing(send.is_some());
            let (event, place) = (Some(event.into()), Some(place.into()));
            return Err(CallError::Failed(PolicyError { event, place, text }));
        };
        Ok(Object {
            send: handler(method),
            send_event: format!("{event}:{name}"),
            is_batched,
            close: close.map(handler),
            close_event: format!("{event}:close"),
            itself,
            state,
        })
    }

    async fn send(&mut self, messages: Vec<Message>) -> SendAnswer {
        let one = messages.len() == 1;
        assert!(one || self.is_batched, "its send takes one message, not {}", messages.len());
        let draft = |message| Loan::new(Draft::new(message, Recipients::Fixed));
        let drafts: Vec<Loan<Draft>> = messages.into_iter().map(draft).collect();
        let sent = match self.call_send(&drafts).await {
            Ok(text) => Sent::Taken(text),
            Err(CallError::Raised(raised)) => rejected(raised),
            Err(CallError::Failed(error)) => Sent::Failed(error.to_string()),
        };
        let changed = drafts.into_iter().map(Loan::take_back).filter_map(changed).collect();
        SendAnswer { sent, changed }
    }

    async fn call_send(&mut self, drafts: &[Loan<Draft>]) -> Result<String, CallError> {
        let made = self.arguments(drafts);
        let arguments = self.state.arguments(&self.send_event, made)?;
        let values = self.state.call(&self.send_event, &self.send, arguments).await?;
        let text = match values.front() {
            Some(Lv::String(text)) => Some(clean(&text.to_string_lossy())),
            _ => None,
        };
        // A function that ends without a word may have done nothing.
        text.ok_or_else(|| {
            CallError::Failed(PolicyError {
                event: Some(self.send_event.clone()),
                place: Some(self.send.place.clone()),
                text: format!(
                    "this function returned {}; it has to return a text once what it was given is \
                     delivered, and to call kumo.reject where it isn't",
                    super::convert::show(values.front().unwrap_or(&Lv::Nil))
                ),
            })
        })
    }

    fn arguments(&self, drafts: &[Loan<Draft>]) -> mlua::Result<MultiValue> {
        let lua = self.state.lua();
        let mut objects = drafts.iter().map(|draft| message_object(&self.state, draft));
        if self.is_batched {
            let batch = lua.create_sequence_from(objects)?;
            return (&self.itself, batch).into_lua_multi(lua);
        }
        (&self.itself, objects.next()).into_lua_multi(lua)
    }

    async fn close(&mut self) {
        let Some(close) = self.close.take().filter(|_| !self.state.is_spoiled()) else { return };
        let made = (&self.itself).into_lua_multi(self.state.lua());
        let called = match self.state.arguments(&self.close_event, made) {
            Ok(arguments) => self.state.call(&self.close_event, &close, arguments).await,
            Err(error) => Err(error),
        };
        if let Err(error) = called {
            let error = error.into_failure(&self.close_event);
            tracing::warn!(target: "policy", "{error}");
        }
    }
}

fn handler(function: Function) -> Handler {
    Handler { place: place_of(&function), function }
}

type Methods = (Option<Function>, Option<Function>, Option<Function>);

async fn methods(state: &mut State, event: &str, object: &Table) -> Result<Methods, CallError> {
    let look = state.lua().load(METHODS).set_name(format!("={OWN_CODE}")).into_function();
    let look = state.arguments(event, look)?;
    let arguments = object.into_lua_multi(state.lua());
    let arguments = state.arguments(event, arguments)?;
    let limit = state.program().options.instructions;
    let found = state.run(Some(event), &look, arguments, limit).await?;
    let mut found = found.into_iter();
    let mut next = || match found.next() {
        Some(Lv::Function(function)) => Some(function),
        _ => None,
    };
    Ok((next(), next(), next()))
}

fn missing(has_send: bool) -> String {
    match has_send {
        true => "the sender that this handler returned has no method send_batch, which custom_lua's batch_size asks for",
        false => "the sender that this handler returned has neither a method send nor send_batch",
    }
    .into()
}

fn rejected(Raised { reply, disconnect }: Raised) -> Sent {
    let insists =
        matches!(disconnect, Some(Disconnect::ForceDisconnect | Disconnect::FollowWith421));
    Sent::Rejected { closes: insists || reply.code == 421, reply }
}
