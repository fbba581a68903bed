//! The crash model: no promise is broken by a loss of power, a killed process or a failing disk, whenever it comes.
//!
//! A journal runs on a simulated disk, in one thread: its writer and its keeper take the steps that their threads take, senders and a forwarder
//! use it, and a seed decides who is next. Within every operation of the disk others may take steps, too, as they would while a thread waits for it.
//! So a seed does the same each time; only salts and identities are as random as ever, and nothing is decided by them.
//!
//! Before each operation that changes the disk, the machine crashes. What that leaves goes on by itself: it must start, hold what was promised, take
//! more, and survive a second crash at some operation of its start or after it, and that once more; in between, starts meet faults, too. Operations that
//! only read are no points of their own, as the disk is the same before and after. A crash in the midst of an operation is one of those before the next:
//! what has not been synced may have reached the disk in any part.
//!
//! | module | what |
//! |---|---|
//! | [`content`], [`names`] | bytes and names: what reads see, and what a crash may leave |
//! | [`disk`], [`faults`] | the file system made of them, and which of its operations fail |
//! | [`promises`] | what was promised to those outside, and the checks |
//! | [`crew`] | who acts, in steps: senders, forwarder, writer, keeper |
//! | [`sim`] | the schedule, the crashes, and what comes after them |
//!
//! Checked after each start: every record that was answered and may be lacked by a stream is there, once, where its sender was told; nothing else is
//! there but what was sent and not refused; an LSN that anybody has seen never holds another record; the identity stays; positions are ones that were
//! handed over, and nothing below them is unpublished; nothing is taken for corrupt; and the journal takes records again, by itself, once nothing fails.
//! Which segments are freed is the keeper's own decision: the checks ask only for what no position allows to be lacked.

use std::collections::BTreeMap;
use std::env;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;

use crew::Mistake;
use disk::Honesty;
use setting::{Event, Setting, Tally, hold};
use sim::Sim;

use super::bed::metrics;
use crate::config;
use crate::journal::Config;
use crate::metrics::Metrics;

mod content;
mod crew;
mod disk;
mod faults;
mod names;
mod promises;
mod setting;
mod sim;

/// Crashes that the test makes, unless the environment asks for more.
const CRASHES: u64 = 200_000;

/// The name of the test, in the command that replays a failure.
const TEST: &str = "journal::tests::crash::what_was_answered_survives_every_crash";

/// The seed, and the operation where that is known, of the one crash that is wanted.
const SEED: &str = "CHAT_BRIDGE_CRASH_SEED";
/// How many crashes there are to be, where more are wanted than [`CRASHES`].
const POINTS: &str = "CHAT_BRIDGE_CRASH_POINTS";

/// A plain mistake is found within so many crashes.
const FIND_WITHIN: u64 = 20_000;

/// Of what was done before a promise was broken, so many lines are shown.
const TRACE_LINES: usize = 200;

/// A journal whose segments hold a few frames, so that one schedule goes through several.
fn config(rng: &mut Rng) -> Config {
    let segment_size = 8192 + 8 * rng.u64(400..1200);
    Config {
        size_max: segment_size * rng.u64(4..8),
        segment_size,
        free_space_min: 0,
        answer_max: Duration::from_secs(2),
        batch_bytes_max: rng.usize(200..3000),
        batch_records_max: rng.usize(1..6),
        waiting_records_max: 12,
        waiting_bytes_max: 16 * 1024,
        tail_bytes_max: [0, 4096, 1024 * 1024][rng.usize(0..3)],
        spares: rng.usize(1..3),
        // Mostly none, for what stays makes every crash costlier. Else so short that it is over between two steps, for some of them, or for ever, so that only the
        // need for room ends it.
        retention: match rng.u8(0..10) {
            0 => Duration::from_millis(200),
            1 => Duration::from_secs(4),
            2 => Duration::from_hours(1000),
            _ => Duration::ZERO,
        },
        ..Config::new(&config::Journal { dir: "/journal".into(), ..config::Journal::default() }, 1500)
    }
}

fn setting(seed: u64, plan: Plan, only: Option<u64>, metrics: &Metrics, tally: &Arc<Tally>) -> Arc<Setting> {
    let mut rng = Rng::with_seed(!seed);
    Arc::new(Setting {
        seed,
        config: config(&mut rng),
        metrics: metrics.journal.clone(),
        mistake: plan.mistake,
        only,
        crashes: AtomicU64::new(0),
        tally: Arc::clone(tally),
        broken_by: Mutex::default(),
        trace: None,
    })
}

/// What is simulated: the journal as it is, or on a disk or with a forwarder that does wrong.
#[derive(Clone, Copy, Debug, Default)]
struct Plan {
    honesty: Honesty,
    mistake: Mistake,
}

/// A promise that was broken.
#[derive(Debug)]
struct Broken {
    seed: u64,
    /// Before which operation the crash was; `None` where there was none.
    operation: Option<u64>,
    what: String,
}

/// All crashes of one seed: how many those were, or the first that broke a promise.
fn run(setting: &Arc<Setting>, plan: Plan) -> Result<u64, Broken> {
    let done = catch_unwind(AssertUnwindSafe(|| Sim::run(setting, plan.honesty)));
    let broken = |what| Broken { seed: setting.seed, operation: *hold(&setting.broken_by), what };
    match done {
        Ok(Ok(())) => Ok(setting.crashes.load(Ordering::Relaxed)),
        Ok(Err(what)) => Err(broken(what)),
        Err(_) => Err(broken("it panics".to_owned())),
    }
}

/// Seeds from 0 on, until there were that many crashes, or one that broke a promise: of several, that of the lowest seed.
fn explore(plan: Plan, crashes_min: u64, metrics: &Metrics, tally: &Arc<Tally>) -> Result<u64, Broken> {
    let (next, crashes, broken) = (AtomicU64::new(0), AtomicU64::new(0), Mutex::new(BTreeMap::new()));
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while crashes.load(Ordering::Relaxed) < crashes_min && hold(&broken).is_empty() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    match run(&setting(seed, plan, None, metrics, tally), plan) {
                        Ok(more) => drop(crashes.fetch_add(more, Ordering::Relaxed)),
                        Err(found) => drop(hold(&broken).insert(seed, found)),
                    }
                }
            });
        }
    });
    let first = hold(&broken).pop_first();
    first.map_or_else(|| Ok(crashes.load(Ordering::Relaxed)), |(_, found)| Err(found))
}

/// The same once more, with all that was done.
fn replay(plan: Plan, seed: u64, operation: Option<u64>) -> (Result<u64, Broken>, Vec<String>) {
    let mut setting = setting(seed, plan, operation, &metrics(), &Arc::default());
    Arc::get_mut(&mut setting).expect("nobody else has it").trace = Some(Mutex::default());
    let done = run(&setting, plan);
    let trace = setting.trace.as_ref().map(|trace| std::mem::take(&mut *hold(trace)));
    (done, trace.unwrap_or_default())
}

/// Shows what led to a broken promise, and how to see it again.
fn show(plan: Plan, broken: &Broken) {
    let (_, trace) = replay(plan, broken.seed, broken.operation);
    for line in trace.iter().skip(trace.len().saturating_sub(TRACE_LINES)) {
        eprintln!("{line}");
    }
    let operation = broken.operation.map(|operation| format!(":{operation}")).unwrap_or_default();
    eprintln!("\nseed {}: {}", broken.seed, broken.what);
    eprintln!("again:\n    {SEED}={}{operation} cargo test --locked --lib {TEST} -- --exact --nocapture\n", broken.seed);
}

#[test]
fn what_was_answered_survives_every_crash() {
    let plan = Plan::default();
    if let Ok(wanted) = env::var(SEED) {
        let (seed, operation) = wanted.split_once(':').map_or((wanted.as_str(), None), |(seed, operation)| (seed, Some(operation)));
        let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("{SEED} must be SEED or SEED:OPERATION, not {wanted}"));
        let (done, trace) = replay(plan, number(seed), operation.map(number));
        for line in trace {
            eprintln!("{line}");
        }
        done.unwrap_or_else(|broken| panic!("{}", broken.what));
        return;
    }
    let wanted = env::var(POINTS).map_or(CRASHES, |text| text.parse().unwrap_or_else(|_| panic!("{POINTS} must be a number, not {text}")));
    let started = Instant::now();
    let (metrics, tally) = (metrics(), Arc::default());
    let crashes = explore(plan, wanted.max(CRASHES), &metrics, &tally).unwrap_or_else(|broken| {
        show(plan, &broken);
        panic!("seed {}: {}", broken.seed, broken.what)
    });
    println!("{crashes} crashes in {:.1} s", started.elapsed().as_secs_f64());
    assert!(crashes >= CRASHES);
    for event in Event::ALL {
        println!("{event:?}: {}", tally.of(event));
        assert!(tally.of(event) > 100, "{event:?} is too rare");
    }
    let cut_short = metrics.journal.retention_cut_short.get();
    println!("segments freed before their time: {cut_short}");
    assert!(cut_short > 100, "room is too rarely made of what should stay");
}

#[test]
fn a_seed_does_the_same_each_time() {
    for seed in [1, 2, 3] {
        let (done, first) = replay(Plan::default(), seed, None);
        let crashes = done.unwrap_or_else(|broken| panic!("{broken:?}"));
        assert!(crashes > 20, "{crashes}");
        let (_, second) = replay(Plan::default(), seed, None);
        let differs = first.iter().zip(&second).find(|(one, other)| one != other);
        assert!(differs.is_none() && first.len() == second.len(), "seed {seed}: {differs:?}");
    }
}

#[test]
fn a_disk_that_does_not_sync_what_it_says_is_found_out() {
    for honesty in [Honesty::NoDirSync, Honesty::NoSegmentSync, Honesty::NoCheckpointSync, Honesty::NoRecoverySync] {
        must_find(Plan { honesty, ..Plan::default() });
    }
}

#[test]
fn positions_that_run_ahead_are_found_out() {
    must_find(Plan { mistake: Mistake::PositionsOfSent, ..Plan::default() });
}

#[test]
fn a_salt_that_is_used_again_is_found_out() {
    must_find(Plan { mistake: Mistake::StaleSalt, ..Plan::default() });
}

fn must_find(plan: Plan) {
    match explore(plan, FIND_WITHIN, &metrics(), &Arc::default()) {
        Ok(crashes) => panic!("{plan:?} was not found out by {crashes} crashes"),
        Err(broken) => println!("{plan:?}: seed {}, operation {:?}: {}", broken.seed, broken.operation, broken.what),
    }
}
