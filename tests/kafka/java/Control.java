import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.ScramCredentialInfo;
import org.apache.kafka.clients.admin.ScramMechanism;
import org.apache.kafka.clients.admin.UserScramCredentialUpsertion;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.acl.AccessControlEntry;
import org.apache.kafka.common.acl.AccessControlEntryFilter;
import org.apache.kafka.common.acl.AclBinding;
import org.apache.kafka.common.acl.AclBindingFilter;
import org.apache.kafka.common.acl.AclOperation;
import org.apache.kafka.common.acl.AclPermissionType;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.resource.PatternType;
import org.apache.kafka.common.resource.ResourcePattern;
import org.apache.kafka.common.resource.ResourcePatternFilter;
import org.apache.kafka.common.resource.ResourceType;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * What the tests ask of a Java client, one command a line, one answer a line ("ok ..." or "error ..."). One process serves a whole run: a JVM takes long to start.
 *
 * <pre>
 * grant USER TOPIC OPERATION    allow it
 * revoke USER TOPIC             take all rights to the topic away
 * transactions USER ID          allow all that transactions under this transactional id need
 * publish TOPIC HEXKEY          publish a record with this key as Java does by default; the answer is its partition
 * password USER PASSWORD        make a SCRAM user, or change one's password
 * keystore BROKER [FILE]        have a broker show the certificate of this file to new connections, or that of its settings
 * forge TOPIC PARTITION COUNT   publish so many records in the name of the idempotent producer that wrote there last, as its next
 * forge TOPIC PARTITION COUNT ID the same in the transaction that the producer of that transactional id has open there
 * </pre>
 */
public final class Control {
  public static void main(String[] arguments) throws Exception {
    Map<String, Object> settings =
        Map.of("bootstrap.servers", arguments[0], "default.api.timeout.ms", "20000", "request.timeout.ms", "10000", "max.block.ms", "20000");
    var in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    try (var admin = Admin.create(settings);
        var producer = new KafkaProducer<byte[], byte[]>(settings, new ByteArraySerializer(), new ByteArraySerializer())) {
      for (String line = in.readLine(); line != null; line = in.readLine()) {
        String answer;
        try {
          answer = "ok " + answer(admin, producer, line.split(" "));
        } catch (Exception error) {
          answer = "error " + error.toString().replace('\n', ' ');
        }
        System.out.println(answer);
        System.out.flush();
      }
    }
  }

  private static String answer(Admin admin, KafkaProducer<byte[], byte[]> producer, String[] words) throws Exception {
    switch (words[0]) {
      case "grant" -> {
        var entry = new AccessControlEntry("User:" + words[1], "*", AclOperation.fromString(words[3]), AclPermissionType.ALLOW);
        var topic = new ResourcePattern(ResourceType.TOPIC, words[2], PatternType.LITERAL);
        admin.createAcls(List.of(new AclBinding(topic, entry))).all().get(20, TimeUnit.SECONDS);
        return "";
      }
      case "transactions" -> {
        var id = new ResourcePattern(ResourceType.TRANSACTIONAL_ID, words[2], PatternType.LITERAL);
        var rights = new ArrayList<AclBinding>();
        for (var operation : List.of(AclOperation.WRITE, AclOperation.DESCRIBE)) {
          rights.add(new AclBinding(id, new AccessControlEntry("User:" + words[1], "*", operation, AclPermissionType.ALLOW)));
        }
        admin.createAcls(rights).all().get(20, TimeUnit.SECONDS);
        return "";
      }
      case "revoke" -> {
        var entry = new AccessControlEntryFilter("User:" + words[1], null, AclOperation.ANY, AclPermissionType.ANY);
        var topic = new ResourcePatternFilter(ResourceType.TOPIC, words[2], PatternType.LITERAL);
        return "" + admin.deleteAcls(List.of(new AclBindingFilter(topic, entry))).all().get(20, TimeUnit.SECONDS).size();
      }
      case "publish" -> {
        var record = new ProducerRecord<byte[], byte[]>(words[1], HexFormat.of().parseHex(words[2]), new byte[0]);
        return "" + producer.send(record).get(20, TimeUnit.SECONDS).partition();
      }
      case "password" -> {
        var info = new ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096);
        admin.alterUserScramCredentials(List.of(new UserScramCredentialUpsertion(words[1], info, words[2]))).all().get(20, TimeUnit.SECONDS);
        return "";
      }
      case "keystore" -> {
        var broker = new ConfigResource(ConfigResource.Type.BROKER, words[1]);
        var file = words.length > 2 ? words[2] : null;
        var change =
            new AlterConfigOp(
                new ConfigEntry("listener.name.sasl.ssl.keystore.location", file),
                file == null ? AlterConfigOp.OpType.DELETE : AlterConfigOp.OpType.SET);
        admin.incrementalAlterConfigs(Map.of(broker, List.of(change))).all().get(20, TimeUnit.SECONDS);
        return "";
      }
      case "forge" -> {
        var transactionalId = words.length > 4 ? words[4] : null;
        return "" + Forgery.commit(admin, new TopicPartition(words[1], Integer.parseInt(words[2])), Integer.parseInt(words[3]), transactionalId);
      }
      default -> throw new IllegalArgumentException("unknown command " + words[0]);
    }
  }
}
