//! kumo-scenarios: plays kumod's driver and core, unchanged, in a simulated world that breaks everything. `cargo sim --help`.
//!
//! # What is here
//! - `options`, `library`, `swarm`: what a run is made of, from a file or from a seed. `setup`: the world that makes.
//! - `run`, `node`, `agenda`, `inject`: one run. `sweep`: one for each place at which trouble can strike. `campaign`: many seeds.
//! - `check`: the invariants. `expect`: what a scenario wants beyond them. `coverage`: whether everything was met.
//! - `minimize`, `real_journal`, `report`, `watch`: for the one who looks at a failure.
//!
//! # Architecture invariants
//! - A run depends on its options, its seed and the code. Each has a thread of its own and leaves nothing behind.
//! - Checkers see what people outside the node see; scenarios never reach into core's private state.
//! - Built without `--cfg madsim` this program does nothing but say so.
#[cfg(madsim)]
mod agenda;
#[cfg(madsim)]
mod campaign;
#[cfg(madsim)]
mod canaries;
#[cfg(madsim)]
mod check;
#[cfg(madsim)]
mod command_line;
#[cfg(madsim)]
mod coverage;
#[cfg(madsim)]
mod expect;
#[cfg(madsim)]
mod inject;
#[cfg(madsim)]
mod library;
#[cfg(madsim)]
mod minimize;
#[cfg(madsim)]
mod node;
#[cfg(madsim)]
mod options;
#[cfg(madsim)]
mod real_journal;
#[cfg(madsim)]
mod report;
#[cfg(madsim)]
mod run;
#[cfg(madsim)]
mod setup;
#[cfg(madsim)]
mod swarm;
#[cfg(madsim)]
mod sweep;
#[cfg(madsim)]
mod targets;
#[cfg(madsim)]
mod verdict;
#[cfg(madsim)]
mod watch;

#[cfg(madsim)]
fn main() -> std::process::ExitCode {
    command_line::main()
}

#[cfg(not(madsim))]
fn main() -> std::process::ExitCode {
    eprintln!(
        "this was built without `--cfg madsim`, so there is no simulated world in it. Use `cargo sim …`, and unset RUSTFLAGS, which \
         overrides the flag that it sets; or `make sim`."
    );
    std::process::ExitCode::from(2)
}
