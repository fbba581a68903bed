//! The commands that the bridge knows, each a description that a table holds.

use std::borrow::Cow;

use super::{group, json};

/// What the bridge knows of one command. A family's file is a table of these.
#[derive(Debug, PartialEq, Eq)]
pub struct Command {
    /// Chat's name of it, e.g. `Group.CallbackAfterMemberExit`.
    pub name: &'static str,
    /// Our name of what it reports, e.g. `member-exit`: unique, and part of the topic's name and the event's type.
    pub kind: &'static str,
    /// The fields of its body in the order in which the event's data has them; at most [`FIELDS_MAX`]. `CallbackCommand` and `EventTime`, which
    /// stand in the envelope, are not among them.
    pub fields: &'static [Field],
}

/// One field of a command's body.
#[derive(Debug, PartialEq, Eq)]
pub struct Field {
    /// Chat's name of it.
    pub theirs: &'static str,
    /// Our name of it, in the event's data.
    pub ours: &'static str,
    /// What stands there.
    pub shape: Shape,
}

/// What a field holds, on their side and on ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// The group's id: text, required, not empty, standing once.
    GroupId,
    /// Text, passed on as it is.
    Text,
    /// One of Chat's words, passed on in lower case.
    Word,
    /// A list of accounts, each a text or an object whose member of this name is one; passed on as a list of texts.
    Accounts(&'static str),
}

/// The most fields that a command may have.
pub const FIELDS_MAX: usize = 16;

/// A body's `CallbackCommand` longer than this is not taken for a command: it would be repeated in headers and attributes.
pub const BODY_COMMAND_BYTES_MAX: usize = 256;

const FAMILIES: &[&[Command]] = &[group::COMMANDS];

/// Every command that the bridge knows.
pub fn commands() -> impl Iterator<Item = &'static Command> {
    FAMILIES.iter().copied().flatten()
}

/// The command of that name, if the bridge knows it.
#[must_use]
pub fn find(name: &str) -> Option<&'static Command> {
    commands().find(|command| command.name == name)
}

/// Whether Chat waits for the answer's decision: `...Before...` and `Sns.CallbackPrev...`.
#[must_use]
pub fn is_before(name: &str) -> bool {
    name.contains("Before") || name.starts_with("Sns.CallbackPrev")
}

/// The command that a body names, for a callback whose query names none.
///
/// A body that is not JSON, or names its command twice, or by more than [`BODY_COMMAND_BYTES_MAX`] bytes, names none.
#[must_use]
pub fn command_in(body: &[u8]) -> Option<String> {
    let mut found = None;
    let mut count = 0_u32;
    json::read(body, |name, value| {
        if name.is("CallbackCommand") {
            count += 1;
            found = json::text(value);
        }
    })
    .ok()?;
    found.filter(|command| count == 1 && command.len() <= BODY_COMMAND_BYTES_MAX).map(Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_and_kinds_are_unique_and_fit_their_uses() {
        let mut names = BTreeSet::new();
        let mut kinds = BTreeSet::from(["unrecognized", "dead-letter"]);
        for command in commands() {
            assert!(names.insert(command.name), "{} stands twice", command.name);
            assert!(kinds.insert(command.kind), "{} stands twice", command.kind);
            assert!(command.kind.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{}", command.kind);
            assert!(command.fields.len() <= FIELDS_MAX, "{}", command.name);
            let mut ours = BTreeSet::from(["extra"]);
            let mut theirs = BTreeSet::from(["CallbackCommand", "EventTime"]);
            for field in command.fields {
                assert!(ours.insert(field.ours) && theirs.insert(field.theirs), "{} of {} stands twice", field.ours, command.name);
                assert_eq!(field.shape == Shape::GroupId, field.theirs == "GroupId", "{}", command.name);
            }
        }
        assert!(names.len() >= 3);
    }

    #[test]
    fn a_command_is_found_by_its_exact_name() {
        assert_eq!(find("Group.CallbackAfterGroupFull").map(|command| command.kind), Some("group-full"));
        assert_eq!(find("group.callbackaftergroupfull"), None);
        assert_eq!(find(""), None);
    }

    #[test]
    fn chat_waits_for_before_commands_only() {
        for (name, before) in [
            ("Group.CallbackBeforeSendMsg", true),
            ("OfficialAccount.CallbackBeforeCreateOfficialAccount", true),
            ("Sns.CallbackPrevFriendAdd", true),
            ("Sns.CallbackFriendAdd", false),
            ("Group.CallbackAfterSendMsg", false),
            ("", false),
        ] {
            assert_eq!(is_before(name), before, "{name}");
        }
    }

    #[test]
    fn a_body_names_its_command_once_and_shortly() {
        let long = format!(r#"{{"CallbackCommand":"{}"}}"#, "x".repeat(BODY_COMMAND_BYTES_MAX + 1));
        for (body, command) in [
            (r#"{"CallbackCommand":"C.d"}"#, Some("C.d")),
            (r#"{"x":{"CallbackCommand":"no"},"Callback\u0043ommand":"C\u002ed"}"#, Some("C.d")),
            (r#"{"CallbackCommand":"C.d","CallbackCommand":"C.d"}"#, None),
            (r#"{"CallbackCommand":5}"#, None),
            (r#"["CallbackCommand"]"#, None),
            (r#"{"CallbackCommand":"C.d""#, None),
            (&long, None),
            ("", None),
        ] {
            assert_eq!(command_in(body.as_bytes()).as_deref(), command, "{body}");
        }
    }
}
