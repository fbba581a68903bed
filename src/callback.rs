//! A verified callback, its command, and the record that keeps it.
//!
//! Owns what a callback is ([`Callback`]), the commands that the bridge knows ([`Command`], one file a family), the reading of a query
//! ([`query`]) and the bytes that the journal keeps (`docs/callback-record.md`). Everything here is a function of its arguments; nothing here
//! decides whether a callback is accepted, or where its event goes.

mod command;
mod group;
pub(crate) mod json;
pub mod query;

use bytes::{Buf as _, Bytes};

pub use command::{BODY_COMMAND_BYTES_MAX, Command, FIELDS_MAX, Field, Shape, command_in, commands, find, is_before};

use crate::clock::Timestamp;

/// One request of Tencent Chat whose app, source and signature were found to be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Callback {
    /// When it arrived.
    pub received: Timestamp,
    /// Random; tells two receipts of the same bytes apart.
    pub receipt: [u8; 16],
    /// The app it came for.
    pub app: u64,
    /// The query's command, percent-decoded; else the body's ([`command_in`]); else empty.
    pub command: String,
    /// The whole query as it came, but for `Sign`.
    pub query: String,
    /// The place in a trace that the callback goes on from: the request's, or our own span of it.
    pub traceparent: Option<String>,
    /// What came with the request's `traceparent`.
    pub tracestate: Option<String>,
    /// The body as it came, of any bytes.
    pub body: Bytes,
}

/// Why a record's payload is not a callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// A later version of the bridge wrote it.
    #[error("version {0} of the record is not known")]
    Version(u8),
    /// A flag is set that this version does not know.
    #[error("flags {0:#04x} of the record are not known")]
    Flags(u8),
    /// It ends before the lengths that it names.
    #[error("the record ends early")]
    Truncated,
    /// Its command, query, traceparent or tracestate is not UTF-8.
    #[error("text of the record is not UTF-8")]
    NotUtf8,
}

/// What the first byte of a record says.
const VERSION: u8 = 1;
/// The flag of a record that has a traceparent, be it empty.
const HAS_TRACEPARENT: u8 = 1;
/// The flag of a record that has a tracestate, and its length.
const HAS_TRACESTATE: u8 = 2;
/// The bytes before the command: version, flags, receive time, receipt, app, four lengths.
const HEAD_BYTES_MAX: usize = 1 + 1 + 8 + 16 + 8 + 4 * 4;

impl Callback {
    /// Appends the record's payload to `out`, as `docs/callback-record.md` has it.
    ///
    /// Texts are far below 4 GiB, for the ingress bounds them; a longer one would make a record that [`Callback::decode`] refuses.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let traceparent = self.traceparent.as_deref().unwrap_or_default();
        let length = |text: &str| u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes();
        let tracestate = self.tracestate.as_deref().unwrap_or_default();
        out.reserve(HEAD_BYTES_MAX + self.command.len() + self.query.len() + traceparent.len() + tracestate.len() + self.body.len());
        out.push(VERSION);
        let flag = |text: &Option<String>, flag| if text.is_some() { flag } else { 0 };
        out.push(flag(&self.traceparent, HAS_TRACEPARENT) | flag(&self.tracestate, HAS_TRACESTATE));
        out.extend_from_slice(&self.received.micros().to_le_bytes());
        out.extend_from_slice(&self.receipt);
        out.extend_from_slice(&self.app.to_le_bytes());
        out.extend_from_slice(&length(&self.command));
        out.extend_from_slice(&length(&self.query));
        out.extend_from_slice(&length(traceparent));
        if self.tracestate.is_some() {
            out.extend_from_slice(&length(tracestate));
        }
        out.extend_from_slice(self.command.as_bytes());
        out.extend_from_slice(self.query.as_bytes());
        out.extend_from_slice(traceparent.as_bytes());
        out.extend_from_slice(tracestate.as_bytes());
        out.extend_from_slice(&self.body);
    }

    /// Reads a record's payload. The body is a slice of `record`, not a copy.
    pub fn decode(mut record: Bytes) -> Result<Self, DecodeError> {
        let mut rest = Unread(&record);
        let [version] = rest.array()?;
        if version != VERSION {
            return Err(DecodeError::Version(version));
        }
        let [flags] = rest.array()?;
        if flags & !(HAS_TRACEPARENT | HAS_TRACESTATE) != 0 {
            return Err(DecodeError::Flags(flags));
        }
        let received = Timestamp::from_micros(i64::from_le_bytes(rest.array()?));
        let receipt = rest.array()?;
        let app = u64::from_le_bytes(rest.array()?);
        let [command, query, traceparent] = [rest.length()?, rest.length()?, rest.length()?];
        let tracestate = if flags & HAS_TRACESTATE != 0 { Some(rest.length()?) } else { None };
        let command = rest.text(command)?;
        let query = rest.text(query)?;
        let traceparent = rest.text(traceparent)?;
        let tracestate = tracestate.map(|length| rest.text(length)).transpose()?;
        if flags & HAS_TRACEPARENT == 0 && !traceparent.is_empty() {
            return Err(DecodeError::Flags(flags));
        }
        let traceparent = (flags & HAS_TRACEPARENT != 0).then_some(traceparent);
        let head = record.len() - rest.0.len();
        record.advance(head);
        Ok(Self { received, receipt, app, command, query, traceparent, tracestate, body: record })
    }
}

/// What of a record is not yet read.
struct Unread<'a>(&'a [u8]);

impl Unread<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (array, rest) = self.0.split_first_chunk::<N>().ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(*array)
    }

    fn length(&mut self) -> Result<usize, DecodeError> {
        usize::try_from(u32::from_le_bytes(self.array()?)).map_err(|_| DecodeError::Truncated)
    }

    fn text(&mut self, length: usize) -> Result<String, DecodeError> {
        let (text, rest) = self.0.split_at_checked(length).ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(std::str::from_utf8(text).map_err(|_| DecodeError::NotUtf8)?.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Callback {
        Callback {
            received: Timestamp::from_micros(1_670_574_414_123_456),
            receipt: [7; 16],
            app: 1_400_000_000,
            command: "A.b".to_owned(),
            query: "SdkAppid=1".to_owned(),
            traceparent: Some("00-ab".to_owned()),
            tracestate: None,
            body: Bytes::from_static(b"{}"),
        }
    }

    /// The bytes before the command of a record without a tracestate.
    const HEAD_BYTES: usize = HEAD_BYTES_MAX - 4;

    fn encoded(callback: &Callback) -> Vec<u8> {
        let mut record = Vec::new();
        callback.encode(&mut record);
        record
    }

    #[test]
    fn a_record_is_what_its_page_says_byte_by_byte() {
        let mut expected = vec![1, 1];
        expected.extend_from_slice(&[0xc0, 0x51, 0x86, 0xea, 0x60, 0xef, 0x05, 0x00]);
        expected.extend_from_slice(&[7; 16]);
        expected.extend_from_slice(&[0x00, 0x4e, 0x72, 0x53, 0, 0, 0, 0]);
        expected.extend_from_slice(&[3, 0, 0, 0, 10, 0, 0, 0, 5, 0, 0, 0]);
        expected.extend_from_slice(b"A.bSdkAppid=100-ab{}");
        assert_eq!(encoded(&sample()), expected);
        // A tracestate is told by its flag; its length is the fourth, and it stands behind the traceparent.
        expected[1] = 3;
        expected.splice(HEAD_BYTES..HEAD_BYTES, [3, 0, 0, 0]);
        let body = expected.len() - 2;
        expected.splice(body..body, *b"a=1");
        assert_eq!(encoded(&Callback { tracestate: Some("a=1".to_owned()), ..sample() }), expected);
    }

    #[test]
    fn the_body_is_not_copied() {
        let record = Bytes::from(encoded(&sample()));
        let body = Callback::decode(record.clone()).unwrap().body;
        assert_eq!(record.as_ptr_range().end, body.as_ptr_range().end);
    }

    #[test]
    fn what_is_not_a_record_is_refused_with_its_reason() {
        let good = encoded(&sample());
        let changed = |at: usize, to: u8| {
            let mut record = good.clone();
            record[at] = to;
            Callback::decode(Bytes::from(record))
        };
        assert_eq!(Callback::decode(Bytes::new()), Err(DecodeError::Truncated));
        assert_eq!(changed(0, 2), Err(DecodeError::Version(2)));
        assert_eq!(changed(1, 5), Err(DecodeError::Flags(5)));
        assert_eq!(changed(1, 0), Err(DecodeError::Flags(0)), "a traceparent without its flag");
        assert_eq!(changed(37, 0xff), Err(DecodeError::Truncated), "a length beyond the end");
        assert_eq!(changed(HEAD_BYTES, 0xff), Err(DecodeError::NotUtf8));
        let texts = HEAD_BYTES + "A.bSdkAppid=100-ab".len();
        for end in 0..texts {
            assert_eq!(Callback::decode(Bytes::copy_from_slice(&good[..end])), Err(DecodeError::Truncated), "{end} bytes");
        }
    }

    prop_compose! {
        fn callbacks()(
            micros: i64, receipt: [u8; 16], app: u64, command: String, query: String,
            traceparent: Option<String>, tracestate: Option<String>, body in prop::collection::vec(any::<u8>(), 0..200),
        ) -> Callback {
            let received = Timestamp::from_micros(micros);
            Callback { received, receipt, app, command, query, traceparent, tracestate, body: Bytes::from(body) }
        }
    }

    proptest! {
        #[test]
        fn decode_undoes_encode(callback in callbacks()) {
            prop_assert_eq!(Callback::decode(Bytes::from(encoded(&callback))), Ok(callback));
        }

        #[test]
        fn whatever_decodes_encodes_to_the_same_bytes(record in prop::collection::vec(any::<u8>(), 0..120), known: bool) {
            let mut record = record;
            if known {
                // Most random bytes fail at once; these come further.
                record.splice(0..record.len().min(2), [VERSION, 0]);
            }
            if let Ok(callback) = Callback::decode(Bytes::from(record.clone())) {
                prop_assert_eq!(encoded(&callback), record);
            }
        }

        #[test]
        fn a_damaged_record_never_panics(callback in callbacks(), at: prop::sample::Index, to: u8) {
            let mut record = encoded(&callback);
            let at = at.index(record.len());
            record[at] = to;
            let _ = Callback::decode(Bytes::from(record));
        }
    }
}
