//! W3C Trace Context: `traceparent` and `tracestate`, read and written. Pure but for the drawing of ids.
//!
//! <https://www.w3.org/TR/trace-context/>. What is malformed is as if it were not there; a sender's mistake never becomes a refusal.

use std::fmt;

/// The bytes of a `traceparent` of version 00.
const TRACEPARENT_BYTES: usize = 55;

/// The flag that the sender records its part of the trace.
const SAMPLED: u8 = 1;

/// What is passed on of `tracestate` at most: as much as the recommendation asks for (3.3.1.5).
const TRACESTATE_MAX_BYTES: usize = 512;

/// Members of a `tracestate` at most (3.3.1.1).
const TRACESTATE_MEMBERS_MAX: usize = 32;

/// The id of a trace: 16 bytes, not all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId([u8; 16]);

/// The id of a span: 8 bytes, not all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId([u8; 8]);

impl TraceId {
    pub(super) fn random() -> Self {
        Self(fastrand::u128(1..).to_be_bytes())
    }

    /// Its bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// A number from 0 to 2^63 - 1 that is the same wherever the trace is looked at: its low half, as all of OpenTelemetry's libraries take it.
    pub(super) fn draw(self) -> u64 {
        let low = self.0.last_chunk::<8>().copied().unwrap_or_default();
        u64::from_be_bytes(low) >> 1
    }
}

impl SpanId {
    pub(super) fn random() -> Self {
        Self(fastrand::u64(1..).to_be_bytes())
    }

    /// Its bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

fn hex(bytes: &[u8], out: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
}

impl fmt::Display for TraceId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, out)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, out)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, out)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, out)
    }
}

/// A place in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace: TraceId,
    /// The span that what comes next is a part of.
    pub span: SpanId,
    flags: u8,
}

impl TraceContext {
    pub(super) const fn new(trace: TraceId, span: SpanId, sampled: bool) -> Self {
        Self { trace, span, flags: if sampled { SAMPLED } else { 0 } }
    }

    /// Reads a `traceparent`. Of a later version what version 00 has is taken (3.2.4); `None` where that is not possible.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let head = text.as_bytes().first_chunk::<TRACEPARENT_BYTES>()?;
        let [v1, v2, b'-', rest @ ..] = head else { return None };
        let [version] = digits(&[*v1, *v2])?;
        let is_right_length = match text.as_bytes().get(TRACEPARENT_BYTES) {
            None => true,
            Some(next) => version > 0 && *next == b'-',
        };
        if version == 0xff || !is_right_length {
            return None;
        }
        let (trace, rest) = rest.split_first_chunk::<32>()?;
        let (span, rest) = rest.strip_prefix(b"-")?.split_first_chunk::<16>()?;
        let [flags] = digits(rest.strip_prefix(b"-")?)?;
        let (trace, span) = (digits(trace)?, digits(span)?);
        (trace != [0; 16] && span != [0; 8]).then_some(Self { trace: TraceId(trace), span: SpanId(span), flags })
    }

    /// Whether the sender records its part of the trace, and expects ours.
    #[must_use]
    pub const fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The trace's flags as a span of ours bears them: those that version 00 knows.
    pub(super) const fn flags(&self) -> u8 {
        self.flags & SAMPLED
    }

    /// The same trace from another span on, with the flags that version 00 knows.
    #[must_use]
    pub const fn child(&self, span: SpanId) -> Self {
        Self { trace: self.trace, span, flags: self.flags() }
    }
}

impl fmt::Display for TraceContext {
    /// A `traceparent` of version 00.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "00-{}-{}-{:02x}", self.trace, self.span, self.flags)
    }
}

/// Bytes of hex digits in lower case; upper case is malformed (3.2.2.3).
fn digits<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    if text.len() != N * 2 {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

/// The context that a callback carries, as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carried {
    context: TraceContext,
    traceparent: String,
    tracestate: Option<String>,
}

impl Carried {
    pub(super) fn new(context: TraceContext) -> Self {
        Self { context, traceparent: context.to_string(), tracestate: None }
    }

    /// Reads the headers of a request: every value of `traceparent`, of which there must be one, and every value of `tracestate`.
    pub fn read<'a>(mut parents: impl Iterator<Item = &'a str>, states: impl Iterator<Item = &'a str>) -> Option<Self> {
        let text = parents.next()?;
        if parents.next().is_some() {
            return None;
        }
        let context = TraceContext::parse(text)?;
        // Version 00 goes on as it came; a later one as what we understand of it.
        let traceparent = if text.starts_with("00-") {
            text.to_owned()
        } else {
            TraceContext::new(context.trace, context.span, context.is_sampled()).to_string()
        };
        Some(Self { context, traceparent, tracestate: tracestate(states) })
    }

    /// The same from another place in the trace on.
    pub(super) fn within(self, context: TraceContext) -> Self {
        Self { context, traceparent: context.to_string(), tracestate: self.tracestate }
    }

    /// Where it is.
    #[must_use]
    pub const fn context(&self) -> TraceContext {
        self.context
    }

    /// The `traceparent`.
    #[must_use]
    pub fn traceparent(&self) -> &str {
        &self.traceparent
    }

    /// The `tracestate`, where there is one.
    #[must_use]
    pub fn tracestate(&self) -> Option<&str> {
        self.tracestate.as_deref()
    }

    /// `traceparent` and `tracestate`.
    #[must_use]
    pub fn into_texts(self) -> (String, Option<String>) {
        (self.traceparent, self.tracestate)
    }
}

/// Several headers are one list (3.3.1.1). Of a list that is too long the members from the left go on, the latest ones; a malformed list is none.
fn tracestate<'a>(values: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut list = String::new();
    let mut members = 0;
    for member in values.flat_map(|value| value.split(',')).map(|member| member.trim_matches([' ', '\t'])) {
        if member.is_empty() {
            continue;
        }
        if !is_member(member) {
            return None;
        }
        members += 1;
        if members > TRACESTATE_MEMBERS_MAX || list.len() + usize::from(!list.is_empty()) + member.len() > TRACESTATE_MAX_BYTES {
            break;
        }
        if !list.is_empty() {
            list.push(',');
        }
        list.push_str(member);
    }
    (!list.is_empty()).then_some(list)
}

/// A key, `=`, and a value of printable ASCII without a further `=` (3.3.1.3).
fn is_member(member: &str) -> bool {
    let is_key = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-' | b'*' | b'/' | b'@');
    member.split_once('=').is_some_and(|(key, value)| {
        !key.is_empty()
            && key.bytes().all(is_key)
            && !value.is_empty()
            && value.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'=')
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn carried(parents: &[&str], states: &[&str]) -> Option<(String, Option<String>)> {
        Carried::read(parents.iter().copied(), states.iter().copied()).map(Carried::into_texts)
    }

    #[test]
    fn a_traceparent_is_read_by_the_rules_of_the_w3c() {
        for (text, goes_on_as) in [
            (VALID, Some(VALID)),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00")),
            // Flags that nobody knows yet are no mistake.
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff", Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff")),
            // A later version is read as far as version 00 goes, and its flags as far as that knows them.
            ("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", Some(VALID)),
            ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff-what-comes", Some(VALID)),
            ("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01x", None),
            ("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0", None),
            ("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None),
            ("0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None),
            ("0x-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-", None),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x", None),
            ("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", None),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00F067AA0BA902B7-01", None),
            ("00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01", None),
            ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", None),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", None),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1", None),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0x", None),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7", None),
            ("00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01x", None),
            ("00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01", None),
            (" 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None),
            ("", None),
        ] {
            assert_eq!(carried(&[text], &[]), goes_on_as.map(|text| (text.to_owned(), None)), "{text}");
        }
        assert_eq!(carried(&[VALID, VALID], &[]), None, "which of the two?");
        assert_eq!(carried(&[], &["a=b"]), None, "a state without its trace");
    }

    #[test]
    fn a_child_stays_in_the_trace_with_the_flags_that_are_known() {
        let theirs = TraceContext::parse(&VALID.replace("-01", "-ff")).unwrap();
        let ours = theirs.child(SpanId([7; 8]));
        assert_eq!(ours.to_string(), "00-4bf92f3577b34da6a3ce929d0e0e4736-0707070707070707-01");
    }

    #[test]
    fn a_tracestate_is_one_list_and_not_too_long() {
        let long = |key: char, bytes: usize| format!("{key}={}", "v".repeat(bytes - 2));
        let many: Vec<String> = (0..40).map(|index| format!("k{index}=v")).collect();
        for (values, kept) in [
            (vec!["a=1".to_owned()], Some("a=1".to_owned())),
            (vec!["a=1, b=2 ,".to_owned(), "\tt@v=x y".to_owned()], Some("a=1,b=2,t@v=x y".to_owned())),
            (vec![String::new(), " , ".to_owned()], None),
            (vec![], None),
            (vec!["a".to_owned()], None),
            (vec!["a=1,A=2".to_owned()], None),
            (vec!["=1".to_owned()], None),
            (vec!["a=".to_owned()], None),
            (vec!["a=b=c".to_owned()], None),
            (vec!["a=\u{e4}".to_owned()], None),
            (vec![long('a', 512)], Some(long('a', 512))),
            (vec![long('a', 513)], None),
            (vec![long('a', 500), long('b', 12)], Some(long('a', 500))),
            (vec![many.join(",")], Some(many[..32].join(","))),
        ] {
            let states: Vec<&str> = values.iter().map(String::as_str).collect();
            assert_eq!(carried(&[VALID], &states), Some((VALID.to_owned(), kept)), "{values:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(trace in any::<[u8; 16]>(), span in any::<[u8; 8]>(), flags in any::<u8>()) {
            prop_assume!(trace != [0; 16] && span != [0; 8]);
            let context = TraceContext { trace: TraceId(trace), span: SpanId(span), flags };
            prop_assert_eq!(TraceContext::parse(&context.to_string()), Some(context));
        }

        /// Anything near a valid one is read as the rules have it, or not at all; it never panics, and what goes on is always valid.
        #[test]
        fn what_is_almost_a_traceparent_goes_on_as_a_valid_one_or_not_at_all(
            mut text in "[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[a-z0-9]{0,4})?", at in 0_usize..60, other in any::<char>(), change in any::<bool>(),
        ) {
            if change {
                text = text.chars().enumerate().map(|(index, character)| if index == at { other } else { character }).collect();
            }
            if let Some((goes_on_as, _)) = carried(&[&text], &[]) {
                prop_assert_eq!(goes_on_as.len(), TRACEPARENT_BYTES);
                prop_assert!(goes_on_as.starts_with("00-") && TraceContext::parse(&goes_on_as).is_some());
                prop_assert_eq!(&goes_on_as[3..52], &text[3..52]);
            }
        }

        #[test]
        fn any_tracestate_is_read_without_a_panic_and_stays_within_its_bounds(values in proptest::collection::vec("[a-z=, @\u{e4}]{0,300}", 0..5)) {
            let states: Vec<&str> = values.iter().map(String::as_str).collect();
            if let Some((_, Some(state))) = carried(&[VALID], &states) {
                prop_assert!(!state.is_empty() && state.len() <= TRACESTATE_MAX_BYTES && state.split(',').all(is_member));
            }
        }
    }
}
