import com.fasterxml.jackson.databind.ObjectMapper;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.Map;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * Counts each event of topics: Count BOOTSTRAP ISOLATION TIMEOUT_SECONDS TOPIC...
 *
 * <p>Reads every partition from its beginning to where it ended for a reader of that isolation ("read_committed", "read_uncommitted") when it began, and prints one line of
 * JSON: the records, the ids (ce_id) that they bear, and those ids that stand more than once, with how often. Exit code 1 where the end does not come in time.
 */
public final class Count {
  public static void main(String[] arguments) throws Exception {
    long deadline = System.nanoTime() + Duration.ofSeconds(Long.parseLong(arguments[2])).toNanos();
    Map<String, Object> settings =
        Map.of(
            "bootstrap.servers", arguments[0],
            "isolation.level", arguments[1],
            "allow.auto.create.topics", "false",
            "enable.auto.commit", "false");
    try (var consumer = new KafkaConsumer<byte[], byte[]>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
      var partitions = new ArrayList<TopicPartition>();
      for (int at = 3; at < arguments.length; at++) {
        for (var partition : consumer.partitionsFor(arguments[at])) {
          partitions.add(new TopicPartition(partition.topic(), partition.partition()));
        }
      }
      consumer.assign(partitions);
      consumer.seekToBeginning(partitions);
      Map<TopicPartition, Long> ends = consumer.endOffsets(partitions);
      long records = 0;
      Map<String, Integer> ids = new HashMap<>();
      // The position goes beyond markers and what was aborted, so that it reaches the end.
      while (partitions.stream().anyMatch(partition -> consumer.position(partition) < ends.get(partition))) {
        if (System.nanoTime() > deadline) {
          System.err.println("the end did not come in time");
          System.exit(1);
        }
        for (var record : consumer.poll(Duration.ofMillis(200))) {
          records++;
          ids.merge(new String(record.headers().lastHeader("ce_id").value(), StandardCharsets.UTF_8), 1, Integer::sum);
        }
      }
      var repeated = new LinkedHashMap<String, Integer>();
      ids.forEach((id, count) -> { if (count > 1) repeated.put(id, count); });
      var line = new LinkedHashMap<String, Object>();
      line.put("records", records);
      line.put("ids", ids.size());
      line.put("repeated", repeated);
      System.out.println(new ObjectMapper().writeValueAsString(line));
    }
  }
}
