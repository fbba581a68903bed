import com.fasterxml.jackson.databind.ObjectMapper;
import io.cloudevents.CloudEvent;
import io.cloudevents.kafka.KafkaMessageFactory;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.Map;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * Reads events from topics and prints one line of JSON for each: Events BOOTSTRAP COUNT TIMEOUT_SECONDS TOPIC...
 *
 * <p>Reads from the beginning until it has seen COUNT records; exit code 1 where they do not come in time. A record that the CloudEvents SDK cannot read is
 * printed with an "error".
 */
public final class Events {
  private static final ObjectMapper JSON = new ObjectMapper();

  public static void main(String[] arguments) throws Exception {
    int count = Integer.parseInt(arguments[1]);
    long deadline = System.nanoTime() + Duration.ofSeconds(Long.parseLong(arguments[2])).toNanos();
    Map<String, Object> settings = Map.of("bootstrap.servers", arguments[0], "allow.auto.create.topics", "false", "enable.auto.commit", "false");
    try (var consumer = new KafkaConsumer<byte[], byte[]>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
      var partitions = new ArrayList<TopicPartition>();
      for (int at = 3; at < arguments.length; at++) {
        for (var partition : consumer.partitionsFor(arguments[at])) {
          partitions.add(new TopicPartition(partition.topic(), partition.partition()));
        }
      }
      consumer.assign(partitions);
      consumer.seekToBeginning(partitions);
      int seen = 0;
      while (seen < count && System.nanoTime() < deadline) {
        for (var record : consumer.poll(Duration.ofMillis(200))) {
          System.out.println(JSON.writeValueAsString(line(record)));
          seen++;
        }
      }
      System.out.flush();
      if (seen < count) {
        System.err.println("only " + seen + " of " + count + " records came in time");
        System.exit(1);
      }
    }
  }

  private static Map<String, Object> line(ConsumerRecord<byte[], byte[]> record) {
    var line = new LinkedHashMap<String, Object>();
    line.put("topic", record.topic());
    line.put("partition", record.partition());
    line.put("offset", record.offset());
    line.put("key", record.key() == null ? null : new String(record.key(), StandardCharsets.UTF_8));
    try {
      CloudEvent event = KafkaMessageFactory.createReader(record).toEvent();
      line.put("id", event.getId());
      line.put("type", event.getType());
      line.put("source", event.getSource().toString());
      line.put("subject", event.getSubject());
      line.put("time", event.getTime() == null ? null : event.getTime().toInstant().toString());
      var extensions = new LinkedHashMap<String, Object>();
      for (var name : event.getExtensionNames()) {
        extensions.put(name, event.getExtension(name));
      }
      line.put("extensions", extensions);
      line.put("data", event.getData() == null ? null : JSON.readTree(event.getData().toBytes()));
    } catch (Exception error) {
      line.put("error", error.toString());
    }
    return line;
  }
}
