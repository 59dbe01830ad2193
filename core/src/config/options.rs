//! What every option key of every constructor does: effective, accepted without effect yet, or refused. Every key
//! that users of the reference know stands in one of these tables; any other key is an error.
//! Invariant: a key is [`Effect::Effective`] exactly if the constructor reads it. How values are read stands in
//! [`super::read`] and beside the types.
use super::read::{self, Table};
use alloc::string::String;
use alloc::vec::Vec;
use serde_json::{Map, Value};

/// A value made from a constructor's table.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed<T> {
    pub value: T,
    /// One for each key that is accepted without effect, and for each value that is unwise; the policy layer adds
    /// file and line and says each once.
    pub warnings: Vec<String>,
}

/// What is wrong and what to do; file and line are added by the policy layer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{constructor}: {text}")]
pub struct ConfigError {
    pub constructor: &'static str,
    pub text: String,
}

/// What a constructor (`kumo.make_queue_config`, …) yields.
pub trait Constructed: Sized {
    const OPTIONS: &'static OptionTable;
    /// As written in policy, such as `kumo.make_queue_config`.
    const CONSTRUCTOR: &'static str = Self::OPTIONS.constructor;

    /// Takes every effective key out of `table`.
    fn read(table: &mut Table) -> Self;

    fn parse(table: Map<String, Value>) -> Result<Parsed<Self>, ConfigError> {
        read::construct(Self::OPTIONS, table, Self::read)
    }
}

/// The keys of a constructor's table, or of a table within it.
#[derive(Debug)]
pub struct OptionTable {
    pub constructor: &'static str,
    /// The key under which the table stands; empty for the constructor's own.
    pub within: &'static str,
    pub options: &'static [OptionKey],
}

#[derive(Debug)]
pub struct OptionKey {
    pub key: &'static str,
    pub effect: Effect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// `test` is the name of the test that shows it.
    Effective { test: &'static str },
    /// A warning is given.
    AcceptedWithoutEffect,
    /// An error, since going on as if it weren't there would do harm.
    Refused { unless: Harmless, why: &'static str },
}

/// The value of a refused key that says what kumod does anyway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harmless {
    Never,
    False,
    EmptyTable,
}

impl Harmless {
    pub fn holds(self, value: &Value) -> bool {
        match (self, value) {
            (Harmless::False, Value::Bool(truth)) => !truth,
            (Harmless::EmptyTable, Value::Array(items)) => items.is_empty(),
            (Harmless::EmptyTable, Value::Object(map)) => map.is_empty(),
            _ => false,
        }
    }
}

impl OptionTable {
    pub fn find(&self, key: &str) -> Option<&'static OptionKey> {
        self.options.iter().find(|option| option.key == key)
    }

    /// The key that looks most like `key`.
    pub fn nearest(&self, key: &str) -> &'static str {
        let key: String = key.chars().take(64).collect();
        let keys = self.options.iter().map(|option| option.key);
        keys.min_by_key(|known| read::distance(&key, known)).unwrap_or("")
    }
}

/// `NAME = constructor, "within", "group of the tests"; effective: …; without_effect: …; refused: …;`
macro_rules! option_tables {
    ($($(#[$doc:meta])* $name:ident = $constructor:literal, $within:literal, $tests:literal {
        effective: $($effective:ident)*;
        without_effect: $($without:ident)*;
        refused: $($refused:ident unless $unless:ident $why:expr,)*
    })+) => {
        $($(#[$doc])* pub static $name: OptionTable = OptionTable {
            constructor: $constructor,
            within: $within,
            options: &[
                $(OptionKey {
                    key: stringify!($effective),
                    effect: Effect::Effective {
                        test: concat!($tests, "::", stringify!($effective)),
                    },
                },)*
                $(OptionKey {
                    key: stringify!($without),
                    effect: Effect::AcceptedWithoutEffect,
                },)*
                $(OptionKey {
                    key: stringify!($refused),
                    effect: Effect::Refused { unless: Harmless::$unless, why: $why },
                },)*
            ],
        };)+
        /// All of them.
        pub static TABLES: &[&OptionTable] = &[$(&$name),+];
    };
}

const NO_PROXY: &str = "kumod doesn't connect through proxies yet, and without the proxy mail would leave from the \
                        wrong address; take the key out, or use source_address";
const NO_OVERRIDES: &str = "kumod has no settings by address yet, and the restrictions in it wouldn't hold; start a \
                            listener for each address instead";
const NO_CLIENT_CERTIFICATE: &str = "kumod offers no client certificate yet, and a host that asks for one would \
                                     reject the mail; take the key out";

option_tables! {
    ESMTP_LISTENER = "kumo.start_esmtp_listener", "", "esmtp_listener" {
        effective: listen hostname banner relay_hosts max_connections client_timeout
            data_processing_timeout max_messages_per_connection max_recipients_per_message
            max_message_size invalid_line_endings line_length_hard_limit batch_handling
            tls_certificate tls_private_key trace_headers meta;
        without_effect: data_buffer_size;
        refused:
            deferred_spool unless False
                "kumod stores every message before it accepts it; take the key out",
            deferred_queue unless False
                "kumod runs smtp_server_message_received before it accepts a message; take the key out",
            tls_required_client_ca unless Never
                "kumod doesn't verify client certificates yet, so everybody would get in; use relay_hosts",
            allow_xclient unless False
                "kumod doesn't know XCLIENT yet, so every client would be taken for its proxy; take the key out",
            require_proxy_protocol unless False
                "kumod doesn't read the PROXY header yet, so every client would be taken for its proxy; \
                 take the key out",
            peer unless EmptyTable NO_OVERRIDES,
            via unless EmptyTable NO_OVERRIDES,
    }
    TRACE_HEADERS = "kumo.start_esmtp_listener", "trace_headers", "trace_headers" {
        effective: received_header supplemental_header header_name include_meta_names;
        without_effect: ;
        refused:
    }
    HTTP_LISTENER = "kumo.start_http_listener", "", "http_listener" {
        effective: listen hostname trusted_hosts request_body_limit use_tls tls_certificate
            tls_private_key;
        without_effect: ;
        refused:
    }
    LISTENER_DOMAIN = "kumo.make_listener_domain", "", "listener_domain" {
        effective: relay_to relay_from log_oob log_arf;
        without_effect: ttl;
        refused:
    }
    SPOOL = "kumo.define_spool", "", "spool" {
        effective: name path kind flush rocks_params;
        without_effect: min_free_space min_free_inodes;
        refused:
    }
    ROCKS_PARAMS = "kumo.define_spool", "rocks_params", "rocks_params" {
        effective: increase_parallelism optimize_level_style_compaction
            optimize_universal_style_compaction paranoid_checks compression_type
            compaction_readahead_size level_compaction_dynamic_level_bytes max_open_files
            write_buffer_size level0_stop_writes_trigger log_level memtable_huge_page_size
            log_file_time_to_roll obsolete_files_period;
        without_effect: limit_concurrent_stores limit_concurrent_loads limit_concurrent_removes
            store_deadline error_latch_duration error_unlatch_duration allow_error_unlatch;
        refused:
    }
    LOCAL_LOGS = "kumo.configure_local_logs", "", "local_logs" {
        effective: log_dir max_file_size back_pressure compression_level max_segment_duration meta
            headers per_record;
        without_effect: filter_event min_free_space min_free_inodes;
        refused:
    }
    /// The table of each record type.
    PER_RECORD = "kumo.configure_local_logs", "per_record", "per_record" {
        effective: enable suffix log_dir;
        without_effect: template segment_header;
        refused:
    }
    QUEUE_CONFIG = "kumo.make_queue_config", "", "queue_config" {
        effective: retry_interval max_retry_interval max_age egress_pool max_message_rate protocol
            reap_interval refresh_interval provider_name;
        without_effect: refresh_strategy timerwheel_tick_interval strategy shrink_policy;
        refused:
    }
    PROTOCOL = "kumo.make_queue_config", "protocol", "protocol" {
        effective: smtp maildir_path dir_mode file_mode;
        without_effect: ;
        refused:
            custom_lua unless Never
                "kumod doesn't deliver through Lua yet, and there is nowhere else to send the mail; \
                 use smtp or maildir_path",
            xfer unless Never
                "kumod doesn't transfer messages to other nodes yet; use smtp with an mx_list",
    }
    SMTP = "kumo.make_queue_config", "protocol.smtp", "smtp" {
        effective: mx_list;
        without_effect: treat_mx_list_as_secure;
        refused:
    }
    /// An entry that is a table.
    MX_LIST = "kumo.make_queue_config", "protocol.smtp.mx_list", "mx_list" {
        effective: name addr;
        without_effect: ;
        refused:
    }
    EGRESS_PATH = "kumo.make_egress_path", "", "egress_path" {
        effective: connection_limit additional_connection_limits max_connection_rate
            max_deliveries_per_connection max_message_rate additional_message_rate_throttles
            source_selection_rate additional_source_selection_rates max_ready
            max_recipients_per_batch consecutive_connection_failures_before_delay smtp_port
            enable_tls enable_pipelining enable_rset use_lmtp connect_timeout banner_timeout
            ehlo_timeout mail_from_timeout rcpt_to_timeout data_timeout data_dot_timeout
            rset_timeout idle_timeout starttls_timeout auth_timeout system_shutdown_timeout
            smtp_auth_plain_username smtp_auth_plain_password allow_smtp_auth_plain_without_tls
            allow_smtp_auth_plain_without_valid_certificate ehlo_domain prohibited_hosts skip_hosts
            ip_lookup_strategy ignore_8bit_checks reconnect_strategy
            try_next_host_on_transport_error remember_broken_tls
            opportunistic_tls_reconnect_on_failed_handshake refresh_interval provider_name
            aggressive_connection_opening;
        without_effect: enable_mta_sts tls_prefer_openssl openssl_cipher_list openssl_cipher_suites
            openssl_options rustls_cipher_suites refresh_strategy dispatcher_wakeup_strategy
            maintainer_wakeup_strategy low_memory_reduction_policy no_memory_reduction_policy
            readyq_pool_name dispatcher_progress_watchdog_timeout;
        refused:
            enable_dane unless False
                "kumod doesn't verify TLSA records yet, so mail would leave without the protection asked for; \
                 say false, and enable_tls = 'Required' where that will do",
            tls_certificate unless Never NO_CLIENT_CERTIFICATE,
            tls_private_key unless Never NO_CLIENT_CERTIFICATE,
    }
    /// A limit that is a table: `connection_limit`, and the values of `additional_connection_limits`.
    LIMIT_SPEC = "kumo.make_egress_path", "connection_limit", "limit_spec" {
        effective: limit force_local;
        without_effect: ;
        refused:
    }
    EGRESS_POOL = "kumo.make_egress_pool", "", "egress_pool" {
        effective: name entries ttl;
        without_effect: ;
        refused:
    }
    POOL_ENTRY = "kumo.make_egress_pool", "entries", "pool_entry" {
        effective: name weight;
        without_effect: ;
        refused:
    }
    EGRESS_SOURCE = "kumo.make_egress_source", "", "egress_source" {
        effective: name ehlo_domain source_address remote_port ttl;
        without_effect: suspend_when_unplumbed suspend_when_proxy_unhealthy;
        refused:
            ha_proxy_server unless Never NO_PROXY,
            ha_proxy_source_address unless Never NO_PROXY,
            socks5_proxy_server unless Never NO_PROXY,
            socks5_proxy_source_address unless Never NO_PROXY,
            socks5_proxy_username unless Never NO_PROXY,
            socks5_proxy_password unless Never NO_PROXY,
    }
}
