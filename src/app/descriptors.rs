//! File descriptors: each connection costs one, and none may take one that the journal needs, for without it the journal fails.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;

/// What is kept beside what can be reckoned: event loops, brokers, the journal's folder, tokens and secrets while they are read.
const KEPT: u64 = 64;

/// Segments that a journal has open beside those that `journal.size_max` counts: one in the making, one that is being freed.
const SEGMENTS_BEYOND: u64 = 2;

/// Takes all that the system grants, and leaves `http.connections_max` no more than the rest of the program can spare.
pub(super) fn share_out(config: &mut Config) {
    let Some(granted) = take_all() else { return };
    let left = left_for_connections(granted, config);
    if left < config.http.connections_max {
        tracing::warn!(
            descriptors = granted,
            connections_max = left,
            configured = config.http.connections_max,
            "the limit of file descriptors leaves room for fewer connections than http.connections_max"
        );
        config.http.connections_max = left;
    }
}

/// The limit of this process, raised as far as it goes; `None` where there is none.
fn take_all() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    // Where it cannot be raised, what there is has to do.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current
}

/// A quarter at least: under a limit that is far too low some callbacks are better than none.
fn left_for_connections(granted: u64, config: &Config) -> u32 {
    let segments = config.journal.size_max.bytes() / config.journal.segment_size.bytes().max(1);
    let needed = segments.saturating_add(SEGMENTS_BEYOND).saturating_add(u64::from(config.admin.connections_max)).saturating_add(KEPT);
    u32::try_from(granted.saturating_sub(needed).max(granted / 4)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Size;

    #[test]
    fn connections_get_what_journal_and_operator_do_not_need() {
        let mut config = Config::default();
        config.admin.connections_max = 20;
        config.journal.segment_size = Size::from_mib(64);
        config.journal.size_max = Size::from_mib(64 * 100);
        for (granted, left) in [(1024, 1024 - 100 - 2 - 20 - 64), (200, 50), (0, 0), (u64::MAX, u32::MAX)] {
            assert_eq!(left_for_connections(granted, &config), left, "{granted}");
        }
    }
}
