//! The layers, lowest first: defaults, the file, the environment.

use std::path::Path;

use figment::providers::Serialized;
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::Config;
use super::key::{Key, Step};
use super::problem::Problem;
use super::variables::{self, Variable};

/// The layers laid over one another, each value still knowing where it comes from.
pub(super) struct Layers {
    figment: Figment,
    /// The merged tree.
    pub(super) tree: Dict,
    /// What could not be read at all.
    pub(super) problems: Vec<Problem>,
    /// Whether the file was read; where it was not, what its absence entails is not worth saying.
    pub(super) complete: bool,
}

impl Layers {
    /// Reads the file, if there is one, and the variables.
    pub(super) fn read(path: Option<&Path>, environment: impl Iterator<Item = (String, String)>) -> Self {
        let (variables, mut problems) = variables::read(environment);
        let mut complete = true;
        let mut figment = Figment::from(Serialized::defaults(Config::default()));
        if let Some(path) = path {
            match File::read(path, &variables) {
                Ok(file) => figment = figment.merge(file),
                Err(problem) => {
                    problems.insert(0, problem);
                    complete = false;
                }
            }
        }
        for variable in variables {
            figment = figment.merge(variable);
        }
        let tree = figment.data().ok().and_then(|mut profiles| profiles.remove(&Profile::Default)).unwrap_or_default();
        Self { figment, tree, problems, complete }
    }

    /// The file or the variable that the setting comes from; of a table's missing key, where the table comes from. `None` for a default.
    pub(super) fn origin(&self, key: &Key) -> Option<String> {
        let (mut table, mut value): (Option<&Dict>, Option<&Value>) = (Some(&self.tree), None);
        for step in key.steps() {
            let inner = match (step, table, value) {
                (Step::Key(name), Some(table), _) => table.get(name),
                (Step::Index(index), _, Some(Value::Array(_, elements))) => elements.get(*index),
                (Step::Key(_) | Step::Index(_), ..) => None,
            };
            let Some(inner) = inner else { break };
            value = Some(inner);
            table = inner.as_dict();
        }
        let metadata = self.figment.get_metadata(value?.tag())?;
        // The layer of defaults bears the name of the type that it is made from.
        (metadata.name != std::any::type_name::<Config>()).then(|| metadata.name.to_string())
    }
}

/// The file's layer.
struct File {
    name: String,
    tree: Dict,
}

impl File {
    /// Reads the file, without what a variable sets whole.
    fn read(path: &Path, variables: &[Variable]) -> Result<Self, Problem> {
        if path.as_os_str().is_empty() {
            let message =
                format!("the name of the configuration file is empty; it comes from `--config` or the variable {}", variables::FILE);
            return Err(Problem { key: String::new(), message, origin: None });
        }
        let name = format!("file {}", path.display());
        let problem = |message: String| Problem { key: String::new(), message, origin: Some(name.clone()) };
        let text = std::fs::read_to_string(path).map_err(|error| problem(format!("failed to read the configuration: {error}")))?;
        let table: toml::Table = toml::from_str(&text).map_err(|error| problem(syntax(&error, &text)))?;
        let mut tree = dict(table);
        for variable in variables.iter().filter(|variable| variable.is_whole()) {
            remove(&mut tree, &variable.path);
        }
        Ok(Self { name, tree })
    }
}

impl Provider for File {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> figment::error::Result<Map<Profile, Dict>> {
        Ok(Map::from([(Profile::Default, self.tree.clone())]))
    }
}

/// What is wrong with the text and where. The error's own `Display` quotes the line, which may hold a secret.
fn syntax(error: &toml::de::Error, text: &str) -> String {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("not TOML at line {line}, column {column}: {}", error.message())
}

/// Takes out what stands at `path`, if anything does.
fn remove(tree: &mut Dict, path: &[String]) {
    match path {
        [] => {}
        [name] => {
            tree.remove(name);
        }
        [name, inner @ ..] => {
            if let Some(Value::Dict(_, table)) = tree.get_mut(name) {
                remove(table, inner);
            }
        }
    }
}

/// The same table in figment's types.
fn dict(table: toml::Table) -> Dict {
    table.into_iter().map(|(name, inner)| (name, value(inner))).collect()
}

/// The same value in figment's types; a moment, which no setting is, as its text.
pub(super) fn value(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => Value::from(text),
        toml::Value::Integer(number) => Value::from(number),
        toml::Value::Float(number) => Value::from(number),
        toml::Value::Boolean(truth) => Value::from(truth),
        toml::Value::Datetime(moment) => Value::from(moment.to_string()),
        toml::Value::Array(elements) => Value::from(elements.into_iter().map(self::value).collect::<Vec<_>>()),
        toml::Value::Table(table) => Value::from(dict(table)),
    }
}
