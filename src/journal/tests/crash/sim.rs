//! One journal on one disk, through one life or several, and the crashes in between.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use fastrand::Rng;

use super::crew::{Actor, Crew, completed_beyond, next_record};
use super::disk::{Disk, Honesty, Operation, Watch};
use super::faults::Faults;
use super::promises::Promises;
use super::setting::{Event, Setting, hold};
use crate::clock::Clock;
use crate::journal::storage::Lock;
use crate::journal::tests::bed::clock;
use crate::journal::writer::Step;
use crate::journal::{Parts, Reader, State, assemble};

/// Before which operations the machine crashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Crashes {
    /// Each.
    Everywhere,
    /// This one.
    At(u64),
    Nowhere,
}

/// One line of time. A crash does not end it: what it leaves goes on in a simulation of its own.
pub(super) struct Sim {
    setting: Arc<Setting>,
    depth: usize,
    crashes: Crashes,
    disk: Mutex<Disk>,
    promises: Mutex<Promises>,
    rng: Mutex<Rng>,
    clock: Clock,
    operations: AtomicU64,
    crew: Mutex<Option<Arc<Crew>>>,
    /// Nobody uses the journal but the test itself.
    calm: AtomicBool,
    wrong: Mutex<Option<String>>,
    me: Weak<Self>,
}

/// Why a line of time does not go on.
enum End {
    /// A promise is broken.
    Wrong(String),
    /// A fault of the disk has ended the journal, as it should.
    Failed,
}

impl From<String> for End {
    fn from(what: String) -> Self {
        Self::Wrong(what)
    }
}

/// How a life of the journal ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    Closed,
    Killed,
    PowerLost,
}

impl Death {
    fn any(rng: &mut Rng) -> Self {
        [Self::Closed, Self::Killed, Self::PowerLost][rng.usize(0..3)]
    }
}

impl Sim {
    fn new(setting: &Arc<Setting>, depth: usize, crashes: Crashes, disk: Disk, promises: Promises, rng: Rng) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            setting: Arc::clone(setting),
            depth,
            crashes,
            disk: Mutex::new(disk),
            promises: Mutex::new(promises),
            rng: Mutex::new(rng),
            clock: clock(),
            operations: AtomicU64::new(0),
            crew: Mutex::new(None),
            calm: AtomicBool::new(false),
            wrong: Mutex::new(None),
            me: Weak::clone(me),
        })
    }

    /// Several lives on a new disk, with a crash before every operation.
    pub(super) fn run(setting: &Arc<Setting>, honesty: Honesty) -> Result<(), String> {
        let mut rng = Rng::with_seed(setting.seed);
        let lives = rng.usize(2..4);
        let sim = Self::new(setting, 0, Crashes::Everywhere, Disk::new(honesty), Promises::new(), rng);
        for _ in 0..lives {
            let (faults, steps, death) = {
                let mut rng = hold(&sim.rng);
                let faults = if rng.bool() { Faults::some(&mut rng, 80) } else { Faults::none() };
                (faults, rng.usize(20..80), Death::any(&mut rng))
            };
            hold(&sim.disk).set_faults(faults);
            match sim.live(steps, death) {
                Ok(()) => {}
                Err(End::Failed) => sim.die(if hold(&sim.rng).bool() { Death::Killed } else { Death::PowerLost })?,
                Err(End::Wrong(what)) => return Err(what),
            }
        }
        Ok(())
    }

    /// What a crash has left: it must start, hold what was promised, go on, and survive another crash.
    fn check(setting: &Arc<Setting>, depth: usize, disk: Disk, promises: Promises, mut rng: Rng) -> Result<(), String> {
        let when = if depth < 2 { Crashes::At(rng.u64(0..50)) } else { Crashes::Nowhere };
        let (steps, last) = (rng.usize(0..8), Death::any(&mut rng));
        let faults = if depth < 2 && rng.u8(0..3) == 0 { Faults::some(&mut rng, 40) } else { Faults::none() };
        disk.set_faults(faults);
        let sim = Self::new(setting, depth, when, disk, promises, rng);
        match sim.live(steps, last) {
            Ok(()) if depth == 1 => {}
            Ok(()) => return Ok(()),
            Err(End::Failed) => sim.die(if hold(&sim.rng).bool() { Death::Killed } else { Death::PowerLost })?,
            Err(End::Wrong(what)) => return Err(what),
        }
        match sim.live(0, Death::Killed) {
            Ok(()) => Ok(()),
            Err(End::Failed) => Err("it fails without a fault".to_owned()),
            Err(End::Wrong(what)) => Err(what),
        }
    }

    /// One life: a start, so many steps, a while without faults in which everything goes well, and the end.
    fn live(&self, steps: usize, death: Death) -> Result<(), End> {
        let disk = hold(&self.disk).clone();
        if let Some(me) = self.me.upgrade() {
            disk.set_watch(Some(me));
        }
        let lock = self.start(&disk)?;
        for _ in 0..steps {
            let actor = Actor::any(&mut hold(&self.rng));
            self.act(actor)?;
        }
        if death == Death::Closed || self.depth > 0 {
            self.calm.store(true, Ordering::Relaxed);
            self.settle(&disk)?;
        }
        if death == Death::Closed {
            self.close()?;
        }
        self.calm.store(false, Ordering::Relaxed);
        drop(lock);
        self.die(death)?;
        Ok(())
    }

    /// Opens the journal, and reads all that it has.
    fn start(&self, disk: &Disk) -> Result<Box<dyn Lock>, End> {
        let closed = hold(&self.promises).begin_start();
        self.setting.note(self.depth, || "start".to_owned());
        let setting = &self.setting;
        let opened = assemble(setting.config.clone(), Arc::new(disk.clone()), setting.metrics.clone(), self.clock.clone());
        self.go_on()?;
        let parts = match opened {
            Ok(parts) => parts,
            Err(_) if disk.has_failed() => {
                setting.tally.add(Event::FailedStart);
                return Err(End::Failed);
            }
            Err(error) => return Err(End::Wrong(format!("the start fails: {error:?}"))),
        };
        let Parts { shared, writer, keeper, lock, positions, report } = parts;
        setting.note(self.depth, || format!("started {:?} at {positions:?}, end {}, {:?}", report.start, report.end, report.torn_tail));
        disk.set_opened();
        setting.count(&report, &shared);
        {
            let mut promises = hold(&self.promises);
            promises.check_start(closed, &positions, &report)?;
            let unpublished = report.end.since(positions.lowest()) - completed_beyond(&positions, &promises);
            if report.unpublished_records != unpublished {
                return Err(End::Wrong(format!("{unpublished} records are unpublished: {report:?}")));
            }
        }
        let mut reader = Reader::new(Arc::clone(&shared), positions.lowest());
        loop {
            match next_record(&mut reader, &shared, &self.promises) {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) if disk.has_failed() => return Err(End::Failed),
                Err(what) => return Err(End::Wrong(what)),
            }
        }
        if reader.position() != report.end {
            return Err(End::Wrong(format!("the reader ends at LSN {} and the log at LSN {}", reader.position(), report.end)));
        }
        hold(&self.promises).check_end(report.end)?;
        let crew = Crew::new(shared, writer, keeper, positions, setting.mistake);
        *hold(&self.crew) = Some(Arc::new(crew));
        Ok(lock)
    }

    /// Whether everything is right so far.
    fn go_on(&self) -> Result<(), End> {
        hold(&self.wrong).clone().map_or(Ok(()), |what| Err(End::Wrong(what)))
    }

    fn crew(&self) -> Option<Arc<Crew>> {
        hold(&self.crew).clone()
    }

    /// Has one of the crew take a step.
    fn act(&self, actor: Actor) -> Result<(), End> {
        self.go_on()?;
        let Some(crew) = self.crew() else { return Ok(()) };
        let mut rng = hold(&self.rng).fork();
        self.setting.note(self.depth, || format!("{actor:?}"));
        match actor {
            Actor::Sender => crew.send(&mut rng, &self.promises),
            Actor::Writer => drop(crew.write()),
            Actor::Keeper => drop(crew.keep()),
            Actor::Forwarder => match crew.forward(&mut rng, &self.promises) {
                Some(Err(_)) if hold(&self.disk).has_failed() => return Err(End::Failed),
                Some(Err(what)) => return Err(End::Wrong(what)),
                Some(Ok(())) | None => {}
            },
            Actor::Clock => {
                crew.pass(Duration::from_millis(rng.u64(0..1500)));
                if rng.u8(0..8) == 0 {
                    crew.set_clock(rng.i64(-3_600_000_000..3_600_000_000));
                }
                if rng.u8(0..8) == 0 {
                    hold(&self.disk).end_faults();
                }
            }
        }
        self.take_answers(&crew)?;
        self.go_on()
    }

    /// Learns what the senders were told, and whether the journal has failed.
    fn take_answers(&self, crew: &Crew) -> Result<(), End> {
        hold(&self.promises).take_answers(crew.shared.identity)?;
        match crew.shared.status.state() {
            State::Open | State::Closed => Ok(()),
            State::Full(_) => {
                self.setting.tally.add(Event::Full);
                Ok(())
            }
            State::Failed(_) if hold(&self.disk).has_failed() => {
                self.setting.tally.add(Event::FailedLife);
                Err(End::Failed)
            }
            State::Failed(error) => Err(End::Wrong(format!("the journal fails: {error:?}"))),
        }
    }

    /// Nothing fails any more: what waits is answered, everything is published, and there is room for more.
    fn settle(&self, disk: &Disk) -> Result<(), End> {
        disk.end_faults();
        let Some(crew) = self.crew() else { return Ok(()) };
        self.setting.note(self.depth, || "settle".to_owned());
        for round in 0.. {
            self.write_all(&crew)?;
            if let Some(Err(what)) = crew.forward_all(&self.promises) {
                return Err(End::Wrong(what));
            }
            crew.pass(Duration::from_secs(2));
            crew.keep();
            self.take_answers(&crew)?;
            self.go_on()?;
            if hold(&self.promises).waiting().next().is_none() && matches!(crew.shared.status.state(), State::Open) {
                break;
            }
            if round > 60 {
                return Err(End::Wrong(format!("it does not go on: {:?}", crew.shared.status.state())));
            }
        }
        let before = hold(&self.promises).answered();
        for _ in 0..2 {
            let mut rng = hold(&self.rng).fork();
            crew.send_one(&mut rng, &mut hold(&self.promises));
            self.write_all(&crew)?;
        }
        let after = hold(&self.promises).answered();
        if after != before + 2 {
            return Err(End::Wrong(format!("of two more records {} are durable: {:?}", after - before, crew.shared.status.state())));
        }
        Ok(())
    }

    /// Until nothing waits for the writer, or it cannot go on.
    fn write_all(&self, crew: &Crew) -> Result<(), End> {
        for _ in 0..200 {
            match crew.write() {
                Some(Step::Done) => {}
                Some(Step::WaitForSpare) => {
                    crew.pass(Duration::from_secs(1));
                    crew.keep();
                }
                Some(Step::WaitForRecords | Step::Ended) | None => break,
            }
            self.go_on()?;
        }
        self.take_answers(crew)
    }

    fn close(&self) -> Result<(), End> {
        let Some(crew) = self.crew() else { return Ok(()) };
        self.setting.note(self.depth, || "close".to_owned());
        crew.shared.queue.close();
        self.write_all(&crew)?;
        crew.finish();
        self.take_answers(&crew)?;
        self.go_on()?;
        hold(&self.promises).closed();
        Ok(())
    }

    /// The process is gone, and with a loss of power what was not synced.
    fn die(&self, death: Death) -> Result<(), String> {
        self.setting.note(self.depth, || format!("{death:?}"));
        let crew = hold(&self.crew).take();
        if let Some(crew) = &crew {
            let mut promises = hold(&self.promises);
            promises.take_answers(crew.shared.identity)?;
            promises.stop();
        }
        let mut disk = hold(&self.disk);
        disk.set_watch(None);
        let left = match death {
            Death::Closed | Death::Killed => disk.killed(),
            Death::PowerLost => disk.crashed(&mut hold(&self.rng)),
        };
        *disk = left;
        drop(disk);
        drop(crew);
        Ok(())
    }

    /// The machine crashes here: what it leaves goes on by itself.
    fn crash(&self, number: u64, operation: Operation, path: &Path) -> Result<(), String> {
        self.setting.crashes.fetch_add(1, Ordering::Relaxed);
        let mut rng =
            Rng::with_seed(self.setting.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (number << 8) ^ u64::try_from(self.depth).unwrap());
        let mut promises = hold(&self.promises).clone();
        if let Some(crew) = self.crew() {
            promises.take_answers(crew.shared.identity)?;
        }
        promises.stop();
        let disk = hold(&self.disk).clone();
        let kind = if rng.u8(0..5) == 0 { Death::Killed } else { Death::PowerLost };
        let left = if kind == Death::Killed { disk.killed() } else { disk.crashed(&mut rng) };
        self.setting.note(self.depth, || format!("{kind:?} before {number}: {operation:?} {}", path.display()));
        Self::check(&self.setting, self.depth + 1, left, promises, rng)
            .map_err(|what| format!("{kind:?} before operation {number}, {operation:?} {}:\n{what}", path.display()))
    }
}

impl Watch for Sim {
    fn before(&self, operation: Operation, path: &Path) {
        let number = self.operations.fetch_add(1, Ordering::Relaxed);
        if hold(&self.wrong).is_some() {
            return;
        }
        let crashes = match self.crashes {
            Crashes::Everywhere => self.setting.only.is_none_or(|only| only == number),
            Crashes::At(at) => at == number,
            Crashes::Nowhere => false,
        };
        if crashes && let Err(what) = self.crash(number, operation, path) {
            if self.depth == 0 {
                hold(&self.setting.broken_by).get_or_insert(number);
            }
            hold(&self.wrong).get_or_insert(what);
            return;
        }
        self.setting.note(self.depth, || format!("{number}: {operation:?} {}", path.display()));
        let other = {
            let mut rng = hold(&self.rng);
            (rng.u8(0..4) == 0).then(|| Actor::any(&mut rng))
        };
        // What goes wrong there shows in the next step.
        if let Some(actor) = other.filter(|actor| !self.calm.load(Ordering::Relaxed) || !matches!(actor, Actor::Sender | Actor::Forwarder))
            && let Err(End::Wrong(what)) = self.act(actor)
        {
            hold(&self.wrong).get_or_insert(what);
        }
    }
}
