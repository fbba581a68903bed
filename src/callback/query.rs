//! Reading a callback's query.
//!
//! Parameters stand in any order, their names in any case (Tencent Chat itself writes `RequestId` and `RequestID`). Names and values are
//! percent-decoded (RFC 3986, 2.1); a `+` stays a `+`, and a percent sign that no two hex digits follow stands for itself. What Chat never sends
//! and a stranger might (a parameter without `=`, empty parameters, names written `S%69gn`) has a meaning too, so that what
//! [`Query::get`] reads is what [`Query::is_repeated`] counts and [`Query::without_sign`] takes out.

use std::borrow::Cow;

/// A query, without its question mark.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a>(pub &'a str);

/// One parameter as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair<'a> {
    name: &'a str,
    value: &'a str,
}

/// The parameter that no record, event or log may hold.
const SIGN: &str = "Sign";

impl<'a> Query<'a> {
    /// The parameters in their order. An empty one (`a=1&&b=2`) is none.
    pub fn pairs(self) -> impl Iterator<Item = Pair<'a>> {
        segments(self.0).map(Pair::of)
    }

    /// The decoded value of the first parameter of that name; what is not UTF-8 in it is U+FFFD. Allocates only where something is encoded.
    #[must_use]
    pub fn get(self, name: &str) -> Option<Cow<'a, str>> {
        Some(match self.get_bytes(name)? {
            Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes),
            Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
        })
    }

    /// As [`Query::get`], but the bytes themselves.
    #[must_use]
    pub fn get_bytes(self, name: &str) -> Option<Cow<'a, [u8]>> {
        self.pairs().find(|pair| pair.is(name)).map(Pair::value)
    }

    /// Whether that name stands more than once.
    #[must_use]
    pub fn is_repeated(self, name: &str) -> bool {
        self.pairs().filter(|pair| pair.is(name)).nth(1).is_some()
    }

    /// The query as it came, but for every parameter named `Sign`.
    #[must_use]
    pub fn without_sign(self) -> Cow<'a, str> {
        if !self.pairs().any(|pair| pair.is(SIGN)) {
            return Cow::Borrowed(self.0);
        }
        let mut kept = String::with_capacity(self.0.len());
        for segment in segments(self.0).filter(|segment| !Pair::of(segment).is(SIGN)) {
            if !kept.is_empty() {
                kept.push('&');
            }
            kept.push_str(segment);
        }
        Cow::Owned(kept)
    }
}

impl<'a> Pair<'a> {
    fn of(segment: &'a str) -> Self {
        let (name, value) = cut(segment, b'=').unwrap_or((segment, ""));
        Self { name, value }
    }

    /// Whether this is the parameter of that name.
    #[must_use]
    pub fn is(self, name: &str) -> bool {
        self.name().eq_ignore_ascii_case(name.as_bytes())
    }

    /// The decoded name.
    #[must_use]
    pub fn name(self) -> Cow<'a, [u8]> {
        decoded(self.name)
    }

    /// The decoded value.
    #[must_use]
    pub fn value(self) -> Cow<'a, [u8]> {
        decoded(self.value)
    }
}

fn segments(query: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(query);
    std::iter::from_fn(move || {
        let Some((segment, after)) = cut(rest?, b'&') else { return rest.take() };
        rest = Some(after);
        Some(segment)
    })
    .filter(|segment| !segment.is_empty())
}

/// What stands before and after the first such ASCII character.
fn cut(text: &str, ascii: u8) -> Option<(&str, &str)> {
    let at = memchr::memchr(ascii, text.as_bytes())?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

fn decoded(text: &str) -> Cow<'_, [u8]> {
    let mut rest = text.as_bytes();
    let Some(first) = memchr::memchr(b'%', rest) else {
        return Cow::Borrowed(rest);
    };
    let mut out = Vec::with_capacity(rest.len());
    let mut next = Some(first);
    while let Some((plain, escape)) = next.and_then(|at| rest.split_at_checked(at)) {
        out.extend_from_slice(plain);
        if let [b'%', high, low, after @ ..] = escape
            && let (Some(high), Some(low)) = (hex(*high), hex(*low))
        {
            out.push(high << 4 | low);
            rest = after;
        } else {
            out.push(b'%');
            rest = escape.get(1..).unwrap_or_default();
        }
        next = memchr::memchr(b'%', rest);
    }
    out.extend_from_slice(rest);
    Cow::Owned(out)
}

const fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_value_is_found_by_its_name_in_any_case_and_decoded() {
        for (query, value) in [
            ("SdkAppid=1&ClientIP=127.0.0.1", Some("127.0.0.1")),
            ("clientip=::1", Some("::1")),
            ("CLIENTIP=%3a%3A1", Some("::1")),
            ("Client%49P=a%20b+c", Some("a b+c")),
            ("ClientIP", Some("")),
            ("ClientIP=", Some("")),
            ("ClientIP=a=b", Some("a=b")),
            ("ClientIP=%", Some("%")),
            ("ClientIP=%4", Some("%4")),
            ("ClientIP=%zz%41", Some("%zzA")),
            ("ClientIP=%%41", Some("%A")),
            ("ClientIP=%ff", Some("\u{fffd}")),
            ("ClientIP=1&ClientIP=2", Some("1")),
            ("&&ClientIP=1&", Some("1")),
            ("ClientIPx=1&xClientIP=2&=3", None),
            ("", None),
        ] {
            assert_eq!(Query(query).get("ClientIP").as_deref(), value, "{query}");
        }
        assert_eq!(Query("a=%ff%00").get_bytes("A").as_deref(), Some(&[0xff, 0][..]));
    }

    #[test]
    fn a_name_that_stands_twice_is_seen() {
        for (query, repeated) in
            [("Sign=1&SIGN=2", true), ("Sign=1&a=2&S%69gn", true), ("Sign=1&Signs=2", false), ("Sign=1", false), ("", false)]
        {
            assert_eq!(Query(query).is_repeated("Sign"), repeated, "{query}");
        }
    }

    #[test]
    fn the_query_without_its_signature_is_as_it_came() {
        for (query, without) in [
            ("a=1&Sign=ff&b=%41", "a=1&b=%41"),
            ("sign=ff&a=1&SIGN=ee", "a=1"),
            ("a=1&S%69gn=ff", "a=1"),
            ("Sign", ""),
            ("a=1&&b=2&", "a=1&&b=2&"),
            ("Signature=1", "Signature=1"),
        ] {
            assert_eq!(Query(query).without_sign(), without, "{query}");
        }
        assert!(matches!(Query("a=1").without_sign(), Cow::Borrowed("a=1")));
    }

    proptest! {
        #[test]
        fn an_encoded_value_is_read_back(value: Vec<u8>) {
            let mut query = "x=1&Name=".to_owned();
            for byte in &value {
                write!(query, "%{byte:02x}").unwrap();
            }
            let read = Query(&query).get_bytes("name");
            prop_assert_eq!(read.as_deref(), Some(&value[..]));
        }

        #[test]
        fn no_query_panics_and_no_signature_stays(query in "([sS%0-9ignIGN=&]|\\PC){0,40}") {
            let without = Query(&query).without_sign().into_owned();
            prop_assert_eq!(Query(&without).get_bytes("sign"), None);
            for pair in Query(&query).pairs().filter(|pair| !pair.is("Sign")) {
                prop_assert!(Query(&without).pairs().any(|kept| kept == pair));
            }
        }
    }
}
