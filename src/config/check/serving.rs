//! What `serve` needs beyond settings that are right: an app, a folder, and the files that they name.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use super::{Findings, PARTITION_MAX, is_partition};
use crate::config::key::Key;
use crate::config::{Config, Delivery, Endpoint, Security};
use crate::reload::read_limited;

/// The largest file of tokens or a secret: more is a file of something else.
const SECRET_MAX_BYTES: u64 = 1 << 20;

/// What is missing of it.
pub(in crate::config) fn serving(config: &Config) -> Findings {
    let mut found = Findings::default();
    if let Some(fault) = no_folder(&config.journal.dir) {
        found.add(Key::of("journal.dir"), fault);
    }
    if config.apps.is_empty() {
        found.add(Key::of("apps"), "at least one is needed, for callbacks of any other app are refused: [[apps]] sdk_app_id = ...");
    }
    if let Some(path) = config.admin.token_file.as_ref().filter(|path| !path.as_os_str().is_empty())
        && let Err(fault) = read_secret(path)
    {
        found.add(Key::of("admin.token_file"), fault);
    }
    let tls = config.http.tls.iter().flat_map(|tls| {
        [("certificate", Some(&tls.certificate)), ("private_key", Some(&tls.private_key)), ("client_ca", tls.client_ca.as_ref())]
    });
    for (name, path) in tls.filter_map(|(name, path)| Some((name, path?))) {
        if let Err(fault) = read_secret(path) {
            found.add(Key::of("http.tls").name(name), fault);
        }
    }
    for (index, app) in config.apps.iter().enumerate() {
        if let Some(path) = &app.tokens_file
            && let Err(fault) = read_secret(path)
        {
            found.add(Key::of("apps").index(index).name("tokens_file"), fault);
        }
    }
    // One that is set has been looked at with the settings.
    let ordinal = if config.kafka.instance.is_none() { config.kafka.known_instance() } else { Some("0".to_owned()) };
    if config.kafka.delivery == Delivery::ExactlyOnce && !ordinal.as_deref().is_some_and(is_partition) {
        let message = format!(
            "is needed for exactly-once, as the host's name ends in no number up to {PARTITION_MAX}; two bridges of one number would stop each other"
        );
        found.add_between([Key::of("kafka.instance"), Key::of("kafka.delivery")], message);
    }
    for (name, path) in &config.kafka.secret_files {
        if let Err(fault) = read_secret(path) {
            found.add(Key::of("kafka.secret_files").name(name), fault);
        }
    }
    if let Some(endpoint) = config.tracing.otlp_endpoint.as_deref().and_then(|url| Endpoint::parse(url).ok()) {
        let authorities = (endpoint.security == Security::Tls).then_some(&config.tracing.ca_file);
        for (name, path) in [("headers_file", config.tracing.headers_file.as_ref()), ("ca_file", authorities)] {
            if let Some(Err(fault)) = path.filter(|path| !path.as_os_str().is_empty()).map(|path| read_secret(path)) {
                found.add(Key::of("tracing").name(name), fault);
            }
        }
    }
    for (name, path) in &config.kafka.properties {
        // librdkafka also takes the word `probe`, and folders.
        let names_a_file = name.ends_with(".location") && path.starts_with('/');
        if names_a_file && let Err(error) = fs::metadata(path) {
            found.add(Key::of("kafka.properties").name(name), format!("failed to read the file {path}: {error}"));
        }
    }
    found
}

/// Why there can be no folder of this name; nothing where there is one, or can be made one as far as can be seen from here.
fn no_folder(path: &Path) -> Option<String> {
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_dir() => Some(format!("{} is no folder", path.display())),
        Err(error) if error.kind() == ErrorKind::NotADirectory => Some(format!("{}: {error}", path.display())),
        Ok(_) | Err(_) => None,
    }
}

/// Whether the file can be read and holds something, or why not. A path that is not absolute may be a secret written in the wrong place, so it is
/// not quoted.
fn read_secret(path: &Path) -> Result<(), String> {
    let named = if path.is_absolute() { format!(" {}", path.display()) } else { String::new() };
    let failed = |error: io::Error| format!("failed to read the file{named}: {error}");
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(format!("the file{named} is not a regular file"));
    }
    let text = read_limited(path, SECRET_MAX_BYTES).map_err(failed)?;
    if text.trim_ascii().is_empty() { Err(format!("the file{named} holds nothing")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_blanks_holds_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        for (text, right) in [("", false), (" \n\r\n", false), ("\nabc\n", true)] {
            fs::write(&path, text).unwrap();
            assert_eq!(read_secret(&path).is_ok(), right, "{text:?}");
        }
    }
}
