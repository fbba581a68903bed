//! Every way in which a request is not accepted: its status, its reason, and the answer that its sender gets.
//!
//! A closed set. Each request that is neither accepted nor discarded has exactly one of them, and each is counted under its reason.

use hyper::StatusCode;

/// Writes the enum and everything that is fixed for a refusal from one table, so that no refusal lacks a part of it.
macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident: $status:ident, $reason:literal, $code:literal, $info:literal;)+) => {
        /// Why a request is refused, where its sender is told so.
        ///
        /// `ErrorInfo` and `ErrorCode` are fixed: nothing of the request, and nothing of our inside, stands in an answer.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Refusal {
            $($(#[$doc])* $name,)+
        }

        impl Refusal {
            /// All of them, in the order in which they are decided.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The reasons of all refusals, the unanswered ones too: the label values of `chat_bridge_callbacks_total`.
            pub const REASONS: &'static [&'static str] = &[
                $($reason,)+
                Unanswered::BodyIncomplete.reason(), Unanswered::Tls.reason(), Unanswered::NotHttp.reason(), Unanswered::Connections.reason(),
                Unanswered::Internal.reason(),
            ];

            /// The status of the answer.
            #[must_use]
            pub const fn status(self) -> StatusCode {
                match self {
                    $(Self::$name => StatusCode::$status,)+
                }
            }

            /// The label under which it is counted.
            #[must_use]
            pub const fn reason(self) -> &'static str {
                match self {
                    $(Self::$name => $reason,)+
                }
            }

            /// The answer's body.
            #[must_use]
            pub const fn body(self) -> &'static str {
                match self {
                    $(Self::$name => concat!(r#"{"ActionStatus":"FAIL","ErrorInfo":""#, $info, r#"","ErrorCode":"#, $code, "}"),)+
                }
            }
        }
    };
}

refusals! {
    /// Not `POST`.
    Method: METHOD_NOT_ALLOWED, "method", 40500, "only POST is answered";
    /// A parameter that decides (app, command, `Sign`, `RequestTime`) stands twice: which one would count is a guess.
    DuplicateParameter: BAD_REQUEST, "duplicate_parameter", 40001, "a parameter is given twice";
    /// No `SdkAppid`.
    AppMissing: FORBIDDEN, "app_missing", 40301, "SdkAppid is missing";
    /// An `SdkAppid` that is not one of ours.
    AppUnknown: FORBIDDEN, "app_unknown", 40302, "SdkAppid is not known here";
    /// The sender is outside of the app's networks.
    Source: FORBIDDEN, "source", 40303, "the sender is not allowed";
    /// The app has tokens, and `Sign` or `RequestTime` is missing.
    SignMissing: UNAUTHORIZED, "sign_missing", 40101, "Sign or RequestTime is missing";
    /// `Sign` fits none of the app's tokens.
    SignWrong: UNAUTHORIZED, "sign_wrong", 40102, "Sign is wrong";
    /// `RequestTime` is not a time in decimal seconds, or too far from now.
    RequestTime: UNAUTHORIZED, "request_time", 40103, "RequestTime is too far from now";
    /// `Content-Encoding` other than `identity`.
    ContentEncoding: UNSUPPORTED_MEDIA_TYPE, "content_encoding", 41501, "only identity is taken as Content-Encoding";
    /// The body is larger than `http.body_max`, by its `Content-Length` or while reading.
    BodyTooLarge: PAYLOAD_TOO_LARGE, "body_too_large", 41301, "the body is too large";
    /// We stop, or the operator has drained us.
    Draining: SERVICE_UNAVAILABLE, "draining", 50301, "draining, try another instance";
    /// The journal has no room.
    JournalFull: SERVICE_UNAVAILABLE, "journal_full", 50302, "no room, try again";
    /// The journal has failed: nothing can become durable any more.
    JournalFailed: SERVICE_UNAVAILABLE, "journal_failed", 50303, "the journal has failed, try another instance";
    /// `http.bodies_max` bytes of bodies are in hand.
    Bodies: SERVICE_UNAVAILABLE, "bodies", 50304, "too many bodies in hand, try again";
    /// Too many callbacks wait for the journal's writer.
    TooManyWaiting: SERVICE_UNAVAILABLE, "too_many_waiting", 50305, "too many wait, try again";
    /// The journal's writer had not taken the callback after `journal.answer_max`.
    NotTaken: SERVICE_UNAVAILABLE, "not_taken", 50306, "not taken in time, try again";
    /// The body had not arrived after `http.body_timeout`.
    BodyTimeout: REQUEST_TIMEOUT, "body_timeout", 40801, "the body is too slow";
}

/// Why a request, or what should have become one, gets no answer of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("answer: {}", self.reason())]
pub enum Unanswered {
    /// The sender hung up while it sent the body.
    BodyIncomplete,
    /// No TLS came about: no TLS, no version or cipher that both have, no certificate of a client that is trusted, or a handshake that was too slow.
    Tls,
    /// Not HTTP: hyper refuses it by itself, or the head was too slow.
    NotHttp,
    /// `http.connections_max` connections are open: this one was closed at once.
    Connections,
    /// A fault of the program: a panic, which has said so itself and ended the connection.
    Internal,
}

impl Unanswered {
    /// The label under which it is counted.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::BodyIncomplete => "body_incomplete",
            Self::Tls => "tls",
            Self::NotHttp => "not_http",
            Self::Connections => "connections",
            Self::Internal => "internal",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_answer_is_chats_form_with_a_code_of_its_own() {
        let mut codes = BTreeSet::new();
        for refusal in Refusal::ALL {
            let answer: serde_json::Value = serde_json::from_str(refusal.body()).unwrap();
            assert_eq!(answer["ActionStatus"], "FAIL", "{refusal:?}");
            assert!(!answer["ErrorInfo"].as_str().unwrap().is_empty(), "{refusal:?}");
            let code = answer["ErrorCode"].as_u64().unwrap();
            assert_eq!(code / 100, u64::from(refusal.status().as_u16()), "{refusal:?}");
            assert!(codes.insert(code), "{refusal:?} has the code of another");
            assert_eq!(answer.as_object().unwrap().len(), 3, "{refusal:?}");
        }
    }

    #[test]
    fn no_two_reasons_are_the_same() {
        let reasons: BTreeSet<_> = Refusal::REASONS.iter().collect();
        assert_eq!(reasons.len(), Refusal::REASONS.len());
        assert_eq!(reasons.len(), Refusal::ALL.len() + 5);
    }
}
