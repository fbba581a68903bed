//! Where a request came from: the peer, or the address that a trusted proxy names.

use std::net::{IpAddr, SocketAddr};

use hyper::HeaderMap;
use hyper::header::HeaderName;
use ipnet::{IpNet, Ipv4Net};

/// The header by which proxies name the sender. It is a list, over several lines too; each proxy adds the address it saw at the right end.
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// A set of networks. IPv4 written as IPv6 (`::ffff:10.0.0.0/104`) is the IPv4 network.
#[derive(Clone, Debug, Default)]
pub(super) struct Networks(Vec<IpNet>);

impl Networks {
    pub(super) fn new(networks: &[IpNet]) -> Self {
        Self(networks.iter().copied().map(canonical).collect())
    }

    pub(super) fn contain(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The sender of a request: `peer`, or where that is one of these proxies the rightmost forwarded address that is none of them. Where all of
    /// them are, the leftmost. `None` where what stands there is no address before one that can be believed: the sender is not known then.
    pub(super) fn sender(&self, peer: IpAddr, headers: &HeaderMap) -> Option<IpAddr> {
        let mut sender = peer.to_canonical();
        if !self.contain(sender) {
            return Some(sender);
        }
        // The headers in the order of their lines: the last line's last element is the nearest hop.
        for line in headers.get_all(X_FORWARDED_FOR).iter().rev() {
            let line = line.to_str().ok()?;
            for element in line.rsplit(',') {
                let element = element.trim_matches([' ', '\t']);
                if element.is_empty() {
                    // RFC 9110, 5.6.1: an empty element of a list does not count.
                    continue;
                }
                sender = address(element)?;
                if !self.contain(sender) {
                    return Some(sender);
                }
            }
        }
        Some(sender)
    }
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:80`.
fn address(element: &str) -> Option<IpAddr> {
    let bracketed = element.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let address = match bracketed {
        Some(inside) => IpAddr::V6(inside.parse().ok()?),
        None => match element.parse::<IpAddr>() {
            Ok(address) => address,
            Err(_) => element.parse::<SocketAddr>().ok()?.ip(),
        },
    };
    Some(address.to_canonical())
}

fn canonical(network: IpNet) -> IpNet {
    match network {
        IpNet::V4(_) => network,
        IpNet::V6(v6) => {
            let mapped = v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96));
            mapped.and_then(|(address, prefix)| Ipv4Net::new(address, prefix).ok()).map_or(network, IpNet::V4)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Networks {
        Networks::new(&texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>())
    }

    fn sender(peer: &str, lines: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append("X-Forwarded-For", line.parse().unwrap());
        }
        let proxies = networks(&["10.0.0.0/8", "fd00::/8"]);
        proxies.sender(peer.parse().unwrap(), &headers).map(|address| address.to_string())
    }

    #[test]
    fn a_header_counts_only_where_a_trusted_proxy_sent_it() {
        assert_eq!(sender("192.0.2.1", &["203.0.113.9"]).as_deref(), Some("192.0.2.1"));
        assert_eq!(sender("::ffff:192.0.2.1", &["203.0.113.9"]).as_deref(), Some("192.0.2.1"));
        assert_eq!(sender("::ffff:10.0.0.1", &["203.0.113.9"]).as_deref(), Some("203.0.113.9"));
        assert_eq!(sender("10.0.0.1", &[]).as_deref(), Some("10.0.0.1"));
        assert_eq!(sender("fd00::1", &["2001:db8::9"]).as_deref(), Some("2001:db8::9"));
    }

    #[test]
    fn the_sender_is_the_rightmost_address_that_is_no_proxy() {
        for (lines, expected) in [
            (&["203.0.113.1, 203.0.113.9"][..], Some("203.0.113.9")),
            (&["203.0.113.1, 203.0.113.9, 10.1.1.1"], Some("203.0.113.9")),
            (&["203.0.113.1", "203.0.113.9", "10.1.1.1,10.2.2.2"], Some("203.0.113.9")),
            (&["203.0.113.1", "203.0.113.9 ,\t10.1.1.1 , "], Some("203.0.113.9")),
            (&["203.0.113.9:4711"], Some("203.0.113.9")),
            (&["[2001:db8::9]"], Some("2001:db8::9")),
            (&["[2001:db8::9]:4711"], Some("2001:db8::9")),
            (&["2001:db8::9"], Some("2001:db8::9")),
            (&["::ffff:203.0.113.9"], Some("203.0.113.9")),
            (&["[::ffff:203.0.113.9]:80, ::ffff:10.0.0.1"], Some("203.0.113.9")),
            (&["10.9.9.9, 10.1.1.1"], Some("10.9.9.9")),
            // What stands left of the sender is the sender's own claim, and not read.
            (&["nonsense, 203.0.113.9"], Some("203.0.113.9")),
            (&["203.0.113.9, unknown"], None),
            (&["203.0.113.9, _hidden, 10.1.1.1"], None),
            (&["203.0.113.9", "300.1.1.1"], None),
            (&["[10.0.0.1]"], None),
            (&["[2001:db8::9"], None),
            (&["\"203.0.113.9\""], None),
        ] {
            assert_eq!(sender("10.0.0.1", lines).as_deref(), expected, "{lines:?}");
        }
    }

    #[test]
    fn a_header_that_is_no_text_names_nobody() {
        let mut headers = HeaderMap::new();
        headers.append("x-forwarded-for", hyper::header::HeaderValue::from_bytes(b"203.0.113.9\xff").unwrap());
        assert_eq!(networks(&["10.0.0.0/8"]).sender("10.0.0.1".parse().unwrap(), &headers), None);
    }

    #[test]
    fn ipv4_written_as_ipv6_is_ipv4() {
        let mapped = networks(&["::ffff:203.0.113.0/120"]);
        assert!(mapped.contain("203.0.113.7".parse().unwrap()));
        assert!(!mapped.contain("203.0.114.7".parse().unwrap()));
        assert!(networks(&["203.0.113.0/24"]).contain("::ffff:203.0.113.7".parse().unwrap()));
        assert!(!networks(&[]).contain("203.0.113.7".parse().unwrap()));
    }
}
