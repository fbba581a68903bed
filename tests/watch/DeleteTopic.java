import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.admin.Admin;

/** Deletes a topic: `DeleteTopic BOOTSTRAP_SERVERS TOPIC`. Run from its source; Kafka's own tools are not among the jars of the tests. */
class DeleteTopic {
    public static void main(String[] arguments) throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", arguments[0]))) {
            admin.deleteTopics(List.of(arguments[1])).all().get();
        }
    }
}
