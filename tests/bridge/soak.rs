//! Random faults one after the other under load: a minute of them with every run of the tests, hours where they are asked for.
//!
//! `CHAT_BRIDGE_SOAK_SECONDS` says how long, `CHAT_BRIDGE_SOAK_SEED` which faults: a seed gives the same faults in the same order, each for as long.

use std::fmt;
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::support::kafka::{self, BROKERS, Exclusive, Kafka};
use crate::support::proxy::Weather;
use crate::support::trial::{Plan, Trial};
use crate::support::{say, setting};

/// How long it goes on, in seconds, where nobody says.
const SECONDS: u64 = 60;

/// Callbacks a second. They are the clock too: a fault lasts for so many of them.
const RATE: u32 = 500;

/// The kinds whose events flow.
const FLOWING: [&str; 3] = ["group-disband", "member-exit", "group-full"];

#[derive(Clone, Debug, PartialEq, Eq)]
enum Harm {
    Kill(Vec<i32>),
    Stop(Vec<i32>),
    Weather(Weather),
    Reset,
    /// A leader gets out of step with the producer: a fatal error.
    Desync {
        kind: &'static str,
    },
}

/// A harm, how long it lasts, and how long nothing is done after it, in callbacks.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fault {
    harm: Harm,
    lasts: u32,
    pause: u32,
}

impl Fault {
    fn draw(random: &mut Rng) -> Self {
        let mut brokers = BROKERS.to_vec();
        random.shuffle(&mut brokers);
        brokers.truncate(random.usize(1..=BROKERS.len()));
        let harm = match random.u32(0..8) {
            0 | 1 => Harm::Kill(brokers),
            2 => Harm::Stop(brokers),
            3 => Harm::Weather(Weather::Cut),
            4 => Harm::Weather(Weather::Slow { bytes: random.usize(512..8_192), every: Duration::from_millis(random.u64(20..200)) }),
            5 => Harm::Weather(Weather::Torn { after: random.usize(500..20_000) }),
            6 => Harm::Reset,
            _ => Harm::Desync { kind: FLOWING[random.usize(0..FLOWING.len())] },
        };
        Self { harm, lasts: random.u32(RATE..=RATE * 5), pause: random.u32(RATE / 2..=RATE * 3) }
    }

    fn happens(&self, kafka: &mut Kafka, trial: &Trial) {
        match &self.harm {
            Harm::Kill(brokers) => kafka.kill_brokers(brokers),
            Harm::Stop(brokers) => kafka.stop_brokers(brokers),
            Harm::Weather(weather) => kafka.network().becomes(*weather),
            Harm::Reset => kafka.network().reset(),
            Harm::Desync { kind } => {
                // There must be a producer that the leader knows.
                trial.flows_to(&[kind]);
                trial.forge(kafka, kind, 1_000);
            }
        }
        trial.accepts(self.lasts);
        kafka.heal();
        trial.accepts(self.pause);
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.harm {
            Harm::Kill(brokers) => write!(out, "brokers {brokers:?} are killed")?,
            Harm::Stop(brokers) => write!(out, "brokers {brokers:?} stand still")?,
            Harm::Weather(weather) => write!(out, "the network becomes {weather:?}")?,
            Harm::Reset => write!(out, "all connections are reset")?,
            Harm::Desync { kind } => write!(out, "the producer loses step with a partition of {kind}")?,
        }
        let seconds = |callbacks: u32| f64::from(callbacks) / f64::from(RATE);
        write!(out, ", for {:.1} s; then {:.1} s in peace", seconds(self.lasts), seconds(self.pause))
    }
}

#[test]
fn whatever_kafka_does_nothing_is_lost() {
    let kafka = kafka::exclusive();
    let plan = Plan::new("soak", kafka.proxied_servers());
    soak(kafka, plan, setting("CHAT_BRIDGE_SOAK_SECONDS").unwrap_or(SECONDS));
}

#[test]
fn whatever_kafka_does_what_is_committed_stands_there_once() {
    let kafka = kafka::exclusive();
    let plan = Plan::new("oncesoak", kafka.proxied_servers()).exactly_once();
    soak(kafka, plan, setting("CHAT_BRIDGE_SOAK_SECONDS").unwrap_or(SECONDS / 2));
}

fn soak(mut kafka: Exclusive, plan: Plan, seconds: u64) {
    let seed = setting("CHAT_BRIDGE_SOAK_SEED").unwrap_or_else(|| fastrand::u64(..));
    let mut random = Rng::with_seed(seed);
    let again = format!("CHAT_BRIDGE_SOAK_SECONDS={seconds} CHAT_BRIDGE_SOAK_SEED={seed} cargo test --locked --test bridge soak::");
    say(&format!("soak: {seconds} s of seed {seed}, {:?}; again: {again}", plan.delivery));
    let trial = Trial::start(&kafka, &Plan { rate: RATE, ..plan });
    let start = Instant::now();
    let mut faults = 0;
    while start.elapsed() < Duration::from_secs(seconds) {
        let fault = Fault::draw(&mut random);
        say(&format!("soak: {:6.1} s: {fault}", start.elapsed().as_secs_f64()));
        fault.happens(&mut kafka, &trial);
        faults += 1;
    }
    trial.flows();
    let proof = trial.end(&kafka);
    say(&format!("soak: seed {seed}: {faults} faults in {:.0} s: {proof}", start.elapsed().as_secs_f64()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_faults_and_all_kinds_come() {
        let drawn = |seed| {
            let mut random = Rng::with_seed(seed);
            (0..200).map(|_| Fault::draw(&mut random)).collect::<Vec<_>>()
        };
        assert_eq!(drawn(7), drawn(7));
        assert_ne!(drawn(7), drawn(8));
        let kinds: std::collections::HashSet<_> = drawn(7).iter().map(|fault| std::mem::discriminant(&fault.harm)).collect();
        assert_eq!(kinds.len(), 5);
    }
}
