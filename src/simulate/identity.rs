//! Which callback of which run, as bodies and queries of the simulator say it.

use uuid::Uuid;

/// What of a run's name is told in a `RequestId`. The names are random, so that half of one tells runs apart as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RunMark(u64);

impl RunMark {
    /// The mark of a run.
    pub(super) const fn of(run: Uuid) -> Self {
        Self(run.as_u64_pair().0)
    }
}

/// Which callback of which run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) run: RunMark,
    pub(super) connection: u32,
    /// Counted by connection, from 0.
    pub(super) number: u32,
}

impl Identity {
    /// The `RequestId` of the callback: where its body lies elsewhere, the query still tells which one it is.
    pub(super) fn request_id(self) -> Uuid {
        Uuid::from_u64_pair(self.run.0, u64::from(self.connection) << 32 | u64::from(self.number))
    }

    /// The callback of a query of ours; of another's query it is one of a run that is none.
    pub(super) fn of_query(query: &str) -> Option<Self> {
        let request_id = query.split('&').find_map(|pair| pair.strip_prefix("RequestId="))?;
        let (run, callback) = Uuid::try_parse(request_id).ok()?.as_u64_pair();
        let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).ok();
        Some(Self { run: RunMark(run), connection: half(callback >> 32)?, number: half(callback)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_tells_the_callback_that_it_is_of() {
        let run = RunMark::of(Uuid::from_u128(0x0123_4567_89ab_4def_8000_0000_0000_0000));
        for (connection, number) in [(0, 0), (7, 4_000_000_000), (u32::MAX, 1)] {
            let identity = Identity { run, connection, number };
            let query = format!("CallbackCommand=x&RequestId={}&SdkAppid=1", identity.request_id());
            assert_eq!(Identity::of_query(&query), Some(identity));
        }
        for query in ["", "RequestId=", "RequestId=x", "SdkAppid=1"] {
            assert_eq!(Identity::of_query(query), None, "{query}");
        }
    }
}
