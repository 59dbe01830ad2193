//! validate-shaping: reads shaping files as kumod does and says what is wrong with them. Exit codes: 0 nothing, or warnings
//! alone; 1 errors; 2 wrong usage. Invariant: it changes nothing, and asks nobody but DNS and the servers of remote files.
use clap::Parser;
use kumo_core::config::read;
use kumo_core::shaping::{LoadOptions, Severity, Shaping};
use kumod::process;
use kumod::shaping::load::load;
use kumod::shaping::lookup::MxLookup;
use serde_json::Value;
use std::io::Write;

const EXIT_CODES: &str =
    "Exit codes: 0 nothing is wrong, or warnings alone; 1 there are errors; 2 wrong usage.";

/// Checks shaping files: TOML where a name ends with .toml, else JSON, later ones laid over earlier ones.
///
/// Prints each finding with file, line and key, and OK if there is none. A severity is Ignore, Warn or Error.
#[derive(Debug, Parser)]
#[command(name = "validate-shaping", version, after_help = EXIT_CODES, max_term_width = 100)]
struct Arguments {
    /// In the order in which policy loads them
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,

    /// Domains that have one site
    #[arg(long, value_name = "SEVERITY", default_value = "Warn", value_parser = severity)]
    aliased_site: Severity,

    /// Domains whose site DNS doesn't tell
    #[arg(long, value_name = "SEVERITY", default_value = "Warn", value_parser = severity)]
    dns_fail: Severity,

    /// Local files that can't be read, or say something wrong
    #[arg(long, value_name = "SEVERITY", default_value = "Error", value_parser = severity)]
    local_load: Severity,

    /// Domains that take no mail
    #[arg(long, value_name = "SEVERITY", default_value = "Warn", value_parser = severity)]
    null_mx: Severity,

    /// Domains that are a provider's, too
    #[arg(long, value_name = "SEVERITY", default_value = "Warn", value_parser = severity)]
    provider_overlap: Severity,

    /// Remote files that can't be fetched, or say something wrong
    #[arg(long, value_name = "SEVERITY", default_value = "Warn", value_parser = severity)]
    remote_load: Severity,

    /// Leaves remote files out
    #[arg(long)]
    skip_remote: bool,

    /// How long to wait for each remote file
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = kumo_core::config::duration::parse)]
    http_timeout: kumo_core::time::Duration,
}

fn severity(name: &str) -> Result<Severity, String> {
    read::value(Value::from(name))
}

impl Arguments {
    fn options(&self) -> LoadOptions {
        LoadOptions {
            aliased_site: self.aliased_site,
            dns_fail: self.dns_fail,
            local_load: self.local_load,
            null_mx: self.null_mx,
            provider_overlap: self.provider_overlap,
            remote_load: self.remote_load,
            skip_remote: self.skip_remote,
            http_timeout: self.http_timeout,
        }
    }
}

/// What is said of the data.
fn report(shaping: &Shaping) -> String {
    let kinds =
        [("error", shaping.errors()), ("warning", shaping.warnings()), ("note", shaping.notes())];
    let line = |kind, text| format!("{kind}: {text}\n");
    let lines =
        kinds.iter().flat_map(|(kind, texts)| texts.iter().map(move |text| line(kind, text)));
    let lines: String = lines.collect();
    match shaping.errors().is_empty() && shaping.warnings().is_empty() {
        true => lines + "OK\n",
        false => lines,
    }
}

fn main() {
    let arguments = Arguments::parse();
    let loaded = process::block_on(async {
        Ok(load(&arguments.files, &arguments.options(), &MxLookup::of_system()).await)
    });
    let (text, code) = match loaded {
        Ok(shaping) => (report(&shaping), i32::from(!shaping.errors().is_empty())),
        Err(why) => (format!("error: {why}\n"), 1),
    };
    // Whoever closed the pipe has what they wanted; the code is the same.
    let _ = std::io::stdout().write_all(text.as_bytes());
    std::process::exit(code);
}
