//! Whether the volume has power, and what befalls it when.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fuser::Errno;

use super::medium::{Extent, Lost, Medium, Node};

/// How long a call hangs without power, where a test forgets to end who waits for it.
const HANG_MAX: Duration = Duration::from_secs(30);

/// What changes something on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Bytes or the length of a file.
    Write,
    /// A file is synced.
    Sync,
    /// A name is made, changed or removed.
    Name,
    /// A folder is synced.
    SyncFolder,
}

/// What can befall a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The power goes, before the operation, and takes so much along.
    PowerLoss(Extent),
    /// The operation fails with `EIO`, once. A write changes nothing then, and fails at that place until the file is opened anew; what a sync has not written is
    /// never written.
    Error,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    On,
    /// Nothing comes back.
    Gone,
    /// Whoever waited is let go, with an error that nobody should live to see.
    LetGo,
}

/// The disk, and its power.
#[derive(Debug)]
pub(super) struct Power {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    medium: Medium,
    stage: Stage,
    lost: Lost,
    plan: Option<(Event, Operation, u32)>,
}

impl Power {
    pub(super) fn new(seed: u64) -> Self {
        let state = State { medium: Medium::new(seed), stage: Stage::On, lost: Lost::default(), plan: None };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn plan(&self, event: Event, operation: Operation, nth: u32) {
        self.lock().plan = Some((event, operation, nth));
    }

    pub(super) fn is_planned(&self) -> bool {
        self.lock().plan.is_some()
    }

    /// Takes the power away, if it is there; tells what was lost with it.
    pub(super) fn cut(&self) -> Lost {
        let mut state = self.lock();
        state.plan = None;
        state.cut(Extent::Any);
        state.lost
    }

    pub(super) fn let_go(&self) {
        self.lock().stage = Stage::LetGo;
        self.changed.notify_all();
    }

    pub(super) fn on(&self) {
        self.lock().stage = Stage::On;
    }

    pub(super) fn repair(&self, file: Node) {
        self.lock().medium.repair(file);
    }

    /// Looks at the disk.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Medium) -> Result<T, Errno>) -> Result<T, Errno> {
        look(&self.powered(self.lock())?.medium)
    }

    /// Changes the disk, unless it is time for something else; `fail` is what a failing operation leaves.
    pub(super) fn change<T>(
        &self,
        operation: Operation,
        act: impl FnOnce(&mut Medium) -> Result<T, Errno>,
        fail: impl FnOnce(&mut Medium),
    ) -> Result<T, Errno> {
        let mut state = self.powered(self.lock())?;
        match state.due(operation) {
            None => act(&mut state.medium),
            Some(Event::Error) => {
                fail(&mut state.medium);
                Err(Errno::EIO)
            }
            Some(Event::PowerLoss(extent)) => {
                state.cut(extent);
                self.powered(state).and_then(|mut state| act(&mut state.medium))
            }
        }
    }

    /// Waits where there is no power.
    fn powered<'a>(&'a self, state: MutexGuard<'a, State>) -> Result<MutexGuard<'a, State>, Errno> {
        let hangs = |state: &mut State| state.stage == Stage::Gone;
        let (state, _) = self.changed.wait_timeout_while(state, HANG_MAX, hangs).unwrap_or_else(PoisonError::into_inner);
        if state.stage == Stage::On { Ok(state) } else { Err(Errno::EIO) }
    }
}

impl State {
    fn cut(&mut self, extent: Extent) {
        if self.stage == Stage::On {
            self.stage = Stage::Gone;
            self.lost = self.medium.lose_power(extent);
        }
    }

    fn due(&mut self, operation: Operation) -> Option<Event> {
        let (event, _, left) = self.plan.as_mut().filter(|(_, planned, _)| *planned == operation)?;
        *left = left.saturating_sub(1);
        let due = (*left == 0).then_some(*event)?;
        self.plan = None;
        Some(due)
    }
}
