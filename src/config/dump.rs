//! The configuration in force, as text that reads back as the same configuration.

use super::Config;

impl Config {
    /// As TOML. Secrets are in files and so not in it.
    ///
    /// # Errors
    /// Where a number does not fit TOML's 64 signed bits, which nothing that was read from TOML can be.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string_pretty(self)
    }

    /// As JSON.
    ///
    /// # Errors
    /// Never, for all keys are text; the library's signature has it.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self)
    }
}
