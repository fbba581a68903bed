"""Reads events from topics and prints one line of JSON for each: events.py BOOTSTRAP COUNT TIMEOUT_SECONDS TOPIC...

Reads from the beginning until it has seen COUNT records; exit code 1 where they do not come in time. A record that the CloudEvents SDK cannot
read is printed with an "error".
"""

import json
import sys
import time
from datetime import timezone

from cloudevents.core.bindings.kafka import KafkaMessage, from_binary, from_structured
from cloudevents.core.formats.json import JSONFormat
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition

ATTRIBUTES = ("id", "type", "source", "subject")
CORE = {*ATTRIBUTES, "specversion", "time", "datacontenttype", "dataschema", "partitionkey"}


def parsed(message):
    """The event, by the SDK. The content type tells the mode (Kafka protocol binding, section 3): from_kafka goes by the ce_ headers, which structured events
    may bear too."""
    headers = dict(message.headers() or [])
    kafka = KafkaMessage(headers=headers, key=message.key(), value=message.value())
    structured = headers.get("content-type", b"").startswith(b"application/cloudevents")
    return from_structured(kafka, JSONFormat()) if structured else from_binary(kafka, JSONFormat())


def line(message):
    key = message.key()
    out = {
        "topic": message.topic(),
        "partition": message.partition(),
        "offset": message.offset(),
        "key": None if key is None else key.decode(),
    }
    try:
        event = parsed(message)
        attributes = event.get_attributes()
        out.update({name: attributes.get(name) for name in ATTRIBUTES})
        moment = attributes.get("time")
        out["time"] = None if moment is None else moment.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        out["extensions"] = {name: value for name, value in attributes.items() if name not in CORE}
        out["data"] = event.get_data()
    except Exception as error:
        out["error"] = repr(error)
    return out


def main():
    bootstrap, count, timeout, topics = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4:]
    deadline = time.monotonic() + timeout
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "unused", "enable.auto.commit": False, "allow.auto.create.topics": False})
    partitions = []
    for topic in topics:
        metadata = consumer.list_topics(topic, timeout=timeout).topics[topic]
        partitions += [TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in metadata.partitions]
    consumer.assign(partitions)
    seen = 0
    while seen < count and time.monotonic() < deadline:
        message = consumer.poll(0.2)
        if message is None:
            continue
        if message.error():
            raise KafkaException(message.error())
        print(json.dumps(line(message)))
        seen += 1
    consumer.close()
    if seen < count:
        sys.exit(f"only {seen} of {count} records came in time")


main()
