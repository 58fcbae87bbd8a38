package matrix;

import static matrix.Row.PARTITIONS;
import static matrix.Row.RECORDS;
import static matrix.Row.check;
import static matrix.Row.expect;
import static matrix.Row.waitFor;

import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.Config;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.ConsumerGroupDescription;
import org.apache.kafka.clients.admin.DescribeConfigsOptions;
import org.apache.kafka.clients.admin.GroupListing;
import org.apache.kafka.clients.admin.ListOffsetsResult;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.ProducerState;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.clients.consumer.CooperativeStickyAssignor;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.GroupState;
import org.apache.kafka.common.KafkaFuture;
import org.apache.kafka.common.Node;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.GroupIdNotFoundException;
import org.apache.kafka.common.errors.GroupNotEmptyException;
import org.apache.kafka.common.errors.InvalidConfigurationException;
import org.apache.kafka.common.errors.InvalidPartitionsException;
import org.apache.kafka.common.errors.InvalidReplicationFactorException;
import org.apache.kafka.common.errors.InvalidTopicException;
import org.apache.kafka.common.errors.OffsetOutOfRangeException;
import org.apache.kafka.common.errors.TopicExistsException;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;

/** The Java clients against a broker: {@code java -cp ... matrix.Main BOOTSTRAP RUN_ID}. */
public final class Main {
    private final Row row;
    private final Admin admin;
    private final String topic;
    private final long[] ends = new long[PARTITIONS];

    private Main(Row row) {
        this.row = row;
        Properties properties = new Properties();
        properties.put("bootstrap.servers", row.bootstrap);
        this.admin = Admin.create(properties);
        this.topic = row.topic("t");
    }

    public static void main(String[] args) throws Exception {
        Row row = new Row("java", args);
        Properties version = new Properties();
        version.load(Admin.class.getResourceAsStream("/kafka/kafka-version.properties"));
        row.info("version", "kafka-clients " + version.getProperty("version") + ", Java " + Runtime.version().feature());
        new Main(row).run();
        System.out.flush();
        Runtime.getRuntime().halt(row.exitCode());
    }

    private void run() {
        Groups groups = new Groups(row, topic, ends);
        String group = row.topic("resume");
        createTopics();
        produce();
        groups.rebalance("group", Map.of());
        groups.resume(group);
        topics();
        configs();
        groups(groups, group);
        groups.rebalance("membership:cooperative",
            Map.of("partition.assignment.strategy", CooperativeStickyAssignor.class.getName()));
        groups.staticMembers();
        records();
        cluster();
        deleteTopic();
    }

    private static <T> T get(KafkaFuture<T> future) throws Exception {
        return future.get(20, TimeUnit.SECONDS);
    }

    private void createTopics() {
        row.step("admin:create-topic", () -> {
            NewTopic wanted = new NewTopic(topic, Optional.of(PARTITIONS), Optional.empty())
                .configs(Map.of("retention.ms", "7200000"));
            var created = admin.createTopics(List.of(wanted));
            get(created.all());
            check(get(created.numPartitions(topic)) == PARTITIONS, "the answer names another partition count");
            check(get(created.config(topic)).get("retention.ms").value().equals("7200000"), "no config in the answer");
            check(get(created.topicId(topic)) != null, "no topic id");
        });
        row.step("admin:create-topic-refused", () -> {
            expect(TopicExistsException.class, () -> create(new NewTopic(topic, 1, (short) 1)));
            expect(InvalidTopicException.class, () -> create(new NewTopic("not/allowed", 1, (short) 1)));
            expect(InvalidPartitionsException.class, () -> create(new NewTopic(topic + "-0", 0, (short) 1)));
            expect(InvalidReplicationFactorException.class, () -> create(new NewTopic(topic + "-r", 1, (short) 0)));
            expect(InvalidConfigurationException.class, () -> create(
                new NewTopic(topic + "-c", 1, (short) 1).configs(Map.of("no.such.config", "1"))));
        });
    }

    private void create(NewTopic wanted) throws Exception {
        get(admin.createTopics(List.of(wanted)).all());
    }

    private void produce() {
        for (String codec : List.of("default", "gzip", "snappy", "lz4", "zstd", "not-idempotent")) {
            Map<String, Object> settings = switch (codec) {
                case "default" -> Map.of();
                case "not-idempotent" -> Map.of("enable.idempotence", false);
                default -> Map.of("compression.type", codec);
            };
            row.step("produce:" + codec, () -> {
                try (Records records = new Records(row, topic, ends, settings)) {
                    for (int round = 0; round < RECORDS; round++) {
                        records.sendRound();
                    }
                    records.flush();
                }
            });
        }
    }

    private TopicDescription describe(String name) throws Exception {
        return get(admin.describeTopics(List.of(name)).allTopicNames()).get(name);
    }

    private void topics() {
        String other = row.topic("grow");
        row.step("admin:list-topics", () -> check(get(admin.listTopics().names()).contains(topic), "not listed"));
        row.step("admin:describe-topic", () -> {
            TopicDescription found = describe(topic);
            check(found.partitions().size() == PARTITIONS, found);
            check(found.partitions().stream().allMatch(p -> p.leader() != null && !p.isr().isEmpty()), found);
            check(get(admin.describeTopics(
                org.apache.kafka.common.TopicCollection.ofTopicIds(List.of(found.topicId()))).allTopicIds())
                .get(found.topicId()).name().equals(topic), "described by id");
        });
        row.step("admin:describe-topic-unknown", () ->
            expect(UnknownTopicOrPartitionException.class, () -> describe(row.topic("nowhere"))));
        row.step("admin:create-partitions", () -> {
            create(new NewTopic(other, 1, (short) 1));
            get(admin.createPartitions(Map.of(other, NewPartitions.increaseTo(4))).all());
            waitFor("4 partitions", () -> describe(other).partitions().size() == 4);
            expect(InvalidPartitionsException.class, () ->
                get(admin.createPartitions(Map.of(other, NewPartitions.increaseTo(2))).all()));
        });
        row.step("admin:delete-topic-by-id", () -> {
            get(admin.deleteTopics(org.apache.kafka.common.TopicCollection.ofTopicIds(
                List.of(describe(other).topicId()))).all());
            waitFor("the topic to go", () -> !get(admin.listTopics().names()).contains(other));
        });
    }

    private ConfigEntry config(String key) throws Exception {
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        return get(admin.describeConfigs(List.of(resource)).all()).get(resource).get(key);
    }

    private void alter(AlterConfigOp.OpType type, String key, String value) throws Exception {
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        Collection<AlterConfigOp> change = List.of(new AlterConfigOp(new ConfigEntry(key, value), type));
        get(admin.incrementalAlterConfigs(Map.of(resource, change)).all());
    }

    private void configs() {
        row.step("admin:describe-configs", () -> {
            check(config("retention.ms").value().equals("7200000"), config("retention.ms"));
            check(config("retention.ms").source() == ConfigEntry.ConfigSource.DYNAMIC_TOPIC_CONFIG, "source");
            check(config("cleanup.policy").source() == ConfigEntry.ConfigSource.DEFAULT_CONFIG, "default source");
            check(config("cleanup.policy").type() == ConfigEntry.ConfigType.LIST, "type");
        });
        row.step("admin:describe-configs-synonyms", () -> {
            ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
            DescribeConfigsOptions all = new DescribeConfigsOptions().includeSynonyms(true).includeDocumentation(true);
            Config found = get(admin.describeConfigs(List.of(resource), all).all()).get(resource);
            ConfigEntry policy = found.get("cleanup.policy");
            check(policy.synonyms().stream().anyMatch(s -> s.name().equals("log.cleanup.policy")), policy);
            check(policy.documentation() != null && !policy.documentation().isEmpty(), "no documentation");
            check(found.get("retention.ms").synonyms().get(0).value().equals("7200000"), found.get("retention.ms"));
        });
        row.step("admin:incremental-alter-configs", () -> {
            alter(AlterConfigOp.OpType.SET, "retention.ms", "3600000");
            waitFor("set", () -> config("retention.ms").value().equals("3600000"));
            alter(AlterConfigOp.OpType.DELETE, "retention.ms", null);
            waitFor("delete", () -> config("retention.ms").value().equals("604800000"));
            alter(AlterConfigOp.OpType.APPEND, "cleanup.policy", "compact");
            waitFor("append", () -> Set.of(config("cleanup.policy").value().split(",")).equals(Set.of("delete", "compact")));
            alter(AlterConfigOp.OpType.SUBTRACT, "cleanup.policy", "compact");
            waitFor("subtract", () -> config("cleanup.policy").value().equals("delete"));
        });
        row.step("admin:alter-configs-refused", () -> {
            expect(InvalidConfigurationException.class, () -> alter(AlterConfigOp.OpType.SET, "retention.ms", "soon"));
            expect(InvalidConfigurationException.class, () -> alter(AlterConfigOp.OpType.SET, "no.such.config", "1"));
        });
        row.step("admin:describe-broker-configs", () -> {
            String node = get(admin.describeCluster().nodes()).iterator().next().idString();
            ConfigResource resource = new ConfigResource(ConfigResource.Type.BROKER, node);
            Config found = get(admin.describeConfigs(List.of(resource)).all()).get(resource);
            check(found.get("message.max.bytes") != null && found.get("num.partitions") != null, found);
        });
    }

    private Set<Long> groupOffsets(String group) throws Exception {
        return get(admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata()).values().stream()
            .map(OffsetAndMetadata::offset).collect(Collectors.toSet());
    }

    private void groups(Groups groups, String group) {
        row.step("admin:list-groups", () -> {
            check(get(admin.listGroups().all()).stream().map(GroupListing::groupId).anyMatch(group::equals), "not listed");
            GroupListing found = get(admin.listGroups().all()).stream().filter(g -> g.groupId().equals(group)).findFirst().get();
            check(found.groupState().equals(Optional.of(GroupState.EMPTY)) && found.protocol().equals("consumer"), found);
        });
        row.step("admin:describe-groups", () -> groups.withMember(group, () -> {
            ConsumerGroupDescription found = get(admin.describeConsumerGroups(List.of(group)).all()).get(group);
            check(found.groupState() == GroupState.STABLE && found.members().size() == 1, found);
            check(found.members().iterator().next().assignment().topicPartitions().size() == PARTITIONS, found);
            check(found.partitionAssignor().equals("range") && !found.members().iterator().next().host().isEmpty(), found);
            expect(GroupNotEmptyException.class, () -> get(admin.deleteConsumerGroups(List.of(group)).all()));
        }));
        row.step("admin:list-group-offsets", () -> {
            var found = get(admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata());
            for (TopicPartition partition : groups.partitions()) {
                check(found.get(partition).offset() == ends[partition.partition()], found);
            }
        });
        row.step("admin:alter-group-offsets", () -> {
            Map<TopicPartition, OffsetAndMetadata> to = groups.partitions().stream()
                .collect(Collectors.toMap(p -> p, p -> new OffsetAndMetadata(5)));
            get(admin.alterConsumerGroupOffsets(group, to).all());
            check(groupOffsets(group).equals(Set.of(5L)), groupOffsets(group));
        });
        row.step("admin:delete-group-offsets", () -> {
            get(admin.deleteConsumerGroupOffsets(group, Set.copyOf(groups.partitions())).all());
            check(groupOffsets(group).isEmpty(), groupOffsets(group));
        });
        row.step("admin:delete-group", () -> {
            String doomed = row.topic("group");
            get(admin.deleteConsumerGroups(List.of(doomed)).all());
            check(get(admin.listGroups().all()).stream().noneMatch(g -> g.groupId().equals(doomed)), "still listed");
            expect(GroupIdNotFoundException.class, () -> get(admin.deleteConsumerGroups(List.of(doomed)).all()));
        });
    }

    private long offset(OffsetSpec spec) throws Exception {
        TopicPartition partition = new TopicPartition(topic, 0);
        ListOffsetsResult found = admin.listOffsets(Map.of(partition, spec));
        return get(found.partitionResult(partition)).offset();
    }

    private void records() {
        TopicPartition partition = new TopicPartition(topic, 0);
        row.step("admin:list-offsets", () -> {
            check(offset(OffsetSpec.earliest()) == 0 && offset(OffsetSpec.latest()) == ends[0], "start or end");
            check(offset(OffsetSpec.forTimestamp(1)) == 0, "the first record after the epoch");
            check(offset(OffsetSpec.forTimestamp(System.currentTimeMillis() + 86_400_000)) == -1, "a future time");
            check(offset(OffsetSpec.maxTimestamp()) >= 0, "the highest timestamp");
        });
        row.step("admin:describe-producers", () -> {
            List<ProducerState> found =
                get(admin.describeProducers(List.of(partition)).all()).get(partition).activeProducers();
            check(!found.isEmpty() && found.stream().allMatch(p -> p.producerId() >= 0), found);
        });
        row.step("admin:delete-records", () -> {
            var answer = admin.deleteRecords(Map.of(partition, RecordsToDelete.beforeOffset(100)));
            check(get(answer.lowWatermarks().get(partition)).lowWatermark() == 100, "low watermark");
            check(offset(OffsetSpec.earliest()) == 100, "the log starts at " + offset(OffsetSpec.earliest()));
            expect(OffsetOutOfRangeException.class, () ->
                get(admin.deleteRecords(Map.of(partition, RecordsToDelete.beforeOffset(ends[0] + 1))).all()));
        });
    }

    private void cluster() {
        row.step("admin:describe-cluster", () -> {
            Collection<Node> nodes = get(admin.describeCluster().nodes());
            check(!nodes.isEmpty() && nodes.contains(get(admin.describeCluster().controller())), nodes);
            check(get(admin.describeCluster().clusterId()) != null, "no cluster id");
        });
        row.step("admin:describe-features", () -> get(admin.describeFeatures().featureMetadata()));
        row.step("admin:describe-log-dirs", () -> {
            int node = get(admin.describeCluster().nodes()).iterator().next().id();
            var found = get(admin.describeLogDirs(List.of(node)).allDescriptions()).get(node).values();
            long size = found.stream().flatMap(dir -> dir.replicaInfos().entrySet().stream())
                .filter(e -> e.getKey().topic().equals(topic)).mapToLong(e -> e.getValue().size()).sum();
            check(size > 0, found);
        });
    }

    private void deleteTopic() {
        row.step("admin:delete-topic", () -> {
            get(admin.deleteTopics(List.of(topic)).all());
            waitFor("the topic to go", () -> !get(admin.listTopics().names()).contains(topic));
            expect(UnknownTopicOrPartitionException.class, () -> get(admin.deleteTopics(List.of(topic)).all()));
        });
    }
}
