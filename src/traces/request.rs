//! The span of a request, while it is being answered.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use super::context::{Carried, SpanId};
use super::span::{Outcome, Parent, Request, Span, Work};
use super::{Decision, Tracer};
use crate::clock::Timestamp;

/// What is kept of a command: those of Chat have some 50 letters, and what an app's sender makes up has any number.
const COMMAND_MAX_BYTES: usize = 128;

/// Why a span without an answer failed: its connection ended first, or the process did.
const UNANSWERED: &str = "unanswered";

/// How a request was answered.
#[derive(Clone, Copy, Debug)]
pub struct Served {
    /// The status of the answer.
    pub status: u16,
    /// What became of the callback.
    pub outcome: Outcome,
    /// The reason of a refusal.
    pub error: Option<&'static str>,
}

/// The span of one request. Dropped without an end, it tells of a request without an answer.
#[derive(Debug)]
pub struct RequestSpan {
    tracer: Tracer,
    carried: Carried,
    /// `None` where it is not recorded.
    recording: Option<Box<Recording>>,
}

#[derive(Debug)]
struct Recording {
    parent: Option<SpanId>,
    begun: Timestamp,
    since: Instant,
    request: Request,
}

impl RequestSpan {
    pub(super) fn new(tracer: Tracer, decision: Decision, begun: Timestamp) -> Self {
        let Decision { parent, carried } = decision;
        let recording = carried.context().is_sampled().then(|| {
            let request = Request { method: "_OTHER", scheme: "http", status: None, outcome: Outcome::Refused, app: None, command: None };
            Box::new(Recording { parent, begun, since: Instant::now(), request })
        });
        Self { tracer, carried, recording }
    }

    /// How the request came. Methods that are none of HTTP's are not told.
    pub fn came_by(&mut self, method: &str, scheme: &'static str) {
        const METHODS: [&str; 9] = ["POST", "GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"];
        if let Some(recording) = &mut self.recording {
            let known = METHODS.into_iter().find(|known| *known == method);
            (recording.request.method, recording.request.scheme) = (known.unwrap_or("_OTHER"), scheme);
        }
    }

    /// The callback is admitted: it is of this app, and of this command; an empty one is none.
    pub fn is_of(&mut self, app: u64, command: &str) {
        let Some(recording) = &mut self.recording else { return };
        recording.request.app = Some(app);
        let end = command.floor_char_boundary(COMMAND_MAX_BYTES);
        recording.request.command = command.get(..end).filter(|command| !command.is_empty()).map(str::to_owned);
    }

    /// What the record of the callback is to carry: this span's place in the trace.
    #[must_use]
    pub const fn carried(&self) -> &Carried {
        &self.carried
    }

    /// It is answered.
    pub fn end(mut self, served: &Served) {
        let Some(mut recording) = self.recording.take() else { return };
        (recording.request.status, recording.request.outcome) = (Some(served.status), served.outcome);
        // What a sender did wrong is no failure of ours (semantic conventions of HTTP servers).
        let error = if served.status >= 500 { served.error } else { None };
        self.record(*recording, error);
    }

    fn record(&self, recording: Recording, error: Option<&'static str>) {
        let Recording { parent, begun, since, request } = recording;
        let elapsed = i64::try_from(since.elapsed().max(Duration::from_micros(1)).as_micros()).unwrap_or(i64::MAX);
        self.tracer.record(Span {
            context: self.carried.context(),
            tracestate: self.carried.tracestate().map(str::to_owned),
            parent: parent.map(Parent::Remote),
            begun,
            ended: Timestamp::from_micros(begun.micros().saturating_add(elapsed)),
            work: Work::Request(request),
            error: error.map(Cow::Borrowed),
        });
    }
}

impl Drop for RequestSpan {
    fn drop(&mut self) {
        if let Some(recording) = self.recording.take() {
            self.record(*recording, Some(UNANSWERED));
        }
    }
}
