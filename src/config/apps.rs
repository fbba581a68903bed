//! `[[apps]]`: whose callbacks are accepted.

use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::network;

/// One application of Tencent Cloud Chat whose callbacks are accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct App {
    /// Its `SDKAppID`.
    pub sdk_app_id: u64,
    /// A file of tokens, one a line, the old one and the new while rotating. Where it is set, `Sign` and `RequestTime` are required.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_file: Option<PathBuf>,
    /// Networks that this app's callbacks may come from; all where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "network::some_list")]
    pub sources: Option<Vec<IpNet>>,
}
