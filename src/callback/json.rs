//! Reading JSON without changing it.
//!
//! A body is read once, member by member of its top level, each value as the very bytes that stand there: what is passed on is never printed
//! anew, so numbers of any size and texts with any escapes stay as Chat wrote them. Depth is bounded before anything is parsed, and nothing
//! here recurses.

use std::borrow::Cow;
use std::fmt;

use serde::Deserializer as _;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

/// The deepest nesting that is taken for JSON: consumers' parsers have such a limit too.
pub(crate) const DEPTH_MAX: usize = 128;

/// Why a body is not JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotJson {
    Empty,
    NotUtf8,
    TooDeep,
    EndsEarly,
    Syntax { line: usize, column: usize },
}

/// What a body's top level is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Top {
    Object,
    Other,
}

/// A member's name as it stands in the body, with its quotes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Name<'a>(&'a str);

impl<'a> Name<'a> {
    /// The very bytes, quotes and escapes included.
    pub(crate) const fn raw(self) -> &'a str {
        self.0
    }

    /// The name that it spells; `None` where it is not text (lone surrogates).
    pub(crate) fn text(self) -> Option<Cow<'a, str>> {
        text(self.0)
    }

    pub(crate) fn is(self, name: &str) -> bool {
        self.text().is_some_and(|text| text == name)
    }
}

impl fmt::Display for NotJson {
    /// Says where, never what: a body's content stands in no header and no log.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => out.write_str("empty body"),
            Self::NotUtf8 => out.write_str("not UTF-8"),
            Self::TooDeep => write!(out, "deeper than {DEPTH_MAX} levels"),
            Self::EndsEarly => out.write_str("ends early"),
            Self::Syntax { line, column } => write!(out, "syntax error at line {line} column {column}"),
        }
    }
}

impl From<serde_json::Error> for NotJson {
    fn from(error: serde_json::Error) -> Self {
        match error.classify() {
            serde_json::error::Category::Eof => Self::EndsEarly,
            serde_json::error::Category::Io | serde_json::error::Category::Syntax | serde_json::error::Category::Data => {
                Self::Syntax { line: error.line(), column: error.column() }
            }
        }
    }
}

/// Reads a body to its end and gives each member of its top level to `member`: name and value as they stand there. Members given before an error
/// is found mean nothing.
pub(crate) fn read<'a>(body: &'a [u8], member: impl FnMut(Name<'a>, &'a str)) -> Result<Top, NotJson> {
    let text = std::str::from_utf8(body).map_err(|_| NotJson::NotUtf8)?;
    if is_deeper_than(text.as_bytes(), DEPTH_MAX) {
        return Err(NotJson::TooDeep);
    }
    match text.bytes().find(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r')) {
        None => Err(NotJson::Empty),
        Some(b'{') => {
            let mut json = serde_json::Deserializer::from_str(text);
            json.deserialize_map(Members(member))?;
            json.end()?;
            Ok(Top::Object)
        }
        Some(_) => {
            serde_json::from_str::<&RawValue>(text)?;
            Ok(Top::Other)
        }
    }
}

struct Members<F>(F);

impl<'de, F: FnMut(Name<'de>, &'de str)> Visitor<'de> for Members<F> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some((name, value)) = map.next_entry::<&RawValue, &RawValue>()? {
            (self.0)(Name(name.get()), value.get());
        }
        Ok(())
    }
}

/// Whether brackets nest deeper than `limit`, by one scan. Of what is not JSON it may say either.
fn is_deeper_than(body: &[u8], limit: usize) -> bool {
    // Where no more than `limit` brackets open, inside strings or outside, none can nest deeper: true of nearly every body, and much cheaper to see.
    if memchr::memchr2_iter(b'{', b'[', body).nth(limit).is_none() {
        return false;
    }
    let mut depth = 0_usize;
    let mut bytes = body.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' | b'[' => {
                depth += 1;
                if depth > limit {
                    return true;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => skip_string(&mut bytes),
            _ => {}
        }
    }
    false
}

/// Goes on behind the string's closing quote; the opening one was taken.
fn skip_string(bytes: &mut std::slice::Iter<'_, u8>) {
    while let Some(at) = memchr::memchr2(b'"', b'\\', bytes.as_slice()) {
        if bytes.nth(at) == Some(&b'"') {
            return;
        }
        bytes.next();
    }
    *bytes = [].iter();
}

/// The text that a value is; `None` where it is none: another type, or lone surrogates.
pub(crate) fn text(value: &str) -> Option<Cow<'_, str>> {
    let inner = value.strip_prefix('"')?.strip_suffix('"')?;
    if memchr::memchr(b'\\', inner.as_bytes()).is_none() {
        return Some(Cow::Borrowed(inner));
    }
    serde_json::from_str::<String>(value).ok().map(Cow::Owned)
}

/// Whether a value is a text, or at least what JSON's grammar takes for one.
pub(crate) fn is_string(value: &str) -> bool {
    value.starts_with('"')
}

/// The number that a value is, be it written as a number or as a text of digits; `None` where it is not a whole number from 0 to below 10^18 in
/// its shortest form.
pub(crate) fn integer(value: &str) -> Option<i64> {
    let digits = if is_string(value) { text(value)? } else { Cow::Borrowed(value) };
    let shortest = digits.len() == 1 || !digits.starts_with('0');
    if !(shortest && (1..=18).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())) {
        return None;
    }
    digits.parse().ok()
}

/// Appends `text` as it stands inside the quotes of a JSON string.
pub(crate) fn escape(out: &mut Vec<u8>, text: &str) {
    let mut rest = text.as_bytes();
    let needs_escape = |byte: &u8| *byte < 0x20 || *byte == b'"' || *byte == b'\\';
    while let Some((plain, [byte, after @ ..])) = rest.iter().position(needs_escape).and_then(|at| rest.split_at_checked(at)) {
        out.extend_from_slice(plain);
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            other => {
                let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(other >> 4), digit(other & 0xf)]);
            }
        }
        rest = after;
    }
    out.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn members(body: &str) -> Result<(Top, Vec<(String, String)>), NotJson> {
        let mut members = Vec::new();
        let top = read(body.as_bytes(), |name, value| members.push((name.raw().to_owned(), value.to_owned())))?;
        Ok((top, members))
    }

    #[test]
    fn members_are_given_as_they_stand() {
        let (top, members) = members("  {\"a\" : 1e400 , \"\\u0062\":\t[ 1, {\"x\":\"\\ud800\"} ] ,\"a\":\"\\/\" } \n").unwrap();
        assert_eq!(top, Top::Object);
        let expected = [("\"a\"", "1e400"), ("\"\\u0062\"", "[ 1, {\"x\":\"\\ud800\"} ]"), ("\"a\"", "\"\\/\"")];
        assert_eq!(members, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn what_is_not_json_is_told_apart_without_showing_it() {
        let digits = "9".repeat(10_000);
        for (body, expected) in [
            (&b""[..], Err("empty body")),
            (b" \r\n\t", Err("empty body")),
            (b"\xef\xbb\xbf{}", Err("syntax error at line 1 column 1")),
            (b"{\"a\":\"\xff\"}", Err("not UTF-8")),
            (b"{\"a\":\"\xed\xa0\x80\"}", Err("not UTF-8")),
            (b"{\"secret\":", Err("ends early")),
            (b"{\"secret\"", Err("ends early")),
            (b"{\"a\":1}x", Err("syntax error at line 1 column 8")),
            (b"{\"a\":1}\0", Err("syntax error at line 1 column 8")),
            (b"{\"a\":\"\0\"}", Err("syntax error at line 1 column 6")),
            (b"{\"a\":01}", Err("syntax error at line 1 column 7")),
            (b"{\"a\":1,}", Err("syntax error at line 1 column 8")),
            (b"{a:1}", Err("syntax error at line 1 column 2")),
            (b"{\"a\":NaN}", Err("syntax error at line 1 column 6")),
            (b"[1 2]", Err("syntax error at line 1 column 4")),
            (b"// no\n{}", Err("syntax error at line 1 column 1")),
            (b"{\"\\ud800\":\"\\udfff\"}", Ok(Top::Object)),
            (b"null", Ok(Top::Other)),
            (b"\"x\"", Ok(Top::Other)),
            (b" [1e400] ", Ok(Top::Other)),
            (digits.as_bytes(), Ok(Top::Other)),
        ] {
            let read = read(body, |_, _| {}).map_err(|error| error.to_string());
            assert_eq!(read.as_ref().map_err(String::as_str).copied(), expected, "{}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn depth_is_bounded_exactly_and_brackets_in_strings_do_not_count() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert_eq!(members(&nested(128)).map(|(top, _)| top), Ok(Top::Other));
        assert_eq!(members(&nested(129)), Err(NotJson::TooDeep));
        assert_eq!(members(&nested(100_000)), Err(NotJson::TooDeep));
        assert_eq!(members(&"[".repeat(100_000)), Err(NotJson::TooDeep));
        assert_eq!(members(&r#"{"a":"#.repeat(100_000)), Err(NotJson::TooDeep));
        assert!(members(&format!("{{\"a\":{}}}", nested(127))).is_ok());
        assert_eq!(members(&format!("{{\"a\":{}}}", nested(128))), Err(NotJson::TooDeep));
        assert!(members(&format!("[\"\\\"{}\\\\\",{}]", "[{".repeat(1_000), nested(127))).is_ok());
        assert!(members(&format!("[{}[]]", "[],{},".repeat(100_000))).is_ok());
        assert_eq!(members(&format!("\"{}", "[".repeat(200))), Err(NotJson::EndsEarly));
    }

    #[test]
    fn only_whole_numbers_in_their_shortest_form_are_integers() {
        for (value, integer) in [
            ("0", Some(0)),
            ("1670574414123", Some(1_670_574_414_123)),
            ("\"1670574414123\"", Some(1_670_574_414_123)),
            ("\"\\u0031\"", Some(1)),
            ("999999999999999999", Some(999_999_999_999_999_999)),
            ("1000000000000000000", None),
            ("\"01\"", None),
            ("\"\"", None),
            ("\" 1\"", None),
            ("\"+1\"", None),
            ("-1", None),
            ("1.0", None),
            ("1e3", None),
            ("null", None),
            ("[1]", None),
            ("\"\\ud800\"", None),
        ] {
            assert_eq!(super::integer(value), integer, "{value}");
        }
    }

    proptest! {
        #[test]
        fn escaped_text_is_read_back(text: String) {
            let mut json = b"\"".to_vec();
            escape(&mut json, &text);
            json.push(b'"');
            prop_assert_eq!(serde_json::from_slice::<String>(&json).unwrap(), text.clone());
            prop_assert_eq!(super::text(std::str::from_utf8(&json).unwrap()), Some(Cow::Owned(text)));
        }

        #[test]
        fn no_bytes_panic(body: Vec<u8>) {
            let _ = read(&body, |_, _| {});
        }

        #[test]
        fn the_scan_agrees_with_a_count_by_hand(body in "[\\[\\]{}\"a\\\\ ]{0,60}", limit in 0_usize..6) {
            let (mut depth, mut deepest, mut string, mut escaped) = (0_usize, 0, false, false);
            for byte in body.bytes() {
                match (string, byte) {
                    (true, _) if escaped => escaped = false,
                    (true, b'\\') => escaped = true,
                    (true, b'"') => string = false,
                    (false, b'"') => string = true,
                    (false, b'[' | b'{') => depth += 1,
                    (false, b']' | b'}') => depth = depth.saturating_sub(1),
                    _ => {}
                }
                deepest = deepest.max(depth);
            }
            prop_assert_eq!(is_deeper_than(body.as_bytes(), limit), deepest > limit);
        }
    }
}
