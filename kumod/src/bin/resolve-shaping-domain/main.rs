//! resolve-shaping-domain: what it does stands in [`kumod::offline`].
use kumod::offline;
use std::process::ExitCode;

fn main() -> ExitCode {
    offline::main(offline::shaping_domain)
}
