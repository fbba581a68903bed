import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.net.Socket;
import java.nio.ByteBuffer;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.ProducerState;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.message.ProduceRequestData;
import org.apache.kafka.common.protocol.ApiKeys;
import org.apache.kafka.common.protocol.Errors;
import org.apache.kafka.common.record.internal.MemoryRecords;
import org.apache.kafka.common.record.internal.SimpleRecord;
import org.apache.kafka.common.requests.AbstractResponse;
import org.apache.kafka.common.requests.ProduceRequest;
import org.apache.kafka.common.requests.ProduceResponse;
import org.apache.kafka.common.requests.RequestHeader;

/**
 * Puts a partition's leader out of step with an idempotent producer, as a leader that lost or gained records would be: the producer's next sequence number is
 * taken by records that it has never sent, and whatever it sends next is out of order.
 */
final class Forgery {
  /** The last version that names topics by name. */
  private static final short VERSION = 12;

  /** The producer may write meanwhile, so that what is its next number has to be guessed anew. */
  private static final int GUESSES_MAX = 500;

  /** The number of guesses that it took. With a transactional id the records are of the transaction that its producer has open in the partition. */
  static int commit(Admin admin, TopicPartition partition, int count, String transactionalId) throws Exception {
    var description = admin.describeTopics(List.of(partition.topic())).allTopicNames().get(20, TimeUnit.SECONDS).get(partition.topic());
    var leader = description.partitions().get(partition.partition()).leader();
    var records = Collections.nCopies(count, new SimpleRecord(System.currentTimeMillis(), new byte[0], new byte[0])).toArray(SimpleRecord[]::new);
    try (var socket = new Socket(leader.host(), leader.port())) {
      socket.setSoTimeout(20_000);
      Errors error = Errors.INVALID_TXN_STATE;
      for (int guess = 1; guess <= GUESSES_MAX; guess++) {
        var state = admin.describeProducers(List.of(partition)).partitionResult(partition).get(20, TimeUnit.SECONDS);
        ProducerState last = state.activeProducers().stream().max((a, b) -> Long.compare(a.lastTimestamp(), b.lastTimestamp())).orElseThrow();
        var epoch = (short) last.producerEpoch();
        var next = last.lastSequence() + 1;
        if (transactionalId == null) {
          error = send(socket, partition, MemoryRecords.withIdempotentRecords(Compression.NONE, last.producerId(), epoch, next, records), null);
        } else if (last.currentTransactionStartOffset().isPresent()) {
          error = send(socket, partition, MemoryRecords.withTransactionalRecords(Compression.NONE, last.producerId(), epoch, next, records), transactionalId);
        }
        if (error == Errors.NONE) return guess;
        // Its transaction may end meanwhile too.
        if (error != Errors.OUT_OF_ORDER_SEQUENCE_NUMBER && (transactionalId == null || error != Errors.INVALID_TXN_STATE)) break;
      }
      throw error.exception();
    }
  }

  private static Errors send(Socket socket, TopicPartition partition, MemoryRecords records, String transactionalId) throws Exception {
    var ofPartition = new ProduceRequestData.PartitionProduceData().setIndex(partition.partition()).setRecords(records);
    var ofTopic = new ProduceRequestData.TopicProduceData().setName(partition.topic()).setPartitionData(List.of(ofPartition));
    var data = new ProduceRequestData().setAcks((short) -1).setTimeoutMs(10_000).setTransactionalId(transactionalId);
    data.topicData().add(ofTopic);
    var header = new RequestHeader(ApiKeys.PRODUCE, VERSION, "forgery", 1);
    ByteBuffer request = new ProduceRequest.Builder(VERSION, VERSION, data).build(VERSION).serializeWithHeader(header);
    var out = new DataOutputStream(socket.getOutputStream());
    out.writeInt(request.remaining());
    out.write(request.array(), request.arrayOffset() + request.position(), request.remaining());
    out.flush();
    var in = new DataInputStream(socket.getInputStream());
    byte[] answer = in.readNBytes(in.readInt());
    var response = (ProduceResponse) AbstractResponse.parseResponse(ByteBuffer.wrap(answer), header);
    return Errors.forCode(response.data().responses().iterator().next().partitionResponses().get(0).errorCode());
  }
}
