package matrix;

import java.io.BufferedOutputStream;
import java.io.PrintStream;
import java.util.Properties;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * A Java producer with its default settings (idempotent, acks=all) for the fault tests: sends numbered records until its
 * standard input ends, then prints `SENT partition count`, and for every record `ACK partition number offset` or
 * `ERROR partition number why`.
 */
public final class Hammer {
    private Hammer() {
    }

    public static void main(String[] args) throws Exception {
        String bootstrap = args[0];
        String topic = args[1];
        int partitions = Integer.parseInt(args[2]);
        long pauseMs = args.length > 3 ? Long.parseLong(args[3]) : 1;
        PrintStream out = new PrintStream(new BufferedOutputStream(System.out, 1 << 16));
        AtomicBoolean ended = new AtomicBoolean();
        Thread input = new Thread(() -> {
            try {
                while (System.in.read() >= 0) {
                    // Nothing is read but the end.
                }
            } catch (java.io.IOException broken) {
                // The end as well.
            }
            ended.set(true);
        });
        input.setDaemon(true);
        input.start();
        Properties properties = new Properties();
        properties.put("bootstrap.servers", bootstrap);
        long[] sent = new long[partitions];
        try (KafkaProducer<String, String> producer =
                new KafkaProducer<>(properties, new StringSerializer(), new StringSerializer())) {
            while (!ended.get()) {
                for (int partition = 0; partition < partitions; partition++) {
                    int place = partition;
                    long number = sent[partition]++;
                    String key = Long.toString(number);
                    producer.send(new ProducerRecord<>(topic, partition, key, key + ":" + "j".repeat((int) (number % 200))),
                        (metadata, error) -> {
                            synchronized (out) {
                                out.println(error == null
                                    ? "ACK " + place + " " + number + " " + metadata.offset()
                                    : "ERROR " + place + " " + number + " " + error);
                            }
                        });
                }
                Thread.sleep(pauseMs);
            }
            producer.flush();
        }
        for (int partition = 0; partition < partitions; partition++) {
            out.println("SENT " + partition + " " + sent[partition]);
        }
        out.flush();
    }
}
