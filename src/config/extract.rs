//! From the merged tree to the section structs, with everything that does not fit.
//!
//! serde stops at the first thing that does not fit. So that is told, taken out of the tree, and the rest tried again, until the rest fits.

use figment::error::{Actual, Kind};
use figment::value::{Dict, Value};
use serde::Deserialize;

use super::Config;
use super::key::{Key, Step};
use super::known;

/// A setting and what is wrong with it.
pub(super) struct Misfit {
    pub(super) key: Key,
    pub(super) message: String,
}

/// What fits, and what does not.
pub(super) struct Extracted {
    /// The settings that fit; defaults stand for the others.
    pub(super) config: Config,
    /// What does not fit, by the keys of the tree as it was.
    pub(super) misfits: Vec<Misfit>,
    /// Elements that were taken out of lists, by the keys of the tree as it was.
    removed: Vec<Key>,
}

impl Extracted {
    /// Takes out of `tree` what does not fit.
    pub(super) fn from(mut tree: Dict) -> Self {
        let mut extracted = Self { config: Config::default(), misfits: Vec::new(), removed: Vec::new() };
        // Each turn takes something out of the tree, so this ends.
        loop {
            let (key, kind) = match fault(&tree) {
                Ok(config) => {
                    extracted.config = config;
                    return extracted;
                }
                Err(fault) => fault,
            };
            let before = extracted.before(&key);
            extracted.tell(&before, &kind);
            if !take_out(&mut tree, key.steps()) {
                return extracted;
            }
            if matches!(key.steps().last(), Some(Step::Index(_))) {
                extracted.removed.push(before);
                extracted.removed.sort();
            }
        }
    }

    /// The key, in the tree as it was, of what now stands at `key`.
    pub(super) fn before(&self, key: &Key) -> Key {
        key.steps().iter().fold(Key::default(), |list, step| match step {
            Step::Key(name) => list.name(name),
            Step::Index(now) => {
                let before = self.removed.iter().fold(*now, |index, removed| match removed.steps().split_last() {
                    Some((Step::Index(gone), holder)) if holder == list.steps() && *gone <= index => index + 1,
                    Some(_) | None => index,
                });
                list.index(before)
            }
        })
    }

    /// Whether something that does not fit stands there, above it or inside.
    pub(super) fn touches(&self, key: &Key) -> bool {
        self.misfits.iter().any(|misfit| misfit.key.touches(key))
    }

    fn tell(&mut self, key: &Key, kind: &Kind) {
        let (key, message) = match kind {
            Kind::MissingField(name) => (key.clone().name(name), "is missing".to_owned()),
            Kind::UnknownField(name, siblings) => (key.clone(), unknown_field(key, name, siblings)),
            Kind::InvalidType(actual, expected) => (key.clone(), format!("expected {}, found {}", plain(expected), form(actual))),
            Kind::InvalidValue(actual, expected) => (key.clone(), format!("expected {}, found {}", plain(expected), content(actual))),
            Kind::InvalidLength(length, expected) => (key.clone(), format!("expected {}, found {length} elements", plain(expected))),
            Kind::UnknownVariant(name, expected) => (key.clone(), unknown_variant(name, expected)),
            Kind::DuplicateField(name) => (key.clone().name(name), "stands twice".to_owned()),
            Kind::Message(message) => (key.clone(), message.clone()),
            Kind::ISizeOutOfRange(_) | Kind::USizeOutOfRange(_) => (key.clone(), "the number is out of range".to_owned()),
            Kind::Unsupported(actual) | Kind::UnsupportedKey(actual, _) => (key.clone(), format!("cannot be {}", form(actual))),
        };
        // What is missing because it did not fit has been told already.
        if !self.misfits.iter().any(|misfit| misfit.key == key) {
            self.misfits.push(Misfit { key, message });
        }
    }
}

/// The configuration, or the first thing that does not fit.
fn fault(tree: &Dict) -> Result<Config, (Key, Kind)> {
    if let Some(key) = positional(tree) {
        return Err((key, Kind::InvalidType(Actual::Seq, "a map".to_owned())));
    }
    Config::deserialize(&Value::from(tree.clone())).map_err(|error| (locate(tree, &error.path), error.kind))
}

/// A list where a table belongs. serde would take it for the table's values in the order in which the struct has them.
fn positional(tree: &Dict) -> Option<Key> {
    let is_list = |value: &Value| value.as_array().is_some();
    let sections = tree.iter().find(|(name, value)| *name != "apps" && known::is_section(name) && is_list(value));
    let apps = tree.get("apps").and_then(Value::as_array).and_then(|apps| apps.iter().position(is_list));
    let answers = tree.get("answers").and_then(Value::as_dict).and_then(|answers| answers.iter().find(|(_, value)| is_list(value)));
    sections
        .map(|(name, _)| Key::default().name(name))
        .or_else(|| apps.map(|index| Key::of("apps").index(index)))
        .or_else(|| answers.map(|(command, _)| Key::of("answers").name(command)))
}

/// The key of what `path`, a list of names and of indexes in digits, leads to.
fn locate(tree: &Dict, path: &[String]) -> Key {
    let (mut table, mut elements): (Option<&Dict>, Option<&[Value]>) = (Some(tree), None);
    let mut key = Key::default();
    for name in path {
        let index = elements.and_then(|_| name.parse::<usize>().ok());
        let inner = match index {
            Some(index) => elements.and_then(|elements| elements.get(index)),
            None => table.and_then(|table| table.get(name)),
        };
        key = index.map_or_else(|| key.clone().name(name), |index| key.clone().index(index));
        table = inner.and_then(Value::as_dict);
        elements = inner.and_then(Value::as_array);
    }
    key
}

/// Takes out what stands there; whether anything did.
fn take_out(tree: &mut Dict, steps: &[Step]) -> bool {
    match steps {
        [Step::Key(name)] => tree.remove(name).is_some(),
        [Step::Key(name), inner @ ..] => tree.get_mut(name).is_some_and(|value| take_out_of(value, inner)),
        [] | [Step::Index(_), ..] => false,
    }
}

fn take_out_of(value: &mut Value, steps: &[Step]) -> bool {
    match (value, steps) {
        (Value::Dict(_, table), steps) => take_out(table, steps),
        (Value::Array(_, elements), [Step::Index(index)]) if *index < elements.len() => {
            elements.remove(*index);
            true
        }
        (Value::Array(_, elements), [Step::Index(index), inner @ ..]) => {
            elements.get_mut(*index).is_some_and(|value| take_out_of(value, inner))
        }
        (Value::Array(..) | Value::String(..) | Value::Char(..) | Value::Bool(..) | Value::Num(..) | Value::Empty(..), _) => false,
    }
}

fn unknown_field(key: &Key, name: &str, siblings: &[&str]) -> String {
    match known::nearest(&key.clone().parent().to_string(), name, siblings) {
        Some(nearest) => format!("unknown key; did you mean `{nearest}`?"),
        None => "unknown key".to_owned(),
    }
}

fn unknown_variant(name: &str, expected: &[&str]) -> String {
    let all = expected.iter().map(|one| format!("\"{one}\"")).collect::<Vec<_>>().join(", ");
    match known::nearest_of(name, expected) {
        Some(nearest) => format!("expected one of {all}, found \"{name}\"; did you mean \"{nearest}\"?"),
        None => format!("expected one of {all}, found \"{name}\""),
    }
}

/// What serde expects, in the words of the configuration instead of Rust's.
fn plain(expected: &str) -> &str {
    match expected {
        "a map" => "a table",
        "a sequence" => "a list",
        "a string" | "path string" => "text",
        "u16" | "u32" | "u64" | "i64" => "a whole number",
        "a nonzero u16" => "a number from 1 to 65535",
        structure if structure.starts_with("struct ") => "a table",
        choice if choice.starts_with("enum ") => "text",
        other => other,
    }
}

/// What sort of value it is. Where the sort is wrong anything may stand there, a secret too, so the value is not quoted.
fn form(actual: &Actual) -> &'static str {
    match actual {
        Actual::Bool(_) => "a boolean",
        Actual::Unsigned(_) | Actual::Signed(_) => "an integer",
        Actual::Float(_) => "a number",
        Actual::Char(_) | Actual::Str(_) => "text",
        Actual::Seq => "a list",
        Actual::Map => "a table",
        Actual::Unit | Actual::Option => "nothing",
        Actual::Bytes(_)
        | Actual::NewtypeStruct
        | Actual::Enum
        | Actual::UnitVariant
        | Actual::NewtypeVariant
        | Actual::TupleVariant
        | Actual::StructVariant
        | Actual::Other(_) => "something else",
    }
}

/// The value itself. Only sizes, durations, addresses, networks and numbers are refused for their value, none of which is a secret.
fn content(actual: &Actual) -> String {
    if let Actual::Str(text) = actual {
        format!("{text:?}")
    } else if let Actual::Unsigned(number) = actual {
        number.to_string()
    } else if let Actual::Signed(number) = actual {
        number.to_string()
    } else {
        form(actual).to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extracted(toml: &str) -> Extracted {
        let table: toml::Table = toml::from_str(toml).unwrap();
        Extracted::from(table.into_iter().map(|(name, value)| (name, super::super::layers::value(value))).collect())
    }

    fn told(toml: &str) -> Vec<String> {
        extracted(toml).misfits.iter().map(|misfit| format!("{}: {}", misfit.key, misfit.message)).collect()
    }

    #[test]
    fn each_thing_that_does_not_fit_is_told_once() {
        for (toml, expected) in [
            ("[http]\nbody_mx = 1", "http.body_mx: unknown key; did you mean `http.body_max`?"),
            ("[http]\nbody_max = '5 apples'", "http.body_max: expected a size with its unit, such as \"64MiB\", found \"5 apples\""),
            ("[http]\nbody_max = true", "http.body_max: expected a size with its unit, such as \"64MiB\", found a boolean"),
            ("[http]\nlisten = 'here'", "http.listen: expected an IP address and a port, such as \"0.0.0.0:8080\", found \"here\""),
            ("[admin]\nlisten = 9090", "admin.listen: expected an IP address and a port, such as \"0.0.0.0:8080\", found an integer"),
            ("http = 'x'", "http: expected a table, found text"),
            ("http = []", "http: expected a table, found a list"),
            ("log = ['debug']", "log: expected a table, found a list"),
            ("apps = [[5]]", "apps[0]: expected a table, found a list"),
            ("[answers]\n'G.Before' = [1, 'x']", "answers.\"G.Before\": expected a table, found a list"),
            ("colour = []", "colour: unknown key"),
            ("[http]\nconnections_max = -1", "http.connections_max: expected a whole number, found -1"),
            ("[kafka]\ninstance = 5", "kafka.instance: expected text, found an integer"),
            ("[topics]\ndiscard = 'A.B'", "topics.discard: expected a list, found text"),
            ("[topics]\npartitions = 0", "topics.partitions: expected a number from 1 to 65535, found 0"),
            (
                "[log]\nlevel = 'inof'",
                "log.level: expected one of \"error\", \"warn\", \"info\", \"debug\", \"trace\", found \"inof\"; did you mean \"info\"?",
            ),
            ("[log]\nlevel = 1", "log.level: expected text, found an integer"),
            ("[[apps]]\ntokens_file = 'x'", "apps[0].sdk_app_id: is missing"),
            ("[[apps]]\nsdk_app_id = 'x'", "apps[0].sdk_app_id: expected a whole number, found text"),
            ("apps = [5]", "apps[0]: expected a table, found an integer"),
            (
                "[http]\ntrusted_proxies = ['10.0.0.0/8', 'x']",
                "http.trusted_proxies[1]: expected a network, such as \"203.0.113.0/24\", found \"x\"",
            ),
            (
                "[[apps]]\nsdk_app_id = 1\nsources = ['10.0.0.1']",
                "apps[0].sources[0]: expected a network, such as \"203.0.113.0/24\", found \"10.0.0.1\"",
            ),
            ("[kafka.properties]\n'a.b' = []", "kafka.properties.\"a.b\": expected text, a number or a boolean, found a list"),
            ("[answers.'G.Before']\nerror_code = 'x'", "answers.\"G.Before\".error_code: expected a whole number, found text"),
            ("[answers]\n'G.Before' = {}", "answers.\"G.Before\".error_code: is missing"),
        ] {
            assert_eq!(told(toml), [expected], "{toml}");
        }
    }

    #[test]
    fn elements_keep_their_places_when_others_are_taken_out() {
        let toml = "apps = [5, {sdk_app_id = 1}, {}, {sdk_app_id = 2, tokens = 'x'}, 'y']\n[http]\nlisten = 5\nbodymax = 1";
        let extracted = extracted(toml);
        let keys: Vec<String> = extracted.misfits.iter().map(|misfit| misfit.key.to_string()).collect();
        assert_eq!(keys, ["apps[0]", "apps[2].sdk_app_id", "apps[3].tokens", "apps[4]", "http.bodymax", "http.listen"]);
        assert_eq!(extracted.config.apps.iter().map(|app| app.sdk_app_id).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(extracted.before(&Key::of("apps").index(0)), Key::of("apps").index(1));
        assert_eq!(extracted.before(&Key::of("apps").index(1).name("sdk_app_id")), Key::of("apps").index(3).name("sdk_app_id"));
    }

    #[test]
    fn what_may_be_a_secret_is_not_quoted() {
        for toml in ["kafka = 'hunter2'", "[kafka]\nproperties = 'hunter2'", "[kafka.properties]\n'sasl.password' = ['hunter2']"] {
            let told = told(toml);
            assert!(!told.is_empty() && !told.concat().contains("hunter2"), "{told:?}");
        }
    }
}
