//! Where a setting stands: `http.body_max`, `apps[1].sdk_app_id`, `kafka.properties."sasl.mechanism"`.

use std::fmt;

/// One step from a table or a list to what is inside.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// A table's key.
    Key(String),
    /// A list's element, the first being 0.
    Index(usize),
}

/// The way from the root of the tree to a setting.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key(Vec<Step>);

impl Key {
    /// A key whose names hold no dots themselves, as it is written: `http.body_max`.
    pub(super) fn of(dotted: &str) -> Self {
        Self(dotted.split('.').map(|name| Step::Key(name.to_owned())).collect())
    }

    /// What stands under `name` inside.
    pub(super) fn name(mut self, name: &str) -> Self {
        self.0.push(Step::Key(name.to_owned()));
        self
    }

    /// The element at `index` inside.
    pub(super) fn index(mut self, index: usize) -> Self {
        self.0.push(Step::Index(index));
        self
    }

    /// What holds it; the root holds itself.
    pub(super) fn parent(mut self) -> Self {
        self.0.pop();
        self
    }

    /// The steps from the root.
    pub(super) fn steps(&self) -> &[Step] {
        &self.0
    }

    /// Whether one of the two holds the other, or they are the same.
    pub(super) fn touches(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0) || other.0.starts_with(&self.0)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (depth, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(out, "[{index}]")?,
                Step::Key(name) => {
                    if depth > 0 {
                        out.write_str(".")?;
                    }
                    let bare = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
                    if bare { out.write_str(name)? } else { write!(out, "{name:?}")? }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_written_as_toml_would() {
        for (key, text) in [
            (Key::of("http.body_max"), "http.body_max"),
            (Key::of("apps").index(1).name("sdk_app_id"), "apps[1].sdk_app_id"),
            (Key::of("kafka.properties").name("sasl.mechanism"), "kafka.properties.\"sasl.mechanism\""),
            (Key::of("answers").name(""), "answers.\"\""),
        ] {
            assert_eq!(key.to_string(), text);
        }
    }

    #[test]
    fn a_table_touches_what_it_holds_and_nothing_else() {
        assert!(Key::of("http").touches(&Key::of("http.listen")));
        assert!(Key::of("http.listen").touches(&Key::of("http")));
        assert!(!Key::of("http.listen").touches(&Key::of("http.body_max")));
    }
}
