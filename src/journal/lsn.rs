//! The position of a record.

use std::fmt;

/// Position of a record in the journal. The first is 1; they are contiguous, and never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(u64);

impl Lsn {
    /// The first LSN of a journal.
    pub const FIRST: Self = Self(1);
    /// Beyond every LSN that is ever given out.
    pub(super) const MAX: Self = Self(u64::MAX);

    /// The LSN of that number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The LSN after it.
    #[must_use]
    pub const fn next(self) -> Self {
        self.plus(1)
    }

    /// The LSN so many places after it.
    #[must_use]
    pub(super) const fn plus(self, count: u64) -> Self {
        Self(self.0.saturating_add(count))
    }

    /// How many LSNs lie between `from` and this one; none where `from` is not below it.
    #[must_use]
    pub(super) const fn since(self, from: Self) -> u64 {
        self.0.saturating_sub(from.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}
