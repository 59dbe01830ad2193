//! `kumod --validate` and `kumod --script`.
use super::PolicyOptions;
use super::error::PolicyError;
use super::events;
use super::program::Program;
use super::service::initialise;
use super::setup::Setup;
use super::state::State;
use mlua::{IntoLuaMulti, MultiValue, Variadic};
use std::path::Path;

/// How much longer a script may run than an event.
const SCRIPT_FACTOR: u64 = 1_000;

/// What `--validate` found in a policy that runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    pub setup: Setup,
    pub warnings: Vec<String>,
    /// Names of the events that have handlers.
    pub events: Vec<String>,
    /// Whether `validate_config` called `kumo.validation_failed`.
    pub failed: bool,
}

/// Runs the file, `pre_init` and `init`, then the event `validate_config`. Listens on nothing, opens nothing.
pub async fn validate(path: &Path, options: PolicyOptions) -> Result<Report, PolicyError> {
    let program = Program::read(path, options)?;
    let mut state = State::load(&program).await?;
    let setup = initialise(&mut state).await?;
    let called = events::call_all(&mut state, events::VALIDATE_CONFIG, MultiValue::new()).await;
    called.map_err(|error| error.into_failure(events::VALIDATE_CONFIG))?;
    Ok(Report {
        setup,
        warnings: program.warnings(),
        events: state.events(),
        failed: state.validation_failed(),
    })
}

/// Runs the file, then the event `main` with `arguments`.
pub async fn script(
    path: &Path,
    arguments: &[String],
    options: PolicyOptions,
) -> Result<(), PolicyError> {
    let instructions = options.instructions.saturating_mul(SCRIPT_FACTOR);
    let program = Program::read(path, PolicyOptions { instructions, ..options })?;
    let mut state = State::load(&program).await?;
    let arguments = arguments.iter().cloned().collect::<Variadic<String>>();
    let arguments = arguments.into_lua_multi(state.lua());
    let called = match state.arguments(events::MAIN, arguments) {
        Ok(arguments) => events::call(&mut state, events::MAIN, arguments).await,
        Err(error) => Err(error),
    };
    match called.map_err(|error| error.into_failure(events::MAIN))? {
        Some(_) => Ok(()),
        None => Err(PolicyError {
            event: Some(events::MAIN.into()),
            place: Some(path.display().to_string()),
            text: "a script has to register a handler: kumo.on('main', function(...) end)".into(),
        }),
    }
}
