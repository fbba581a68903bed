//! One keep-alive connection, as Chat keeps them: a request, its answer, the next request.
//!
//! An HTTP/1.1 client of its own, and not hyper's: the requests are ready-made bytes and the answers a few dozen, so that a head parser and two system calls a
//! callback are all that is needed, and what the load tool does not burn is left to the server on the same machine (`docs/benchmarks.md` has the figures).
//! It reads answers by `Content-Length`, or to the end of the connection; an answer in chunks, which the bridge never sends, is unreadable to it.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The longest answer; whatever sends more is not a receiver of callbacks.
const ANSWER_MAX_BYTES: usize = 256 * 1024;

/// The most header lines of an answer.
const HEADERS_MAX: usize = 64;

/// Room for an answer of the usual length.
const ROOM_BYTES: usize = 4096;

/// The answer of a durable callback.
pub const DURABLE: &[u8] = br#"{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0}"#;

/// What a refusal of the bridge's holds.
const REFUSED: &[u8] = br#""ActionStatus":"FAIL""#;

/// What an answer's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// The very bytes of [`DURABLE`].
    Durable,
    /// A refusal in the bridge's form.
    Refusal,
    Other,
}

/// Whether the connection takes another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Kept,
    Closes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Body,
    pub(super) fate: Fate,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("failed to connect")]
    Connect(#[source] io::Error),
    #[error("the connection broke before the answer")]
    Broken(#[source] io::Error),
    #[error("the connection was closed before the answer")]
    Closed,
    #[error("no answer within the timeout")]
    TimedOut,
    #[error("the answer is unreadable: {0}")]
    Unreadable(&'static str),
}

#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    buffer: BytesMut,
    timeout: Duration,
}

impl Connection {
    /// Connects within the time that an answer has, too.
    pub(super) async fn open(authority: &str, timeout: Duration) -> Result<Self, Error> {
        let connecting = tokio::time::timeout(timeout, TcpStream::connect(authority));
        let stream = connecting.await.map_err(|_| Error::TimedOut)?.map_err(Error::Connect)?;
        stream.set_nodelay(true).map_err(Error::Connect)?;
        Ok(Self { stream, buffer: BytesMut::with_capacity(ROOM_BYTES), timeout })
    }

    /// Whether the other side has closed the connection, or says something unasked, as far as the event loop has heard.
    pub(super) fn is_closed(&self) -> bool {
        let mut byte = [0];
        !matches!(self.stream.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Sends a request and reads its answer. After an error, or dropped halfway, the connection is of no more use.
    pub(super) async fn exchange(&mut self, request: &[u8]) -> Result<Answer, Error> {
        tokio::time::timeout(self.timeout, Self::exchange_patiently(&mut self.stream, &mut self.buffer, request))
            .await
            .map_err(|_| Error::TimedOut)?
    }

    async fn exchange_patiently(stream: &mut TcpStream, buffer: &mut BytesMut, request: &[u8]) -> Result<Answer, Error> {
        stream.write_all(request).await.map_err(Error::Broken)?;
        buffer.clear();
        let head = loop {
            if let Some(head) = parse(buffer)? {
                break head;
            }
            if read_more(stream, buffer).await? == 0 {
                return Err(Error::Closed);
            }
        };
        let end = match head.length {
            Some(length) => {
                let end = head.end.saturating_add(length);
                while buffer.len() < end {
                    if read_more(stream, buffer).await? == 0 {
                        return Err(Error::Closed);
                    }
                }
                end
            }
            None => loop {
                if read_more(stream, buffer).await? == 0 {
                    break buffer.len();
                }
            },
        };
        if buffer.len() > end {
            return Err(Error::Unreadable("more than one answer"));
        }
        let bytes = buffer.get(head.end..end).unwrap_or_default();
        Ok(Answer { status: head.status, body: classify(bytes), fate: head.fate })
    }
}

fn classify(bytes: &[u8]) -> Body {
    if bytes == DURABLE {
        Body::Durable
    } else if memchr::memmem::find(bytes, REFUSED).is_some() {
        Body::Refusal
    } else {
        Body::Other
    }
}

async fn read_more(stream: &mut TcpStream, buffer: &mut BytesMut) -> Result<usize, Error> {
    if buffer.len() >= ANSWER_MAX_BYTES {
        return Err(Error::Unreadable("it is too long"));
    }
    if buffer.len() == buffer.capacity() {
        buffer.reserve(ROOM_BYTES);
    }
    stream.read_buf(buffer).await.map_err(Error::Broken)
}

#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    /// Where the body begins.
    end: usize,
    /// The body's length; `None` where the end of the connection ends it.
    length: Option<usize>,
    fate: Fate,
}

fn parse(bytes: &[u8]) -> Result<Option<Head>, Error> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let end = match response.parse(bytes) {
        Ok(httparse::Status::Complete(end)) => end,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Error::Unreadable("it is not HTTP/1.1")),
    };
    let status = response.code.unwrap_or(0);
    if status < 200 {
        return Err(Error::Unreadable("an interim answer to a request that expects none"));
    }
    let mut fate = if response.version == Some(1) { Fate::Kept } else { Fate::Closes };
    let mut length = None;
    for header in response.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            let text = std::str::from_utf8(header.value).ok();
            length = Some(text.and_then(|text| text.parse().ok()).ok_or(Error::Unreadable("its Content-Length is no number"))?);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(Error::Unreadable("it comes in chunks"));
        } else if header.name.eq_ignore_ascii_case("connection") && header.value.eq_ignore_ascii_case(b"close") {
            fate = Fate::Closes;
        }
    }
    if length.is_none() {
        fate = Fate::Closes;
    }
    Ok(Some(Head { status, end, length, fate }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_tells_status_length_and_what_becomes_of_the_connection() {
        let head = |status, end, length, fate| Some(Head { status, end, length, fate });
        for (text, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n", head(200, 39, Some(50), Fate::Kept)),
            ("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: Close\r\n\r\n", head(503, 74, Some(0), Fate::Closes)),
            ("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", head(200, 38, Some(5), Fate::Closes)),
            ("HTTP/1.1 200 OK\r\n\r\n", head(200, 19, None, Fate::Closes)),
            ("HTTP/1.1 200 OK\r\nContent-Len", None),
            ("", None),
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_answer_is_unreadable() {
        for text in [
            "SSH-2.0-OpenSSH\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
        ] {
            assert!(matches!(parse(text.as_bytes()), Err(Error::Unreadable(_))), "{text}");
        }
    }

    #[test]
    fn a_body_is_told_by_its_bytes() {
        for (bytes, body) in [
            (DURABLE, Body::Durable),
            (&br#"{"ActionStatus":"FAIL","ErrorInfo":"full","ErrorCode":1}"#[..], Body::Refusal),
            (&br#"{"ActionStatus": "OK"}"#[..], Body::Other),
            (b"", Body::Other),
        ] {
            assert_eq!(classify(bytes), body);
        }
    }
}
