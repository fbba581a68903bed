//! Which records of a replay Kafka has confirmed, and what is known of the others. Pure: reports and moments in, values out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::journal::Lsn;
use crate::kafka::{ErrorCode, ParkCause, Report, Verdict};

/// Why a replay goes no further.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Stopped {
    /// Nothing was confirmed for as long as it was to wait.
    #[error("Kafka confirms nothing")]
    Silent,
    /// The topic is gone, or the right to it.
    #[error("topic {topic} {}", match .cause { ParkCause::Missing => "does not exist", ParkCause::NotAuthorised => "may not be written to" })]
    Topic { topic: String, cause: ParkCause },
    /// Kafka answered that it cannot take a record now.
    #[error("Kafka does not take records of {topic} now: {error}")]
    Refused { topic: String, error: String },
    /// The producer is of no more use.
    #[error("the producer failed: {0}")]
    Failed(String),
}

impl Stopped {
    /// Whether what is under way can still be confirmed.
    pub(super) const fn is_of_one_topic(&self) -> bool {
        match self {
            Self::Topic { .. } | Self::Refused { .. } => true,
            Self::Silent | Self::Failed(_) => false,
        }
    }
}

/// What is known of a record that is not confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    UnderWay,
    /// Neither yes nor no: Kafka may have it.
    Unknown,
    /// Kafka does not have it, and may take it later.
    NotTaken,
    /// For good, but among others, for one of which it may have been meant.
    RefusedAmongOthers(String),
    Refused(String),
}

/// The records that were handed over. An LSN is under way once at a time.
#[derive(Debug)]
pub(super) struct Confirmations {
    records: BTreeMap<Lsn, (String, State)>,
    under_way: usize,
    /// Records that were refused once already.
    tried: BTreeSet<Lsn>,
    confirmed: u64,
    patience: Duration,
    /// When something was confirmed last, or the first of what is under way was to be handed over.
    moved_at: Instant,
}

impl Confirmations {
    /// It has patience for so long where nothing is confirmed.
    pub(super) fn new(patience: Duration, now: Instant) -> Self {
        Self { records: BTreeMap::new(), under_way: 0, tried: BTreeSet::new(), confirmed: 0, patience, moved_at: now }
    }

    /// A record is to be handed over. Where nothing is under way, Kafka was silent because it was asked for nothing.
    pub(super) fn begin(&mut self, now: Instant) {
        if !self.is_under_way() {
            self.moved_at = now;
        }
    }

    /// A record was handed over.
    pub(super) fn sent(&mut self, lsn: Lsn, topic: &str) {
        if let Some((_, State::RefusedAmongOthers(_))) = self.records.insert(lsn, (topic.to_owned(), State::UnderWay)) {
            self.tried.insert(lsn);
        }
        self.under_way += 1;
    }

    /// A record was not even taken by the client.
    pub(super) fn refused_at_once(&mut self, lsn: Lsn, topic: &str, verdict: Verdict, error: ErrorCode) -> Result<(), Stopped> {
        self.sent(lsn, topic);
        let result = self.settle(lsn, verdict, Some(error.to_string()));
        if let Some((_, state @ State::Unknown)) = self.records.get_mut(&lsn) {
            *state = State::NotTaken;
        }
        result
    }

    /// A record was not handed over, as the replay has ended.
    pub(super) fn not_sent(&mut self, lsn: Lsn, topic: &str) {
        self.records.entry(lsn).or_insert_with(|| (topic.to_owned(), State::NotTaken));
    }

    /// Enters all of these reports. Of several that end the replay the first is told, but before it the word of a producer that is dead.
    pub(super) fn enter(&mut self, reports: impl Iterator<Item = Report>, dead: Option<String>, now: Instant) -> Result<(), Stopped> {
        let mut result = Ok(());
        for report in reports {
            if report.verdict == Verdict::Delivered {
                self.moved_at = now;
            }
            result = result.and(self.settle(Lsn::new(report.opaque), report.verdict, report.error.map(|error| error.to_string())));
        }
        if let Some(reason) = dead {
            return Err(Stopped::Failed(reason));
        }
        result
    }

    fn settle(&mut self, lsn: Lsn, verdict: Verdict, error: Option<String>) -> Result<(), Stopped> {
        let Some((topic, state)) = self.records.get_mut(&lsn).filter(|(_, state)| *state == State::UnderWay) else { return Ok(()) };
        self.under_way = self.under_way.saturating_sub(1);
        *state = State::Unknown;
        match (verdict, error) {
            (Verdict::Delivered, _) => {
                self.records.remove(&lsn);
                self.confirmed += 1;
                Ok(())
            }
            (Verdict::DeadLetter(_), Some(error)) => {
                *state = if self.tried.contains(&lsn) { State::Refused(error) } else { State::RefusedAmongOthers(error) };
                Ok(())
            }
            (Verdict::Park(cause), _) => {
                *state = State::NotTaken;
                Err(Stopped::Topic { topic: topic.clone(), cause })
            }
            (Verdict::DeadLetter(_) | Verdict::Wait, None) => Ok(()),
            (Verdict::Wait, Some(error)) => Err(Stopped::Refused { topic: topic.clone(), error }),
            (Verdict::Rebuild, error) => Err(Stopped::Failed(error.unwrap_or_default())),
        }
    }

    /// Whether some have neither been confirmed nor refused yet.
    pub(super) const fn is_under_way(&self) -> bool {
        self.under_way > 0
    }

    /// Whether nothing was confirmed for too long.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.moved_at) >= self.patience
    }

    /// Nothing is tried again: what was refused among others may have been refused for one of them.
    pub(super) fn give_up(&mut self) {
        for (_, state) in self.records.values_mut() {
            if let State::RefusedAmongOthers(_) = state {
                *state = State::NotTaken;
            }
        }
    }

    /// Records that Kafka has confirmed.
    pub(super) const fn confirmed(&self) -> u64 {
        self.confirmed
    }

    /// Records that Kafka may have without having said so.
    pub(super) fn unknown(&self) -> u64 {
        let is_unknown = |(_, state): &&(String, State)| matches!(state, State::UnderWay | State::Unknown);
        self.records.values().filter(is_unknown).map(|_| 1).sum()
    }

    /// Of records that are neither confirmed nor refused for good, the first.
    pub(super) fn first_unconfirmed(&self) -> Option<Lsn> {
        let is_open = |state: &State| matches!(state, State::UnderWay | State::Unknown | State::NotTaken);
        self.records.iter().find(|(_, (_, state))| is_open(state)).map(|(lsn, _)| *lsn)
    }

    /// Those that are to be tried alone; from now on a refusal of one is for good.
    pub(super) fn refused_among_others(&self) -> Vec<Lsn> {
        let state = |(lsn, (_, state)): (&Lsn, &(String, State))| matches!(state, State::RefusedAmongOthers(_)).then_some(*lsn);
        self.records.iter().filter_map(state).collect()
    }

    /// What Kafka does not take: LSN, topic, its word.
    pub(super) fn refused(&self) -> impl Iterator<Item = (Lsn, &str, &str)> {
        self.records.iter().filter_map(|(lsn, (topic, state))| match state {
            State::Refused(error) | State::RefusedAmongOthers(error) => Some((*lsn, topic.as_str(), error.as_str())),
            State::UnderWay | State::Unknown | State::NotTaken => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::DeadLetterCause;

    const TOO_LARGE: Verdict = Verdict::DeadLetter(DeadLetterCause::TooLarge);
    const PATIENCE: Duration = Duration::from_mins(1);

    fn lsn(number: u64) -> Lsn {
        Lsn::new(number)
    }

    fn report(number: u64, verdict: Verdict) -> Report {
        Report { opaque: number, verdict, error: None, partition: 0, offset: 0 }
    }

    /// These records are under way.
    fn under_way(records: u64) -> Confirmations {
        let now = Instant::now();
        let mut confirmations = Confirmations::new(PATIENCE, now);
        for number in 1..=records {
            confirmations.sent(lsn(number), "t");
        }
        confirmations
    }

    #[test]
    fn a_replay_goes_on_from_the_first_record_that_is_not_confirmed() {
        let mut confirmations = under_way(4);
        for number in [1, 3] {
            assert_eq!(confirmations.settle(lsn(number), Verdict::Delivered, None), Ok(()));
        }
        assert_eq!((confirmations.confirmed(), confirmations.first_unconfirmed()), (2, Some(lsn(2))));
        let stopped = confirmations.settle(lsn(2), Verdict::Park(ParkCause::Missing), Some("gone".to_owned()));
        assert_eq!(stopped.unwrap_err().to_string(), "topic t does not exist");
        assert_eq!((confirmations.first_unconfirmed(), confirmations.is_under_way()), (Some(lsn(2)), true));
        let stopped = confirmations.settle(lsn(4), Verdict::Wait, Some("a quota".to_owned()));
        assert!(matches!(stopped, Err(Stopped::Refused { .. })));
        assert!(!confirmations.is_under_way());
        assert_eq!(confirmations.unknown(), 1, "of LSN 4 nobody knows");
    }

    #[test]
    fn a_refusal_for_good_is_believed_of_a_record_that_was_sent_alone() {
        let mut confirmations = under_way(2);
        let error = || Some("too large".to_owned());
        for number in [1, 2] {
            assert_eq!(confirmations.settle(lsn(number), TOO_LARGE, error()), Ok(()));
        }
        assert_eq!((confirmations.first_unconfirmed(), confirmations.refused_among_others()), (None, vec![lsn(1), lsn(2)]), "tried again");
        confirmations.sent(lsn(1), "t");
        assert_eq!(confirmations.settle(lsn(1), Verdict::Delivered, None), Ok(()));
        confirmations.sent(lsn(2), "t");
        assert_eq!(confirmations.settle(lsn(2), TOO_LARGE, error()), Ok(()));
        confirmations.give_up();
        assert_eq!(confirmations.refused().collect::<Vec<_>>(), [(lsn(2), "t", "too large")]);
        assert_eq!((confirmations.confirmed(), confirmations.unknown()), (1, 0));
    }

    #[test]
    fn what_was_refused_among_others_is_to_be_tried_again_where_the_replay_ends_before_that() {
        let mut confirmations = under_way(3);
        assert_eq!(confirmations.settle(lsn(1), Verdict::Delivered, None), Ok(()));
        assert_eq!(confirmations.settle(lsn(2), TOO_LARGE, Some("too large".to_owned())), Ok(()));
        confirmations.give_up();
        assert_eq!((confirmations.refused().count(), confirmations.first_unconfirmed()), (0, Some(lsn(2))));
        assert_eq!(confirmations.unknown(), 1);
    }

    #[test]
    fn silence_begins_with_the_first_record_that_is_under_way_or_the_last_that_was_confirmed() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut confirmations = Confirmations::new(PATIENCE, start);
        let send = |confirmations: &mut Confirmations, number, seconds| {
            confirmations.begin(after(seconds));
            confirmations.sent(lsn(number), "t");
        };
        // As many seconds were spent on records that are not meant.
        send(&mut confirmations, 1, 100);
        send(&mut confirmations, 2, 110);
        assert!(!confirmations.is_silent(after(159)));
        assert!(confirmations.is_silent(after(160)));
        assert_eq!(confirmations.enter([report(1, Verdict::Delivered)].into_iter(), None, after(150)), Ok(()));
        assert!(!confirmations.is_silent(after(209)));
        assert!(confirmations.is_silent(after(210)));
        assert_eq!(confirmations.enter([report(2, Verdict::Delivered)].into_iter(), None, after(210)), Ok(()));
        send(&mut confirmations, 3, 400);
        assert!(!confirmations.is_silent(after(459)));
    }

    #[test]
    fn what_was_confirmed_before_the_producer_died_counts() {
        let mut confirmations = under_way(3);
        let reports = [report(1, Verdict::Delivered), report(2, Verdict::Rebuild), report(3, Verdict::Delivered)];
        let stopped = confirmations.enter(reports.into_iter(), Some("fenced".to_owned()), Instant::now());
        assert_eq!(stopped, Err(Stopped::Failed("fenced".to_owned())));
        assert_eq!((confirmations.confirmed(), confirmations.unknown()), (2, 1));
        assert_eq!(confirmations.first_unconfirmed(), Some(lsn(2)));
    }

    #[test]
    fn a_record_that_the_end_has_kept_back_is_where_the_next_begins() {
        let mut confirmations = under_way(1);
        let now = Instant::now();
        assert_eq!(confirmations.enter([report(1, Verdict::Delivered)].into_iter(), None, now), Ok(()));
        assert_eq!(confirmations.first_unconfirmed(), None);
        confirmations.not_sent(lsn(7), "t");
        assert_eq!((confirmations.first_unconfirmed(), confirmations.unknown(), confirmations.is_under_way()), (Some(lsn(7)), 0, false));
    }
}
