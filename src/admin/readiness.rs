//! Whether the bridge should get callbacks, and why or why not.

use std::borrow::Cow;
use std::fmt::Write;
use std::sync::Arc;

/// Something that is as it should be, or not, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Its name: `journal`, `kafka brokers`, `topic chat.member-exit`.
    pub name: Cow<'static, str>,
    /// Whether it is as it should be.
    pub ok: bool,
    /// Why, in a few words.
    pub reason: String,
    /// Whether the bridge is unready while it is not as it should be; else it only informs.
    pub decides: bool,
}

/// Where the conditions of the moment come from.
pub type Conditions = Arc<dyn Fn() -> Vec<Condition> + Send + Sync>;

/// Whether nothing that decides is amiss.
pub(super) fn is_ready(conditions: &[Condition]) -> bool {
    conditions.iter().all(|condition| condition.ok || !condition.decides)
}

/// One line a condition.
pub(super) fn text(conditions: &[Condition]) -> String {
    let mut text = String::new();
    for Condition { name, ok, reason, decides } in conditions {
        let mark = match (ok, decides) {
            (true, _) => "ok     ",
            (false, true) => "unready",
            (false, false) => "note   ",
        };
        // Writing to a String cannot fail. A reason that holds a line break must not look like another condition.
        let _ = writeln!(text, "{mark} {name}: {}", reason.replace(['\r', '\n'], " "));
    }
    text
}
