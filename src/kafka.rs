//! What the forwarder needs of Kafka.
