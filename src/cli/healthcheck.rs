//! `healthcheck`: whether the bridge on this machine is live.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use clap::Args;

use super::{Exit, Failure, Global};

/// How long the whole question may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// The most that is read of an answer.
const ANSWER_MAX_BYTES: u64 = 64 * 1024;

/// Ask the bridge on this machine whether it is live: exit code 0, or 69.
///
/// For a container's HEALTHCHECK. It asks `/livez` where the configuration has `admin.listen`.
#[derive(Debug, Args)]
pub(super) struct Healthcheck {
    /// Where to ask instead; the configuration is not read then
    #[arg(long, value_name = "ADDRESS")]
    address: Option<SocketAddr>,
}

impl Healthcheck {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        let address = match self.address {
            Some(address) if address.port() == 0 => return Err(Failure::new(Exit::Usage, "`--address` has port 0, where nobody listens")),
            Some(address) => reachable(address),
            None => configured(global)?,
        };
        let unavailable = |why: String| Failure::new(Exit::Unavailable, format!("the bridge on {address} is not live: {why}"));
        let answer = ask(address, Instant::now() + PATIENCE).map_err(|error| unavailable(error.to_string()))?;
        verdict(&answer).map_err(unavailable)
    }
}

/// Where the configuration says that the bridge listens.
fn configured(global: &Global) -> Result<SocketAddr, Failure> {
    let listen = global.load()?.admin.listen;
    if listen.port() == 0 {
        return Err(Failure::new(Exit::Configuration, "`admin.listen` has port 0, so nobody can know where to ask"));
    }
    Ok(reachable(listen))
}

/// An address that can be connected to, where the bridge listens on all.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// What the bridge answers until it closes the connection.
fn ask(address: SocketAddr, deadline: Instant) -> io::Result<String> {
    let left = || match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")),
        left => Ok(left),
    };
    let mut stream = TcpStream::connect_timeout(&address, left()?)?;
    stream.set_write_timeout(Some(left()?))?;
    stream.write_all(format!("GET /livez HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes())?;
    let mut stream = stream.take(ANSWER_MAX_BYTES);
    let (mut answer, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        stream.get_ref().set_read_timeout(Some(left()?))?;
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(String::from_utf8_lossy(&answer).into_owned()),
            Ok(length) => answer.extend_from_slice(chunk.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // How a read that took too long is called.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether the answer says so; else what it says, on one line.
fn verdict(answer: &str) -> Result<(), String> {
    let status = answer.split(' ').nth(1).filter(|_| answer.starts_with("HTTP/1."));
    match status {
        Some("200") => Ok(()),
        Some(_) => {
            let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
            let stalled: Vec<&str> = body.lines().filter(|line| line.starts_with("stalled")).collect();
            Err(if stalled.is_empty() { head.lines().next().unwrap_or_default().to_owned() } else { stalled.join("; ") })
        }
        None => Err("what answers there does not speak HTTP".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_all_addresses_is_asked_on_the_loopback() {
        for (listen, asked) in [
            ("0.0.0.0:9090", "127.0.0.1:9090"),
            ("[::]:9090", "[::1]:9090"),
            ("10.0.0.1:9090", "10.0.0.1:9090"),
            ("[fe80::1]:9090", "[fe80::1]:9090"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()), asked.parse().unwrap());
        }
    }

    #[test]
    fn only_status_200_is_live() {
        assert_eq!(verdict("HTTP/1.1 200 OK\r\n\r\nok"), Ok(()));
        let stalled = "HTTP/1.1 503 Service Unavailable\r\na: b\r\n\r\nok      a: x\nstalled b: turned 20000 ms ago\n";
        assert_eq!(verdict(stalled), Err("stalled b: turned 20000 ms ago".to_owned()));
        assert_eq!(verdict("HTTP/1.1 404 Not Found\r\n\r\n"), Err("HTTP/1.1 404 Not Found".to_owned()));
        assert!(verdict("").is_err() && verdict("220 mail 200").is_err());
    }
}
