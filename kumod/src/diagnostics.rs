//! Diagnostics: what kumod says about itself, to stderr or to hourly files; not the log of messages ([`crate::logs`]).
//! Invariant: the filter can be replaced at any time, and a filter that doesn't parse changes nothing. A line is
//! written by the task that says it. Old files are the operator's to remove.
use kumo_core::date;
use kumo_core::limits::DIAGNOSTIC_FILTER_OCTETS;
use kumo_core::time::Wall;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use tracing::Subscriber;
use tracing_subscriber::fmt::writer::{BoxMakeWriter, MakeWriter};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

/// The environment variable with kumod's filter to start with.
pub const FILTER_VARIABLE: &str = "KUMOD_LOG";
/// With proxy-server's.
pub const PROXY_FILTER_VARIABLE: &str = "KUMO_PROXY_LOG";
/// What is told where nobody says otherwise.
pub const DEFAULT_FILTER: &str = "info,hickory_proto=warn,hickory_resolver=warn,rustls=warn";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Full,
    Compact,
    Pretty,
    Json,
}

impl FromStr for Format {
    type Err = String;
    fn from_str(text: &str) -> Result<Format, String> {
        match text {
            "full" => Ok(Format::Full),
            "compact" => Ok(Format::Compact),
            "pretty" => Ok(Format::Pretty),
            "json" => Ok(Format::Json),
            _ => {
                Err(format!("{text:?} is no diagnostic format; use full, compact, pretty or json"))
            }
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct DiagnosticOptions {
    pub format: Format,
    /// Hourly files `log.YYYY-MM-DD-HH` (UTC) here instead of stderr.
    pub directory: Option<PathBuf>,
    /// In force if the environment says nothing; `None` is [`DEFAULT_FILTER`].
    pub filter: Option<String>,
}

/// The handle by which the filter is replaced.
#[derive(Clone)]
pub struct Diagnostics {
    filter: reload::Handle<EnvFilter, Registry>,
}

impl Diagnostics {
    /// Once for the whole process.
    pub fn start(options: &DiagnosticOptions) -> Result<Diagnostics, String> {
        Diagnostics::start_with(FILTER_VARIABLE, options)
    }

    /// With the name of the variable that holds the filter.
    pub fn start_with(variable: &str, options: &DiagnosticOptions) -> Result<Diagnostics, String> {
        let filter = match std::env::var(variable) {
            Ok(text) => parse_filter(&text).map_err(|error| format!("{variable}: {error}"))?,
            Err(_) => parse_filter(options.filter.as_deref().unwrap_or(DEFAULT_FILTER))?,
        };
        let (subscriber, diagnostics) = build(options, filter)?;
        subscriber.try_init().map_err(|error| format!("can't start diagnostics: {error}"))?;
        Ok(diagnostics)
    }

    /// `text` is what `KUMOD_LOG` takes, such as `info,kumo_driver=trace`.
    pub fn set_filter(&self, text: &str) -> Result<(), String> {
        let filter = parse_filter(text)?;
        let replaced = self.filter.reload(filter);
        replaced.map_err(|error| format!("can't replace the diagnostic filter: {error}"))
    }
}

fn parse_filter(text: &str) -> Result<EnvFilter, String> {
    if text.len() > DIAGNOSTIC_FILTER_OCTETS {
        return Err(format!("a diagnostic filter has at most {DIAGNOSTIC_FILTER_OCTETS} octets"));
    }
    let parsed = EnvFilter::builder().with_regex(false).parse(text);
    parsed.map_err(|error| format!("{text:?} is no diagnostic filter: {error}"))
}

fn build(
    options: &DiagnosticOptions,
    filter: EnvFilter,
) -> Result<(impl Subscriber + Send + Sync + use<>, Diagnostics), String> {
    let (writer, ansi) = match &options.directory {
        Some(directory) => (BoxMakeWriter::new(Hourly::open(directory)?), false),
        None => (BoxMakeWriter::new(io::stderr), io::stderr().is_terminal()),
    };
    let (filter, handle) = reload::Layer::new(filter);
    let subscriber = Registry::default().with(filter);
    let diagnostics = Diagnostics { filter: handle };
    Ok((subscriber.with(formatted(options.format, writer, ansi)), diagnostics))
}

fn formatted<S>(
    format: Format,
    writer: BoxMakeWriter,
    ansi: bool,
) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let layer = fmt::layer().with_writer(writer).with_ansi(ansi);
    match format {
        Format::Full => layer.boxed(),
        Format::Compact => layer.compact().boxed(),
        Format::Pretty => layer.pretty().boxed(),
        Format::Json => layer.json().boxed(),
    }
}

/// A file for each hour, opened with its first line.
#[derive(Clone)]
struct Hourly(Arc<HourlyFiles>);

struct HourlyFiles {
    directory: PathBuf,
    /// The name of the open file, and the file.
    current: Mutex<Option<(String, File)>>,
}

impl Hourly {
    /// Opens the first file, so that a directory that can't be written is an error at start.
    fn open(directory: &Path) -> Result<Hourly, String> {
        let files = HourlyFiles { directory: directory.into(), current: Mutex::default() };
        let hourly = Hourly(Arc::new(files));
        let opened = fs::create_dir_all(directory).and_then(|()| hourly.write_at(wall(), b""));
        opened.map_err(|error| {
            format!(
                "diagnostic directory {}: can't write a file in it: {error}",
                directory.display()
            )
        })?;
        Ok(hourly)
    }

    fn write_at(&self, wall: Wall, line: &[u8]) -> io::Result<()> {
        let name = file_name(wall);
        let mut current = self.0.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_none_or(|(open, _)| *open != name) {
            let path = self.0.directory.join(&name);
            *current = Some((name, File::options().append(true).create(true).open(path)?));
        }
        let (_, file) = current.as_mut().expect("one was just made sure of");
        file.write_all(line)
    }
}

fn file_name(wall: Wall) -> String {
    let date = date::rfc3339(wall);
    format!("log.{}-{}", &date[..10], &date[11..13])
}

fn wall() -> Wall {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Wall::default() + since
}

impl Write for Hourly {
    /// A line that the file doesn't take goes to stderr, since there is nobody else to tell.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.write_at(wall(), line) {
            Ok(()) => Ok(line.len()),
            Err(_) => io::stderr().write(line),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Hourly {
    type Writer = Hourly;
    fn make_writer(&'a self) -> Hourly {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn in_directory(format: Format, filter: &str) -> (TempDir, impl Subscriber, Diagnostics) {
        let folder = TempDir::new().unwrap();
        let directory = Some(folder.path().join("diagnostics"));
        let options = DiagnosticOptions { format, directory, filter: None };
        let (subscriber, diagnostics) = build(&options, parse_filter(filter).unwrap()).unwrap();
        (folder, subscriber, diagnostics)
    }

    /// All files, one after another.
    fn text(folder: &TempDir) -> String {
        let mut paths: Vec<PathBuf> = fs::read_dir(folder.path().join("diagnostics"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        paths.sort();
        paths.iter().map(|path| fs::read_to_string(path).unwrap()).collect()
    }

    #[test]
    fn the_filter_can_be_replaced_while_kumod_runs() {
        let (folder, subscriber, diagnostics) = in_directory(Format::Full, "warn");
        tracing::subscriber::with_default(subscriber, || {
            let say = |word: &str| {
                tracing::info!("info {word}");
                tracing::warn!("warn {word}");
            };
            say("first");
            diagnostics.set_filter("info").unwrap();
            say("second");
            let error = diagnostics.set_filter("info,=,nonsense=loud").unwrap_err();
            assert!(error.contains("is no diagnostic filter"), "{error}");
            diagnostics.set_filter(&"a=info,".repeat(1000)).unwrap_err();
            say("third");
            diagnostics.set_filter("off").unwrap();
            say("fourth");
        });
        let said = text(&folder);
        let words: Vec<&str> =
            said.lines().map(|line| line.rsplit_once("tests: ").unwrap().1).collect();
        let expected = ["warn first", "info second", "warn second", "info third", "warn third"];
        assert_eq!(words, expected);
    }

    #[test]
    fn each_format_says_message_and_fields() {
        for name in ["full", "compact", "pretty", "json"] {
            let (folder, subscriber, _) = in_directory(name.parse().unwrap(), "info");
            tracing::subscriber::with_default(subscriber, || tracing::info!(queue = 7, "hello"));
            let said = text(&folder);
            assert!(said.contains("hello") && said.contains("queue"), "{name}: {said}");
            assert!(!said.contains('\u{1b}'), "no colours in files: {said}");
            let lines = said.lines().filter(|line| !line.is_empty()).count();
            assert_eq!(lines, if name == "pretty" { 2 } else { 1 }, "{name}: {said}");
            let is_json = serde_json::from_str::<serde_json::Value>(&said).is_ok();
            assert_eq!(is_json, name == "json");
        }
        assert!("xml".parse::<Format>().unwrap_err().contains("use full, compact, pretty or json"));
    }

    #[test]
    fn every_hour_has_its_file() {
        let folder = TempDir::new().unwrap();
        let hourly = Hourly::open(folder.path()).unwrap();
        for (seconds, line) in
            [(1_795_540_409, "a\n"), (1_795_540_410, "b\n"), (1_795_543_200, "c\n")]
        {
            hourly.write_at(Wall::from_unix_seconds(seconds), line.as_bytes()).unwrap();
        }
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(read("log.2026-11-24-17"), "a\nb\n");
        assert_eq!(read("log.2026-11-24-18"), "c\n");
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_an_error_at_start() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "").unwrap();
        let options = DiagnosticOptions { directory: Some(path), ..DiagnosticOptions::default() };
        let error = build(&options, parse_filter("info").unwrap()).err().unwrap();
        assert!(error.contains("diagnostic directory"), "{error}");
    }

    #[test]
    fn the_default_filter_is_one() {
        parse_filter(DEFAULT_FILTER).unwrap();
    }
}
