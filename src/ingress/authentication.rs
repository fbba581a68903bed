//! Whether a request is one of ours: its app, its source, its `Sign` and `RequestTime`.
//!
//! Nothing here reads the body: all of it is decided from the head.

use std::net::IpAddr;
use std::path::PathBuf;

use hyper::HeaderMap;
use prometheus::IntCounter;

use super::refusal::Refusal;
use super::source::Networks;
use super::tokens::{self, TokensFile};
use crate::clock::Timestamp;
use crate::config;
use crate::metrics;

/// How far `RequestTime` may be from now, either way, seconds (Tencent Cloud Chat, "Webhook Configuration", authentication).
const SKEW_MAX_SECONDS: u64 = 60;

/// Whose callbacks are accepted beside those of the configured apps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strangers {
    /// Nobody's.
    Refused,
    /// Any app's, without `Sign`: for trying things out, never for a network that others can reach.
    Accepted,
}

/// An app whose tokens file is of no use at start.
#[derive(Debug, thiserror::Error)]
#[error("start with tokens file {}", path.display())]
pub struct TokensError {
    /// The file, as the configuration names it.
    pub path: PathBuf,
    /// What is wrong with it.
    #[source]
    pub problem: tokens::Problem,
}

/// What the query says about who sends it, percent-decoded; `None` where it is not there.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Claim<'a> {
    pub(super) app: Option<&'a [u8]>,
    pub(super) sign: Option<&'a [u8]>,
    pub(super) request_time: Option<&'a [u8]>,
}

struct App {
    id: u64,
    tokens: Option<TokensFile>,
    sources: Option<Networks>,
}

/// The apps whose callbacks are accepted.
pub(super) struct Apps {
    /// Sorted by id.
    known: Vec<App>,
    strangers: Strangers,
    proxies: Networks,
}

impl Apps {
    /// Reads each app's tokens file for the first time.
    pub(super) fn new(config: &config::Config, strangers: Strangers) -> Result<Self, TokensError> {
        let mut known = Vec::with_capacity(config.apps.len());
        for app in &config.apps {
            let tokens =
                app.tokens_file.as_ref().map(|path| TokensFile::open(path).map_err(|problem| TokensError { path: path.clone(), problem }));
            known.push(App { id: app.sdk_app_id, tokens: tokens.transpose()?, sources: app.sources.as_deref().map(Networks::new) });
        }
        known.sort_by_key(|app| app.id);
        Ok(Self { known, strangers, proxies: Networks::new(&config.http.trusted_proxies) })
    }

    /// The app of a request, or why it is refused.
    pub(super) fn admit(&self, claim: Claim<'_>, origin: Origin<'_>, now: Timestamp, metrics: &metrics::Ingress) -> Result<u64, Refusal> {
        let id = claim.app.ok_or(Refusal::AppMissing)?;
        let id = decimal(id).ok_or(Refusal::AppUnknown)?;
        let Some(app) = self.find(id) else {
            return match self.strangers {
                Strangers::Accepted => Ok(id),
                Strangers::Refused => Err(Refusal::AppUnknown),
            };
        };
        if let Some(sources) = &app.sources {
            let sender = self.proxies.sender(origin.peer, origin.headers).ok_or(Refusal::Source)?;
            if !sources.contain(sender) {
                return Err(Refusal::Source);
            }
        }
        if let Some(tokens) = &app.tokens {
            let (Some(sign), Some(request_time)) = (claim.sign, claim.request_time) else {
                return Err(Refusal::SignMissing);
            };
            let time = decimal(request_time).ok_or(Refusal::RequestTime)?;
            if !tokens.sign_is_right(sign, request_time) {
                return Err(Refusal::SignWrong);
            }
            // Only a request that is authentic may tell us how far the sender's clock is from ours.
            let skew = time.abs_diff(u64::try_from(now.seconds()).unwrap_or(0));
            metrics.request_time_skew_seconds.observe(std::time::Duration::from_secs(skew).as_secs_f64());
            if skew > SKEW_MAX_SECONDS {
                return Err(Refusal::RequestTime);
            }
        }
        Ok(id)
    }

    /// Compares all tokens files with what is in force.
    pub(super) fn refresh_tokens(&self, failures: &IntCounter) {
        for tokens in self.known.iter().filter_map(|app| app.tokens.as_ref()) {
            tokens.refresh(failures);
        }
    }

    /// Whether there is anything for [`Apps::refresh_tokens`] to do.
    pub(super) fn have_tokens(&self) -> bool {
        self.known.iter().any(|app| app.tokens.is_some())
    }

    fn find(&self, id: u64) -> Option<&App> {
        self.known.binary_search_by_key(&id, |app| app.id).ok().and_then(|index| self.known.get(index))
    }
}

/// Where a request came from, as far as the connection and its head tell.
#[derive(Clone, Copy)]
pub(super) struct Origin<'a> {
    pub(super) peer: IpAddr,
    pub(super) headers: &'a HeaderMap,
}

/// Decimal digits and nothing else.
fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |number, byte| {
        let digit = char::from(*byte).to_digit(10)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::Config;
    use crate::metrics::{Labels, Metrics};

    const NOW: i64 = 1_669_872_112;
    const SIGN: &str = "17773bc39a671d7b9aa835458704d2a6db81360a5940292b587d6d760d484061";

    struct Bench {
        apps: Apps,
        metrics: Metrics,
        headers: HeaderMap,
        _folder: tempfile::TempDir,
    }

    impl Bench {
        fn new(strangers: Strangers) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("tokens");
            fs::write(&path, "xxxxyyyy\n").unwrap();
            let config = Config {
                apps: vec![
                    config::App { sdk_app_id: 30, tokens_file: Some(path), sources: None },
                    config::App { sdk_app_id: 10, tokens_file: None, sources: None },
                    config::App { sdk_app_id: 20, tokens_file: None, sources: Some(vec!["203.0.113.0/24".parse().unwrap()]) },
                ],
                http: config::Http { trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()], ..config::Http::default() },
                ..Config::default()
            };
            Self {
                apps: Apps::new(&config, strangers).unwrap(),
                metrics: Metrics::new(&Labels::default()).unwrap(),
                headers: HeaderMap::new(),
                _folder: folder,
            }
        }

        fn admit(&self, claim: Claim<'_>, peer: &str, now: i64) -> Result<u64, Refusal> {
            let origin = Origin { peer: peer.parse().unwrap(), headers: &self.headers };
            self.apps.admit(claim, origin, Timestamp::from_micros(now * 1_000_000), &self.metrics.ingress)
        }

        fn app(&self, app: &str) -> Result<u64, Refusal> {
            self.admit(Claim { app: Some(app.as_bytes()), ..Claim::default() }, "192.0.2.1", NOW)
        }

        fn signed(&self, sign: &str, time: &str, now: i64) -> Result<u64, Refusal> {
            let claim = Claim { app: Some(b"30"), sign: Some(sign.as_bytes()), request_time: Some(time.as_bytes()) };
            self.admit(claim, "192.0.2.1", now)
        }
    }

    #[test]
    fn only_a_configured_app_is_admitted() {
        let bench = Bench::new(Strangers::Refused);
        assert_eq!(bench.admit(Claim::default(), "192.0.2.1", NOW), Err(Refusal::AppMissing));
        assert_eq!(bench.app("10"), Ok(10));
        for app in ["", "11", "0", "+10", "-10", " 10", "10 ", "0x0a", "1e1", "10.0", "१०", "18446744073709551626"] {
            assert_eq!(bench.app(app), Err(Refusal::AppUnknown), "{app:?}");
        }
    }

    #[test]
    fn strangers_are_admitted_where_that_is_asked_for() {
        let bench = Bench::new(Strangers::Accepted);
        assert_eq!(bench.app("11"), Ok(11));
        assert_eq!(bench.app("x"), Err(Refusal::AppUnknown));
        assert_eq!(bench.app("30"), Err(Refusal::SignMissing));
    }

    #[test]
    fn an_apps_networks_bind_its_senders() {
        let mut bench = Bench::new(Strangers::Refused);
        let claim = Claim { app: Some(b"20"), ..Claim::default() };
        assert_eq!(bench.admit(claim, "203.0.113.200", NOW), Ok(20));
        assert_eq!(bench.admit(claim, "::ffff:203.0.113.200", NOW), Ok(20));
        assert_eq!(bench.admit(claim, "203.0.114.1", NOW), Err(Refusal::Source));
        assert_eq!(bench.admit(claim, "10.0.0.1", NOW), Err(Refusal::Source));
        bench.headers.append("x-forwarded-for", "203.0.113.200".parse().unwrap());
        assert_eq!(bench.admit(claim, "10.0.0.1", NOW), Ok(20));
        assert_eq!(bench.admit(claim, "203.0.114.1", NOW), Err(Refusal::Source));
        bench.headers.append("x-forwarded-for", "rubbish".parse().unwrap());
        assert_eq!(bench.admit(claim, "10.0.0.1", NOW), Err(Refusal::Source));
        // An app without networks does not care.
        assert_eq!(bench.admit(Claim { app: Some(b"10"), ..Claim::default() }, "10.0.0.1", NOW), Ok(10));
    }

    #[test]
    fn sign_and_request_time_are_required_where_the_app_has_tokens() {
        let bench = Bench::new(Strangers::Refused);
        let time = NOW.to_string();
        assert_eq!(bench.app("30"), Err(Refusal::SignMissing));
        let only_sign = Claim { app: Some(b"30"), sign: Some(SIGN.as_bytes()), request_time: None };
        let only_time = Claim { app: Some(b"30"), sign: None, request_time: Some(time.as_bytes()) };
        assert_eq!(bench.admit(only_sign, "192.0.2.1", NOW), Err(Refusal::SignMissing));
        assert_eq!(bench.admit(only_time, "192.0.2.1", NOW), Err(Refusal::SignMissing));
        assert_eq!(bench.signed(SIGN, &time, NOW), Ok(30));
        assert_eq!(bench.signed(&SIGN.to_uppercase(), &time, NOW), Ok(30));
        assert_eq!(bench.signed(&SIGN.replace('1', "2"), &time, NOW), Err(Refusal::SignWrong));
        assert_eq!(bench.signed("", &time, NOW), Err(Refusal::SignWrong));
        for time in ["", "x", "-5", "1669872112.0", "99999999999999999999", " 1669872112"] {
            assert_eq!(bench.signed(SIGN, time, NOW), Err(Refusal::RequestTime), "{time:?}");
        }
    }

    #[test]
    fn request_time_is_within_sixty_seconds_either_way() {
        let bench = Bench::new(Strangers::Refused);
        let time = NOW.to_string();
        for (distance, admitted) in [(-61, false), (-60, true), (0, true), (60, true), (61, false), (-NOW, false)] {
            assert_eq!(bench.signed(SIGN, &time, NOW + distance).is_ok(), admitted, "{distance}");
        }
        assert_eq!(bench.signed(SIGN, &time, NOW + 61), Err(Refusal::RequestTime));
        // What is not authentic says nothing of the sender's clock.
        assert_eq!(bench.signed(&"0".repeat(64), &time, NOW + 61), Err(Refusal::SignWrong));
        let skews = &bench.metrics.ingress.request_time_skew_seconds;
        assert_eq!(skews.get_sample_count(), 7);
    }

    #[test]
    fn a_tokens_file_of_no_use_is_named() {
        let path = PathBuf::from("/nonexistent/tokens");
        let config =
            Config { apps: vec![config::App { sdk_app_id: 1, tokens_file: Some(path.clone()), sources: None }], ..Config::default() };
        let error = Apps::new(&config, Strangers::Refused).err().unwrap();
        assert_eq!(error.path, path);
        assert_eq!(error.to_string(), "start with tokens file /nonexistent/tokens");
    }
}
