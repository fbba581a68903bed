//! Losses of power and errors of the disk under load, on a volume that forgets what was not synced: whatever was answered is published.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::support::bridge::{Bridge, PATIENCE, Site, group_full, prefix};
use crate::support::load::Load;
use crate::support::senders::{Told, send_until_gone};
use crate::support::volume::{Event, Extent, Lost, Operation, Volume};
use crate::support::{eventually, free_port, kafka};

/// Losses of power: while Kafka takes events, while it stands still, so that the journal is all there is, and when it is back.
const ROUNDS: [Stretch; 3] =
    [Stretch { kafka: Flow::Flows, losses: 6 }, Stretch { kafka: Flow::Stands, losses: 6 }, Stretch { kafka: Flow::Flows, losses: 3 }];

struct Stretch {
    kafka: Flow,
    losses: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Flows,
    Stands,
}

const FULL: &str = "Group.CallbackAfterGroupFull";

/// Segments as small as they may be, so that many are begun and freed.
const SETTINGS: &str = "http.body_max = \"512KiB\"";

/// What a journal of failures holds at most: far more than is written until a failure that is planned, and full soon where that never comes.
const FAILING_SIZE_MAX: &str = "journal.size_max = \"64MiB\"";

/// A journal on a volume of its own.
fn site_on_volume(servers: &str, prefix: &str, seed: u64) -> (Site, Volume) {
    let site = Site::new(servers, prefix, SETTINGS);
    let at = site.file("volume");
    let volume = Volume::new(&at, seed);
    site.change(&format!("journal.dir = {:?}", site.journal()), &format!("journal.dir = {:?}", at.join("journal")));
    site.change("journal.segment_size = \"8MiB\"", "journal.segment_size = \"1MiB\"");
    (site, volume)
}

/// Set `CHAT_BRIDGE_TEST_SEED` to see the same choices again: when the power goes, and what survives it. What the bridge has in hand then is up to its threads.
fn seed() -> u64 {
    let seed = std::env::var("CHAT_BRIDGE_TEST_SEED").ok().map_or_else(|| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("CHAT_BRIDGE_TEST_SEED={seed}");
    seed
}

/// Before which operation, counted from now, the power goes.
fn moment(random: &mut Rng) -> (Operation, u32) {
    match random.u32(..4) {
        0 => (Operation::Write, random.u32(1..=60)),
        1 => (Operation::Sync, random.u32(1..=60)),
        2 => (Operation::Name, random.u32(1..=4)),
        _ => (Operation::SyncFolder, random.u32(1..=4)),
    }
}

/// What every run has once: what was written and not synced is gone. It tells what that was.
fn lose_all_that_is_unsynced(site: &Site, volume: &mut Volume) -> Lost {
    let bridge = site.start();
    eventually("callbacks are accepted", PATIENCE, || (bridge.accepted() >= 200.0).then_some(()));
    volume.plan(Event::PowerLoss(Extent::All), Operation::Sync, 1);
    eventually("the power goes", PATIENCE, || volume.has_come().then_some(()));
    volume.lose_power(bridge)
}

/// A bridge whose power has gone: soon after its start, so that recovery is interrupted too, or once it has accepted callbacks.
fn without_power(site: &Site, volume: &Volume, random: &mut Rng) -> Bridge {
    let (operation, nth) = moment(random);
    let bridge = if random.u32(..3) == 0 {
        volume.plan(Event::PowerLoss(Extent::Any), operation, nth);
        Bridge::spawn(site.command())
    } else {
        let bridge = site.start();
        let callbacks = f64::from(random.u32(50..1_000));
        eventually("the round's callbacks are accepted", PATIENCE, || (bridge.accepted() >= callbacks).then_some(()));
        volume.plan(Event::PowerLoss(Extent::Any), operation, nth);
        bridge
    };
    eventually("the power goes", PATIENCE, || volume.has_come().then_some(()));
    bridge
}

#[test]
fn whatever_was_answered_is_published_after_any_number_of_losses_of_power() {
    let mut kafka = kafka::exclusive();
    let prefix = prefix("power");
    let seed = seed();
    let mut random = Rng::with_seed(seed);
    let (site, mut volume) = site_on_volume(&kafka.bootstrap_servers(), &prefix, random.u64(..));
    site.make_topics();
    let port = free_port();
    site.listen(port);
    let mut load = Load::start(port, &site.file("load.log"));

    let lost = lose_all_that_is_unsynced(&site, &mut volume);
    assert!(lost.sectors > 0, "a frame or a checkpoint that was written is gone: {lost:?}");
    for stretch in ROUNDS {
        match stretch.kafka {
            Flow::Flows => kafka.cont(),
            Flow::Stands => kafka.stop(),
        }
        for _ in 0..stretch.losses {
            let bridge = without_power(&site, &volume, &mut random);
            volume.lose_power(bridge);
        }
    }

    let bridge = site.start();
    load.end();
    bridge.settled(Duration::from_mins(2));
    load.is_published(&kafka, &prefix);
    bridge.stop();
}

/// What the disk is made to fail at, and how often it does it before.
fn failures(random: &mut Rng) -> [(Operation, u32); 4] {
    [
        (Operation::Write, random.u32(20..200)),
        (Operation::Sync, random.u32(20..200)),
        (Operation::Name, random.u32(1..=4)),
        (Operation::SyncFolder, random.u32(1..=4)),
    ]
}

#[test]
fn a_disk_that_fails_once_ends_the_bridge_with_74_and_what_follows_holds_against_a_loss_of_power_too() {
    /// Large enough that segments are begun and freed meanwhile.
    const BYTES: usize = 20_000;
    let kafka = kafka::shared();
    let seed = seed();
    let mut random = Rng::with_seed(seed);
    for (operation, nth) in failures(&mut random) {
        let prefix = prefix("failing");
        let nowhere = format!("127.0.0.1:{}", free_port());
        let (site, mut volume) = site_on_volume(&nowhere, &prefix, random.u64(..));
        site.change("journal.size_max = \"256MiB\"", FAILING_SIZE_MAX);
        let mut bridge = site.start();
        bridge.accept(FULL, &group_full("before", 1));
        volume.plan(Event::Error, operation, nth);
        let Told { mut answered, failed_at } = send_until_gone(bridge.public, BYTES);
        answered.insert("before".to_owned());
        let log = bridge.ended_with(74, Duration::from_secs(10));
        let lasted = Instant::now().duration_since(failed_at);
        assert!(lasted <= Duration::from_secs(4), "{operation:?} {nth}: it ended {lasted:?} after the first refusal");
        assert!(log.contains("the bridge ends"), "{operation:?} {nth}: {log}");
        drop(bridge);

        // The cache still shows what a failed sync has not written, and never will.
        let bridge = site.start();
        for number in 0..20 {
            let group = format!("after-{number}");
            bridge.accept(FULL, &group_full(&group, number));
            answered.insert(group);
        }
        volume.lose_power(bridge);

        site.change(
            &format!("kafka.bootstrap_servers = {nowhere:?}"),
            &format!("kafka.bootstrap_servers = {:?}", kafka.bootstrap_servers()),
        );
        site.make_topics();
        let bridge = site.start();
        bridge.settled(PATIENCE);
        for unharmed in ["chat_bridge_journal_set_aside_total", "chat_bridge_journal_identity_changes_total"] {
            assert_eq!(bridge.metrics()[unharmed], 0.0, "{operation:?} {nth}: {unharmed} {}", bridge.log());
        }
        assert_eq!(bridge.metric("chat_bridge_records_completed_total{outcome=\"corrupt\"}"), 0.0, "{operation:?} {nth}: {}", bridge.log());
        bridge.stop();
        let keys: BTreeSet<String> = kafka.keys(&format!("{prefix}group-full")).into_iter().collect();
        assert!(answered.is_subset(&keys), "{operation:?} {nth}: {:?}", answered.difference(&keys).collect::<Vec<_>>());
    }
}
