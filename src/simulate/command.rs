//! The commands that are simulated, and how often each is sent.

use std::fmt;
use std::str::FromStr;

/// A command of Chat that the simulator sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Command {
    /// `Group.CallbackAfterGroupDestroyed`
    GroupDisband,
    /// `Group.CallbackAfterMemberExit`
    MemberExit,
    /// `Group.CallbackAfterGroupFull`
    GroupFull,
}

impl Command {
    /// All of them, in the order of their [`Command::index`].
    pub const ALL: [Self; 3] = [Self::GroupDisband, Self::MemberExit, Self::GroupFull];

    /// Chat's word for it, as it stands in the query and in the body.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::GroupDisband => "Group.CallbackAfterGroupDestroyed",
            Self::MemberExit => "Group.CallbackAfterMemberExit",
            Self::GroupFull => "Group.CallbackAfterGroupFull",
        }
    }

    /// The kind of its event: what a topic's name ends with, and what stands in the event's `type`.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::GroupDisband => "group-disband",
            Self::MemberExit => "member-exit",
            Self::GroupFull => "group-full",
        }
    }

    /// The `type` of its event, version 1.
    #[must_use]
    pub const fn event_type(self) -> &'static str {
        match self {
            Self::GroupDisband => "tencent.chat.group-disband.v1",
            Self::MemberExit => "tencent.chat.member-exit.v1",
            Self::GroupFull => "tencent.chat.group-full.v1",
        }
    }

    /// Its place in [`Command::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::GroupDisband => 0,
            Self::MemberExit => 1,
            Self::GroupFull => 2,
        }
    }

    /// Its letter in the log.
    pub(crate) const fn letter(self) -> char {
        match self {
            Self::GroupDisband => 'd',
            Self::MemberExit => 'e',
            Self::GroupFull => 'f',
        }
    }

    pub(crate) fn from_letter(letter: &str) -> Option<Self> {
        match letter {
            "d" => Some(Self::GroupDisband),
            "e" => Some(Self::MemberExit),
            "f" => Some(Self::GroupFull),
            _ => None,
        }
    }

    fn from_kind(kind: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|command| command.kind() == kind)
    }
}

/// How often each command is sent, relative to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix {
    weights: [u32; 3],
    total: u32,
}

impl Mix {
    /// The command that falls on a draw; draws are below [`Mix::total`].
    #[must_use]
    pub fn command(&self, draw: u32) -> Command {
        let mut rest = draw;
        for (command, weight) in Command::ALL.into_iter().zip(self.weights) {
            if rest < weight {
                return command;
            }
            rest -= weight;
        }
        Command::MemberExit
    }

    /// The weights together; at least 1.
    #[must_use]
    pub const fn total(&self) -> u32 {
        self.total
    }
}

impl Default for Mix {
    /// Members leave more often than groups fill up or are disbanded.
    fn default() -> Self {
        Self { weights: [1, 8, 1], total: 10 }
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (command, weight)) in Command::ALL.into_iter().zip(self.weights).enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(out, "{comma}{}={weight}", command.kind())?;
        }
        Ok(())
    }
}

/// Why a text is no [`Mix`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum MixError {
    /// A part that is not `kind=weight`.
    #[error("\"{0}\" is not KIND=WEIGHT")]
    NoPair(String),
    /// A kind that is not simulated.
    #[error("\"{0}\" is none of group-disband, member-exit, group-full")]
    UnknownKind(String),
    /// A weight that is no number up to a million.
    #[error("the weight of {0} is not a whole number up to 1000000")]
    NoWeight(String),
    /// Nothing would be sent.
    #[error("all weights are zero")]
    Empty,
}

impl FromStr for Mix {
    type Err = MixError;

    /// `member-exit=8,group-full=1`; what is not named is not sent.
    fn from_str(text: &str) -> Result<Self, MixError> {
        const WEIGHT_MAX: u32 = 1_000_000;
        let mut weights = [0_u32; 3];
        for part in text.split(',') {
            let (kind, weight) = part.split_once('=').ok_or_else(|| MixError::NoPair(part.to_owned()))?;
            let command = Command::from_kind(kind.trim()).ok_or_else(|| MixError::UnknownKind(kind.to_owned()))?;
            let weight = weight.trim().parse().ok().filter(|weight| *weight <= WEIGHT_MAX);
            if let Some(slot) = weights.get_mut(command.index()) {
                *slot = weight.ok_or_else(|| MixError::NoWeight(kind.to_owned()))?;
            }
        }
        let total = weights.iter().sum();
        if total == 0 { Err(MixError::Empty) } else { Ok(Self { weights, total }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_has_a_letter_an_index_and_a_kind_of_its_own() {
        for (index, command) in Command::ALL.into_iter().enumerate() {
            assert_eq!(command.index(), index);
            assert_eq!(Command::from_letter(&command.letter().to_string()), Some(command));
            assert_eq!(Command::from_kind(command.kind()), Some(command));
            assert_eq!(command.event_type(), format!("tencent.chat.{}.v1", command.kind()));
        }
    }

    #[test]
    fn a_mix_gives_each_command_its_share() {
        let mix: Mix = "group-full=2, member-exit=3".parse().unwrap();
        let drawn: Vec<_> = (0..mix.total()).map(|draw| mix.command(draw)).collect();
        assert_eq!(drawn, [Command::MemberExit, Command::MemberExit, Command::MemberExit, Command::GroupFull, Command::GroupFull]);
        assert_eq!(mix.to_string(), "group-disband=0,member-exit=3,group-full=2");
        assert_eq!(mix.to_string().parse(), Ok(mix));
    }

    #[test]
    fn what_is_no_mix_is_refused_with_its_reason() {
        for (text, error) in [
            ("", MixError::NoPair(String::new())),
            ("group-full", MixError::NoPair("group-full".to_owned())),
            ("group-fall=1", MixError::UnknownKind("group-fall".to_owned())),
            ("group-full=-1", MixError::NoWeight("group-full".to_owned())),
            ("group-full=4000000000", MixError::NoWeight("group-full".to_owned())),
            ("group-full=0", MixError::Empty),
        ] {
            assert_eq!(text.parse::<Mix>(), Err(error), "{text}");
        }
    }
}
