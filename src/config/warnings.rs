//! What is allowed and probably not meant.

use std::collections::BTreeMap;
use std::path::Path;

use super::problem::Warning;
use super::{Config, Size};

/// What the operator should know of the settings in force. Looks at the file system of `journal.dir`.
#[must_use]
pub fn warnings(config: &Config) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut warn = |key: &str, message: String| warnings.push(Warning { key: key.to_owned(), message });
    if let Some(fault) = file_system(&config.journal.dir).and_then(fault) {
        warn("journal.dir", format!("{} is on {fault}", config.journal.dir.display()));
    }
    for message in metric_names(config) {
        warn("topics", message);
    }
    let needed = Size::from_bytes(config.http.body_max.bytes().saturating_mul(2).saturating_add(Size::from_mib(1).bytes()));
    if config.topics.max_message < needed {
        let message = format!(
            "{} may be too little for the event of a callback of `http.body_max` ({}): with {needed} each fits",
            config.topics.max_message, config.http.body_max
        );
        warn("topics.max_message", message);
    }
    if config.kafka.properties.get("enable.ssl.certificate.verification").is_some_and(|value| value == "false") {
        warn(
            "kafka.properties.\"enable.ssl.certificate.verification\"",
            "anyone between here and the brokers can read and change the events".to_owned(),
        );
    }
    warnings
}

/// Kafka writes `_` for `.` in its metrics' names, and refuses to create a topic whose name then equals another's.
fn metric_names(config: &Config) -> Vec<String> {
    let mut names = vec![config.topics.unrecognized_name(), config.topics.dead_letter_name()];
    names.extend(config.topics.names.values().cloned());
    names.sort();
    names.dedup();
    let mut messages = Vec::new();
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    for name in names {
        if name.contains('.') && name.contains('_') {
            messages.push(format!("the name `{name}` mixes `.` and `_`, which are one character in the names of Kafka's metrics"));
        }
        if let Some(other) = seen.insert(name.replace('.', "_"), name.clone()) {
            messages.push(format!("Kafka will not have both topics `{other}` and `{name}`: in the names of its metrics they are one"));
        }
    }
    messages
}

/// The magic number of the file system that holds `dir`, or would hold it.
#[cfg(target_os = "linux")]
fn file_system(dir: &Path) -> Option<i64> {
    let stat = dir
        .ancestors()
        .map(|path| if path.as_os_str().is_empty() { Path::new(".") } else { path })
        .find_map(|path| rustix::fs::statfs(path).ok())?;
    Some(stat.f_type)
}

#[cfg(not(target_os = "linux"))]
fn file_system(_dir: &Path) -> Option<i64> {
    None
}

/// What a file system of this magic number (`linux/magic.h`) does to a journal, if it does anything.
fn fault(magic: i64) -> Option<&'static str> {
    match magic {
        0x794c_7630 => Some("overlayfs, a container's own layer: its callbacks are lost with the container; mount a volume"),
        0x0102_1994 | 0x8584_58f6 => Some("memory (tmpfs): its callbacks are lost with the machine's next start; mount a disk"),
        0x6969 => Some("NFS: locks and syncs are only as good as the server's; use a disk of this machine"),
        0xff53_4d42 | 0xfe53_4d42 => Some("SMB: locks and syncs are only as good as the server's; use a disk of this machine"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_file_systems_that_lose_callbacks_are_told() {
        const EXT4: i64 = 0xef53;
        const XFS: i64 = 0x5846_5342;
        assert_eq!(fault(EXT4), None);
        assert_eq!(fault(XFS), None);
        assert!(fault(0x0102_1994).is_some_and(|fault| fault.contains("tmpfs")));
        assert!(fault(0x794c_7630).is_some_and(|fault| fault.contains("overlayfs")));
        assert!(fault(0x6969).is_some_and(|fault| fault.contains("NFS")));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_folder_that_is_not_there_yet_is_judged_by_what_will_hold_it() {
        assert_eq!(file_system(Path::new("/dev/shm/no/such/folder")), file_system(Path::new("/dev/shm")));
        assert!(file_system(Path::new("no-such-folder")).is_some());
        let mut config = Config::default();
        config.journal.dir = "/dev/shm/chat-bridge-that-is-not-there".into();
        assert_eq!(warnings(&config).iter().map(|warning| warning.key.as_str()).collect::<Vec<_>>(), ["journal.dir"]);
    }

    #[test]
    fn names_that_kafka_would_take_for_one_are_told() {
        let mut config = Config::default();
        config.topics.names.insert("A.B".to_owned(), "chat_unrecognized".to_owned());
        config.topics.names.insert("A.C".to_owned(), "chat.c_d".to_owned());
        let messages = metric_names(&config);
        assert_eq!(messages.len(), 2, "{messages:?}");
        assert!(messages[0].contains("`chat.c_d` mixes"));
        assert!(messages[1].contains("both topics `chat.unrecognized` and `chat_unrecognized`"));
    }

    #[test]
    fn what_leaves_too_little_room_or_too_much_trust_is_told() {
        let mut config = Config::default();
        config.journal.dir = "/".into();
        config.http.body_max = Size::from_mib(5);
        config.kafka.properties.insert("enable.ssl.certificate.verification".to_owned(), "false".to_owned());
        let told = warnings(&config);
        assert!(told.iter().any(|warning| warning.key == "topics.max_message" && warning.message.contains("11MiB")), "{told:?}");
        assert!(told.iter().any(|warning| warning.key.contains("verification")), "{told:?}");
    }
}
