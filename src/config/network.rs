//! Addresses and networks as the configuration writes them: `"0.0.0.0:8080"`, `"203.0.113.0/24"`.

use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::de::{self, Deserialize, Deserializer};

/// What is read from its text.
trait Written: FromStr {
    /// What it is, with an example.
    const EXPECTED: &'static str;
}

impl Written for SocketAddr {
    const EXPECTED: &'static str = "an IP address and a port, such as \"0.0.0.0:8080\"";
}

impl Written for IpNet {
    const EXPECTED: &'static str = "a network, such as \"203.0.113.0/24\"";
}

/// Reads an address.
pub(super) fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    Text::deserialize(deserializer).map(|Text(address)| address)
}

/// Reads a list of networks.
pub(super) fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let networks = Vec::<Text<IpNet>>::deserialize(deserializer)?;
    Ok(networks.into_iter().map(|Text(network)| network).collect())
}

/// Reads a list of networks that may be absent.
pub(super) fn some_list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<IpNet>>, D::Error> {
    list(deserializer).map(Some)
}

/// The types' own readers say neither what stood there nor what would be right.
struct Text<T>(T);

impl<'de, T: Written> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<T>(PhantomData<T>);
        impl<T: Written> de::Visitor<'_> for Visitor<T> {
            type Value = Text<T>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(T::EXPECTED)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text<T>, E> {
                text.parse().map(Text).map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Visitor(PhantomData))
    }
}
