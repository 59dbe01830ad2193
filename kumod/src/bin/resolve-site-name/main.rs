//! resolve-site-name: what it does stands in [`kumod::offline`].
use kumod::offline;
use std::process::ExitCode;

fn main() -> ExitCode {
    offline::main(offline::site_name)
}
