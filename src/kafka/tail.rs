//! Follows topics from their beginning: what `chat-bridge dev` shows is what any consumer would see.

use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::{Offset, TopicPartitionList};

use super::{Error, creation};

/// How long the broker gathers what is new before it answers: what is published shows within this.
const FETCH_WAIT_MS: &str = "50";

/// One published message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Its place in the partition.
    pub offset: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Vec<u8>,
    /// Its headers, in their order.
    pub headers: Vec<(String, Vec<u8>)>,
}

/// A consumer of all partitions of some topics, without a group.
pub struct Tail {
    consumer: BaseConsumer,
}

impl Tail {
    /// Begins at the start of every partition; `partitions` is how many each topic has.
    pub fn start(bootstrap_servers: &str, topics: &[&str], partitions: u16) -> Result<Self, Error> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap_servers)
            .set("group.id", "chat-bridge-dev")
            .set("enable.auto.commit", "false")
            .set("fetch.wait.max.ms", FETCH_WAIT_MS)
            .create()
            .map_err(|error| creation(&error))?;
        let mut assignment = TopicPartitionList::new();
        for topic in topics {
            for partition in 0..i32::from(partitions) {
                let added = assignment.add_partition_offset(topic, partition, Offset::Beginning);
                added.map_err(|error| Error::Client(error.to_string()))?;
            }
        }
        consumer.assign(&assignment).map_err(|error| Error::Client(error.to_string()))?;
        Ok(Self { consumer })
    }

    /// The next message; `None` where none came within `wait`. Errors of the connection pass by themselves.
    #[must_use]
    pub fn next(&self, wait: Duration) -> Option<Published> {
        let message = self.consumer.poll(wait)?.ok()?;
        let headers = message
            .headers()
            .map(|headers| headers.iter().map(|header| (header.key.to_owned(), header.value.unwrap_or_default().to_vec())).collect());
        Some(Published {
            topic: message.topic().to_owned(),
            partition: message.partition(),
            offset: message.offset(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().unwrap_or_default().to_vec(),
            headers: headers.unwrap_or_default(),
        })
    }
}

impl std::fmt::Debug for Tail {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Tail").finish_non_exhaustive()
    }
}
