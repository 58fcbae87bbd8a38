package matrix;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.Future;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/** The rule that makes every record a function of its place, and a producer that follows it. */
final class Records implements AutoCloseable {
    private final KafkaProducer<byte[], byte[]> producer;
    private final String topic;
    private final long[] ends;
    private final List<Future<RecordMetadata>> sent = new ArrayList<>();
    private final List<Long> wanted = new ArrayList<>();

    Records(Row row, String topic, long[] ends, Map<String, Object> settings) {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", row.bootstrap);
        properties.putAll(settings);
        this.producer = new KafkaProducer<>(properties, new ByteArraySerializer(), new ByteArraySerializer());
        this.topic = topic;
        this.ends = ends;
    }

    /** One record to every partition. */
    void sendRound() {
        for (int partition = 0; partition < ends.length; partition++) {
            ProducerRecord<byte[], byte[]> record =
                new ProducerRecord<>(topic, partition, key(partition, ends[partition]), value(partition, ends[partition]));
            record.headers()
                .add("at", bytes(partition + "/" + ends[partition]))
                .add("empty", new byte[0])
                .add("at", bytes("again"));
            sent.add(producer.send(record));
            wanted.add(ends[partition]++);
        }
    }

    void flush() throws Exception {
        producer.flush();
        for (int i = 0; i < sent.size(); i++) {
            long at = sent.get(i).get().offset();
            Row.check(at == wanted.get(i), wanted.get(i) + " was acknowledged at " + at);
        }
        sent.clear();
        wanted.clear();
    }

    @Override
    public void close() {
        producer.close();
    }

    static void check(ConsumerRecord<byte[], byte[]> record) {
        int partition = record.partition();
        long offset = record.offset();
        Header[] headers = record.headers().toArray();
        boolean same = Arrays.equals(record.key(), key(partition, offset))
            && Arrays.equals(record.value(), value(partition, offset))
            && headers.length == 3
            && is(headers[0], "at", partition + "/" + offset)
            && is(headers[1], "empty", "")
            && is(headers[2], "at", "again");
        Row.check(same, "record " + partition + "/" + offset + " is " + record);
    }

    private static boolean is(Header header, String key, String value) {
        return header.key().equals(key) && Arrays.equals(header.value(), bytes(value));
    }

    private static byte[] key(int partition, long offset) {
        return bytes("k-" + partition + "-" + offset);
    }

    private static byte[] value(int partition, long offset) {
        return bytes("v-" + partition + "-" + offset + "-" + "x".repeat((int) (offset * 7 % 211)));
    }

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }
}
