package matrix;

import static matrix.Row.PARTITIONS;
import static matrix.Row.check;
import static matrix.Row.waitFor;

import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.ConcurrentSkipListSet;
import java.util.stream.Collectors;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/** Consumer groups: a live rebalance, a restart at the commit, static members. */
final class Groups {
    private final Row row;
    private final String topic;
    private final long[] ends;

    Groups(Row row, String topic, long[] ends) {
        this.row = row;
        this.topic = topic;
        this.ends = ends;
    }

    private KafkaConsumer<byte[], byte[]> consumer(String group, Map<String, Object> settings) {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", row.bootstrap);
        properties.put("group.id", group);
        properties.put("auto.offset.reset", "earliest");
        properties.putAll(settings);
        KafkaConsumer<byte[], byte[]> consumer =
            new KafkaConsumer<>(properties, new ByteArrayDeserializer(), new ByteArrayDeserializer());
        consumer.subscribe(List.of(topic));
        return consumer;
    }

    /** Accounts for every record of the topic, whoever consumed it. */
    private static final class Ledger {
        final long[] next = new long[PARTITIONS];
        long repeats;
        Throwable error;

        synchronized void see(ConsumerRecord<byte[], byte[]> record) {
            try {
                Records.check(record);
                check(record.offset() <= next[record.partition()], record + " follows " + (next[record.partition()] - 1));
            } catch (AssertionError wrong) {
                error = error == null ? wrong : error;
            }
            repeats += record.offset() < next[record.partition()] ? 1 : 0;
            next[record.partition()] = Math.max(next[record.partition()], record.offset() + 1);
        }

        synchronized boolean settled(long[] ends) {
            return error != null || Arrays.equals(next, ends);
        }
    }

    /** A consumer in a thread of its own, as an application would run it. */
    private final class Member {
        final Set<Integer> read = new ConcurrentSkipListSet<>();
        volatile Set<Integer> owned = Set.of();
        volatile boolean stopping;
        volatile Throwable error;
        private final Thread thread;

        Member(Ledger ledger, String group, Map<String, Object> settings) {
            thread = new Thread(() -> run(ledger, group, settings));
            thread.setDaemon(true);
            thread.start();
        }

        private void run(Ledger ledger, String group, Map<String, Object> settings) {
            try (KafkaConsumer<byte[], byte[]> consumer = consumer(group, settings)) {
                while (!stopping) {
                    for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(100))) {
                        ledger.see(record);
                        read.add(record.partition());
                    }
                    owned = consumer.assignment().stream().map(TopicPartition::partition)
                        .collect(Collectors.toCollection(TreeSet::new));
                }
            } catch (Throwable failure) {
                error = failure;
            }
        }

        void healthy() throws Exception {
            if (error != null) {
                throw new Exception(error);
            }
        }

        void stop() throws Exception {
            stopping = true;
            thread.join(Row.WAIT_MS);
            check(!thread.isAlive(), "the consumer does not close");
            healthy();
        }
    }

    private static boolean halves(Member one, Member two) throws Exception {
        one.healthy();
        two.healthy();
        Set<Integer> all = new TreeSet<>(one.owned);
        all.addAll(two.owned);
        return one.owned.size() == 3 && two.owned.size() == 3 && all.size() == PARTITIONS;
    }

    /** A second member joins while the first one consumes a live load, then leaves again. */
    void rebalance(String prefix, Map<String, Object> settings) {
        String group = row.topic(prefix.replace(':', '-'));
        Ledger ledger = new Ledger();
        Records records = new Records(row, topic, ends, Map.of());
        boolean[] loading = {true};
        Throwable[] loadError = {null};
        Thread load = new Thread(() -> {
            try (records) {
                while (loading[0]) {
                    records.sendRound();
                    Thread.sleep(20);
                    records.flush();
                }
            } catch (Throwable failure) {
                loadError[0] = failure;
            }
        });
        load.start();
        Member first = new Member(ledger, group, settings);
        Member[] second = {null};
        row.step(prefix + ":first-member", () -> waitFor("records of all partitions", () -> {
            first.healthy();
            return first.read.size() == PARTITIONS;
        }));
        row.step(prefix + ":second-joins", () -> {
            second[0] = new Member(ledger, group, settings);
            waitFor("three partitions on each member", () -> halves(first, second[0]));
            waitFor("records on the second member", () -> second[0].read.size() == 3);
        });
        row.step(prefix + ":second-leaves", () -> {
            second[0].stop();
            waitFor("all partitions on the first member", () -> {
                first.healthy();
                return first.owned.size() == PARTITIONS;
            });
        });
        row.step(prefix + ":all-accounted", () -> {
            loading[0] = false;
            load.join(Row.WAIT_MS);
            check(!load.isAlive() && loadError[0] == null, "the load: " + loadError[0]);
            waitFor("every record", () -> ledger.settled(ends));
            first.stop();
            check(ledger.error == null, ledger.error);
        });
        row.info(prefix + "-repeats", ledger.repeats);
    }

    /** What is committed is where the next consumer of the group begins, to the record. */
    void resume(String group) {
        Map<TopicPartition, OffsetAndMetadata> committed = new HashMap<>();
        row.step("resume:commit", () -> {
            try (KafkaConsumer<byte[], byte[]> consumer = consumer(group, Map.of("max.poll.records", 50))) {
                long seen = 0;
                for (long third = Arrays.stream(ends).sum() / 3; seen < third; ) {
                    for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofSeconds(1))) {
                        seen++;
                        committed.put(new TopicPartition(topic, record.partition()),
                            new OffsetAndMetadata(record.offset() + 1, "from the matrix"));
                    }
                }
                consumer.commitSync(committed);
                Map<TopicPartition, OffsetAndMetadata> found = consumer.committed(committed.keySet());
                check(found.equals(committed), "committed " + committed + ", found " + found);
            }
        });
        row.step("resume:exact", () -> {
            long[] position = new long[PARTITIONS];
            committed.forEach((partition, offset) -> position[partition.partition()] = offset.offset());
            long deadline = System.currentTimeMillis() + Row.WAIT_MS;
            try (KafkaConsumer<byte[], byte[]> consumer = consumer(group, Map.of())) {
                while (!Arrays.equals(position, ends)) {
                    check(System.currentTimeMillis() < deadline, "stopped at " + Arrays.toString(position));
                    for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofSeconds(1))) {
                        check(record.offset() == position[record.partition()]++, "resumed at " + record);
                        Records.check(record);
                    }
                }
            }
        });
    }

    /** A static member that comes back within its session timeout gets the same partitions again. */
    void staticMembers() {
        row.step("membership:static", () -> {
            Ledger ledger = new Ledger();
            String group = row.topic("static");
            Member one = new Member(ledger, group, Map.of("group.instance.id", "one"));
            Member two = new Member(ledger, group, Map.of("group.instance.id", "two"));
            waitFor("three partitions on each member", () -> halves(one, two));
            Set<Integer> before = two.owned;
            two.stop();
            Member again = new Member(ledger, group, Map.of("group.instance.id", "two"));
            waitFor("three partitions on each member after the return", () -> halves(one, again));
            check(again.owned.equals(before), "owned " + before + ", then " + again.owned);
            one.stop();
            again.stop();
            check(ledger.error == null, ledger.error);
        });
    }

    /** Keeps a member in a group while the body runs. */
    void withMember(String group, Row.Body body) throws Exception {
        Member member = new Member(new Ledger(), group, Collections.emptyMap());
        try {
            waitFor("the member", () -> member.owned.size() == PARTITIONS);
            body.run();
        } finally {
            member.stopping = true;
            member.thread.join(Row.WAIT_MS);
        }
    }

    List<TopicPartition> partitions() {
        List<TopicPartition> all = new ArrayList<>();
        for (int partition = 0; partition < PARTITIONS; partition++) {
            all.add(new TopicPartition(topic, partition));
        }
        return all;
    }
}
