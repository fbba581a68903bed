//! The closed table from librdkafka's errors to what is to be done about a record, and to the label it is counted under.
//!
//! What does not stand in the table waits: a record is never dropped, nor made a dead letter, for an error that nobody has thought about.

use std::fmt;

use rdkafka::types::RDKafkaErrorCode as Code;

/// What is to be done about a record that was handed to the producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Kafka has it: written by all replicas that are in sync.
    Delivered,
    /// Its topic will never take this record. The broker refuses a whole batch for one record, so it is tried once more alone before that is believed.
    DeadLetter(DeadLetterCause),
    /// Its topic cannot take any record for now.
    Park(ParkCause),
    /// Hand it over again later; nothing is known against the record or its topic.
    Wait,
    /// This producer is of no more use: make another, and hand over again whatever is not confirmed.
    Rebuild,
}

/// Why a topic will never take a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeadLetterCause {
    /// It is larger than the topic's `max.message.bytes`, or than the client's.
    TooLarge,
    /// The broker has checked it and found it invalid.
    RefusedByBroker,
}

/// Why a topic cannot take records for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ParkCause {
    /// It does not exist.
    Missing,
    /// We may not write to it.
    NotAuthorised,
}

impl ParkCause {
    /// The word for it in logs and on `/readyz`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::NotAuthorised => "not_authorised",
        }
    }
}

/// An error as librdkafka or a broker has named it. Its text is theirs and holds no data of ours.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ErrorCode(pub(super) Code);

impl ErrorCode {
    /// What is to be done about the record that met it.
    #[must_use]
    pub fn verdict(self) -> Verdict {
        row(self.0).map_or(Verdict::Wait, |row| row.verdict)
    }

    /// Whether a transaction that has failed takes no more.
    #[must_use]
    pub fn is_state(self) -> bool {
        self.0 == Code::State
    }

    /// Whether Kafka has found what was asked of it invalid, where asking again brings nothing.
    #[must_use]
    pub(super) fn blames_the_request(self) -> bool {
        let blaming = [
            Code::InvalidConfig,
            Code::InvalidPartitions,
            Code::InvalidReplicationFactor,
            Code::InvalidTopic,
            Code::InvalidRequest,
            Code::PolicyViolation,
        ];
        blaming.contains(&self.0)
    }

    /// The label under which it is counted, one of [`ERROR_KINDS`].
    #[must_use]
    pub fn kind(self) -> &'static str {
        row(self.0).map_or(Kind::Other, |row| row.kind).label()
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.0)
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?}", self.0)
    }
}

impl std::error::Error for ErrorCode {}

/// Every label of `chat_bridge_kafka_errors_total`.
pub const ERROR_KINDS: [&str; 14] = {
    let mut labels = [""; 14];
    let mut rest: &[Kind] = &Kind::ALL;
    let mut at: &mut [&str] = &mut labels;
    while let (Some((kind, kinds)), Some((label, labels))) = (rest.split_first(), at.split_first_mut()) {
        *label = kind.label();
        rest = kinds;
        at = labels;
    }
    labels
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    AllBrokersDown,
    Authentication,
    Fatal,
    MissingTopic,
    NotAuthorised,
    NotLeader,
    Other,
    Purged,
    QueueFull,
    RefusedByBroker,
    Replicas,
    TimedOut,
    TooLarge,
    Transport,
}

impl Kind {
    const ALL: [Self; 14] = [
        Self::AllBrokersDown,
        Self::Authentication,
        Self::Fatal,
        Self::MissingTopic,
        Self::NotAuthorised,
        Self::NotLeader,
        Self::Other,
        Self::Purged,
        Self::QueueFull,
        Self::RefusedByBroker,
        Self::Replicas,
        Self::TimedOut,
        Self::TooLarge,
        Self::Transport,
    ];

    const fn label(self) -> &'static str {
        match self {
            Self::AllBrokersDown => "all_brokers_down",
            Self::Authentication => "authentication",
            Self::Fatal => "fatal",
            Self::MissingTopic => "missing_topic",
            Self::NotAuthorised => "not_authorised",
            Self::NotLeader => "not_leader",
            Self::Other => "other",
            Self::Purged => "purged",
            Self::QueueFull => "queue_full",
            Self::RefusedByBroker => "refused_by_broker",
            Self::Replicas => "replicas",
            Self::TimedOut => "timed_out",
            Self::TooLarge => "too_large",
            Self::Transport => "transport",
        }
    }
}

#[derive(Debug)]
struct Row {
    code: Code,
    verdict: Verdict,
    kind: Kind,
}

const fn row_of(code: Code, verdict: Verdict, kind: Kind) -> Row {
    Row { code, verdict, kind }
}

const TOO_LARGE: Verdict = Verdict::DeadLetter(DeadLetterCause::TooLarge);
const REFUSED: Verdict = Verdict::DeadLetter(DeadLetterCause::RefusedByBroker);
const MISSING: Verdict = Verdict::Park(ParkCause::Missing);
const NOT_AUTHORISED: Verdict = Verdict::Park(ParkCause::NotAuthorised);

/// One row an error. Rows that wait stand here too where they have a label of their own, or where another verdict would suggest itself.
const TABLE: &[Row] = &[
    // The record is over `message.max.bytes` of the client, or its batch over `max.message.bytes` of the topic.
    row_of(Code::MessageSizeTooLarge, TOO_LARGE, Kind::TooLarge),
    // Its batch is larger than a segment of the topic.
    row_of(Code::MessageBatchTooLarge, TOO_LARGE, Kind::TooLarge),
    // A broker's own check of a record: no key in a compacted topic, or a schema that does not fit.
    row_of(Code::InvalidRecord, REFUSED, Kind::RefusedByBroker),
    // The broker's word, and librdkafka's two for the same once it has marked the topic or its partition as gone.
    row_of(Code::UnknownTopicOrPartition, MISSING, Kind::MissingTopic),
    row_of(Code::UnknownTopic, MISSING, Kind::MissingTopic),
    row_of(Code::UnknownPartition, MISSING, Kind::MissingTopic),
    // The topic was deleted and made again: its name has another id until the metadata are read again.
    row_of(Code::UnknownTopicId, MISSING, Kind::MissingTopic),
    // A name that no topic can have. The others must go on; only a change of the configuration helps this one.
    row_of(Code::InvalidTopic, MISSING, Kind::MissingTopic),
    row_of(Code::TopicAuthorizationFailed, NOT_AUTHORISED, Kind::NotAuthorised),
    // Without a right to write to any topic there is no producer id, and librdkafka never asks again in the life of this client.
    row_of(Code::ClusterAuthorizationFailed, Verdict::Rebuild, Kind::NotAuthorised),
    // librdkafka's word that this client is dead, and what its remaining messages get.
    row_of(Code::Fatal, Verdict::Rebuild, Kind::Fatal),
    row_of(Code::GaplessGuarantee, Verdict::Rebuild, Kind::Fatal),
    row_of(Code::Inconsistent, Verdict::Rebuild, Kind::Fatal),
    row_of(Code::Fenced, Verdict::Rebuild, Kind::Fatal),
    row_of(Code::ProducerFenced, Verdict::Rebuild, Kind::Fatal),
    row_of(Code::OutOfOrderSequenceNumber, Verdict::Rebuild, Kind::Fatal),
    row_of(Code::UnknownProducerId, Verdict::Rebuild, Kind::Fatal),
    row_of(Code::InvalidProducerEpoch, Verdict::Rebuild, Kind::Fatal),
    row_of(Code::InvalidProducerIdMapping, Verdict::Rebuild, Kind::Fatal),
    // The client is being dropped, or has died: what was not confirmed goes to its successor.
    row_of(Code::PurgeQueue, Verdict::Rebuild, Kind::Purged),
    row_of(Code::PurgeInflight, Verdict::Rebuild, Kind::Purged),
    row_of(Code::BrokerDestroy, Verdict::Rebuild, Kind::Purged),
    // The record's time is the time of its hand-over, so a broker that calls it too far from its own speaks of a clock, not of the record.
    row_of(Code::InvalidTimestamp, Verdict::Wait, Kind::RefusedByBroker),
    // A policy may refuse everything for a time (a quota, a maintenance window): not enough against the one record.
    row_of(Code::PolicyViolation, Verdict::Wait, Kind::RefusedByBroker),
    // A setting of the topic or the cluster that hits all records alike.
    row_of(Code::UnsupportedForMessageFormat, Verdict::Wait, Kind::RefusedByBroker),
    row_of(Code::UnsupportedCompressionType, Verdict::Wait, Kind::RefusedByBroker),
    row_of(Code::InvalidRequiredAcks, Verdict::Wait, Kind::RefusedByBroker),
    // A checksum that fails on the way is the way's fault.
    row_of(Code::InvalidMessage, Verdict::Wait, Kind::Transport),
    row_of(Code::QueueFull, Verdict::Wait, Kind::QueueFull),
    row_of(Code::AllBrokersDown, Verdict::Wait, Kind::AllBrokersDown),
    row_of(Code::BrokerTransportFailure, Verdict::Wait, Kind::Transport),
    row_of(Code::Resolve, Verdict::Wait, Kind::Transport),
    row_of(Code::NetworkException, Verdict::Wait, Kind::Transport),
    row_of(Code::BrokerNotAvailable, Verdict::Wait, Kind::Transport),
    row_of(Code::SSL, Verdict::Wait, Kind::Authentication),
    row_of(Code::Authentication, Verdict::Wait, Kind::Authentication),
    row_of(Code::SaslAuthenticationFailed, Verdict::Wait, Kind::Authentication),
    row_of(Code::UnsupportedSASLMechanism, Verdict::Wait, Kind::Authentication),
    row_of(Code::IllegalSASLState, Verdict::Wait, Kind::Authentication),
    // With `message.timeout.ms=0` librdkafka makes this of a request whose answer did not come: the record may be in the log, or not.
    row_of(Code::MessageTimedOut, Verdict::Wait, Kind::TimedOut),
    row_of(Code::OperationTimedOut, Verdict::Wait, Kind::TimedOut),
    row_of(Code::TimedOutQueue, Verdict::Wait, Kind::TimedOut),
    row_of(Code::RequestTimedOut, Verdict::Wait, Kind::TimedOut),
    row_of(Code::NotEnoughReplicas, Verdict::Wait, Kind::Replicas),
    row_of(Code::NotEnoughReplicasAfterAppend, Verdict::Wait, Kind::Replicas),
    row_of(Code::ISRInsufficient, Verdict::Wait, Kind::Replicas),
    row_of(Code::ReplicaNotAvailable, Verdict::Wait, Kind::Replicas),
    row_of(Code::KafkaStorageError, Verdict::Wait, Kind::Replicas),
    row_of(Code::LeaderNotAvailable, Verdict::Wait, Kind::NotLeader),
    row_of(Code::NotLeaderForPartition, Verdict::Wait, Kind::NotLeader),
    row_of(Code::FencedLeaderEpoch, Verdict::Wait, Kind::NotLeader),
    row_of(Code::UnknownLeaderEpoch, Verdict::Wait, Kind::NotLeader),
];

fn row(code: Code) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.code == code)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows that do not wait, spelt out a second time: a change of the table must be meant.
    const DECIDED: &[(Code, Verdict)] = &[
        (Code::MessageSizeTooLarge, TOO_LARGE),
        (Code::MessageBatchTooLarge, TOO_LARGE),
        (Code::InvalidRecord, REFUSED),
        (Code::UnknownTopicOrPartition, MISSING),
        (Code::UnknownTopic, MISSING),
        (Code::UnknownPartition, MISSING),
        (Code::UnknownTopicId, MISSING),
        (Code::InvalidTopic, MISSING),
        (Code::TopicAuthorizationFailed, NOT_AUTHORISED),
        (Code::ClusterAuthorizationFailed, Verdict::Rebuild),
        (Code::Fatal, Verdict::Rebuild),
        (Code::GaplessGuarantee, Verdict::Rebuild),
        (Code::Inconsistent, Verdict::Rebuild),
        (Code::Fenced, Verdict::Rebuild),
        (Code::ProducerFenced, Verdict::Rebuild),
        (Code::OutOfOrderSequenceNumber, Verdict::Rebuild),
        (Code::UnknownProducerId, Verdict::Rebuild),
        (Code::InvalidProducerEpoch, Verdict::Rebuild),
        (Code::InvalidProducerIdMapping, Verdict::Rebuild),
        (Code::PurgeQueue, Verdict::Rebuild),
        (Code::PurgeInflight, Verdict::Rebuild),
        (Code::BrokerDestroy, Verdict::Rebuild),
    ];

    /// Every code that librdkafka knows, by its number.
    fn every_code() -> impl Iterator<Item = Code> {
        (-200..=150).filter_map(|number: i32| rdkafka::types::RDKafkaRespErr::try_from(number).ok()).map(Code::from)
    }

    #[test]
    fn every_error_of_librdkafka_has_the_verdict_that_was_decided_and_all_others_wait() {
        let mut seen = 0;
        for code in every_code() {
            let decided = DECIDED.iter().find(|(decided, _)| *decided == code).map_or(Verdict::Wait, |(_, verdict)| *verdict);
            assert_eq!(ErrorCode(code).verdict(), decided, "{code:?}");
            seen += usize::from(decided != Verdict::Wait);
        }
        assert_eq!(seen, DECIDED.len());
    }

    #[test]
    fn no_error_stands_in_the_table_twice() {
        for (at, row) in TABLE.iter().enumerate() {
            assert!(!TABLE.iter().skip(at + 1).any(|other| other.code == row.code), "{:?}", row.code);
        }
    }

    #[test]
    fn every_error_is_counted_under_a_label_that_the_metrics_know() {
        for code in every_code() {
            assert!(ERROR_KINDS.contains(&ErrorCode(code).kind()), "{code:?}");
        }
        assert!(ERROR_KINDS.iter().all(|kind| !kind.is_empty()));
        assert!(ERROR_KINDS.is_sorted(), "a label that stands twice, or out of order: {ERROR_KINDS:?}");
        for (code, kind) in [
            (Code::Authentication, "authentication"),
            (Code::SSL, "authentication"),
            (Code::AllBrokersDown, "all_brokers_down"),
            (Code::BrokerTransportFailure, "transport"),
            (Code::NotEnoughReplicas, "replicas"),
            (Code::GroupIdNotFound, "other"),
        ] {
            assert_eq!(ErrorCode(code).kind(), kind);
        }
    }
}
