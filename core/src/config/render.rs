//! Values as policy would write them: the opposite of [`super::read`]. Invariant: what is shown reads to an equal value, and a secret is
//! shown only where [`Secrets::Shown`] is asked for. Which keys a constructor has stands where it reads them.
use super::options::Constructed;
use super::{Secret, ThrottleSpec, duration};
use crate::toml_text;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use serde_json::{Map, Value, json};

/// What becomes of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrets {
    /// For policy, which has them anyway.
    Shown,
    /// For whoever else looks: a placeholder stands in their place.
    Hidden,
}

/// A value of an option.
pub trait Show {
    fn show(&self, secrets: Secrets) -> Value;
}

/// What a constructor makes, back as its table: every option stands in it, an unset one as null.
pub trait Shown: Constructed {
    fn table(&self, secrets: Secrets) -> Map<String, Value>;

    fn toml(&self, secrets: Secrets) -> String {
        let table = self.table(secrets);
        toml_text::pretty_compact(&table)
            .expect("no list of options holds a null, no number is above i64's")
    }
}

/// Values that serde writes as policy does.
macro_rules! shown_by_serde {
    ($($form:ty),+ $(,)?) => { $(impl $crate::config::render::Show for $form {
        fn show(&self, _: $crate::config::render::Secrets) -> serde_json::Value {
            serde_json::to_value(self).expect("a plain value is JSON")
        }
    })+ };
}
pub(super) use shown_by_serde;

shown_by_serde!(bool, u16, u32, u64, String, Box<str>, ThrottleSpec);

impl Show for crate::time::Duration {
    fn show(&self, _: Secrets) -> Value {
        Value::from(duration::render(*self))
    }
}

impl Show for Secret {
    fn show(&self, secrets: Secrets) -> Value {
        match secrets {
            Secrets::Shown => json!({ "key_data": self.expose() }),
            Secrets::Hidden => json!({ "key_data": self }),
        }
    }
}

impl<T: Show> Show for Option<T> {
    fn show(&self, secrets: Secrets) -> Value {
        self.as_ref().map_or(Value::Null, |value| value.show(secrets))
    }
}

impl<T: Show> Show for Vec<T> {
    fn show(&self, secrets: Secrets) -> Value {
        self.iter().map(|item| item.show(secrets)).collect()
    }
}

impl<T: Show> Show for BTreeMap<Box<str>, T> {
    fn show(&self, secrets: Secrets) -> Value {
        let pairs = self.iter().map(|(key, value)| (key.to_string(), value.show(secrets)));
        Value::Object(pairs.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::options::{self, Effect, OptionTable};
    use crate::config::{EgressPath, QueueConfig};
    use alloc::format;
    use core::fmt::Debug;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    type Values = BoxedStrategy<Value>;

    fn values(
        strategy: impl Strategy<Value = impl Into<Value> + Debug + 'static> + 'static,
    ) -> Values {
        strategy.prop_map(Into::into).boxed()
    }

    fn text() -> Values {
        values(prop_oneof!["[a-z]{0,6}", any::<String>()])
    }

    fn host() -> Values {
        values("[a-z0-9]{1,5}(\\.[a-z]{1,3})?")
    }

    fn number() -> Values {
        values(prop_oneof![1..100_u64, 1..=i64::MAX as u64])
    }

    fn port() -> Values {
        values(1..=u16::MAX)
    }

    fn truth() -> Values {
        values(any::<bool>())
    }

    fn time() -> Values {
        let nanos = (1..crate::limits::OPTION_SECONDS, 0..1_000_000_000_u32);
        let precise = nanos.prop_map(|(seconds, nanos)| {
            duration::render(crate::time::Duration::new(seconds, nanos))
        });
        prop_oneof![values(1..100_000_u32), values(precise)].boxed()
    }

    fn rate() -> Values {
        values("(local:)?[1-9][0-9]{0,5}/[1-9]?(s|m|h|d)(,max_burst=[1-9])?")
    }

    fn limit() -> Values {
        let table = (1..1000_u64, any::<bool>())
            .prop_map(|(limit, force_local)| json!({ "limit": limit, "force_local": force_local }));
        prop_oneof![number(), values("(local:)?[1-9][0-9]{0,4}"), table.boxed()].boxed()
    }

    fn block() -> Values {
        values("10\\.[0-9]\\.[0-9]\\.[1-9](/[1-2][0-9])?|2001:db8::[1-9](/1[01][0-9])?")
    }

    fn one_of(names: &'static [&'static str]) -> Values {
        values(prop::sample::select(names))
    }

    fn list(items: Values) -> Values {
        values(prop::collection::vec(items, 0..4))
    }

    fn by_name(items: Values) -> Values {
        let map = prop::collection::btree_map(any::<String>(), items, 0..4);
        map.prop_map(|map| Value::Object(map.into_iter().collect())).boxed()
    }

    fn secret() -> Values {
        any::<String>().prop_map(|secret| json!({ "key_data": secret })).boxed()
    }

    fn listed_host() -> Values {
        let named = (host(), "10\\.0\\.0\\.[1-9]|::[1-9]|")
            .prop_filter("an address", |(_, address)| !address.is_empty())
            .prop_map(|(name, address)| json!({ "name": name, "addr": address }));
        let odd = (1..9_u8).prop_map(|n| json!({ "name": format!("a:{n}"), "addr": "10.0.0.1" }));
        let literal = values("\\[(10\\.0\\.0\\.[1-9]|::[1-9]|IPv6:::1)\\](:[1-9]{1,4})?");
        let plain = values("[a-z]{1,5}(:[1-9]{1,4})?");
        prop_oneof![plain, literal, named.boxed(), odd.boxed()].boxed()
    }

    fn protocol() -> Values {
        let smtp = list(listed_host()).prop_map(|list| json!({ "smtp": { "mx_list": list } }));
        let mode = || prop::option::of(0..0o7777_u32);
        let maildir = ("[^\\x00]{1,8}", mode(), mode()).prop_map(
            |(path, dir, file)| json!({ "maildir_path": path, "dir_mode": dir, "file_mode": file }),
        );
        let lua = ("[a-z.]{1,9}", 1..9_u64, time()).prop_map(|(constructor, size, latency)| {
            json!({ "custom_lua": {
                "constructor": constructor, "batch_size": 8, "min_batch_size": size.min(8),
                "max_batch_latency": latency,
            } })
        });
        prop_oneof![smtp, maildir, lua].boxed()
    }

    fn of_path() -> Vec<(&'static str, Values)> {
        let numbers = [
            "max_deliveries_per_connection",
            "max_ready",
            "max_recipients_per_batch",
            "consecutive_connection_failures_before_delay",
        ];
        let truths = [
            "enable_pipelining",
            "enable_rset",
            "use_lmtp",
            "allow_smtp_auth_plain_without_tls",
            "allow_smtp_auth_plain_without_valid_certificate",
            "ignore_8bit_checks",
            "opportunistic_tls_reconnect_on_failed_handshake",
        ];
        let rates = ["max_connection_rate", "max_message_rate", "source_selection_rate"];
        let named_rates =
            ["additional_message_rate_throttles", "additional_source_selection_rates"];
        let times = with_effect(&options::EGRESS_PATH).into_iter().filter(|key| {
            key.ends_with("_timeout") || matches!(*key, "remember_broken_tls" | "refresh_interval")
        });
        let mut keys: Vec<(&str, Values)> = times.map(|key| (key, time())).collect();
        keys.extend(numbers.map(|key| (key, number())));
        keys.extend(truths.map(|key| (key, truth())));
        keys.extend(rates.map(|key| (key, rate())));
        keys.extend(named_rates.map(|key| (key, by_name(rate()))));
        keys.extend([
            ("connection_limit", limit()),
            ("additional_connection_limits", by_name(limit())),
            ("smtp_port", port()),
            ("enable_tls", one_of(&["Opportunistic", "Required", "RequiredInsecure", "Disabled"])),
            ("ip_lookup_strategy", one_of(&["Ipv4Only", "Ipv6ThenIpv4", "Ipv4AndIpv6"])),
            ("ehlo_domain", host()),
            ("provider_name", text()),
            ("prohibited_hosts", list(block())),
            ("skip_hosts", list(block())),
            ("smtp_auth_plain_username", text()),
            ("smtp_auth_plain_password", secret()),
        ]);
        keys
    }

    fn of_queue() -> Vec<(&'static str, Values)> {
        let times = [
            "retry_interval",
            "max_retry_interval",
            "max_age",
            "reap_interval",
            "refresh_interval",
        ];
        let mut keys: Vec<(&str, Values)> = times.map(|key| (key, time())).into();
        keys.extend([
            ("egress_pool", text()),
            ("max_message_rate", rate()),
            ("protocol", protocol()),
        ]);
        keys
    }

    fn with_effect(options: &'static OptionTable) -> BTreeSet<&'static str> {
        let effective =
            options.options.iter().filter(|one| matches!(one.effect, Effect::Effective { .. }));
        effective.map(|one| one.key).collect()
    }

    /// Tables with any of the keys; a password never without its name.
    fn tables(keys: Vec<(&'static str, Values)>) -> impl Strategy<Value = Map<String, Value>> {
        let maybe = keys.into_iter().map(|(key, value)| {
            prop::option::of(value.prop_map(move |value| (key.to_string(), value))).boxed()
        });
        maybe.collect::<Vec<_>>().prop_map(|pairs| {
            let mut table: Map<String, Value> = pairs.into_iter().flatten().collect();
            let auth = ["smtp_auth_plain_username", "smtp_auth_plain_password"];
            if !auth.iter().all(|key| table.contains_key(*key)) {
                auth.iter().for_each(|key| _ = table.remove(*key));
            }
            table
        })
    }

    fn parsed<T: Constructed>(table: Map<String, Value>) -> T {
        let shown = Value::Object(table.clone()).to_string();
        T::parse(table).unwrap_or_else(|error| panic!("{error}: {shown}")).value
    }

    fn survives<T: Shown + PartialEq + Debug>(table: Map<String, Value>) {
        let config: T = parsed(table);
        assert_eq!(parsed::<T>(config.table(Secrets::Shown)), config);
        let toml = config.toml(Secrets::Shown);
        let again = toml::from_str(&toml).unwrap_or_else(|error| panic!("{error}: {toml}"));
        assert_eq!(parsed::<T>(again), config, "{toml}");
    }

    #[test]
    fn every_option_is_shown_and_generated() {
        let path = EgressPath::default().table(Secrets::Hidden);
        let queue = QueueConfig::default().table(Secrets::Hidden);
        for (shown, generated, options) in
            [(path, of_path(), &options::EGRESS_PATH), (queue, of_queue(), &options::QUEUE_CONFIG)]
        {
            let shown: BTreeSet<&str> = shown.keys().map(String::as_str).collect();
            assert_eq!(shown, with_effect(options));
            let generated: BTreeSet<&str> = generated.iter().map(|(key, _)| *key).collect();
            assert_eq!(generated, with_effect(options));
        }
    }

    #[test]
    fn a_secret_is_shown_to_policy_alone() {
        let table = json!({
            "smtp_auth_plain_username": "joe", "smtp_auth_plain_password": { "key_data": "sesame" },
        });
        let path: EgressPath = parsed(table.as_object().unwrap().clone());
        assert!(path.toml(Secrets::Shown).contains("key_data = \"sesame\""));
        assert!(path.toml(Secrets::Hidden).contains("key_data = \"(secret)\""));
    }

    #[test]
    fn people_read_a_queue_so() {
        let table = json!({
            "max_message_rate": "100/min", "egress_pool": "main",
            "protocol": { "smtp": { "mx_list": ["a.example:26", { "name": "b", "addr": "::1" }] } },
        });
        let config: QueueConfig = parsed(table.as_object().unwrap().clone());
        let expected = r#"egress_pool = "main"
max_age = "7days"
max_message_rate = "100/m"
reap_interval = "10m"
refresh_interval = "1m"
retry_interval = "20m"

[protocol.smtp]
mx_list = [
    "a.example:26",
    { addr = "::1", name = "b" },
]
"#;
        assert_eq!(config.toml(Secrets::Hidden), expected);
    }

    #[test]
    fn people_read_a_path_so() {
        let table = json!({
            "max_connection_rate": "100/min", "additional_connection_limits": { "google": "local:5" },
        });
        let path: EgressPath = parsed(table.as_object().unwrap().clone());
        let toml = format!("\n{}", path.toml(Secrets::Hidden));
        for part in [
            "\nadditional_message_rate_throttles = {}\n",
            "\nmax_connection_rate = \"100/m\"\n",
            "\nprohibited_hosts = [\n    \"127.0.0.0/8\",\n    \"0.0.0.0\",\n    \"::1\",\n    \"::\",\n]\n",
            "\nskip_hosts = []\n",
            "\n\n[additional_connection_limits.google]\nforce_local = true\nlimit = 5\n",
            "\n\n[connection_limit]\nforce_local = false\nlimit = 32\n",
        ] {
            assert!(toml.contains(part), "{part} isn't in {toml}");
        }
        assert!(!toml.contains("max_message_rate ="));
    }

    proptest! {
        #[test]
        fn every_egress_path_parses_from_its_toml(table in tables(of_path())) {
            survives::<EgressPath>(table);
        }

        #[test]
        fn every_queue_config_parses_from_its_toml(table in tables(of_queue())) {
            survives::<QueueConfig>(table);
        }
    }
}
