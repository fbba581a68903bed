//! The environment's layer: `CHAT_BRIDGE_HTTP__BODY_MAX=1MiB` is `http.body_max`.
//!
//! A value is read as TOML where it is TOML (`5`, `true`, `[{sdk_app_id=1400000000}]`), and as plain text elsewhere; where the setting wants text
//! and TOML makes something else of it (`CHAT_BRIDGE_KAFKA__INSTANCE=0`), as plain text too. Lists of tables and tables with free keys cannot be
//! reached by names of variables, which know neither dots nor lower case; they are set whole.

use figment::error::Kind;
use figment::value::{Dict, Map, Value};
use figment::{Metadata, Profile, Provider};
use serde::Deserialize;

use super::problem::Problem;
use super::{Config, known, layers};

/// What the names of all variables begin with.
const PREFIX: &str = "CHAT_BRIDGE_";

/// What stands between two levels.
const SEPARATOR: &str = "__";

/// The variable that names the file.
pub const FILE: &str = "CHAT_BRIDGE_CONFIG";

/// What is set whole, so that a variable replaces what the file has there.
const WHOLE: [&str; 6] = ["apps", "answers", "kafka.properties", "kafka.secret_files", "topics.names", "topics.config"];

/// One variable.
pub(super) struct Variable {
    name: String,
    /// The names of the tables from the root, and of the setting.
    pub(super) path: Vec<String>,
    value: Value,
}

impl Variable {
    /// Whether it replaces what lower layers have, instead of merging with it.
    pub(super) fn is_whole(&self) -> bool {
        WHOLE.contains(&self.path.join(".").as_str())
    }
}

impl Provider for Variable {
    fn metadata(&self) -> Metadata {
        Metadata::named(origin(&self.name))
    }

    fn data(&self) -> figment::error::Result<Map<Profile, Dict>> {
        Ok(Map::from([(Profile::Default, nest(&self.path, self.value.clone()))]))
    }
}

/// How a variable is called where it is told as an origin.
fn origin(name: &str) -> String {
    format!("variable {name}")
}

/// `value` in the tables of `path`.
fn nest(path: &[String], value: Value) -> Dict {
    match path {
        [] => Dict::new(),
        [name] => Dict::from([(name.clone(), value)]),
        [name, inner @ ..] => Dict::from([(name.clone(), Value::from(nest(inner, value)))]),
    }
}

/// The bridge's variables, the shorter names before the longer ones that they are a part of, and what is wrong with the others.
pub(super) fn read(environment: impl Iterator<Item = (String, String)>) -> (Vec<Variable>, Vec<Problem>) {
    let mut ours: Vec<(String, String)> =
        environment.filter(|(name, _)| name.starts_with(PREFIX) && name != FILE && !made_by_kubernetes(name)).collect();
    ours.sort();
    let (mut variables, mut problems) = (Vec::new(), Vec::new());
    for (name, text) in ours {
        match variable(&name, &text) {
            Ok(variable) => variables.push(variable),
            Err((key, message)) => problems.push(Problem { key, message, origin: Some(origin(&name)) }),
        }
    }
    (variables, problems)
}

/// Whether Kubernetes makes a variable of this name for a Service called `chat-bridge`.
fn made_by_kubernetes(name: &str) -> bool {
    let rest = name.strip_prefix(PREFIX).unwrap_or_default();
    rest.starts_with("SERVICE_") || rest.starts_with("PORT")
}

/// The variable, or the key that it means and what is wrong with it.
fn variable(name: &str, text: &str) -> Result<Variable, (String, String)> {
    let rest = name.strip_prefix(PREFIX).unwrap_or_default();
    let path: Vec<String> = rest.split(SEPARATOR).map(str::to_lowercase).collect();
    let dotted = path.join(".");
    if rest.chars().any(char::is_lowercase) || path.iter().any(String::is_empty) {
        return Err((dotted, format!("no such variable; names are written {PREFIX}SECTION{SEPARATOR}KEY, in capitals")));
    }
    if let Some(whole) = WHOLE.iter().find(|whole| dotted.strip_prefix(**whole).is_some_and(|inner| inner.starts_with('.'))) {
        let variable = format!("{PREFIX}{}", whole.to_uppercase().replace('.', SEPARATOR));
        return Err((dotted, format!("`{whole}` is set whole, as TOML, by {variable}")));
    }
    if text.contains(char::REPLACEMENT_CHARACTER) {
        return Err((dotted, "the value is not UTF-8".to_owned()));
    }
    if let [section] = path.as_slice()
        && let Err(Kind::UnknownField(_, siblings)) = fit(&path, Value::from(0))
    {
        return Err((dotted.clone(), unknown(section, siblings)));
    }
    let plain = || Value::from(text);
    let value = match text.parse::<toml::Value>() {
        Ok(toml::Value::Datetime(_)) => plain(),
        Ok(value) => {
            let value = layers::value(value);
            if fit(&path, value.clone()).is_err() && fit(&path, plain()).is_ok() { plain() } else { value }
        }
        Err(error) if WHOLE.contains(&dotted.as_str()) => return Err((dotted, format!("not TOML: {}", error.message()))),
        Err(_) => plain(),
    };
    Ok(Variable { name: name.to_owned(), path, value })
}

/// What is said of a variable that is no section's, with what it may have meant.
fn unknown(section: &str, siblings: &[&str]) -> String {
    match known::nearest("", section, siblings) {
        Some(key) => format!("unknown key; did you mean `{key}` ({PREFIX}{})?", key.to_uppercase().replace('.', SEPARATOR)),
        None if section.contains("_service_") || section.contains("_port") => {
            "unknown key; if Kubernetes made this variable for a Service, set `enableServiceLinks: false`".to_owned()
        }
        None => "unknown key".to_owned(),
    }
}

/// Whether the setting at `path` can be `value`, all others being what they are by default.
fn fit(path: &[String], value: Value) -> Result<(), Kind> {
    Config::deserialize(&Value::from(nest(path, value))).map(drop).map_err(|error| error.kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_one(name: &str, value: &str) -> (Vec<Variable>, Vec<Problem>) {
        read([(name.to_owned(), value.to_owned())].into_iter())
    }

    #[test]
    fn a_value_is_toml_where_the_setting_takes_it_so_and_text_elsewhere() {
        for (name, text, key_expected, value) in [
            ("CHAT_BRIDGE_HTTP__CONNECTIONS_MAX", "5", "http.connections_max", Value::from(5_i64)),
            ("CHAT_BRIDGE_TOPICS__CREATE", "true", "topics.create", Value::from(true)),
            ("CHAT_BRIDGE_KAFKA__INSTANCE", "0", "kafka.instance", Value::from("0")),
            ("CHAT_BRIDGE_KAFKA__INSTANCE", "007", "kafka.instance", Value::from("007")),
            ("CHAT_BRIDGE_KAFKA__INSTANCE", "2020-01-01", "kafka.instance", Value::from("2020-01-01")),
            ("CHAT_BRIDGE_KAFKA__INSTANCE", "'a b'", "kafka.instance", Value::from("a b")),
            ("CHAT_BRIDGE_KAFKA__BOOTSTRAP_SERVERS", "kafka:9092", "kafka.bootstrap_servers", Value::from("kafka:9092")),
            ("CHAT_BRIDGE_HTTP__BODY_MAX", "1MiB", "http.body_max", Value::from("1MiB")),
        ] {
            let (variables, problems) = read_one(name, text);
            assert_eq!(problems, [], "{name}={text}");
            assert_eq!(variables[0].path.join("."), key_expected);
            assert_eq!(variables[0].value, value, "{name}={text}");
        }
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        for name in ["PATH", "CHAT_BRIDGE_CONFIG", "CHAT_BRIDGE_SERVICE_HOST", "CHAT_BRIDGE_PORT", "CHAT_BRIDGE_PORT_8080_TCP_ADDR"] {
            let (variables, problems) = read_one(name, "tcp://10.0.0.1:8080");
            assert!(variables.is_empty() && problems.is_empty(), "{name}");
        }
    }

    #[test]
    fn what_no_variable_can_mean_is_refused() {
        for (name, value, part) in [
            ("CHAT_BRIDGE_HTTP_LISTEN", "0.0.0.0:1", "CHAT_BRIDGE_HTTP__LISTEN"),
            ("CHAT_BRIDGE_http__listen", "0.0.0.0:1", "in capitals"),
            ("CHAT_BRIDGE_HTTP____LISTEN", "0.0.0.0:1", "in capitals"),
            ("CHAT_BRIDGE_", "x", "no such variable"),
            ("CHAT_BRIDGE_TOPICS__NAMES__FOO", "x", "`topics.names` is set whole, as TOML, by CHAT_BRIDGE_TOPICS__NAMES"),
            ("CHAT_BRIDGE_APPS__0__SDK_APP_ID", "1", "`apps` is set whole, as TOML, by CHAT_BRIDGE_APPS"),
            ("CHAT_BRIDGE_KAFKA__PROPERTIES", "{", "not TOML"),
            ("CHAT_BRIDGE_ADMIN_SERVICE_HOST", "10.0.0.1", "enableServiceLinks"),
            ("CHAT_BRIDGE_JOURNAL__DIR", "/x\u{FFFD}", "not UTF-8"),
        ] {
            let (variables, problems) = read_one(name, value);
            assert!(variables.is_empty(), "{name}");
            assert!(problems[0].to_string().contains(part), "{}", problems[0]);
        }
    }
}
