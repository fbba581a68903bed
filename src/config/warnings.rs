//! What is allowed and probably not meant.

use std::collections::BTreeMap;
use std::path::Path;

use super::key::Key;
use super::problem::Warning;
use super::{Config, Delivery, KnownCommand, Size, Topics, known as names};

/// What the operator should know of the settings in force. Looks at the file system of `journal.dir`.
#[must_use]
pub fn warnings(config: &Config, known: &[KnownCommand<'_>]) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut warn = |key: &str, message: String| warnings.push(Warning { key: key.to_owned(), message });
    if let Some(fault) = file_system(&config.journal.dir).and_then(fault) {
        warn("journal.dir", format!("{} is on {fault}", config.journal.dir.display()));
    }
    for message in metric_names(&config.topics, known) {
        warn("topics", message);
    }
    for (key, message) in misspelt(config, known).into_iter().chain(shared(&config.topics, known)) {
        warn(&key, message);
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
fn metric_names(topics: &Topics, known: &[KnownCommand<'_>]) -> Vec<String> {
    let mixes = |name: &str| name.contains('.') && name.contains('_');
    let mut messages = Vec::new();
    let why = "mixes `.` and `_`, which are one character in the names of Kafka's metrics";
    if mixes(&topics.prefix) {
        messages.push(format!("the prefix `{}` {why}", topics.prefix));
    }
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    for name in topics.all_names(known) {
        if mixes(&name) && !(mixes(&topics.prefix) && name.starts_with(&topics.prefix)) {
            messages.push(format!("the name `{name}` {why}"));
        }
        if let Some(other) = seen.insert(name.replace('.', "_"), name.clone()) {
            messages.push(format!("Kafka will not have both topics `{other}` and `{name}`: in the names of its metrics they are one"));
        }
    }
    messages
}

/// Names of commands that are almost those of known ones, and settings of topics that there are not. Both do nothing, silently.
fn misspelt(config: &Config, known: &[KnownCommand<'_>]) -> Vec<(String, String)> {
    let topics = &config.topics;
    let is_known = |name: &str| known.iter().any(|command| command.name == name);
    let commands = topics.discard.iter().map(|name| (Key::of("topics.discard"), name));
    let commands = commands.chain(topics.names.keys().map(|name| (Key::of("topics.names").name(name), name)));
    let near = commands.filter(|(_, name)| !is_known(name)).filter_map(|(key, name)| {
        let near = known.iter().find(|command| names::is_slip(name, command.name))?;
        Some((key.to_string(), format!("the bridge knows no command `{name}`; did you mean `{}`?", near.name)))
    });
    let all = topics.all_names(known);
    let positions = (config.kafka.delivery == Delivery::ExactlyOnce).then_some(config.kafka.positions_topic.as_str());
    let all: Vec<&str> = all.iter().map(String::as_str).chain(positions).collect();
    let unused = topics.config.keys().filter(|name| !all.contains(&name.as_str())).map(|name| {
        let meant = names::nearest_of(name, &all).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        (Key::of("topics.config").name(name).to_string(), format!("there is no such topic by these settings{meant}"))
    });
    near.chain(unused).collect()
}

/// The topic of unrecognized commands that a known one has too: its consumers would read what they do not expect.
fn shared(topics: &Topics, known: &[KnownCommand<'_>]) -> Option<(String, String)> {
    let name = topics.unrecognized_name();
    let command = known.iter().find(|command| topics.name_of(**command) == name)?;
    Some(("topics.unrecognized".to_owned(), format!("`{name}` is the topic of `{}` too", command.name)))
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

    const KNOWN: [KnownCommand<'_>; 2] = [
        KnownCommand { name: "Group.CallbackAfterMemberExit", kind: "member-exit" },
        KnownCommand { name: "Group.CallbackAfterGroupFull", kind: "group-full" },
    ];

    /// What is said of these topics by their keys.
    fn told(change: impl FnOnce(&mut Topics)) -> Vec<String> {
        let mut config = Config::default();
        config.journal.dir = "/".into();
        change(&mut config.topics);
        warnings(&config, &KNOWN).iter().map(ToString::to_string).filter(|line| line.starts_with("topics")).collect()
    }

    #[test]
    fn settings_that_do_nothing_because_a_name_is_misspelt_are_told() {
        for (name, meant) in [
            ("Group.CallbackAfterMemberExits", Some("Group.CallbackAfterMemberExit")),
            ("group.callbackafterGroupFul", Some("Group.CallbackAfterGroupFull")),
            ("CallbackAfterGroupFull", Some("Group.CallbackAfterGroupFull")),
            ("Group.CallbackAfterGroupFull", None),
            ("Group.CallbackAfterNewMemberJoin", None),
            ("Group.CallbackAfterMemberMute", None),
        ] {
            let expected = |key: &str| meant.map(|meant| format!("{key}: the bridge knows no command `{name}`; did you mean `{meant}`?"));
            assert_eq!(told(|topics| topics.discard = [name.to_owned()].into()), Vec::from_iter(expected("topics.discard")));
            let named = told(|topics| topics.names = [(name.to_owned(), "other".to_owned())].into());
            assert_eq!(named, Vec::from_iter(expected(&Key::of("topics.names").name(name).to_string())));
        }
    }

    #[test]
    fn settings_of_a_topic_that_nothing_uses_are_told() {
        for (name, message) in [
            ("chat.group-full", None),
            ("chat.dead-letter", None),
            ("chat.group-ful", Some("there is no such topic by these settings; did you mean `chat.group-full`?")),
            ("x", Some("there is no such topic by these settings")),
        ] {
            let told = told(|topics| topics.config = [(name.to_owned(), BTreeMap::new())].into());
            let expected = message.map(|message| format!("{}: {message}", Key::of("topics.config").name(name)));
            assert_eq!(told, Vec::from_iter(expected));
        }
    }

    #[test]
    fn settings_of_the_positions_topic_are_used_with_exactly_once_alone() {
        let mut config = Config::default();
        config.topics.config = [(config.kafka.positions_topic.clone(), BTreeMap::new())].into();
        let mut told = |delivery| {
            config.kafka.delivery = delivery;
            misspelt(&config, &KNOWN).len()
        };
        assert_eq!((told(Delivery::ExactlyOnce), told(Delivery::AtLeastOnce)), (0, 1));
    }

    #[test]
    fn a_topic_of_unrecognized_commands_that_is_a_known_one_s_is_told() {
        let told = told(|topics| topics.unrecognized = Some("chat.member-exit".to_owned()));
        assert_eq!(told, ["topics.unrecognized: `chat.member-exit` is the topic of `Group.CallbackAfterMemberExit` too"]);
    }

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
        assert_eq!(warnings(&config, &[]).iter().map(|warning| warning.key.as_str()).collect::<Vec<_>>(), ["journal.dir"]);
    }

    #[test]
    fn names_that_kafka_would_take_for_one_are_told() {
        let mut config = Config::default();
        config.topics.names.insert("A.B".to_owned(), "chat_unrecognized".to_owned());
        config.topics.names.insert("A.C".to_owned(), "chat.c_d".to_owned());
        config.topics.names.insert("A.D".to_owned(), "chat_member-exit".to_owned());
        let messages = metric_names(&config.topics, &KNOWN);
        assert_eq!(messages.len(), 3, "{messages:?}");
        assert!(messages[0].contains("`chat.c_d` mixes"));
        assert!(messages[1].contains("both topics `chat.member-exit` and `chat_member-exit`"), "{messages:?}");
        assert!(messages[2].contains("both topics `chat.unrecognized` and `chat_unrecognized`"));
        config.topics = Topics { prefix: "im_chat.".to_owned(), ..Topics::default() };
        let messages = metric_names(&config.topics, &KNOWN);
        assert!(messages.len() == 1 && messages[0].starts_with("the prefix `im_chat.` mixes"), "{messages:?}");
    }

    #[test]
    fn what_leaves_too_little_room_or_too_much_trust_is_told() {
        let mut config = Config::default();
        config.journal.dir = "/".into();
        config.http.body_max = Size::from_mib(5);
        config.kafka.properties.insert("enable.ssl.certificate.verification".to_owned(), "false".to_owned());
        let told = warnings(&config, &KNOWN);
        assert!(told.iter().any(|warning| warning.key == "topics.max_message" && warning.message.contains("11MiB")), "{told:?}");
        assert!(told.iter().any(|warning| warning.key.contains("verification")), "{told:?}");
    }
}
