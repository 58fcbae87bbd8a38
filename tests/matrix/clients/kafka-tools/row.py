"""Kafka's own command line tools against a broker: `row.py BOOTSTRAP RUN_ID`. Each step reads what the tool prints."""

import concurrent.futures
import json
import pathlib
import re
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "lib"))
from cache import CACHE  # noqa: E402
from rows import Steps, check, run  # noqa: E402

LIBS = CACHE / "kafka-tools-libs"
JAVA = ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto", "-Xmx256m", "-cp", f"{LIBS}/*"]
bootstrap, run_id = sys.argv[1], sys.argv[2]
steps = Steps()
topic, group = f"tools-{run_id}-t", f"tools-{run_id}-g"


def tool(name, *args, stdin=None, ok=True, server=("--bootstrap-server", bootstrap), limit_s=90):
    name = name if name.startswith("kafka.") else f"org.apache.kafka.tools.{name}"
    done = run([*JAVA, name, *server, *args], stdin, limit_s, ok)
    return "\n".join(line for line in done.stdout.splitlines() + done.stderr.splitlines()
                     if not line.startswith(("SLF4J", "WARNING:")))


def has(text, *wanted):
    for piece in wanted:
        check(re.search(piece, text), f"no /{piece}/ in: {text}")


def topics():
    with steps.step("admin:topics-create"):
        has(tool("TopicCommand", "--create", "--topic", topic, "--partitions", "6", "--replication-factor", "1",
                 "--config", "retention.ms=7200000"), f"Created topic {topic}")
        has(tool("TopicCommand", "--create", "--topic", topic, ok=False), "already exists")
    with steps.step("admin:topics-list"):
        check(topic in tool("TopicCommand", "--list").split(), "the topic is not listed")
    with steps.step("admin:topics-describe"):
        text = tool("TopicCommand", "--describe", "--topic", topic)
        has(text, "PartitionCount: ?6", "ReplicationFactor: ?1", r"Configs: ?\S*retention\.ms=7200000")
        check(len(re.findall(r"Partition: \d+\s+Leader: \d+\s+Replicas: \d+\s+Isr: \d+", text)) == 6, text)
        check(tool("TopicCommand", "--describe", "--unavailable-partitions").strip() == "", "unavailable partitions")


def configs():
    def describe(*more):
        return tool("kafka.admin.ConfigCommand", "--entity-type", "topics", "--entity-name", topic, "--describe", *more)

    def alter(*change):
        has(tool("kafka.admin.ConfigCommand", "--entity-type", "topics", "--entity-name", topic, "--alter", *change),
            f"Completed updating config for topic {topic}")

    with steps.step("admin:configs-describe"):
        has(describe(), r"retention\.ms=7200000 sensitive=false synonyms=\{DYNAMIC_TOPIC_CONFIG:retention\.ms=7200000")
        has(describe("--all"), r"cleanup\.policy=delete sensitive=false synonyms=\{DEFAULT_CONFIG:log\.cleanup\.policy=delete\}",
            r"min\.insync\.replicas=1", r"segment\.bytes=")
    with steps.step("admin:configs-alter"):
        alter("--add-config", "retention.ms=3600000,max.message.bytes=500000")
        has(describe(), r"retention\.ms=3600000", r"max\.message\.bytes=500000")
        alter("--delete-config", "max.message.bytes")
        check("max.message.bytes" not in describe(), "the deleted config is still there")
    with steps.step("admin:configs-broker"):
        node = re.search(r"Leader: (\d+)", tool("TopicCommand", "--describe", "--topic", topic)).group(1)
        has(tool("kafka.admin.ConfigCommand", "--entity-type", "brokers", "--entity-name", node, "--describe", "--all"),
            r"message\.max\.bytes=", r"num\.partitions=")


    with steps.step("admin:configs-broker-dynamic"):
        def brokers(*args, ok=True):
            return tool("kafka.admin.ConfigCommand", "--entity-type", "brokers", *args, ok=ok)

        has(brokers("--entity-default", "--alter", "--add-config", "log.cleaner.threads=2"), "Completed updating default config")
        has(brokers("--entity-default", "--describe"), r"log\.cleaner\.threads=2 sensitive=false synonyms=\{DYNAMIC_DEFAULT_BROKER_CONFIG")
        brokers("--entity-default", "--alter", "--delete-config", "log.cleaner.threads")
        check("log.cleaner.threads" not in brokers("--entity-default", "--describe"), "the deleted setting is still there")
        has(brokers("--entity-default", "--alter", "--add-config", "max.connections.per.ip=500"), "Completed updating default config")
        has(brokers("--entity-default", "--describe"), r"max\.connections\.per\.ip=500 sensitive=false")
        brokers("--entity-default", "--alter", "--delete-config", "max.connections.per.ip")
        has(brokers("--entity-name", node, "--alter", "--add-config", "num.partitions=4", ok=False),
            r"Cannot update these configs dynamically: \[num\.partitions\]")
        has(brokers("--entity-default", "--alter", "--add-config", "log.cleaner.threads=x", ok=False), "Not a number of type INT")
    with steps.step("admin:configs-nothing"):
        for entity in ("client-metrics", "clients", "users", "ips"):
            text = tool("kafka.admin.ConfigCommand", "--entity-type", entity, "--describe")
            check(text.strip() == "", f"{entity}: {text}")
        # It names every group, among them those of other clients, and no setting of any.
        text = tool("kafka.admin.ConfigCommand", "--entity-type", "groups", "--describe")
        check(all(re.fullmatch(r"Dynamic configs for group \S+ are:", line) for line in text.split("\n") if line.strip()), text)
        check(tool("ClientMetricsCommand", "--list").strip() == "", "client metrics")


def operators():
    """Topics as Connect, Debezium, Strimzi and Terraform's provider create them."""
    with steps.step("admin:topics-of-operators"):
        settings = (
            ("cleanup.policy=compact", "compression.type=zstd", "min.insync.replicas=1"),
            ("compression.type=lz4", "remote.storage.enable=false", "local.retention.ms=-2", "local.retention.bytes=-2"),
            ("compression.type=gzip", "compression.gzip.level=9", "unclean.leader.election.enable=false"),
            ("compression.type=snappy", "leader.replication.throttled.replicas=*", "segment.bytes=1048576"),
            ("compression.type=uncompressed", "remote.log.copy.disable=false", "retention.ms=604800000"),
        )
        for at, chosen in enumerate(settings):
            name = f"{topic}-op{at}"
            options = [word for setting in chosen for word in ("--config", setting)]
            has(tool("TopicCommand", "--create", "--topic", name, "--replication-factor", "1", *options), f"Created topic {name}")
            text = tool("kafka.admin.ConfigCommand", "--entity-type", "topics", "--entity-name", name, "--describe")
            has(text, *(re.escape(setting) + " sensitive=false synonyms=.DYNAMIC_TOPIC_CONFIG" for setting in chosen))
        for setting, words in (("remote.storage.enable=true", "[Tt]ier"), ("segment.bytes=1000", "at least 1048576"),
                               ("no.such=1", "Unknown topic config name: no.such")):
            has(tool("TopicCommand", "--create", "--topic", f"{topic}-no", "--config", setting, ok=False), words)
    with steps.step("produce:topic-with-a-codec"):
        for at, wanted in ((1, "lz4"), (2, "gzip"), (3, "snappy"), (4, "none")):
            lines = "".join(f"{wanted} {i}\n" for i in range(100))
            tool("ConsoleProducer", "--topic", f"{topic}-op{at}", "--compression-codec", "zstd", stdin=lines)
            text = tool("consumer.ConsoleConsumer", "--topic", f"{topic}-op{at}", "--from-beginning", "--max-messages", "100",
                        "--timeout-ms", "30000")
            check(sum(line.startswith(wanted) for line in text.splitlines()) == 100, text)


def replicas():
    """Tools about replicas and elections, which a healthy cluster has no need of."""
    node = re.search(r"Leader: (\d+)", tool("TopicCommand", "--describe", "--topic", topic)).group(1)

    def elect(*args, ok=True):
        return tool("LeaderElectionCommand", "--election-type", "preferred", *args, ok=ok)

    def reassign(*args, ok=True):
        return tool("reassign.ReassignPartitionsCommand", *args, ok=ok)

    with steps.step("admin:leader-election"):
        has(elect("--topic", topic, "--partition", "0"), f"Valid replica already elected for partitions {topic}-0")
        elect("--all-topic-partitions")
        has(elect("--topic", f"{topic}-none", "--partition", "0", ok=False), "UnknownTopicOrPartitionException")
    with steps.step("admin:reassign-partitions"), tempfile.NamedTemporaryFile("w", suffix=".json") as plan, \
            tempfile.NamedTemporaryFile("w", suffix=".json") as move:
        json.dump({"version": 1, "topics": [{"topic": topic}]}, move)
        json.dump({"version": 1, "partitions": [{"topic": topic, "partition": 0, "replicas": [int(node)]}]}, plan)
        move.flush()
        plan.flush()
        has(reassign("--generate", "--topics-to-move-json-file", move.name, "--broker-list", node),
            "Proposed partition reassignment configuration", rf'"topic":"{topic}","partition":0,"replicas":\[{node}\]')
        has(reassign("--execute", "--reassignment-json-file", plan.name, "--throttle", "1000000"),
            "The inter-broker throttle limit was set to 1000000 B/s", f"Successfully started partition reassignment for {topic}-0")
        has(reassign("--verify", "--reassignment-json-file", plan.name), f"Reassignment of partition {topic}-0 is completed",
            f"Clearing broker-level throttles on broker {node}", f"Clearing topic-level throttles on topic {topic}")
        has(reassign("--list"), "No partition reassignments found")
    with steps.step("admin:metadata-quorum"):
        has(tool("MetadataQuorumCommand", "describe", "--status"), r"LeaderId:\s+\d+", r"LeaderEpoch:\s+\d+", r"MaxFollowerLag:\s+0",
            r"CurrentVoters:\s+\[\{")
        has(tool("MetadataQuorumCommand", "describe", "--replication"), r"\d+\s+\S+\s+\d+\s+0\s+\d+\s+\d+\s+Leader")
    with steps.step("admin:features"):
        has(tool("FeatureCommand", "describe"), r"Feature: group\.version\s+SupportedMinVersion: 0", r"Feature: transaction\.version")
        has(tool("FeatureCommand", "upgrade", "--feature", "no.such.version=1", ok=False), "does not support this feature",
            "1 out of 1 operation")
    with steps.step("admin:transactions"):
        has(tool("TransactionsCommand", "list"), "TransactionalId")
        has(tool("TransactionsCommand", "describe-producers", "--topic", topic, "--partition", "0"), "ProducerId")
        has(tool("TransactionsCommand", "find-hanging", "--broker-id", node), "ProducerId")


def console():
    with steps.step("produce:console"):
        lines = "".join(f"a:{i},b:x\tkey{i % 7}\tvalue {i}\n" for i in range(500))
        tool("ConsoleProducer", "--topic", topic, "--reader-property", "parse.key=true", "--reader-property",
             "parse.headers=true", stdin=lines)
    with steps.step("group:console-consumer"):
        text = tool("consumer.ConsoleConsumer", "--topic", topic, "--group", group, "--from-beginning", "--max-messages", "500",
                    "--timeout-ms", "30000", "--formatter-property", "print.key=true",
                    "--formatter-property", "print.headers=true", "--formatter-property", "print.offset=true")
        found = {tuple(line.split("\t")[i] for i in (1, 2, 3)) for line in text.splitlines() if "\tvalue" in line}
        wanted = {(f"a:{i},b:x", f"key{i % 7}", f"value {i}") for i in range(500)}
        check(found == wanted, f"{len(found)} of 500 records: {sorted(found ^ wanted)[:3]}")


def performance():
    with steps.step("produce:producer-perf"):
        has(tool("ProducerPerformance", "--topic", topic, "--num-records", "100000", "--record-size", "200",
                 "--throughput", "-1", server=("--bootstrap-server", bootstrap)), r"100000 records sent, .* 99\.9th")
    with steps.step("produce:producer-perf-compressed"):
        has(tool("ProducerPerformance", "--topic", topic, "--num-records", "50000", "--record-size", "1000",
                 "--throughput", "-1", "--command-property", "compression.type=zstd", "linger.ms=20"), "50000 records sent")
    with steps.step("group:consumer-perf"):
        text = tool("ConsumerPerformance", "--topic", topic, "--num-records", "150000", "--timeout", "30000",
                    "--group", f"{group}-perf")
        row = text.strip().splitlines()[-1].split(", ")
        check(int(float(row[4])) >= 150000, text)


def offsets():
    with steps.step("admin:get-offsets"):
        def sums(*args):
            text = tool("GetOffsetShell", "--topic", topic, *args)
            found = [line.split(":") for line in text.splitlines() if line.startswith(topic)]
            check(len(found) == 6, text)
            return sum(int(line[2]) for line in found)
        check(sums() == 160500 and sums("--time", "latest") == 160500, f"{sums()} records")
        check(sums("--time", "earliest") == 0, "the log does not start at 0")
        check(sums("--time", "1") == 0, "by timestamp")
        check(sums("--time", "max-timestamp") > 0, "by the highest timestamp")


def consumer_groups():
    def rows(*args):
        text = tool("consumer.group.ConsumerGroupCommand", "--group", group, *args)
        found = [line.split() for line in text.splitlines() if topic in line and not line.startswith("Warn")]
        check(len(found) == 6, text)
        return found

    def reset(*to):
        found = rows("--topic", topic, "--reset-offsets", *to, "--execute")
        return sorted(int(line[3]) for line in found)

    with steps.step("admin:consumer-groups-list"):
        check(group in tool("consumer.group.ConsumerGroupCommand", "--list").split(), "the group is not listed")
        has(tool("consumer.group.ConsumerGroupCommand", "--list", "--state"), rf"{group}\s+\S*\s*Empty")
    with steps.step("resume:consumer-groups-describe"):
        found = rows("--describe")
        check(sum(int(line[3]) for line in found) == 500, f"committed {found}")
        check(sum(int(line[5]) for line in found) == 160000, f"lag {found}")
    with steps.step("admin:consumer-groups-state"):
        has(tool("consumer.group.ConsumerGroupCommand", "--describe", "--group", group, "--state"), rf"{group}\s+\S+ +\(\d+\)[^\n]*Empty\s+\S*\s*0")
        has(tool("consumer.group.ConsumerGroupCommand", "--describe", "--group", group, "--members"), "has no active members")
    with steps.step("admin:consumer-groups-reset"):
        check(reset("--to-earliest") == [0] * 6, "to earliest")
        check(sum(reset("--to-latest")) == 160500, "to latest")
        check(reset("--to-offset", "7") == [7] * 6, "to offset")
        check(reset("--shift-by", "3") == [10] * 6, "shift by")
        check(sum(reset("--by-duration", "P1D")) == 0, "by duration")
        check(sum(reset("--to-datetime", "2100-01-01T00:00:00.000")) == 160500, "to datetime")
    with steps.step("admin:consumer-groups-delete-offsets"):
        has(tool("consumer.group.ConsumerGroupCommand", "--group", group, "--topic", f"{topic}:0", "--delete-offsets"), rf"{topic}\s+0\s+Successful")
    with steps.step("admin:consumer-groups-delete"):
        has(tool("consumer.group.ConsumerGroupCommand", "--delete", "--group", group), "successful")
        check(group not in tool("consumer.group.ConsumerGroupCommand", "--list").split(), "the group is still listed")
    with steps.step("admin:groups-list"):
        has(tool("GroupsCommand", "--list"), rf"{group}-perf\s+Classic\s+consumer")


def records_and_cluster():
    with steps.step("admin:delete-records"):
        with tempfile.NamedTemporaryFile("w", suffix=".json") as request:
            json.dump({"version": 1, "partitions": [{"topic": topic, "partition": 0, "offset": 42}]}, request)
            request.flush()
            has(tool("DeleteRecordsCommand", "--offset-json-file", request.name), r"partition: \S+-0\s+low_watermark: 42")
        has(tool("GetOffsetShell", "--topic-partitions", f"{topic}:0", "--time", "earliest"), f"{topic}:0:42")
    with steps.step("admin:log-dirs"):
        text = tool("LogDirsCommand", "--describe", "--topic-list", topic)
        found = json.loads(text[text.index("{"):text.rindex("}") + 1])
        sizes = [p["size"] for b in found["brokers"] for d in b["logDirs"] for p in d["partitions"]]
        check(len(sizes) == 6 and sum(sizes) > 0, text)
    with steps.step("admin:broker-api-versions"):
        has(tool("BrokerApiVersionsCommand"), r"Produce\(0\): \d+ to \d+ \[usable: \d+\]", r"Fetch\(1\)", r"ApiVersions\(18\)")
    with steps.step("admin:cluster"):
        def cluster(command):
            return tool("ClusterTool", command, "--bootstrap-server", bootstrap, server=())

        has(cluster("cluster-id"), r"Cluster ID: \S+")
        has(cluster("list-endpoints"), bootstrap.rsplit(":", 1)[1])
    with steps.step("admin:topics-alter"):
        tool("TopicCommand", "--alter", "--topic", topic, "--partitions", "8")
        has(tool("TopicCommand", "--describe", "--topic", topic), "PartitionCount: ?8")
    with steps.step("admin:topics-delete"):
        tool("TopicCommand", "--delete", "--topic", topic)
        check(topic not in tool("TopicCommand", "--list").split(), "the topic is still listed")


def rebalance():
    """Two console consumers share the topic: everything arrives, nothing twice once both have settled."""
    with steps.step("group:two-members"):
        name = f"{group}-two"
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            consume = ("consumer.ConsoleConsumer", "--topic", topic, "--group", name, "--from-beginning", "--timeout-ms", "12000",
                       "--formatter-property", "print.partition=true", "--formatter-property", "print.offset=true",
                       "--formatter-property", "print.value=false")
            first = pool.submit(tool, *consume, ok=False)
            second = pool.submit(tool, *consume, ok=False)
            load = pool.submit(tool, "ProducerPerformance", "--topic", topic, "--num-records", "10000", "--record-size",
                               "50", "--throughput", "1500")
            load.result()
            parts = [{line for line in member.result().splitlines() if line.startswith("Partition:")}
                     for member in (first, second)]
        check(all(parts), f"one member got nothing: {[len(part) for part in parts]}")
        check(len(parts[0] | parts[1]) == 10500, f"{len(parts[0] | parts[1])} of 10500 records")


def main():
    steps.info("version", next(LIBS.glob("kafka-tools-[0-9]*.jar")).stem.replace("kafka-tools-", "Apache Kafka "))
    topics()
    configs()
    operators()
    replicas()
    console()
    rebalance()
    performance()
    offsets()
    consumer_groups()
    records_and_cluster()
    sys.exit(1 if steps.failed else 0)


main()
