//! The spans of what is with librdkafka: each begins with a hand-over and ends with its delivery report.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Instant;

use super::Tracer;
use super::context::{SpanId, TraceContext};
use super::span::{Parent, Publication, Span, Work};
use crate::clock::Timestamp;
use crate::event::{EventId, TRACEPARENT, TRACESTATE};

/// Why a span ends whose report never came: its producer was given up, or the process ends.
const ABANDONED: &str = "abandoned";

/// A message that is about to be handed over, in a trace that is recorded.
#[derive(Debug)]
pub struct Sending {
    context: TraceContext,
    parent: SpanId,
    traceparent: String,
    tracestate: Option<String>,
}

impl Sending {
    /// The headers of the message, with this publication for its place in the trace: whoever consumes it is a part of it.
    #[must_use]
    pub fn headers<'a>(&'a self, headers: &'a [(&'static str, Vec<u8>)]) -> Vec<(&'static str, &'a [u8])> {
        let own = |name, value: &'a [u8]| if name == TRACEPARENT { self.traceparent.as_bytes() } else { value };
        headers.iter().map(|(name, value)| (*name, own(*name, value))).collect()
    }
}

/// Where a message goes, and what it is.
#[derive(Debug)]
pub struct Destination<'a> {
    /// Its topic.
    pub topic: &'a str,
    /// The event's id.
    pub id: EventId,
    /// The record's number in the journal.
    pub lsn: u64,
    /// The bytes of the value.
    pub body_bytes: usize,
    /// Why it is a dead letter, where it is one.
    pub dead_letter: Option<&'static str>,
}

/// What a delivery report says.
#[derive(Debug)]
pub struct Report {
    /// Partition and offset, where it was delivered.
    pub place: Option<(i32, i64)>,
    /// librdkafka's error, where it was not.
    pub error: Option<String>,
}

/// The spans of what is under way, by record. As many as librdkafka's queue holds messages, at most.
#[derive(Debug)]
pub struct Publications {
    tracer: Tracer,
    under_way: HashMap<u64, UnderWay>,
}

#[derive(Debug)]
struct UnderWay {
    sending: Sending,
    begun: Timestamp,
    since: Instant,
    publication: Publication,
}

impl Publications {
    /// Nothing is under way.
    #[must_use]
    pub fn new(tracer: Tracer) -> Self {
        Self { tracer, under_way: HashMap::new() }
    }

    /// A message with these headers is to be handed over; `None` where it is in no trace that is recorded.
    #[must_use]
    pub fn begin(&self, headers: &[(&'static str, Vec<u8>)]) -> Option<Sending> {
        let text = |wanted| {
            let (_, value) = headers.iter().rev().find(|(name, _)| *name == wanted)?;
            std::str::from_utf8(value).ok()
        };
        let before = TraceContext::parse(text(TRACEPARENT)?).filter(TraceContext::is_sampled)?;
        let context = before.child(SpanId::random());
        Some(Sending { context, parent: before.span, traceparent: context.to_string(), tracestate: text(TRACESTATE).map(str::to_owned) })
    }

    /// It was handed over.
    pub fn sent(&mut self, sending: Sending, to: &Destination<'_>, begun: Timestamp, since: Instant) {
        let publication = Publication {
            topic: to.topic.to_owned(),
            id: to.id.to_string(),
            lsn: to.lsn,
            body_bytes: to.body_bytes,
            dead_letter: to.dead_letter,
            place: None,
        };
        if let Some(before) = self.under_way.insert(to.lsn, UnderWay { sending, begun, since, publication }) {
            self.record(before, Some(ABANDONED.into()), since);
        }
    }

    /// Its report has come; or it was refused at once.
    pub fn reported(&mut self, lsn: u64, report: Report, now: Instant) {
        let Some(mut ended) = self.under_way.remove(&lsn) else { return };
        ended.publication.place = report.place;
        let error = report.error.map(Cow::Owned).or_else(|| ended.publication.dead_letter.map(Cow::Borrowed));
        self.record(ended, error, now);
    }

    /// No report will come any more of what is under way.
    pub fn abandon(&mut self, now: Instant) {
        for ended in std::mem::take(&mut self.under_way).into_values() {
            self.record(ended, Some(ABANDONED.into()), now);
        }
    }

    fn record(&self, ended: UnderWay, error: Option<Cow<'static, str>>, now: Instant) {
        let UnderWay { sending, begun, since, publication } = ended;
        let elapsed = i64::try_from(now.saturating_duration_since(since).as_micros().max(1)).unwrap_or(i64::MAX);
        self.tracer.record(Span {
            context: sending.context,
            tracestate: sending.tracestate,
            parent: Some(Parent::Local(sending.parent)),
            begun,
            ended: Timestamp::from_micros(begun.micros().saturating_add(elapsed)),
            work: Work::Publication(publication),
            error,
        });
    }
}
