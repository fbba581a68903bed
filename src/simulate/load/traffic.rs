//! What a connection sends: commands, groups, queries and bodies as Chat makes them, drawn from a seed.
//!
//! All that is drawn follows the seed and the connection's number alone. The run's name, the number of the callback and the time of the event
//! do not: they make each callback of each run one of its own, as it is with Chat.

use std::fmt;
use std::io::Write as _;
use std::num::NonZeroU32;

use uuid::Uuid;

use super::schedule::Turn;
use super::signature::Signer;
use crate::clock::Timestamp;
use crate::simulate::command::{Command, Mix};
use crate::simulate::identity::{Identity, RunMark};

/// The values of `OptPlatform` that Chat documents.
const PLATFORMS: [&str; 8] = ["RESTAPI", "Web", "Android", "iOS", "Windows", "Mac", "iPad", "Unknown"];

/// One callback in this many about a full group has no `EventTime`, as Chat sent it in former years.
const TIMELESS_ONE_IN: u32 = 16;

/// One group in this many is a community, whose disbanding lists no members.
const COMMUNITY_ONE_IN: u32 = 16;

/// Which callbacks there are.
#[derive(Clone, Debug)]
pub struct Shape {
    /// What tells this run's callbacks from any other's.
    pub run: Uuid,
    /// What is drawn follows from it.
    pub seed: u64,
    /// The app that they are of.
    pub app: u64,
    /// How often each command is sent.
    pub mix: Mix,
    /// How many groups they are about; each belongs to one connection.
    pub groups: NonZeroU32,
    /// The longest list of members; most are far shorter.
    pub members_max: NonZeroU32,
}

/// The `GroupId` of a group: of Chat's own make, and another for each.
#[must_use]
pub fn group_id(group: u32) -> String {
    if is_community(group) { format!("@TGS#_@TGS#c{group:08X}") } else { format!("@TGS#2{group:08X}") }
}

const fn is_community(group: u32) -> bool {
    group % COMMUNITY_ONE_IN == COMMUNITY_ONE_IN - 1
}

/// A callback that was drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Drawn {
    pub(super) number: u32,
    pub(super) command: Command,
    pub(super) group: u32,
}

/// What the head of a request says of its callback.
#[derive(Clone, Copy)]
struct Head {
    command: Command,
    identity: Identity,
    /// Of the body, in bytes.
    length: usize,
}

/// What one connection sends.
#[derive(Debug)]
pub(super) struct Traffic {
    shape: Shape,
    turn: Turn,
    signer: Option<Signer>,
    random: fastrand::Rng,
    next: u32,
    body: Vec<u8>,
}

impl Traffic {
    pub(super) fn new(shape: Shape, turn: Turn, signer: Option<Signer>) -> Self {
        // Neighbouring seeds give unrelated streams only after some mixing; an odd constant spreads the connections over them.
        let seed = shape.seed.wrapping_add(u64::from(turn.connection).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        Self { shape, turn, signer, random: fastrand::Rng::with_seed(seed), next: 0, body: Vec::new() }
    }

    /// Draws the next callback and appends its request to `out`. `path` is the request's target up to its own query, `host` the value of `Host`.
    pub(super) fn draw(&mut self, now: Timestamp, path: &PathAndHost, out: &mut Vec<u8>) -> Drawn {
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        let command = self.shape.mix.command(self.random.u32(0..self.shape.mix.total()));
        let group = self.draw_group();
        let mut body = std::mem::take(&mut self.body);
        body.clear();
        self.write_body(&mut body, now, Drawn { number, command, group });
        let identity = Identity { run: RunMark::of(self.shape.run), connection: self.turn.connection, number };
        self.write_head(out, now, path, Head { command, identity, length: body.len() });
        out.extend_from_slice(&body);
        self.body = body;
        Drawn { number, command, group }
    }

    /// One of the groups g with g modulo connections = connection.
    fn draw_group(&mut self) -> u32 {
        let Turn { connection, connections } = self.turn;
        let mine = self.shape.groups.get().saturating_sub(connection).div_ceil(connections.get()).max(1);
        connection + self.random.u32(0..mine) * connections.get()
    }

    fn write_head(&mut self, out: &mut Vec<u8>, now: Timestamp, path: &PathAndHost, head: Head) {
        let Head { command, identity, length } = head;
        let [a, b, c, d] = self.random.u32(..).to_be_bytes();
        let platform = self.random.choice(PLATFORMS).unwrap_or("Unknown");
        let request_id = identity.request_id();
        // The order that captures of live requests show: by name.
        put(out, format_args!("POST {}CallbackCommand={}&ClientIP={a}.{b}.{c}.{d}", path.path, command.word()));
        put(out, format_args!("&OptPlatform={platform}&RequestId={request_id}"));
        if self.signer.is_some() {
            put(out, format_args!("&RequestTime={}", now.seconds()));
        }
        put(out, format_args!("&SdkAppid={}", self.shape.app));
        if let Some(signer) = &mut self.signer {
            put(out, format_args!("&Sign={}", signer.sign(now.seconds())));
        }
        put(out, format_args!("&contenttype=json HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n", path.host));
        put(out, format_args!("Content-Length: {length}\r\n\r\n"));
    }

    fn write_body(&mut self, body: &mut Vec<u8>, now: Timestamp, drawn: Drawn) {
        let Drawn { number, command, group } = drawn;
        let id = group_id(group);
        let kind = if is_community(group) { "Community" } else { "Public" };
        put(body, format_args!("{{\"CallbackCommand\":\"{}\",\"GroupId\":\"{id}\"", command.word()));
        match command {
            Command::GroupDisband => {
                let owner = self.random.u32(0..100_000);
                put(body, format_args!(",\"Type\":\"{kind}\",\"Owner_Account\":\"user{owner:05}\",\"Name\":\"群 {group}\""));
                if !is_community(group) {
                    self.write_members(body, "MemberList", 3);
                }
            }
            Command::MemberExit => {
                let exit = if self.random.bool() { "Kicked" } else { "Quit" };
                let operator = self.random.u32(0..100_000);
                put(body, format_args!(",\"Type\":\"{kind}\",\"ExitType\":\"{exit}\",\"Operator_Account\":\"user{operator:05}\""));
                self.write_members(body, "ExitMemberList", 6);
            }
            Command::GroupFull => {}
        }
        let timeless = command == Command::GroupFull && self.random.u32(0..TIMELESS_ONE_IN) == 0;
        if !timeless {
            // Chat's pages show text, captures show a number.
            let quote = if self.random.bool() { "\"" } else { "" };
            put(body, format_args!(",\"EventTime\":{quote}{}{quote}", now.millis()));
        }
        let (run, connection) = (self.shape.run, self.turn.connection);
        put(body, format_args!(",\"SimulatorRun\":\"{run}\",\"SimulatorConnection\":{connection},\"SimulatorNumber\":{number}}}"));
    }

    /// A list of 1 to `members_max` members. The least of several draws counts: the more draws, the more of the lists are short.
    fn write_members(&mut self, body: &mut Vec<u8>, field: &str, draws: u32) {
        const ONE: u64 = 1 << 10;
        let least = (0..draws).fold(ONE, |least, _| least.min(self.random.u64(0..ONE)));
        let beyond = u64::from(self.shape.members_max.get()) * least / ONE;
        put(body, format_args!(",\"{field}\":["));
        for index in 0..=beyond {
            let comma = if index == 0 { "" } else { "," };
            put(body, format_args!("{comma}{{\"Member_Account\":\"user{:05}\"}}", self.random.u32(0..100_000)));
        }
        body.push(b']');
    }
}

/// What of the target stands in each request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PathAndHost {
    /// The path, its own query if there is one, and the `?` or `&` after which our parameters come.
    pub(super) path: String,
    pub(super) host: String,
}

fn put(out: &mut Vec<u8>, text: fmt::Arguments<'_>) {
    // Writing to memory cannot fail.
    let _infallible = out.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn shape(run: u128) -> Shape {
        Shape {
            run: Uuid::from_u128(run),
            seed: 42,
            app: 1_400_000_000,
            mix: Mix::default(),
            groups: NonZeroU32::new(50).unwrap(),
            members_max: NonZeroU32::new(20).unwrap(),
        }
    }

    fn target() -> PathAndHost {
        PathAndHost { path: "/callback?".to_owned(), host: "127.0.0.1:8080".to_owned() }
    }

    fn turn(connection: u32) -> Turn {
        Turn { connection, connections: NonZeroU32::new(8).unwrap() }
    }

    fn requests(run: u128, connection: u32, micros: i64) -> Vec<(Drawn, String)> {
        let mut traffic = Traffic::new(shape(run), turn(connection), None);
        let draw = |_| {
            let mut out = Vec::new();
            let drawn = traffic.draw(Timestamp::from_micros(micros), &target(), &mut out);
            (drawn, String::from_utf8(out).unwrap())
        };
        (0..400).map(draw).collect()
    }

    #[test]
    fn a_request_is_one_that_chat_could_send() {
        let mut commands = BTreeSet::new();
        for (drawn, request) in requests(1, 3, 1_670_574_414_123_000) {
            commands.insert(drawn.command);
            let (head, body) = request.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with(&format!("POST /callback?CallbackCommand={}&ClientIP=", drawn.command.word())), "{head}");
            assert!(head.contains("&SdkAppid=1400000000&contenttype=json HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n"), "{head}");
            assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{head}");
            let body: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!(body["CallbackCommand"], drawn.command.word());
            assert_eq!(body["GroupId"], group_id(drawn.group));
            assert_eq!(body["SimulatorRun"], Uuid::from_u128(1).to_string());
            assert_eq!(body["SimulatorConnection"], 3);
            assert_eq!(body["SimulatorNumber"], drawn.number);
            match drawn.command {
                Command::GroupDisband => assert_eq!(body["MemberList"].is_array(), !is_community(drawn.group)),
                Command::MemberExit => assert!((1..=20).contains(&body["ExitMemberList"].as_array().unwrap().len())),
                Command::GroupFull => assert!(body.get("Type").is_none()),
            }
            let time = &body["EventTime"];
            assert!(
                time == 1_670_574_414_123_u64 || time == "1670574414123" || drawn.command == Command::GroupFull && time.is_null(),
                "{time}"
            );
        }
        assert_eq!(commands.len(), 3);
    }

    #[test]
    fn lists_are_of_many_lengths() {
        let lengths: BTreeSet<_> = requests(1, 0, 0).into_iter().map(|(_, request)| request.matches("Member_Account").count()).collect();
        assert!(lengths.len() > 8, "{lengths:?}");
    }

    #[test]
    fn what_is_drawn_follows_the_seed() {
        let drawn = |connection| requests(1, connection, 5);
        let run = |run| format!("\"SimulatorRun\":\"{}\"", Uuid::from_u128(run));
        assert_eq!(drawn(0), drawn(0));
        assert_ne!(drawn(0), drawn(1));
        let other_run: Vec<_> = requests(2, 0, 5).into_iter().map(|(drawn, text)| (drawn, text.replace(&run(2), &run(1)))).collect();
        assert_eq!(drawn(0), other_run);
    }

    #[test]
    fn a_group_belongs_to_one_connection_and_has_an_id_of_its_own() {
        let mut seen = BTreeSet::new();
        for connection in 0..8 {
            let groups: BTreeSet<_> = requests(1, connection, 5).into_iter().map(|(drawn, _)| drawn.group).collect();
            assert!(groups.iter().all(|group| group % 8 == connection && *group < 50), "{groups:?}");
            seen.extend(groups);
        }
        assert_eq!(seen.len(), 50);
        assert_eq!(seen.into_iter().map(group_id).collect::<BTreeSet<_>>().len(), 50);
    }

    #[test]
    fn a_signed_request_bears_sign_and_request_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "xxxxyyyy").unwrap();
        let token = super::super::signature::Token::read(&path).unwrap();
        let mut traffic = Traffic::new(shape(1), turn(0), Some(Signer::new(token)));
        let mut out = Vec::new();
        traffic.draw(Timestamp::from_micros(1_669_872_112_999_999), &target(), &mut out);
        let request = String::from_utf8(out).unwrap();
        assert!(request.contains("&RequestTime=1669872112&SdkAppid="), "{request}");
        assert!(request.contains("&Sign=17773bc39a671d7b9aa835458704d2a6db81360a5940292b587d6d760d484061&"), "{request}");
    }
}
