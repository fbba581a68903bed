//! The keys that there are, asked of the section structs themselves, and the one that a misspelt key probably meant.

use figment::error::{Error, Kind};
use figment::value::{Dict, Value};
use serde::Deserialize;

use super::Config;

/// A name that no section has, so that serde answers with those that it has.
const NO_NAME: &str = "\u{0}";

/// How alike two names must be for the one to be offered for the other.
const ALIKE_MIN: f64 = 0.7;

/// The letters in which a misspelt command may differ.
const SLIPS_MAX: usize = 2;

/// How long a name must be for a key that begins or ends with it to be offered.
const PART_MIN: usize = 4;

/// The names in the table at `path`; none where a value or a table with free keys stands there.
fn names(path: &[&str]) -> &'static [&'static str] {
    let probe = Dict::from([(NO_NAME.to_owned(), Value::from(0))]);
    let tree = path.iter().rev().fold(probe, |inner, name| Dict::from([((*name).to_owned(), Value::from(inner))]));
    match Config::deserialize(&Value::from(tree)) {
        Err(Error { kind: Kind::UnknownField(name, expected), .. }) if name == NO_NAME => expected,
        Ok(_) | Err(_) => &[],
    }
}

/// Whether the root has a key of that name.
pub(super) fn is_section(name: &str) -> bool {
    names(&[]).contains(&name)
}

/// Every key outside of lists and of tables with free keys, with its dots.
fn dotted() -> Vec<String> {
    let mut keys = Vec::new();
    for section in names(&[]) {
        keys.push((*section).to_owned());
        keys.extend(names(&[section]).iter().map(|name| format!("{section}.{name}")));
    }
    keys
}

/// The key that `name` in the table `table` (dotted; empty for the root) was probably meant to be. `siblings` are the names that the table has.
pub(super) fn nearest(table: &str, name: &str, siblings: &[&str]) -> Option<String> {
    let join = |sibling: &str| if table.is_empty() { sibling.to_owned() } else { format!("{table}.{sibling}") };
    let lower = name.to_lowercase().replace('-', "_");
    let near = siblings.iter().map(|sibling| {
        let part = lower.len() >= PART_MIN && (sibling.starts_with(&lower) || sibling.ends_with(&lower));
        (if part { 0.98 } else { strsim::normalized_damerau_levenshtein(&lower, sibling) }, join(sibling))
    });
    let written = join(&lower);
    let far = dotted().into_iter().map(|key| {
        // A key in the wrong section, or with one underscore for the dot, is as near as its name is.
        let astray = key.rsplit('.').next() == Some(lower.as_str()) || key.replace('.', "_") == lower;
        (if astray { 0.99 } else { strsim::normalized_damerau_levenshtein(&written, &key) }, key)
    });
    near.chain(far).filter(|(alike, _)| *alike >= ALIKE_MIN).max_by(|(one, _), (other, _)| one.total_cmp(other)).map(|(_, key)| key)
}

/// That one of `expected` which `name` was probably meant to be.
pub(super) fn nearest_of<'a>(name: &str, expected: &[&'a str]) -> Option<&'a str> {
    let lower = name.to_lowercase();
    let alike = expected.iter().map(|one| (strsim::normalized_damerau_levenshtein(&lower, one), *one));
    alike.filter(|(alike, _)| *alike >= ALIKE_MIN).max_by(|(one, _), (other, _)| one.total_cmp(other)).map(|(_, one)| one)
}

/// Whether `name` is probably a slip of the pen for `meant`: the names of Chat's commands are alike, but never by so few letters.
pub(super) fn is_slip(name: &str, meant: &str) -> bool {
    let (name, meant) = (name.to_lowercase(), meant.to_lowercase());
    strsim::damerau_levenshtein(&name, &meant) <= SLIPS_MAX || meant.split_once('.').is_some_and(|(_, rest)| rest == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_section_tells_its_keys() {
        let keys = dotted();
        for key in ["http", "http.body_max", "kafka.instance", "topics.dead_letter", "log.format", "journal.answer_max", "apps", "answers"]
        {
            assert!(keys.iter().any(|known| known == key), "{key} is not in {keys:?}");
        }
        assert!(!keys.iter().any(|key| key.starts_with("answers.") || key.starts_with("kafka.properties.")));
    }

    #[test]
    fn a_misspelt_key_finds_its_neighbour() {
        for (table, name, nearest_key) in [
            ("http", "body_mx", Some("http.body_max")),
            ("http", "body-max", Some("http.body_max")),
            ("", "htttp", Some("http")),
            ("", "body_max", Some("http.body_max")),
            ("", "http_listen", Some("http.listen")),
            ("http", "timeout", Some("http.idle_timeout")),
            ("kafka", "partitions", Some("topics.partitions")),
            ("http", "colour", None),
        ] {
            let path: Vec<&str> = if table.is_empty() { Vec::new() } else { vec![table] };
            assert_eq!(nearest(table, name, names(&path)).as_deref(), nearest_key, "{table} {name}");
        }
    }
}
