//! What is noted beside the ledger while a run is played with a log: the node's own diagnostics, and panics. Invariant: a run without a log
//! notes nothing and pays nothing.
use kumo_core::time::Mono;
use kumo_io_sim::universe::Universe;
use std::any::Any;
use std::cell::RefCell;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use tracing::field::{Field, Visit};
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Log {
    #[default]
    None,
    /// One row for each thing that somebody outside saw, and warnings of the node.
    Short,
    /// Everything the engine was told and wanted, too.
    Full,
}

#[derive(Default)]
struct State {
    lines: Vec<(Mono, String)>,
    universe: Option<Arc<Universe>>,
}

#[derive(Clone, Default)]
pub struct Notes(Arc<Mutex<State>>);

impl Notes {
    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From here on it is known what time it is.
    pub fn clock(&self, universe: &Arc<Universe>) {
        self.with(|state| state.universe = Some(universe.clone()));
    }

    pub fn say(&self, line: String) {
        let universe = self.with(|state| state.universe.clone());
        let now = universe.map_or(Mono(0), |universe| universe.now().mono);
        self.say_at(now, line);
    }

    pub fn say_at(&self, at: Mono, line: String) {
        self.with(|state| state.lines.push((at, line)));
    }

    pub fn take(&self) -> Vec<(Mono, String)> {
        self.with(|state| {
            state.universe = None;
            std::mem::take(&mut state.lines)
        })
    }
}

struct Diagnostics(Notes, tracing::Level);

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // A String takes everything.
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?} "),
            name => write!(self.0, "{name}={value:?} "),
        };
    }
}

impl<S: tracing::Subscriber> Layer<S> for Diagnostics {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        let ours = ["kumo_", "policy"].iter().any(|prefix| metadata.target().starts_with(prefix));
        ours && *metadata.level() <= self.1
    }

    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut text = Text(format!("{:<5} ", event.metadata().level().as_str()));
        event.record(&mut text);
        self.0.say(text.0);
    }
}

/// Listens to the node's diagnostics on this thread.
pub fn listen(log: Log, notes: &Notes) -> Option<DefaultGuard> {
    let level = match log {
        Log::None => return None,
        Log::Short => tracing::Level::WARN,
        Log::Full => tracing::Level::TRACE,
    };
    let diagnostics = Diagnostics(notes.clone(), level);
    let subscriber = tracing_subscriber::registry().with(diagnostics);
    Some(tracing::subscriber::set_default(subscriber))
}

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Panics are part of what a run can come to: they are kept for the report instead of being printed.
pub fn keep_panics() {
    std::panic::set_hook(Box::new(|info| {
        let place =
            info.location().map_or(String::new(), |at| format!("{}:{}: ", at.file(), at.line()));
        let text = format!("{place}{}", text_of(info.payload()));
        PANIC.with(|kept| {
            // The first is the cause of those that follow.
            kept.borrow_mut().get_or_insert(text);
        });
    }));
}

pub fn last_panic() -> Option<String> {
    PANIC.with(|kept| kept.borrow_mut().take())
}

pub fn text_of(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".into())
}
