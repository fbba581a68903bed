//! From a command to its stream, and from a stream to its topic.
//!
//! A *stream* is a logical topic: the events of one kind (`member-exit`), `unrecognized`, `dead-letter`, or `command:NAME` for a command that has a
//! topic by configuration alone. Its name is stable, whatever its topic is called; checkpoints name streams and never topics, so that a topic can
//! be renamed while its records wait. Several streams may have one topic. Nothing here changes after [`Routing::new`].

use std::collections::{BTreeSet, HashMap};

use crate::callback::{self, Command};
use crate::config;

/// The stream of commands that have none of their own.
const UNRECOGNIZED: &str = "unrecognized";
/// The stream of what no stream of its own could take.
const DEAD_LETTER: &str = "dead-letter";
/// What the name of a stream begins with that only the configuration knows; its command follows.
const COMMAND: &str = "command:";

/// Kafka's limit of a topic's name.
const TOPIC_NAME_BYTES_MAX: usize = 249;

/// One stream of one [`Routing`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(usize);

/// One topic of one [`Routing`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(usize);

/// A topic that the configuration names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name in Kafka.
    pub name: String,
    /// The streams that it takes, one or more.
    pub streams: Vec<StreamId>,
}

/// Why Kafka takes no topic of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicNameError {
    /// It is empty.
    #[error("a topic's name is not empty")]
    Empty,
    /// It is too long.
    #[error("a topic's name has at most {TOPIC_NAME_BYTES_MAX} characters")]
    TooLong,
    /// It is `.` or `..`.
    #[error("a topic's name is neither \".\" nor \"..\"")]
    Dots,
    /// It holds something else than ASCII letters, digits, dot, underscore and hyphen.
    #[error("a topic's name has only the characters a-z A-Z 0-9 . _ -")]
    Character,
}

/// Where the events of each command go.
#[derive(Clone, Debug)]
pub struct Routing {
    streams: Vec<Stream>,
    topics: Vec<Topic>,
    by_command: HashMap<String, StreamId>,
    unrecognized: StreamId,
    dead_letter: StreamId,
    discarded: BTreeSet<String>,
}

#[derive(Clone, Debug)]
struct Stream {
    name: String,
    topic: TopicId,
    command: Option<&'static Command>,
}

impl StreamId {
    /// Its place among [`Routing::streams`], and in a vector with one item a stream.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0
    }
}

impl TopicId {
    /// Its place among [`Routing::topics`], and in a vector with one item a topic.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0
    }
}

impl Routing {
    /// The routing of a configuration. Names that Kafka does not take are passed on: [`check_topic_name`] is for the configuration's check.
    #[must_use]
    pub fn new(topics: &config::Topics) -> Self {
        Self::of(topics, callback::commands())
    }

    fn of(config: &config::Topics, known: impl Iterator<Item = &'static Command>) -> Self {
        let named = |own: Option<&String>, kind: &str| own.cloned().unwrap_or_else(|| format!("{}{kind}", config.prefix));
        let mut routing = Self {
            streams: Vec::new(),
            topics: Vec::new(),
            by_command: HashMap::new(),
            unrecognized: StreamId(0),
            dead_letter: StreamId(0),
            discarded: config.discard.clone(),
        };
        for command in known {
            let topic = named(config.names.get(command.name), command.kind);
            let stream = routing.add(command.kind.to_owned(), topic, Some(command));
            routing.by_command.insert(command.name.to_owned(), stream);
        }
        routing.unrecognized = routing.add(UNRECOGNIZED.to_owned(), named(config.unrecognized.as_ref(), UNRECOGNIZED), None);
        routing.dead_letter = routing.add(DEAD_LETTER.to_owned(), named(config.dead_letter.as_ref(), DEAD_LETTER), None);
        for (name, topic) in &config.names {
            // A callback without a command is unrecognized, whatever is configured.
            if !name.is_empty() && !routing.by_command.contains_key(name) {
                let stream = routing.add(format!("{COMMAND}{name}"), topic.clone(), None);
                routing.by_command.insert(name.clone(), stream);
            }
        }
        routing
    }

    fn add(&mut self, name: String, topic: String, command: Option<&'static Command>) -> StreamId {
        let stream = StreamId(self.streams.len());
        let id = if let Some(at) = self.topics.iter().position(|known| known.name == topic) {
            TopicId(at)
        } else {
            self.topics.push(Topic { name: topic, streams: Vec::new() });
            TopicId(self.topics.len() - 1)
        };
        if let Some(topic) = self.topics.get_mut(id.0) {
            topic.streams.push(stream);
        }
        self.streams.push(Stream { name, topic: id, command });
        stream
    }

    /// The stream of a command's events; that of the unrecognized ones where it has none of its own.
    #[must_use]
    pub fn stream(&self, command: &str) -> StreamId {
        self.by_command.get(command).copied().unwrap_or(self.unrecognized)
    }

    /// What the bridge knows of the stream's command; `None` for `unrecognized`, `dead-letter` and `command:NAME`.
    #[must_use]
    pub fn command(&self, stream: StreamId) -> Option<&'static Command> {
        self.get(stream).command
    }

    /// All streams, in the order of [`StreamId::index`].
    pub fn streams(&self) -> impl ExactSizeIterator<Item = StreamId> + use<> {
        (0..self.streams.len()).map(StreamId)
    }

    /// The name by which checkpoints know a stream.
    #[must_use]
    pub fn stream_name(&self, stream: StreamId) -> &str {
        &self.get(stream).name
    }

    /// The topic of a stream.
    #[must_use]
    pub fn topic_of(&self, stream: StreamId) -> TopicId {
        self.get(stream).topic
    }

    /// All topics, each once, in the order of [`TopicId::index`].
    #[must_use]
    pub fn topics(&self) -> &[Topic] {
        &self.topics
    }

    /// The topic of a place in [`Routing::topics`]; `None` behind their end.
    #[must_use]
    pub fn topic_at(&self, index: usize) -> Option<TopicId> {
        (index < self.topics.len()).then_some(TopicId(index))
    }

    /// One topic.
    #[must_use]
    #[expect(clippy::indexing_slicing, reason = "an id is made by this routing, whose topics never change")]
    pub fn topic(&self, topic: TopicId) -> &Topic {
        &self.topics[topic.0]
    }

    /// The stream of commands that have none of their own.
    #[must_use]
    pub const fn unrecognized(&self) -> StreamId {
        self.unrecognized
    }

    /// The stream of dead letters.
    #[must_use]
    pub const fn dead_letter(&self) -> StreamId {
        self.dead_letter
    }

    /// Whether a command's callbacks are answered and counted, neither kept nor published.
    #[must_use]
    pub fn is_discarded(&self, command: &str) -> bool {
        self.discarded.contains(command)
    }

    /// Whether events of any of a topic's streams are published; else the configuration discards them all.
    #[must_use]
    pub fn is_published(&self, topic: &Topic) -> bool {
        topic.streams.iter().any(|stream| self.command(*stream).is_none_or(|command| !self.is_discarded(command.name)))
    }

    /// The names of all topics, as the metrics' labels.
    #[must_use]
    pub fn topic_labels(&self) -> Vec<&str> {
        self.topics.iter().map(|topic| topic.name.as_str()).collect()
    }

    #[expect(clippy::indexing_slicing, reason = "an id is made by this routing, whose streams never change")]
    fn get(&self, stream: StreamId) -> &Stream {
        &self.streams[stream.0]
    }
}

/// What checkpoints say of streams.
///
/// A checkpoint says up to which LSN the journal was read (`scanned`) and, of each stream that lacks records below it, the first one that it
/// lacks. Which stream a record belongs to depends on the configuration and on the commands that this version knows, and both may have changed since
/// the checkpoint was written. The rule: **no record is passed over, whatever changed**; where a checkpoint leaves it open what a topic
/// has, records are published again (with the same ids) rather than not at all.
impl Routing {
    /// What a checkpoint has to list: each stream whose position is below `scanned`. Where `unrecognized` or `dead-letter` is among them, every
    /// stream is listed, so that [`Routing::positions_from`] can tell a stream that lacks nothing from one that did not exist.
    ///
    /// `positions` holds one LSN a stream in the order of [`Routing::streams`]; one that is missing counts as `scanned`.
    #[must_use]
    pub fn behind(&self, positions: &[u64], scanned: u64) -> Vec<(String, u64)> {
        let position = |stream: StreamId| positions.get(stream.0).map_or(scanned, |position| scanned.min(*position));
        let all = position(self.unrecognized) < scanned || position(self.dead_letter) < scanned;
        let listed = self.streams().filter(|stream| all || position(*stream) < scanned);
        listed.map(|stream| (self.stream_name(stream).to_owned(), position(stream))).collect()
    }

    /// The position of each stream, in the order of [`Routing::streams`], that a checkpoint means for this routing.
    ///
    /// - A stream that is listed has the position that is listed.
    /// - `command:NAME` that is not listed may be new: its records may be among those that `unrecognized` lacks, so it takes that position.
    /// - A kind that is not listed may be of a command that is newly known: it takes the position of its `command:NAME`, else of `unrecognized`.
    ///   Those records were never held against a shape, so `dead-letter` goes back with it.
    /// - `unrecognized` also takes what a `command:NAME` lacks that is configured no more.
    /// - A listed stream of no name that this version knows is a kind of a later one: its records, and its dead letters, are unrecognized here.
    #[must_use]
    pub fn positions_from(&self, behind: &[(String, u64)], scanned: u64) -> Vec<u64> {
        let mut checkpoint = HashMap::<&str, u64>::new();
        for (name, position) in behind {
            let lowest = checkpoint.entry(name).or_insert(scanned);
            *lowest = (*lowest).min(*position);
        }
        let listed = |name: &str| checkpoint.get(name).copied();
        let unrecognized = listed(UNRECOGNIZED).unwrap_or(scanned);
        let dead_letter = listed(DEAD_LETTER).unwrap_or(scanned);

        let orphans = checkpoint.iter().filter(|(name, _)| !self.streams.iter().any(|stream| stream.name == **name));
        let (mut unconfigured, mut of_later_version) = (scanned, scanned);
        for (name, position) in orphans {
            match name.strip_prefix(COMMAND) {
                Some(command) if self.by_command.contains_key(command) => {} // now a kind, which looks for it
                Some(_) => unconfigured = unconfigured.min(*position),
                None => of_later_version = of_later_version.min(*position).min(dead_letter),
            }
        }

        let mut unchecked = scanned;
        let mut positions: Vec<u64> = Vec::with_capacity(self.streams.len());
        for stream in &self.streams {
            let own = listed(&stream.name);
            positions.push(match stream.command {
                Some(command) => {
                    let before = listed(&format!("{COMMAND}{}", command.name)).or(if own.is_none() { Some(unrecognized) } else { None });
                    unchecked = unchecked.min(before.unwrap_or(scanned));
                    own.unwrap_or(scanned).min(before.unwrap_or(scanned))
                }
                None if stream.name.starts_with(COMMAND) => own.unwrap_or(unrecognized).min(of_later_version),
                None if stream.name == UNRECOGNIZED => unrecognized.min(unconfigured).min(of_later_version),
                None => dead_letter,
            });
        }
        if let Some(position) = positions.get_mut(self.dead_letter.0) {
            *position = unchecked.min(*position);
        }
        positions
    }
}

/// Whether Kafka takes a topic of that name.
pub fn check_topic_name(name: &str) -> Result<(), TopicNameError> {
    match name {
        "" => Err(TopicNameError::Empty),
        "." | ".." => Err(TopicNameError::Dots),
        _ if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')) => Err(TopicNameError::Character),
        _ if name.len() > TOPIC_NAME_BYTES_MAX => Err(TopicNameError::TooLong),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DISBAND: &str = "Group.CallbackAfterGroupDestroyed";
    const EXIT: &str = "Group.CallbackAfterMemberExit";
    const FULL: &str = "Group.CallbackAfterGroupFull";

    fn config(names: &[(&str, &str)]) -> config::Topics {
        let names = names.iter().map(|(command, topic)| ((*command).to_owned(), (*topic).to_owned())).collect();
        config::Topics { names, ..config::Topics::default() }
    }

    fn topic<'a>(routing: &'a Routing, command: &str) -> &'a str {
        &routing.topic(routing.topic_of(routing.stream(command))).name
    }

    #[test]
    fn each_command_has_the_topic_of_its_kind() {
        let routing = Routing::new(&config::Topics::default());
        for (command, name) in [
            (DISBAND, "chat.group-disband"),
            (EXIT, "chat.member-exit"),
            (FULL, "chat.group-full"),
            ("Group.CallbackAfterSomethingElse", "chat.unrecognized"),
            ("", "chat.unrecognized"),
        ] {
            assert_eq!(topic(&routing, command), name, "{command}");
        }
        assert_eq!(routing.topic(routing.topic_of(routing.dead_letter())).name, "chat.dead-letter");
        assert_eq!(routing.command(routing.stream(EXIT)).map(|command| command.name), Some(EXIT));
        assert_eq!(routing.command(routing.unrecognized()), None);
    }

    #[test]
    fn the_configuration_names_topics_and_gives_them_to_unknown_commands() {
        let routing = Routing::new(&config::Topics {
            prefix: "x-".to_owned(),
            unrecognized: Some("rest".to_owned()),
            dead_letter: Some("dead".to_owned()),
            ..config(&[(FULL, "im.full"), ("Foo.Bar", "im.foo"), ("", "im.none")])
        });
        let names: Vec<_> = routing.streams().map(|stream| (routing.stream_name(stream), topic_name(&routing, stream))).collect();
        let expected = [
            ("group-disband", "x-group-disband"),
            ("member-exit", "x-member-exit"),
            ("group-full", "im.full"),
            ("unrecognized", "rest"),
            ("dead-letter", "dead"),
            ("command:Foo.Bar", "im.foo"),
        ];
        assert_eq!(names, expected);
        assert_eq!(routing.stream_name(routing.stream("Foo.Bar")), "command:Foo.Bar");
        assert_eq!(routing.stream(""), routing.unrecognized());
        assert_eq!(routing.topic_labels(), expected.map(|(_, topic)| topic));
    }

    fn topic_name(routing: &Routing, stream: StreamId) -> &str {
        &routing.topic(routing.topic_of(stream)).name
    }

    #[test]
    fn a_topic_that_several_streams_name_is_one() {
        let routing = Routing::new(&config(&[(FULL, "im"), (EXIT, "im"), ("Foo.Bar", "im"), (DISBAND, "chat.unrecognized")]));
        assert_eq!(routing.topic_labels(), ["chat.unrecognized", "im", "chat.dead-letter"]);
        let of = |name: &str| routing.topics().iter().find(|topic| topic.name == name).map(|topic| topic.streams.clone());
        assert_eq!(of("im"), Some([EXIT, FULL, "Foo.Bar"].map(|command| routing.stream(command)).to_vec()));
        assert_eq!(of("chat.unrecognized"), Some(vec![routing.stream(DISBAND), routing.unrecognized()]));
    }

    #[test]
    fn only_the_commands_that_are_configured_are_discarded() {
        let routing = Routing::new(&config::Topics { discard: [FULL.to_owned()].into(), ..config::Topics::default() });
        assert!(routing.is_discarded(FULL));
        assert!(!routing.is_discarded(EXIT));
        assert!(!routing.is_discarded(""));
    }

    #[test]
    fn topics_have_names_that_kafka_takes() {
        let longest = "a".repeat(249);
        let longer = "a".repeat(250);
        for (name, result) in [
            ("chat.member-exit_2", Ok(())),
            ("...", Ok(())),
            (&longest, Ok(())),
            (&longer, Err(TopicNameError::TooLong)),
            ("", Err(TopicNameError::Empty)),
            (".", Err(TopicNameError::Dots)),
            ("..", Err(TopicNameError::Dots)),
            ("a b", Err(TopicNameError::Character)),
            ("@TGS#1", Err(TopicNameError::Character)),
            ("gruppe-ä", Err(TopicNameError::Character)),
        ] {
            assert_eq!(check_topic_name(name), result, "{name}");
        }
    }

    /// The positions of the streams that do not stand at 1000, by name.
    fn lacking(routing: &Routing, behind: &[(&str, u64)]) -> Vec<(String, u64)> {
        let behind: Vec<_> = behind.iter().map(|(name, position)| ((*name).to_owned(), *position)).collect();
        let positions = routing.positions_from(&behind, 1000);
        let all = routing.streams().zip(positions).map(|(stream, position)| (routing.stream_name(stream).to_owned(), position));
        all.filter(|(_, position)| *position != 1000).collect()
    }

    fn expect(expected: &[(&str, u64)]) -> Vec<(String, u64)> {
        expected.iter().map(|(name, position)| ((*name).to_owned(), *position)).collect()
    }

    #[test]
    fn a_checkpoint_under_the_same_routing_means_what_it_says() {
        let routing = Routing::new(&config(&[("Foo.Bar", "foo")]));
        assert_eq!(lacking(&routing, &[]), expect(&[]));
        assert_eq!(lacking(&routing, &[("member-exit", 7)]), expect(&[("member-exit", 7)]));
        assert_eq!(lacking(&routing, &[("dead-letter", 7)]), expect(&[("dead-letter", 7)]));
        assert_eq!(lacking(&routing, &[("command:Foo.Bar", 7), ("command:Foo.Bar", 9)]), expect(&[("command:Foo.Bar", 7)]));
        assert_eq!(lacking(&routing, &[("member-exit", 2000)]), expect(&[]), "no stream is ahead of the scan");
    }

    #[test]
    fn a_stream_that_a_checkpoint_may_not_have_known_goes_back_to_unrecognized() {
        let routing = Routing::new(&config(&[("Foo.Bar", "foo")]));
        let all_listed = [("unrecognized", 7), ("group-disband", 1000), ("member-exit", 1000), ("group-full", 9), ("dead-letter", 1000)];
        assert_eq!(lacking(&routing, &all_listed), expect(&[("group-full", 9), ("unrecognized", 7), ("command:Foo.Bar", 7)]));
        let mut known = all_listed.to_vec();
        known.push(("command:Foo.Bar", 1000));
        assert_eq!(lacking(&routing, &known), expect(&[("group-full", 9), ("unrecognized", 7)]));
    }

    #[test]
    fn a_command_that_lost_its_topic_is_unrecognized_from_where_it_stood() {
        let routing = Routing::new(&config(&[]));
        assert_eq!(lacking(&routing, &[("command:Foo.Bar", 5), ("command:Foo.Baz", 3)]), expect(&[("unrecognized", 3)]));
    }

    #[test]
    fn a_command_that_became_known_goes_on_from_where_it_stood() {
        let routing = Routing::new(&config(&[]));
        let by_name = format!("command:{FULL}");
        assert_eq!(lacking(&routing, &[(&by_name, 5)]), expect(&[("group-full", 5), ("dead-letter", 5)]));
        let others = [("unrecognized", 7), ("group-disband", 1000), ("member-exit", 1000)];
        assert_eq!(lacking(&routing, &others), expect(&[("group-full", 7), ("unrecognized", 7), ("dead-letter", 7)]));
        let mut named = others.to_vec();
        named.push((&by_name, 1000));
        assert_eq!(lacking(&routing, &named), expect(&[("unrecognized", 7)]), "it was not among the unrecognized");
    }

    #[test]
    fn a_kind_of_a_later_version_is_unrecognized_from_where_it_stood() {
        let routing = Routing::new(&config(&[("Foo.Bar", "foo")]));
        assert_eq!(lacking(&routing, &[("member-join", 5)]), expect(&[("unrecognized", 5), ("command:Foo.Bar", 5)]));
        let with_dead_letters = [("member-join", 1000), ("dead-letter", 4)];
        assert_eq!(lacking(&routing, &with_dead_letters), expect(&[("unrecognized", 4), ("dead-letter", 4), ("command:Foo.Bar", 4)]));
    }

    /// Commands of which each routing below knows some, names some, and leaves some.
    const PROBES: [&str; 6] = [DISBAND, EXIT, FULL, "Foo.Bar", "Foo.Baz", "Foo.Qux"];

    prop_compose! {
        fn routings()(known in prop::collection::vec(any::<bool>(), 3), named in prop::collection::vec(any::<bool>(), PROBES.len())) -> Routing {
            let names: Vec<_> = PROBES.iter().zip(named).filter(|(_, named)| *named).map(|(command, _)| (*command, "named")).collect();
            Routing::of(&config(&names), callback::commands().zip(known).filter(|(_, known)| *known).map(|(command, _)| command))
        }
    }

    proptest! {
        #[test]
        fn no_record_is_passed_over_when_configuration_or_version_change(
            old in routings(), new in routings(), positions in prop::collection::vec(1_u64..1001, 11),
        ) {
            let at = |positions: &[u64], stream: StreamId| positions[stream.index()];
            let now = new.positions_from(&old.behind(&positions, 1000), 1000);
            let before: Vec<_> = positions.iter().map(|position| (*position).min(1000)).collect();
            prop_assert!(at(&now, new.dead_letter()) <= at(&before, old.dead_letter()));
            for command in PROBES {
                let (was, is) = (old.stream(command), new.stream(command));
                prop_assert!(at(&now, is) <= at(&before, was), "{}", command);
                match (old.command(was), new.command(is)) {
                    (None, Some(_)) => prop_assert!(at(&now, new.dead_letter()) <= at(&before, was), "{command}: as a dead letter"),
                    (Some(_), None) => prop_assert!(at(&now, is) <= at(&before, old.dead_letter()), "{command}: its dead letters"),
                    (Some(_), Some(_)) | (None, None) => {}
                }
            }
        }

        #[test]
        fn nothing_is_published_again_where_nothing_changed(routing in routings(), positions in prop::collection::vec(1_u64..1001, 11)) {
            let now = routing.positions_from(&routing.behind(&positions, 1000), 1000);
            let before: Vec<_> = positions.iter().take(now.len()).map(|position| (*position).min(1000)).collect();
            prop_assert_eq!(now, before);
        }
    }
}
