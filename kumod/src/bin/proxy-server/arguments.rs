//! The command line, and the listeners it stands for.
use clap::{ArgGroup, Parser};
use kumo_core::config::{HttpListener, ProxyListener};
use kumod::diagnostics::Format;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Of a time limit; no more than a year.
const SECONDS: RangeInclusive<u64> = 1..=366 * 86_400;

/// A SOCKS5 proxy through which kumod's mail leaves from this host's addresses
///
/// A client chooses the source address by BIND with port 0, then says CONNECT on the same connection. Runs until SIGINT
/// or SIGTERM, then gives connections 8 seconds to end. What is logged is KUMO_PROXY_LOG's to say.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "proxy-server",
    version,
    max_term_width = 100,
    group = ArgGroup::new("what").required(true).args(["listen", "proxy_config"]),
    after_help = "Examples:
  proxy-server --listen 192.0.2.10:1080 --http-listen 127.0.0.1:8000
  proxy-server --proxy-config /opt/kumomta/etc/proxy/init.lua --user kumod

Without a policy nobody is asked for a password: let a firewall say who may connect.

Exit codes: 0 stopped as asked, 1 it couldn't start, 2 wrong usage."
)]
pub struct Arguments {
    /// Where to listen for clients; may be repeated
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Vec<SocketAddr>,
    /// A Lua policy instead, whose event proxy_init starts listeners
    #[arg(long, value_name = "FILE", conflicts_with = "listen")]
    pub proxy_config: Option<PathBuf>,
    /// Where to serve /metrics and /proxy/status to this host; may be repeated
    #[arg(long, value_name = "ADDRESS:PORT")]
    http_listen: Vec<SocketAddr>,
    /// Copy octets through this process instead of splicing sockets in the kernel
    #[arg(long)]
    pub no_splice: bool,
    /// For a client's handshake, and for the connection to its destination
    #[arg(
        long,
        default_value_t = 60,
        conflicts_with = "proxy_config",
        value_parser = clap::value_parser!(u64).range(SECONDS),
        value_name = "SECONDS"
    )]
    timeout_seconds: u64,
    /// For a relay in which nobody says anything: longer than any wait of SMTP, lest a lost reply make a message arrive twice
    #[arg(
        long,
        default_value_t = 3600,
        conflicts_with = "proxy_config",
        value_parser = clap::value_parser!(u64).range(SECONDS),
        value_name = "SECONDS"
    )]
    idle_timeout_seconds: u64,
    /// The user to run as, if started as root; the right to bind low ports is kept
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Writes diagnostics into hourly files in this folder instead of stderr
    #[arg(long, value_name = "DIR")]
    pub diag_log_dir: Option<PathBuf>,
    /// How diagnostics look: pretty, full, compact or json
    #[arg(long, value_name = "FORMAT", default_value = "full", value_parser = Format::from_str)]
    pub diag_format: Format,
}

impl Arguments {
    pub fn listeners(&self) -> Vec<ProxyListener> {
        let timeout = Duration::from_secs(self.timeout_seconds);
        let idle_timeout = Duration::from_secs(self.idle_timeout_seconds);
        let listener = |listen: &SocketAddr| ProxyListener {
            listen: *listen,
            timeout,
            idle_timeout,
            ..ProxyListener::default()
        };
        self.listen.iter().map(listener).collect()
    }

    pub fn http_listeners(&self) -> Vec<HttpListener> {
        let listener =
            |listen: &SocketAddr| HttpListener { listen: *listen, ..HttpListener::default() };
        self.http_listen.iter().map(listener).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(std::iter::once("proxy-server").chain(line.split_whitespace()))
    }

    #[test]
    fn either_listeners_or_a_policy_are_named() {
        for (line, is_right) in [
            ("--listen 127.0.0.1:1080", true),
            ("--listen 127.0.0.1:1080 --listen [::1]:1080 --http-listen 127.0.0.1:8000", true),
            ("--listen 127.0.0.1:1080 --no-splice --timeout-seconds 5", true),
            ("--proxy-config a.lua --no-splice", true),
            ("", false),
            ("--http-listen 127.0.0.1:8000", false),
            ("--listen 127.0.0.1:1080 --proxy-config a.lua", false),
            ("--proxy-config a.lua --timeout-seconds 5", false),
            ("--listen localhost", false),
            ("--listen 127.0.0.1:1080 --timeout-seconds 0", false),
        ] {
            assert_eq!(parse(line).is_ok(), is_right, "{line}");
        }
    }

    #[test]
    fn listeners_are_as_the_command_line_says() {
        let arguments = parse("--listen 127.0.0.1:1080 --listen [::1]:1081 --timeout-seconds 5");
        let listeners = arguments.unwrap().listeners();
        let addresses: Vec<String> =
            listeners.iter().map(|listener| listener.listen.to_string()).collect();
        assert_eq!(addresses, ["127.0.0.1:1080", "[::1]:1081"]);
        assert!(listeners.iter().all(|listener| listener.timeout == Duration::from_secs(5)));
        assert!(listeners.iter().all(|listener| listener.use_splice && !listener.require_auth));
    }
}
