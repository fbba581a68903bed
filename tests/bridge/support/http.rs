//! HTTP by hand: what is sent is exactly what a test wants, and what comes back is seen as it comes.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::PATIENCE;

/// The answer to whatever is durable.
pub(crate) const OK: &str = r#"{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0}"#;

/// An HTTP answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// In lower case.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP answer: {text:?}"));
        Self { body: body.to_owned(), ..Self::of_head(head) }
    }

    fn of_head(head: &str) -> Self {
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head: head.to_ascii_lowercase(), body: String::new() }
    }

    /// A header's value; its name and value in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().filter_map(|line| line.split_once(": ")).find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// Whether it tells its client to close the connection.
    pub(crate) fn closes(&self) -> bool {
        self.header("connection") == Some("close")
    }

    /// Whether it says that the callback is durable.
    pub(crate) fn is_success(&self) -> bool {
        self.status == 200 && self.body == OK
    }
}

/// Sends bytes and reads until the other side closes.
pub(crate) fn exchange(address: SocketAddr, request: &[u8]) -> Answer {
    attempt(address, request).unwrap()
}

/// Sends bytes to a server that may not be there, or go away: an error where it does before it has answered.
pub(crate) fn attempt(address: SocketAddr, request: &[u8]) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request)?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    if bytes.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Answer::parse(&String::from_utf8(bytes).unwrap()))
}

/// A connection that is kept.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    unread: Vec<u8>,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::new(TcpStream::connect(address).unwrap())
    }

    pub(crate) fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, unread: Vec::new() }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// Reads once; whether anything came before the end.
    fn read(&mut self) -> bool {
        let mut bytes = [0; 16 * 1024];
        match self.stream.read(&mut bytes) {
            Ok(0) => false,
            Ok(read) => {
                self.unread.extend_from_slice(&bytes[..read]);
                true
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => false,
            Err(error) => panic!("{error}; read so far {:?}", String::from_utf8_lossy(&self.unread)),
        }
    }

    /// Reads up to the end of a head.
    pub(crate) fn head(&mut self) -> Answer {
        loop {
            if let Some(end) = memchr::memmem::find(&self.unread, b"\r\n\r\n") {
                let head: Vec<u8> = self.unread.drain(..end + 4).collect();
                return Answer::of_head(std::str::from_utf8(&head[..end]).unwrap());
            }
            assert!(self.read(), "the connection ended; read so far {:?}", String::from_utf8_lossy(&self.unread));
        }
    }

    /// The next answer.
    pub(crate) fn answer(&mut self) -> Answer {
        let mut answer = self.head();
        let length: usize = answer.header("content-length").unwrap_or("0").parse().unwrap();
        while self.unread.len() < length {
            assert!(self.read(), "the connection ended within a body");
        }
        answer.body = String::from_utf8(self.unread.drain(..length).collect()).unwrap();
        answer
    }

    /// The statuses of the next answers, which have nothing in their bodies that looks like the end of a head.
    pub(crate) fn statuses(&mut self, count: usize) -> BTreeMap<u16, u64> {
        let mut statuses = BTreeMap::new();
        let (mut seen, mut at) = (0, 0);
        while seen < count {
            // Every answer of ours ends with its body's closing brace, the next begins behind it.
            let Some(end) = memchr::memchr(b'}', &self.unread[at..]) else {
                self.unread.drain(..at);
                at = 0;
                assert!(self.read(), "the connection ended after {seen} answers");
                continue;
            };
            let answer = &self.unread[at..=at + end];
            let status = std::str::from_utf8(answer).unwrap().strip_prefix("HTTP/1.1 ").unwrap().get(..3).unwrap().parse().unwrap();
            *statuses.entry(status).or_default() += 1;
            at += end + 1;
            seen += 1;
        }
        self.unread.drain(..at);
        statuses
    }

    /// What comes until the connection ends.
    pub(crate) fn rest(&mut self) -> String {
        while self.read() {}
        String::from_utf8(std::mem::take(&mut self.unread)).unwrap()
    }

    /// Nothing comes any more.
    #[track_caller]
    pub(crate) fn is_closed(&mut self) {
        assert_eq!(self.rest(), "");
    }
}
