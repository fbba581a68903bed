//! A finished span: what was done, from when to when, and how it ended. The exporter writes it; nobody else reads it.

use std::borrow::Cow;

use super::context::{SpanId, TraceContext};
use crate::clock::Timestamp;

/// A finished span.
#[derive(Debug)]
pub(super) struct Span {
    pub(super) context: TraceContext,
    pub(super) tracestate: Option<String>,
    /// `None` where the trace begins here.
    pub(super) parent: Option<Parent>,
    pub(super) begun: Timestamp,
    pub(super) ended: Timestamp,
    pub(super) work: Work,
    /// Why it counts as failed, where it does.
    pub(super) error: Option<Cow<'static, str>>,
}

/// The span that ours is a part of.
#[derive(Clone, Copy, Debug)]
pub(super) enum Parent {
    /// Of the sender of a request.
    Remote(SpanId),
    /// Of a bridge: of this process, or of an earlier one that has received the callback.
    Local(SpanId),
}

/// What was done.
#[derive(Debug)]
pub(super) enum Work {
    Request(Request),
    Publication(Publication),
}

/// A request, from its headers to its answer.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: &'static str,
    pub(super) scheme: &'static str,
    /// `None` where there was no answer.
    pub(super) status: Option<u16>,
    pub(super) outcome: Outcome,
    /// Of a callback that was admitted.
    pub(super) app: Option<u64>,
    pub(super) command: Option<String>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its callback is durable.
    Accepted,
    /// Its callback is discarded by the configuration.
    Discarded,
    /// It was refused, or ended without an answer.
    Refused,
}

impl Outcome {
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Discarded => "discarded",
            Self::Refused => "refused",
        }
    }
}

/// A message, from its hand-over to librdkafka to its delivery report.
#[derive(Debug)]
pub(super) struct Publication {
    pub(super) topic: String,
    pub(super) id: String,
    pub(super) lsn: u64,
    pub(super) body_bytes: usize,
    /// Why it is a dead letter, where it is one.
    pub(super) dead_letter: Option<&'static str>,
    /// Partition and offset, where it was delivered.
    pub(super) place: Option<(i32, i64)>,
}
