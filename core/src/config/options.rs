//! What every option key of every constructor does: effective, accepted without effect yet, or refused. Every key
//! that users of the reference know stands in one of these tables; any other key is an error.
//! Invariant: a key is [`Effect::Effective`] exactly if the constructor reads it, and only where the test named beside it
//! shows what it does. How values are read stands in [`super::read`] and beside the types.
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
    /// `test` shows it: its file in the workspace, `::` and its name.
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

/// `NAME = constructor, "within"`, then the effective keys with their tests by file, those without effect, those refused.
macro_rules! option_tables {
    ($($(#[$doc:meta])* $name:ident = $constructor:literal, $within:literal {
        $(effective in $file:literal { $($effective:ident: $test:ident,)+ })+
        without_effect: $($without:ident)*;
        refused: $($refused:ident unless $unless:ident $why:expr,)*
    })+) => {
        $($(#[$doc])* pub static $name: OptionTable = OptionTable {
            constructor: $constructor,
            within: $within,
            options: &[
                $($(OptionKey {
                    key: stringify!($effective),
                    effect: Effect::Effective { test: concat!($file, "::", stringify!($test)) },
                },)+)+
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

const NO_OVERRIDES: &str = "kumod has no settings by address yet, and the restrictions in it wouldn't hold; start a \
                            listener for each address instead";
const NO_CLIENT_CERTIFICATE: &str = "kumod offers no client certificate yet, and a host that asks for one would \
                                     reject the mail; take the key out";

option_tables! {
    ESMTP_LISTENER = "kumo.start_esmtp_listener", "" {
        effective in "core/src/smtp/server/tests.rs" {
            banner: banner_and_first_metadata_are_the_listeners,
            meta: banner_and_first_metadata_are_the_listeners,
            relay_hosts: relaying_needs_a_reason,
            client_timeout: a_client_has_client_timeout_for_each_command_and_while_it_sends,
            data_processing_timeout:
                policy_that_takes_too_long_gets_451_and_its_late_answer_is_ignored,
            max_message_size: a_message_may_be_as_big_as_the_listener_says,
            line_length_hard_limit: a_line_may_be_as_long_as_the_listener_says,
            batch_handling: recipients_are_split_as_told,
            trace_headers: trace_fields_are_put_on_as_told,
        }
        effective in "core/src/smtp/server/hostile.rs" {
            max_messages_per_connection: a_connection_has_its_number_of_messages,
            max_recipients_per_message: a_million_recipients_keep_the_first_ones,
        }
        effective in "core/src/smtp/server/corpus.rs" {
            invalid_line_endings: every_row_has_its_reply_its_messages_and_its_state,
        }
        effective in "kumod/driver/tests/options/mod.rs" {
            hostname: a_listener_has_its_own_name_and_its_number_of_connections,
            max_connections: a_listener_has_its_own_name_and_its_number_of_connections,
        }
        effective in "kumod/driver/tests/whole.rs" {
            listen: one_message_goes_all_the_way,
        }
        effective in "kumod/tests/listeners.rs" {
            tls_certificate: both_kinds_of_listener_show_the_certificate_they_are_given,
            tls_private_key: both_kinds_of_listener_show_the_certificate_they_are_given,
        }
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
    TRACE_HEADERS = "kumo.start_esmtp_listener", "trace_headers" {
        effective in "core/src/smtp/server/tests.rs" {
            received_header: trace_fields_are_put_on_as_told,
            supplemental_header: trace_fields_are_put_on_as_told,
            header_name: trace_fields_are_put_on_as_told,
            include_meta_names: trace_fields_are_put_on_as_told,
        }
        without_effect: ;
        refused:
    }
    HTTP_LISTENER = "kumo.start_http_listener", "" {
        effective in "kumod/tests/listeners.rs" {
            listen: an_http_listener_serves_whom_it_trusts_and_bodies_up_to_its_limit,
            trusted_hosts: an_http_listener_serves_whom_it_trusts_and_bodies_up_to_its_limit,
            request_body_limit: an_http_listener_serves_whom_it_trusts_and_bodies_up_to_its_limit,
            use_tls: both_kinds_of_listener_show_the_certificate_they_are_given,
            tls_certificate: both_kinds_of_listener_show_the_certificate_they_are_given,
            tls_private_key: both_kinds_of_listener_show_the_certificate_they_are_given,
            hostname: an_http_listener_without_a_certificate_makes_one_for_its_hostname,
        }
        without_effect: ;
        refused:
    }
    PROXY_LISTENER = "proxy.start_proxy_listener", "" {
        effective in "kumod/tests/proxy_server.rs" {
            listen: what_both_sides_say_arrives_and_so_do_the_ends,
            timeout: who_never_ends_a_handshake_is_cut_off_in_time,
            idle_timeout: a_relay_in_which_nobody_speaks_ends_and_one_that_goes_on_doesnt,
            hostname: a_tls_listener_serves_tls_alone,
            use_tls: a_tls_listener_serves_tls_alone,
            tls_certificate: a_tls_listener_shows_the_certificate_it_is_given,
            tls_private_key: a_tls_listener_shows_the_certificate_it_is_given,
            require_auth: policy_judges_passwords,
            use_splice: what_both_sides_say_arrives_and_so_do_the_ends,
            tcp_keepalive: both_sockets_are_kept_alive_as_told,
            max_connections: a_listener_takes_as_many_connections_as_it_may,
        }
        without_effect: ;
        refused:
    }
    TCP_KEEPALIVE = "proxy.start_proxy_listener", "tcp_keepalive" {
        effective in "kumod/tests/proxy_server.rs" {
            enabled: both_sockets_are_kept_alive_as_told,
            time: both_sockets_are_kept_alive_as_told,
            interval: both_sockets_are_kept_alive_as_told,
            retries: both_sockets_are_kept_alive_as_told,
        }
        without_effect: ;
        refused:
    }
    LISTENER_DOMAIN = "kumo.make_listener_domain", "" {
        effective in "core/src/smtp/server/tests.rs" {
            relay_to: events_come_in_order_and_only_where_handled,
            relay_from: relaying_needs_a_reason,
            log_oob: without_relaying_nothing_but_the_reports_asked_for_gets_in,
            log_arf: without_relaying_nothing_but_the_reports_asked_for_gets_in,
        }
        without_effect: ttl;
        refused:
    }
    SPOOL = "kumo.define_spool", "" {
        effective in "kumod/tests/delivery.rs" {
            name: what_cant_start_says_why_in_one_line,
        }
        effective in "io-real/src/spool/tests.rs" {
            path: a_second_opener_is_told_about_the_lock_and_its_owner,
            kind: files_for_both_at_one_path_conform,
        }
        effective in "kumod/tests/sync_before_250.rs" {
            flush: without_flush_the_check_finds_every_message_unsynced,
        }
        effective in "io-real/src/spool/rocks/tests.rs" {
            rocks_params: every_parameter_stands_in_the_options_file,
        }
        effective in "kumod/driver/tests/health/mod.rs" {
            min_free_space: a_disk_that_is_nearly_full_takes_no_mail_until_there_is_room,
            min_free_inodes: a_disk_that_is_nearly_full_takes_no_mail_until_there_is_room,
        }
        without_effect:;
        refused:
    }
    ROCKS_PARAMS = "kumo.define_spool", "rocks_params" {
        effective in "io-real/src/spool/rocks/tests.rs" {
            increase_parallelism: every_parameter_stands_in_the_options_file,
            optimize_level_style_compaction: every_parameter_stands_in_the_options_file,
            optimize_universal_style_compaction: every_parameter_stands_in_the_options_file,
            paranoid_checks: every_parameter_stands_in_the_options_file,
            compression_type: every_parameter_stands_in_the_options_file,
            compaction_readahead_size: every_parameter_stands_in_the_options_file,
            level_compaction_dynamic_level_bytes: every_parameter_stands_in_the_options_file,
            max_open_files: every_parameter_stands_in_the_options_file,
            write_buffer_size: every_parameter_stands_in_the_options_file,
            level0_stop_writes_trigger: every_parameter_stands_in_the_options_file,
            log_level: every_parameter_stands_in_the_options_file,
            memtable_huge_page_size: every_parameter_stands_in_the_options_file,
            log_file_time_to_roll: every_parameter_stands_in_the_options_file,
            obsolete_files_period: every_parameter_stands_in_the_options_file,
        }
        effective in "kumod/driver/tests/health/mod.rs" {
            store_deadline: a_store_that_stalls_is_answered_at_its_deadline,
            error_latch_duration: stalls_that_last_shut_the_gate,
            error_unlatch_duration: a_fatal_error_shuts_the_gate_at_once_and_a_probe_opens_it,
            allow_error_unlatch: without_leave_the_gate_stays_shut,
        }
        without_effect: limit_concurrent_stores limit_concurrent_loads limit_concurrent_removes;
        refused:
    }
    LOCAL_LOGS = "kumo.configure_local_logs", "" {
        effective in "kumod/src/logs/tests.rs" {
            log_dir: a_record_can_be_read_within_a_second_and_all_of_them_after_the_stop,
            max_file_size: segments_turn_over_at_their_size_and_names_within_a_second_differ,
            back_pressure: when_the_disk_refuses_records_wait_and_none_is_lost,
            compression_level: a_higher_compression_level_makes_smaller_segments,
            max_segment_duration: a_segment_ends_after_its_time_without_another_record,
            meta: records_hold_the_metadata_and_fields_that_the_configuration_names,
            headers: records_hold_the_metadata_and_fields_that_the_configuration_names,
            per_record: kinds_go_where_per_record_says,
        }
        effective in "kumod/driver/tests/health/mod.rs" {
            min_free_space: a_log_folder_that_is_nearly_full_takes_no_mail_either,
            min_free_inodes: a_log_folder_that_is_nearly_full_takes_no_mail_either,
        }
        without_effect: filter_event;
        refused:
    }
    /// The table of each record type.
    PER_RECORD = "kumo.configure_local_logs", "per_record" {
        effective in "kumod/src/logs/tests.rs" {
            enable: kinds_go_where_per_record_says,
            suffix: kinds_go_where_per_record_says,
            log_dir: kinds_go_where_per_record_says,
        }
        without_effect: template segment_header;
        refused:
    }
    QUEUE_CONFIG = "kumo.make_queue_config", "" {
        effective in "core/src/engine/schedule.rs" {
            retry_interval: delays_double_up_to_the_maximum,
            max_retry_interval: delays_double_up_to_the_maximum,
        }
        effective in "core/src/engine/tests/life.rs" {
            max_age: expiry_holds_while_scheduled,
        }
        effective in "core/src/engine/tests/routes.rs" {
            egress_pool: a_queue_leaves_through_the_pool_it_names_which_bears_the_name_it_gives_itself,
            protocol: mx_list_and_literals_ask_no_dns,
            reap_interval: an_empty_queue_is_reaped_after_its_own_interval,
            refresh_interval: policy_is_asked_again_after_each_refresh_interval,
        }
        effective in "core/src/engine/tests/limits.rs" {
            max_message_rate: a_scheduled_queue_has_a_message_rate_of_its_own,
        }
        without_effect: provider_name refresh_strategy timerwheel_tick_interval strategy shrink_policy;
        refused:
    }
    PROTOCOL = "kumo.make_queue_config", "protocol" {
        effective in "core/src/engine/tests/routes.rs" {
            smtp: mx_list_and_literals_ask_no_dns,
        }
        effective in "kumod/tests/delivery.rs" {
            maildir_path: a_maildir_gets_one_file_with_the_return_path,
            dir_mode: a_maildir_gets_one_file_with_the_return_path,
            file_mode: a_maildir_gets_one_file_with_the_return_path,
        }
        effective in "kumod/tests/custom_lua.rs" {
            custom_lua: a_sender_of_policy_delivers_defers_bounces_and_fails,
        }
        without_effect: ;
        refused:
            xfer unless Never
                "kumod doesn't transfer messages to other nodes yet; use smtp with an mx_list",
    }
    CUSTOM_LUA = "kumo.make_queue_config", "protocol.custom_lua" {
        effective in "kumod/tests/custom_lua.rs" {
            constructor: a_sender_of_policy_delivers_defers_bounces_and_fails,
        }
        effective in "core/src/engine/tests/batches.rs" {
            batch_size: a_full_batch_goes_at_once_and_the_rest_when_it_has_waited,
            min_batch_size: a_small_batch_waits_for_enough_messages_or_for_its_time,
            max_batch_latency: a_small_batch_waits_for_enough_messages_or_for_its_time,
        }
        without_effect: ;
        refused:
    }
    SMTP = "kumo.make_queue_config", "protocol.smtp" {
        effective in "core/src/engine/tests/routes.rs" {
            mx_list: mx_list_and_literals_ask_no_dns,
        }
        without_effect: treat_mx_list_as_secure;
        refused:
    }
    /// An entry that is a table.
    MX_LIST = "kumo.make_queue_config", "protocol.smtp.mx_list" {
        effective in "kumod/driver/tests/options/mod.rs" {
            name: records_bear_the_paths_provider_and_the_lists_host,
            addr: a_session_dials_what_list_path_and_source_say,
        }
        without_effect: ;
        refused:
    }
    EGRESS_PATH = "kumo.make_egress_path", "" {
        effective in "core/src/engine/tests/limits.rs" {
            connection_limit: connections_stay_within_the_limit_and_grow_with_the_queue,
            additional_connection_limits: a_shared_connection_limit_passes_from_queue_to_queue,
            max_connection_rate: a_connection_rate_holds_the_next_connection_back,
            max_message_rate: message_rates_wake_exactly_when_the_token_comes,
            additional_message_rate_throttles: a_shared_message_throttle_holds_over_ready_queues,
            source_selection_rate: source_selection_rates_hold_the_line_and_let_it_go_on_time,
            additional_source_selection_rates: a_shared_selection_rate_holds_over_ready_queues,
            max_ready: a_full_ready_queue_takes_the_next_as_soon_as_there_is_room,
        }
        effective in "core/src/engine/tests/life.rs" {
            max_deliveries_per_connection: a_session_is_used_again_and_closed_after_its_share,
            max_recipients_per_batch: recipients_beyond_the_batch_or_given_back_go_in_the_next_transaction_at_once,
            consecutive_connection_failures_before_delay: more_failures_in_a_row_than_allowed_delay_the_whole_ready_queue,
        }
        effective in "core/src/engine/tests/routes.rs" {
            refresh_interval: policy_is_asked_again_after_each_refresh_interval,
        }
        effective in "core/src/dispatcher.rs" {
            dispatcher_progress_watchdog_timeout: a_threshold_is_as_configured_or_as_the_protocol_has_it,
        }
        effective in "core/src/mx.rs" {
            prohibited_hosts: forbidden_addresses_stop_the_plan_and_skipped_ones_leave_it,
            skip_hosts: forbidden_addresses_stop_the_plan_and_skipped_ones_leave_it,
        }
        effective in "core/src/smtp/client/tests/greeting.rs" {
            enable_tls: tls_is_used_as_enable_tls_says,
            smtp_auth_plain_username: credentials_leave_only_where_the_path_allows,
            smtp_auth_plain_password: credentials_leave_only_where_the_path_allows,
            allow_smtp_auth_plain_without_tls: credentials_leave_only_where_the_path_allows,
            allow_smtp_auth_plain_without_valid_certificate:
                credentials_leave_only_where_the_path_allows,
        }
        effective in "core/src/smtp/client/tests/transaction.rs" {
            enable_pipelining: without_pipelining_each_command_waits_for_the_last_reply,
            enable_rset: without_rset_a_failed_transaction_is_the_last,
            use_lmtp: lmtp_has_a_verdict_for_each_accepted_recipient,
            ignore_8bit_checks: what_the_server_cannot_take_is_refused_without_a_word,
        }
        effective in "core/src/smtp/client/tests/closing.rs" {
            banner_timeout: each_wait_is_as_long_as_its_option_says,
            ehlo_timeout: each_wait_is_as_long_as_its_option_says,
            starttls_timeout: each_wait_is_as_long_as_its_option_says,
            auth_timeout: each_wait_is_as_long_as_its_option_says,
            mail_from_timeout: each_wait_is_as_long_as_its_option_says,
            rcpt_to_timeout: each_wait_is_as_long_as_its_option_says,
            data_timeout: each_wait_is_as_long_as_its_option_says,
            data_dot_timeout: each_wait_is_as_long_as_its_option_says,
            rset_timeout: each_wait_is_as_long_as_its_option_says,
            idle_timeout: each_wait_is_as_long_as_its_option_says,
        }
        effective in "kumod/driver/tests/options/mod.rs" {
            smtp_port: a_session_dials_what_list_path_and_source_say,
            ip_lookup_strategy: the_family_of_addresses_is_the_paths_to_choose,
            connect_timeout: a_host_that_does_not_answer_costs_connect_timeout,
            ehlo_domain: the_name_given_in_ehlo_is_the_paths_else_the_sources_else_the_hosts,
            remember_broken_tls: broken_tls_is_done_without_and_remembered_where_the_path_says_so,
            opportunistic_tls_reconnect_on_failed_handshake:
                broken_tls_is_done_without_and_remembered_where_the_path_says_so,
            system_shutdown_timeout:
                a_verdict_that_does_not_come_holds_a_stop_up_for_system_shutdown_timeout,
            provider_name: records_bear_the_paths_provider_and_the_lists_host,
        }
        without_effect: reconnect_strategy try_next_host_on_transport_error aggressive_connection_opening
            enable_mta_sts tls_prefer_openssl openssl_cipher_list openssl_cipher_suites
            openssl_options rustls_cipher_suites refresh_strategy dispatcher_wakeup_strategy
            maintainer_wakeup_strategy low_memory_reduction_policy no_memory_reduction_policy
            readyq_pool_name;
        refused:
            enable_dane unless False
                "kumod doesn't verify TLSA records yet, so mail would leave without the protection asked for; \
                 say false, and enable_tls = 'Required' where that will do",
            tls_certificate unless Never NO_CLIENT_CERTIFICATE,
            tls_private_key unless Never NO_CLIENT_CERTIFICATE,
    }
    /// A limit that is a table: `connection_limit`, and the values of `additional_connection_limits`.
    LIMIT_SPEC = "kumo.make_egress_path", "connection_limit" {
        effective in "core/src/engine/tests/limits.rs" {
            limit: connections_stay_within_the_limit_and_grow_with_the_queue,
        }
        effective in "core/src/config/rate.rs" {
            force_local: every_form_of_a_limit_is_read_and_rendered_as_a_table,
        }
        without_effect: ;
        refused:
    }
    EGRESS_POOL = "kumo.make_egress_pool", "" {
        effective in "core/src/engine/tests/routes.rs" {
            name: a_queue_leaves_through_the_pool_it_names_which_bears_the_name_it_gives_itself,
            entries: weighted_sources_get_their_shares_and_weight_zero_none,
            ttl: a_pool_is_as_fresh_as_the_shortest_ttl_of_it_and_its_sources,
        }
        without_effect: ;
        refused:
    }
    POOL_ENTRY = "kumo.make_egress_pool", "entries" {
        effective in "kumod/src/policy/tests/engine.rs" {
            name: a_pool_comes_with_its_sources_in_order,
        }
        effective in "core/src/engine/tests/routes.rs" {
            weight: weighted_sources_get_their_shares_and_weight_zero_none,
        }
        without_effect: ;
        refused:
    }
    /// Of either `suspend_when_…`.
    SUSPEND_RULE = "kumo.make_egress_source", "suspend_when_unplumbed" {
        effective in "core/src/engine/tests/suspension.rs" {
            trigger: a_source_is_suspended_as_its_own_rules_say,
            duration: a_suspension_ends_by_itself_and_what_waited_goes_at_once,
        }
        without_effect: ;
        refused:
    }
    EGRESS_SOURCE = "kumo.make_egress_source", "" {
        effective in "core/src/engine/tests/routes.rs" {
            name: weighted_sources_get_their_shares_and_weight_zero_none,
            ttl: a_pool_is_as_fresh_as_the_shortest_ttl_of_it_and_its_sources,
        }
        effective in "kumod/driver/tests/options/mod.rs" {
            ehlo_domain: the_name_given_in_ehlo_is_the_paths_else_the_sources_else_the_hosts,
            source_address: a_session_dials_what_list_path_and_source_say,
            remote_port: a_session_dials_what_list_path_and_source_say,
        }
        effective in "core/src/engine/tests/suspension.rs" {
            suspend_when_unplumbed: a_source_is_suspended_as_its_own_rules_say,
            suspend_when_proxy_unhealthy: a_source_is_suspended_as_its_own_rules_say,
        }
        effective in "kumod/driver/tests/proxies/mod.rs" {
            ha_proxy_server: a_source_behind_haproxy_announces_its_address_to_the_proxy,
            ha_proxy_source_address: a_source_behind_haproxy_announces_its_address_to_the_proxy,
            socks5_proxy_server: a_source_behind_socks5_asks_for_its_address_and_its_destination,
            socks5_proxy_source_address: a_source_behind_socks5_asks_for_its_address_and_its_destination,
            socks5_proxy_username: a_socks5_proxy_that_wants_a_password_gets_it,
            socks5_proxy_password: a_socks5_proxy_that_wants_a_password_gets_it,
        }
        without_effect: ;
        refused:
    }
}
