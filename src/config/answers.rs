//! `[answers]`: the fixed answers of before-commands.

use serde::{Deserialize, Serialize};

/// What a before-command is answered once its callback is durable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// `ErrorCode`: 0 allows; for groups 1 refuses and 10100 to 10200 reach the client.
    pub error_code: i64,
    /// `ErrorInfo`, shown to the client where Chat passes it on.
    #[serde(default)]
    pub error_info: String,
}
