//! Spans of requests and publications, sent to a collector of OpenTelemetry; and the trace context that goes along with a callback.
//!
//! Owns the parsing of `traceparent` and `tracestate` (W3C Trace Context), the decision which traces are recorded, and the way of finished spans to
//! the collector: a bounded queue, and one thread that empties it. It promises that nothing of this delays an answer or a publication, or ends the
//! process: what the queue or the collector does not take is dropped and counted.
//!
//! Without `tracing.otlp_endpoint` there is no [`Tracer`], no thread and no queue; a request's context is then passed on as it came.
//! Absent on purpose: spans of single steps, events, links and baggage; and anything in an attribute that a callback's body, query or path holds, but for app and command.

pub mod context;

mod batch;
mod collector;
mod exporter;
mod headers;
mod request;
mod send;
mod span;

use std::sync::Arc;

use tokio::sync::mpsc::{self, error::TrySendError};

pub use exporter::{Error, Exporter, check, start};
pub use request::{RequestSpan, Served};
pub use send::{Destination, Publications, Report, Sending};
pub use span::Outcome;

use crate::clock::Timestamp;
use crate::config::Ratio;
use crate::metrics;
use context::{Carried, SpanId, TraceContext, TraceId};
use span::Span;

/// Records spans. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tracer(Arc<Recorder>);

#[derive(Debug)]
struct Recorder {
    queue: mpsc::Sender<Span>,
    ratio: Ratio,
    metrics: metrics::Traces,
}

impl Tracer {
    fn new(queue: mpsc::Sender<Span>, ratio: Ratio, metrics: metrics::Traces) -> Self {
        Self(Arc::new(Recorder { queue, ratio, metrics }))
    }

    /// A request begins: in the trace that it names, or in a new one. Its sender's decision holds; else the ratio decides by the trace's id.
    #[must_use]
    pub fn request(&self, carried: Option<Carried>, begun: Timestamp) -> RequestSpan {
        RequestSpan::new(self.clone(), self.decide(carried), begun)
    }

    fn decide(&self, carried: Option<Carried>) -> Decision {
        let Some(carried) = carried else {
            let trace = TraceId::random();
            let context = TraceContext::new(trace, SpanId::random(), self.0.ratio.admits(trace.draw()));
            return Decision { parent: None, carried: Carried::new(context) };
        };
        let context = carried.context();
        if !context.is_sampled() {
            return Decision { parent: None, carried };
        }
        Decision { parent: Some(context.span), carried: carried.within(context.child(SpanId::random())) }
    }

    fn record(&self, span: Span) {
        let loss = match self.0.queue.try_send(span) {
            Ok(()) => return,
            Err(TrySendError::Full(_)) => metrics::SpanLoss::QueueFull,
            Err(TrySendError::Closed(_)) => metrics::SpanLoss::Stopped,
        };
        self.0.metrics.dropped(loss).inc();
    }
}

/// What a request goes on with.
#[derive(Debug)]
struct Decision {
    /// The sender's span, where ours is recorded.
    parent: Option<SpanId>,
    /// What stands in the record: with our own span where the trace is sampled.
    carried: Carried,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn tracer(ratio: f64) -> (Tracer, mpsc::Receiver<Span>, metrics::Traces) {
        let metrics = metrics::Metrics::new(&metrics::Labels::default()).unwrap().traces;
        let (queue, spans) = mpsc::channel(1);
        (Tracer::new(queue, Ratio::new(ratio).unwrap(), metrics.clone()), spans, metrics)
    }

    fn carried(traceparent: &str) -> Option<Carried> {
        Carried::read(std::iter::once(traceparent), std::iter::empty())
    }

    #[test]
    fn the_senders_decision_holds_and_the_ratio_decides_the_rest() {
        let never = tracer(0.0).0;
        let sampled = never.decide(carried(SAMPLED));
        let theirs = TraceContext::parse(SAMPLED).unwrap();
        let ours = sampled.carried.context();
        assert_eq!((ours.trace, sampled.parent), (theirs.trace, Some(theirs.span)));
        assert!(ours.is_sampled() && ours.span != theirs.span, "{ours:?}");

        let unsampled = SAMPLED.replace("-01", "-00");
        let always = tracer(1.0).0;
        let decided = always.decide(carried(&unsampled));
        assert_eq!(decided.carried.traceparent(), unsampled, "it goes on as it came");

        let (begun, left_out) = (always.decide(None), never.decide(None));
        assert!(begun.carried.context().is_sampled() && begun.parent.is_none());
        assert!(!left_out.carried.context().is_sampled());
        assert_ne!(begun.carried.context().trace, always.decide(None).carried.context().trace);
    }

    #[test]
    fn a_full_queue_drops_the_span_and_counts_it() {
        let (tracer, mut spans, metrics) = tracer(1.0);
        for _ in 0..3 {
            tracer.request(None, Timestamp::default()).end(&Served { status: 200, outcome: Outcome::Accepted, error: None });
        }
        assert_eq!(metrics.dropped(metrics::SpanLoss::QueueFull).get(), 2);
        assert!(spans.try_recv().is_ok() && spans.try_recv().is_err());
        drop(spans);
        tracer.request(None, Timestamp::default()).end(&Served { status: 200, outcome: Outcome::Accepted, error: None });
        assert_eq!(metrics.dropped(metrics::SpanLoss::Stopped).get(), 1, "nobody sends any more");
    }

    #[test]
    fn an_unsampled_request_leaves_no_span() {
        let (tracer, mut spans, _) = tracer(0.0);
        tracer.request(None, Timestamp::default()).end(&Served { status: 200, outcome: Outcome::Accepted, error: None });
        drop(tracer.request(None, Timestamp::default()));
        assert!(spans.try_recv().is_err());
    }
}
