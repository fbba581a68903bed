//! An embedded Kafka in a process of its own: librdkafka's mock cluster, which keeps only the last few megabytes of each partition, and answers at once.

use std::error::Error;
use std::io::Write;

use rdkafka::mocking::MockCluster;

/// The topics that the bridge publishes to.
const TOPICS: [&str; 5] = ["chat.group-disband", "chat.member-exit", "chat.group-full", "chat.unrecognized", "chat.dead-letter"];

/// As many as the bridge's default.
const PARTITIONS: i32 = 6;

/// Prints its bootstrap servers, and serves until standard input ends.
pub(crate) fn serve() -> Result<(), Box<dyn Error>> {
    let cluster = MockCluster::new(1)?;
    for topic in TOPICS {
        cluster.create_topic(topic, PARTITIONS, 1)?;
    }
    writeln!(std::io::stdout(), "{}", cluster.bootstrap_servers())?;
    super::wait_for_the_end_of_input()?;
    Ok(())
}
