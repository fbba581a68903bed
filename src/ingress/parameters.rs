//! The parameters of the query that decide about a request.

use std::borrow::Cow;

use super::authentication::Claim;
use super::refusal::Refusal;
use crate::callback::query::Query;

/// Percent-decoded; those that are there.
#[derive(Default)]
pub(super) struct Parameters<'a> {
    app: Option<Cow<'a, [u8]>>,
    command: Option<Cow<'a, [u8]>>,
    pub(super) sign: Option<Cow<'a, [u8]>>,
    request_time: Option<Cow<'a, [u8]>>,
}

impl<'a> Parameters<'a> {
    pub(super) fn read(query: Query<'a>) -> Result<Self, Refusal> {
        let mut parameters = Self::default();
        for pair in query.pairs() {
            let known = [
                (&b"SdkAppid"[..], &mut parameters.app),
                (b"CallbackCommand", &mut parameters.command),
                (b"Sign", &mut parameters.sign),
                (b"RequestTime", &mut parameters.request_time),
            ];
            let name = pair.name();
            if let Some((_, value)) = known.into_iter().find(|(known, _)| name.eq_ignore_ascii_case(known))
                && value.replace(pair.value()).is_some()
            {
                return Err(Refusal::DuplicateParameter);
            }
        }
        Ok(parameters)
    }

    /// The query's command; empty where it names none.
    pub(super) fn command(&self) -> String {
        String::from_utf8_lossy(self.command.as_deref().unwrap_or_default()).into_owned()
    }

    pub(super) fn claim(&self) -> Claim<'_> {
        Claim { app: self.app.as_deref(), sign: self.sign.as_deref(), request_time: self.request_time.as_deref() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_names_the_command() {
        for (query, command) in [("callbackcommand=A%2Eb", "A.b"), ("CallbackCommand=", ""), ("", ""), ("CallbackCommand=%ff", "\u{fffd}")]
        {
            assert_eq!(Parameters::read(Query(query)).unwrap().command(), command, "{query}");
        }
    }

    #[test]
    fn a_parameter_that_decides_stands_once() {
        for (query, duplicate) in [
            ("SdkAppid=1&CallbackCommand=a&Sign=b&RequestTime=c&ClientIP=d&ClientIP=e", false),
            ("SdkAppid=1&sdkappid=1", true),
            ("SdkAppid=1&SDKAPPID", true),
            ("SdkAppid=1&%53dkAppid=1", true),
            ("CallbackCommand=a&callbackcommand=a", true),
            ("Sign=a&b=c&sign=", true),
            ("RequestTime=1&requesttime=2", true),
            ("Sign=a&Signs=a&xSign=a", false),
            ("", false),
        ] {
            assert_eq!(Parameters::read(Query(query)).is_err(), duplicate, "{query}");
        }
    }
}
