//! The tree of settings, one file a section; its layers, its check and its dump.
//!
//! A configuration is made of defaults, a TOML file and the environment, each laid over the one before. [`load`] tells everything that is wrong at
//! once: keys that do not exist, values that do not fit, settings that contradict one another. Secrets are paths to files, never values in the tree;
//! a value that may be a secret all the same is never printed.

mod admin;
mod answers;
mod apps;
mod check;
mod dump;
mod events;
mod extract;
mod http;
mod journal;
mod kafka;
mod key;
mod known;
mod layers;
mod log;
mod network;
mod problem;
mod properties;
mod shutdown;
mod topics;
mod tracing;
mod units;
mod variables;
mod warnings;

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use admin::Admin;
pub use answers::Answer;
pub use apps::App;
pub use events::{Events, Mode};
pub use http::{Http, Tls};
pub use journal::Journal;
pub use kafka::{Delivery, Kafka};
pub use log::{Format, Level, Log};
pub use problem::{Problem, Problems, Warning};
pub use shutdown::Shutdown;
pub use topics::{KnownCommand, Setting, TOPICS_MAX, Topics};
pub use tracing::{Endpoint, OtlpProtocol, Ratio, Security, Tracing};
pub use units::{Period, Size};
pub use variables::FILE as FILE_VARIABLE;
pub use warnings::warnings;

use check::Finding;
use extract::Extracted;
use key::Key;
use layers::Layers;

/// The whole configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The public listener.
    pub http: Http,
    /// The operator's listener.
    pub admin: Admin,
    /// Whose callbacks are accepted.
    pub apps: Vec<App>,
    /// Where callbacks become durable.
    pub journal: Journal,
    /// The cluster.
    pub kafka: Kafka,
    /// The topics.
    pub topics: Topics,
    /// The shape of events.
    pub events: Events,
    /// The fixed answers of before-commands, by command.
    pub answers: BTreeMap<String, Answer>,
    /// How the bridge ends.
    pub shutdown: Shutdown,
    /// What is logged.
    pub log: Log,
    /// Which spans are recorded, and where they go.
    pub tracing: Tracing,
}

/// The configuration in force: defaults, the file, the environment. The files that it names are not looked at, so that any machine can do this.
/// `known` are the commands that the bridge knows.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(
    path: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
    known: &[KnownCommand<'_>],
) -> Result<Config, Problems> {
    read(path, environment, |config| check::settings(config, known).0)
}

/// The configuration in force, for a bridge that serves: as [`load`], and there is an app, and what the settings name can be read.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load_for_serve(
    path: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
    known: &[KnownCommand<'_>],
) -> Result<Config, Problems> {
    read(path, environment, |config| check::settings(config, known).0.into_iter().chain(check::serving(config).0).collect())
}

/// Reads the layers and collects the problems: what cannot be read, what does not fit, and what `check` finds wrong with the rest.
fn read(
    path: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
    check: impl Fn(&Config) -> Vec<Finding>,
) -> Result<Config, Problems> {
    let mut layers = Layers::read(path, environment);
    let mut problems = std::mem::take(&mut layers.problems);
    let extracted = Extracted::from(layers.tree.clone());
    let problem = |key: &Key, message: &str| Problem { key: key.to_string(), message: message.to_owned(), origin: layers.origin(key) };
    problems.extend(extracted.misfits.iter().map(|misfit| problem(&misfit.key, &misfit.message)));
    if layers.complete {
        for finding in check(&extracted.config) {
            let keys: Vec<Key> = finding.keys.iter().map(|key| extracted.before(key)).collect();
            let Some((first, others)) = keys.split_first() else { continue };
            // A setting that did not fit has its default for now, of which there is nothing to say.
            let all_known = !others.iter().any(|key| extracted.touches(key));
            let message = if all_known { Some(finding.message) } else { finding.alone };
            problems.extend(message.filter(|_| !extracted.touches(first)).map(|message| problem(first, &message)));
        }
    }
    Problems::or(problems, extracted.config)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of a file and an environment.
    fn told(toml: &str, environment: &[(&str, &str)]) -> Vec<String> {
        match file(toml, environment) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.iter().map(ToString::to_string).collect(),
        }
    }

    fn file(toml: &str, environment: &[(&str, &str)]) -> Result<Config, Problems> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bridge.toml");
        std::fs::write(&path, toml).unwrap();
        let place = format!("file {}", path.display());
        let variables = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        load(Some(&path), variables, &[]).map_err(|Problems(mut problems)| {
            for problem in &mut problems {
                problem.origin = problem.origin.take().map(|origin| origin.replace(&place, "file"));
            }
            Problems(problems)
        })
    }

    #[test]
    fn without_file_and_variables_the_defaults_are_in_force() {
        assert_eq!(load(None, std::iter::empty(), &[]), Ok(Config::default()));
    }

    #[test]
    fn a_variable_is_above_the_file_and_the_file_above_the_defaults() {
        let toml = "[http]\nbody_max = '1MiB'\nconnections_max = 5\n[topics]\nprefix = 'x.'";
        let config = file(toml, &[("CHAT_BRIDGE_HTTP__BODY_MAX", "2MiB"), ("CHAT_BRIDGE_KAFKA__INSTANCE", "0")]).unwrap();
        assert_eq!(config.http.body_max, Size::from_mib(2));
        assert_eq!(config.http.connections_max, 5);
        assert_eq!(config.topics.prefix, "x.");
        assert_eq!(config.kafka.instance.as_deref(), Some("0"));
        assert_eq!(config.http.header_max, Http::default().header_max);
    }

    #[test]
    fn what_is_set_whole_replaces_what_the_file_has() {
        let toml = "[[apps]]\nsdk_app_id = 1\n[kafka.properties]\n'client.id' = 'a'\n'linger.ms' = 7";
        let properties = ("CHAT_BRIDGE_KAFKA__PROPERTIES", "{'security.protocol' = 'SSL', 'socket.timeout.ms' = 5000}");
        let config = file(toml, &[("CHAT_BRIDGE_APPS", "[{sdk_app_id=2},{sdk_app_id=3}]"), properties]).unwrap();
        assert_eq!(config.apps.iter().map(|app| app.sdk_app_id).collect::<Vec<_>>(), [2, 3]);
        let expected = [("security.protocol", "SSL"), ("socket.timeout.ms", "5000")];
        assert!(config.kafka.properties.iter().map(|(name, value)| (name.as_str(), value.as_str())).eq(expected));
        assert_eq!(file(toml, &[]).unwrap().kafka.properties.get("linger.ms").map(String::as_str), Some("7"));
    }

    #[test]
    fn everything_wrong_is_told_at_once_with_where_it_comes_from() {
        let toml = "
            apps = [{sdk_app_id = 1}, {sdk_app_id = 'x'}, {sdk_app_id = 1, tokens = 'y'}]
            [http]
            body_mx = '1MiB'
            [journal]
            segment_size = '64KiB'
            [kafka.properties]
            acks = 1
            'sasl.password' = 'hunter2'";
        let told = told(toml, &[("CHAT_BRIDGE_HTTP__IDLE_TIMEOUT", "soon"), ("CHAT_BRIDGE_TOPIC__PREFIX", "x")]);
        let expected = [
            "apps[1].sdk_app_id: expected a whole number, found text (file)",
            "apps[2].tokens: unknown key; did you mean `apps[2].tokens_file`? (file)",
            "http.body_mx: unknown key; did you mean `http.body_max`? (file)",
            "http.idle_timeout: expected a duration with its unit, such as \"250ms\", found \"soon\" (variable CHAT_BRIDGE_HTTP__IDLE_TIMEOUT)",
            "topic: unknown key; did you mean `topics`? (variable CHAT_BRIDGE_TOPIC__PREFIX)",
            "apps[2].sdk_app_id: 1 stands twice; tokens of one app go into one file, its networks into one list (file)",
            "journal.segment_size: is at least 1MiB (file)",
            "kafka.properties.acks: is not passed on: it is always `all`: a record leaves the journal once all in-sync replicas have it (file)",
            "kafka.properties.\"sasl.password\": is a secret: write it into a file, and the path of the file into `kafka.secret_files` (file)",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn a_default_that_does_not_go_with_a_setting_is_told_without_an_origin() {
        let told = told("[http]\nbody_max = '256MiB'", &[]);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].starts_with("http.bodies_max: is at least `http.body_max` (256MiB)") && told[0].ends_with("taken"), "{told:?}");
        assert!(told[1].starts_with("journal.segment_size: "), "{told:?}");
    }

    #[test]
    fn what_a_value_that_does_not_fit_would_entail_is_not_told() {
        let told = told("[http]\nbody_max = 'large'\n[journal]\nsegment_size = '1MiB'\nsize_max = '2MiB'", &[]);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(
            told[0].starts_with("http.body_max: expected a size") && told[1].starts_with("journal.size_max: is at least 4MiB"),
            "{told:?}"
        );
    }

    #[test]
    fn a_file_that_is_no_toml_is_told_by_its_place_and_never_quoted() {
        let told = told("[kafka.properties]\n'sasl.password' = hunter2\n", &[("CHAT_BRIDGE_HTTP__NO", "1")]);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("line 2, column 19"), "{told:?}");
        assert!(!told[0].contains("hunter2"), "{told:?}");
        assert!(told[1].starts_with("http.no: unknown key"), "{told:?}");
    }

    #[test]
    fn a_file_that_is_not_there_is_a_problem() {
        let told = load(Some(Path::new("/no/such/file")), std::iter::empty(), &[]).unwrap_err().to_string();
        assert!(told.starts_with("failed to read the configuration: ") && told.ends_with("(file /no/such/file)"), "{told}");
    }

    #[test]
    fn a_secret_in_a_hand_made_configuration_is_not_in_its_debug_form() {
        let mut config = Config::default();
        config.kafka.properties.insert("sasl.password".to_owned(), "hunter2".to_owned());
        config.kafka.properties.insert("client.id".to_owned(), "bridge".to_owned());
        let text = format!("{config:?}");
        assert!(!text.contains("hunter2") && text.contains("bridge"), "{text}");
    }

    /// A configuration in which every key stands, so that a new one cannot be forgotten here.
    fn full() -> Config {
        let Config { http, admin, journal, kafka, topics, events, shutdown, log, tracing, .. } = Config::default();
        Config {
            http: Http {
                trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()],
                tls: Some(Tls {
                    certificate: "/etc/chat-bridge/tls.crt".into(),
                    private_key: "/etc/chat-bridge/tls.key".into(),
                    client_ca: Some("/etc/chat-bridge/clients.crt".into()),
                }),
                ..http
            },
            admin: Admin { token_file: Some("/etc/chat-bridge/admin-tokens".into()), ..admin },
            apps: vec![App {
                sdk_app_id: 1_400_000_000,
                tokens_file: Some("/etc/chat-bridge/tokens".into()),
                sources: Some(vec!["203.0.113.0/24".parse().unwrap()]),
            }],
            journal,
            kafka: Kafka {
                instance: Some("0".to_owned()),
                properties: BTreeMap::from([("security.protocol".to_owned(), "SASL_SSL".to_owned())]),
                secret_files: BTreeMap::from([("sasl.password".to_owned(), "/etc/chat-bridge/kafka-password".into())]),
                ..kafka
            },
            topics: Topics {
                unrecognized: Some("chat.other".to_owned()),
                dead_letter: Some("chat.dead".to_owned()),
                discard: ["A.B".to_owned()].into(),
                names: BTreeMap::from([("Group.CallbackAfterGroupFull".to_owned(), "im.groups.full".to_owned())]),
                config: BTreeMap::from([(
                    "im.groups.full".to_owned(),
                    BTreeMap::from([
                        ("retention.ms".to_owned(), Setting("1000".to_owned())),
                        ("partitions".to_owned(), Setting("3".to_owned())),
                    ]),
                )]),
                ..topics
            },
            events,
            answers: BTreeMap::from([(
                "Group.CallbackBeforeSendMsg".to_owned(),
                Answer { error_code: 10_100, error_info: "a \"quoted\"\nline".to_owned() },
            )]),
            shutdown,
            log: Log { format: Some(Format::Json), ..log },
            tracing: Tracing {
                otlp_endpoint: Some("http://collector:4317".to_owned()),
                sample_ratio: Ratio::new(0.125).unwrap(),
                headers_file: Some("/etc/chat-bridge/otlp-headers".into()),
                ..tracing
            },
        }
    }

    #[test]
    fn what_is_dumped_reads_back_as_the_same_configuration() {
        for config in [Config::default(), full()] {
            assert_eq!(file(&config.to_toml().unwrap(), &[]), Ok(config.clone()));
            assert_eq!(serde_json::from_str::<Config>(&config.to_json().unwrap()).ok(), Some(config));
        }
    }

    /// Every key with its value, as the pages write them: `apps[].sdk_app_id` for what stands in a list, `answers.*` for what has keys of its own.
    fn flat(key: &str, value: &toml::Value, into: &mut BTreeMap<String, String>) {
        const FREE: [&str; 5] = ["answers", "kafka.properties", "kafka.secret_files", "topics.names", "topics.config"];
        match value {
            toml::Value::Table(table) if !(FREE.contains(&key) && key != "answers") => {
                for (name, value) in table {
                    let name = if key == "answers" { "*" } else { name };
                    flat(&if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") }, value, into);
                }
            }
            toml::Value::Array(elements) if elements.iter().any(toml::Value::is_table) => {
                for element in elements {
                    flat(&format!("{key}[]"), element, into);
                }
            }
            toml::Value::Table(_)
            | toml::Value::Array(_)
            | toml::Value::String(_)
            | toml::Value::Integer(_)
            | toml::Value::Float(_)
            | toml::Value::Boolean(_)
            | toml::Value::Datetime(_) => {
                into.insert(key.to_owned(), value.to_string());
            }
        }
    }

    /// The page has every key in a row `| key | type | default | ...`, and each default is the one in force.
    #[test]
    fn the_page_and_the_settings_name_the_same_keys_and_defaults() {
        let page = include_str!("../docs/configuration.md");
        let rows: BTreeMap<String, String> = page
            .lines()
            .filter_map(|line| {
                let cells: Vec<_> = line.strip_prefix("| `")?.split(" | ").collect();
                // Fewer cells has the table of librdkafka's properties.
                let [key, _type, default, _, ..] = cells[..] else { return None };
                Some((key.trim_end_matches('`').to_owned(), default.trim_matches('`').to_owned()))
            })
            .collect();
        let (mut all, mut defaults) = (BTreeMap::new(), BTreeMap::new());
        flat("", &full().to_toml().unwrap().parse::<toml::Table>().unwrap().into(), &mut all);
        flat("", &Config::default().to_toml().unwrap().parse::<toml::Table>().unwrap().into(), &mut defaults);
        assert_eq!(rows.keys().collect::<Vec<_>>(), all.keys().collect::<Vec<_>>());
        for (key, default) in &rows {
            let in_force = defaults.get(key).map_or_else(String::new, |value| value.replace('\'', "\""));
            if let Some(absent) = default.strip_prefix("absent") {
                assert!(in_force.is_empty(), "{key}: {absent} {in_force}");
            } else {
                assert_eq!(*default, in_force, "{key}");
            }
        }
    }
}
