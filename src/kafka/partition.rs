//! Reads one partition to its end, as a consumer of what is committed sees it.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use super::{Error, Place, Settings, creation};

/// One look for the next message.
const LOOK: Duration = Duration::from_millis(100);

/// A record of a compacted topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is about.
    pub key: Vec<u8>,
    /// What holds; `None` where nothing does any more.
    pub value: Option<Vec<u8>>,
}

/// All records of the partition, the oldest first. `goes_on` is asked between two looks; where it says no, the reading ends with [`Error::Unreachable`], as it
/// does where nothing comes for `silence_max`.
///
/// The end is where librdkafka says it is (`PartitionEOF`), and never an offset: the last one is a marker of a transaction, which is no record. Where an open
/// transaction of somebody else stands in the partition the end lies before it.
pub(super) fn read_to_end(
    settings: &Settings,
    place: &Place,
    silence_max: Duration,
    goes_on: impl Fn() -> bool,
) -> Result<Vec<Entry>, Error> {
    let client = |error: KafkaError| Error::Client(error.to_string());
    let consumer: BaseConsumer = settings.reader().create().map_err(|error| creation(&error))?;
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(&place.topic, i32::from(place.partition), Offset::Beginning).map_err(client)?;
    consumer.assign(&assignment).map_err(client)?;
    let mut entries = Vec::new();
    let mut heard = Instant::now();
    let mut reason = "it is silent".to_owned();
    while goes_on() && heard.elapsed() < silence_max {
        match consumer.poll(LOOK) {
            Some(Ok(message)) => {
                heard = Instant::now();
                let key = message.key().unwrap_or_default().to_vec();
                entries.push(Entry { key, value: message.payload().map(<[u8]>::to_vec) });
            }
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(entries),
            // They pass by themselves, or last until we have waited long enough.
            Some(Err(error)) => reason = settings.redact(&error.to_string()),
            None => {}
        }
    }
    Err(Error::Unreachable(format!("read {} of {}: {reason}", place.partition, place.topic)))
}
