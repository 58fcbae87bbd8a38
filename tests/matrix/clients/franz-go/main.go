// The franz-go row of the client matrix: `franz-go BOOTSTRAP RUN_ID`.
// Steps, record rule and group scenario are those of clients/python/rowkit.py.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

var (
	row   = newRow("franz-go")
	admin *kadm.Client
)

func produceCodecs(topic string, ends []int64) {
	codecs := map[string][]kgo.Opt{
		"default": nil,
		"none":    {kgo.ProducerBatchCompression(kgo.NoCompression())},
		"gzip":    {kgo.ProducerBatchCompression(kgo.GzipCompression())},
		"snappy":  {kgo.ProducerBatchCompression(kgo.SnappyCompression())},
		"lz4":     {kgo.ProducerBatchCompression(kgo.Lz4Compression())},
		"zstd":    {kgo.ProducerBatchCompression(kgo.ZstdCompression())},
	}
	for _, name := range []string{"default", "none", "gzip", "snappy", "lz4", "zstd"} {
		row.step("produce:"+name, func(ctx context.Context) error {
			client, err := open(append(codecs[name], kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
			if err != nil {
				return err
			}
			defer client.Close()
			return produceRound(ctx, client, topic, ends, records)
		})
	}
}

func resume(topic, group string, ends []int64) {
	var committed [partitions]int64
	opts := []kgo.Opt{kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit()}
	row.step("resume:commit", func(ctx context.Context) error {
		client, err := open(opts...)
		if err != nil {
			return err
		}
		defer client.Close()
		for seen, third := int64(0), sum(ends)/3; seen < third; {
			fetches := client.PollRecords(ctx, 50)
			if err := fetches.Err(); err != nil {
				return err
			}
			fetches.EachRecord(func(r *kgo.Record) { seen++; committed[r.Partition] = r.Offset + 1 })
		}
		if err := client.CommitUncommittedOffsets(ctx); err != nil {
			return err
		}
		found, err := admin.FetchOffsets(ctx, group)
		if err != nil {
			return err
		}
		for p, want := range committed {
			got, ok := found.Lookup(topic, int32(p))
			if want > 0 && (!ok || got.At != want) {
				return fmt.Errorf("partition %d: committed %d, found %d", p, want, got.At)
			}
		}
		return nil
	})
	row.step("resume:exact", func(ctx context.Context) error {
		client, err := open(opts...)
		if err != nil {
			return err
		}
		defer client.Close()
		position := committed
		for sum(position[:]) < sum(ends) {
			fetches := client.PollFetches(ctx)
			if err := fetches.Err(); err != nil {
				return err
			}
			for iter := fetches.RecordIter(); !iter.Done(); {
				r := iter.Next()
				if r.Offset != position[r.Partition] {
					return fmt.Errorf("partition %d resumed at %d, not %d", r.Partition, r.Offset, position[r.Partition])
				}
				if err := checkRecord(r); err != nil {
					return err
				}
				position[r.Partition]++
			}
		}
		return client.CommitUncommittedOffsets(ctx)
	})
}

func adminTopics(topic string) {
	row.step("admin:create-topic-exists", func(ctx context.Context) error {
		answer, err := admin.CreateTopic(ctx, partitions, -1, nil, topic)
		if !errors.Is(err, kerr.TopicAlreadyExists) && !errors.Is(answer.Err, kerr.TopicAlreadyExists) {
			return fmt.Errorf("answered %v %v", err, answer.Err)
		}
		return nil
	})
	row.step("admin:list-topics", func(ctx context.Context) error {
		found, err := admin.ListTopics(ctx)
		if err == nil && len(found[topic].Partitions) != partitions {
			err = fmt.Errorf("%d partitions", len(found[topic].Partitions))
		}
		return err
	})
	other := row.topic("grow")
	row.step("admin:create-partitions", func(ctx context.Context) error {
		if _, err := admin.CreateTopic(ctx, 1, -1, nil, other); err != nil {
			return err
		}
		answer, err := admin.CreatePartitions(ctx, 3, other)
		if err == nil {
			err = answer.Error()
		}
		if err != nil {
			return err
		}
		return waitFor("4 partitions", func() bool {
			found, err := admin.ListTopics(ctx, other)
			return err == nil && len(found[other].Partitions) == 4
		})
	})
	row.step("admin:delete-topic", func(ctx context.Context) error {
		answer, err := admin.DeleteTopics(ctx, other)
		if err == nil {
			err = answer.Error()
		}
		if err != nil {
			return err
		}
		return waitFor("the topic to go", func() bool {
			found, err := admin.ListTopics(ctx)
			return err == nil && !found.Has(other)
		})
	})
	row.step("admin:describe-cluster", func(ctx context.Context) error {
		found, err := admin.BrokerMetadata(ctx)
		if err == nil && (len(found.Brokers) == 0 || found.Cluster == "" || found.Controller < 0) {
			err = fmt.Errorf("%+v", found)
		}
		return err
	})
	row.step("admin:api-versions", func(ctx context.Context) error {
		found, err := admin.ApiVersions(ctx)
		if err == nil && len(found) == 0 {
			err = errors.New("no broker answered")
		}
		return err
	})
}

func adminConfigs(topic string) {
	value := func(ctx context.Context, key string) (string, error) {
		found, err := admin.DescribeTopicConfigs(ctx, topic)
		if err != nil {
			return "", err
		}
		for _, config := range found[0].Configs {
			if config.Key == key {
				return config.MaybeValue(), found[0].Err
			}
		}
		return "", fmt.Errorf("no %s: %v", key, found[0].Err)
	}
	expect := func(key, want string) error {
		return waitFor(key+" = "+want, func() bool {
			got, err := value(context.Background(), key)
			return err == nil && got == want
		})
	}
	row.step("admin:describe-configs", func(context.Context) error {
		return errors.Join(expect("retention.ms", "7200000"), expect("cleanup.policy", "delete"))
	})
	row.step("admin:incremental-alter-configs", func(ctx context.Context) error {
		alter := []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "retention.ms", Value: kadm.StringPtr("3600000")}}
		answer, err := admin.AlterTopicConfigs(ctx, alter, topic)
		if err == nil {
			err = answer[0].Err
		}
		return errors.Join(err, expect("retention.ms", "3600000"))
	})
	row.step("admin:alter-configs", func(ctx context.Context) error {
		alter := []kadm.AlterConfig{{Name: "max.message.bytes", Value: kadm.StringPtr("500000")}}
		answer, err := admin.AlterTopicConfigsState(ctx, alter, topic)
		if err == nil {
			err = answer[0].Err
		}
		return errors.Join(err, expect("max.message.bytes", "500000"), expect("retention.ms", "604800000"))
	})
}

func adminGroups(topic, group string, ends []int64) {
	row.step("admin:list-groups", func(ctx context.Context) error {
		found, err := admin.ListGroups(ctx)
		if err == nil && !slices.Contains(found.Groups(), group) {
			err = errors.New("the group is not listed")
		}
		return err
	})
	row.step("admin:describe-groups", func(ctx context.Context) error {
		found, err := admin.DescribeGroups(ctx, group)
		if err == nil && found[group].State != "Empty" {
			err = fmt.Errorf("%+v", found[group])
		}
		return err
	})
	offsets := func(ctx context.Context) ([]int64, error) {
		found, err := admin.FetchOffsets(ctx, group)
		var at []int64
		for _, offset := range found.Sorted() {
			at = append(at, offset.At)
		}
		return at, err
	}
	expect := func(ctx context.Context, want []int64) error {
		got, err := offsets(ctx)
		if err == nil && !slices.Equal(got, want) {
			err = fmt.Errorf("offsets %v, wanted %v", got, want)
		}
		return err
	}
	row.step("admin:list-group-offsets", func(ctx context.Context) error { return expect(ctx, ends) })
	row.step("admin:group-lag", func(ctx context.Context) error {
		lags, err := admin.Lag(ctx, group)
		lag := lags[group]
		if err == nil && (lag.Error() != nil || lag.Lag.Total() != 0) {
			err = fmt.Errorf("lag %d: %v", lag.Lag.Total(), lag.Error())
		}
		return err
	})
	row.step("admin:alter-group-offsets", func(ctx context.Context) error {
		var to kadm.Offsets = kadm.Offsets{}
		for p := range int32(partitions) {
			to.AddOffset(topic, p, 5, -1)
		}
		if err := admin.CommitAllOffsets(ctx, group, to); err != nil {
			return err
		}
		return expect(ctx, []int64{5, 5, 5, 5, 5, 5})
	})
	row.step("admin:delete-group-offsets", func(ctx context.Context) error {
		answer, err := admin.DeleteOffsets(ctx, group, kadm.TopicsSet{topic: {0: {}, 1: {}}})
		if err == nil {
			err = answer.Error()
		}
		if err != nil {
			return err
		}
		return expect(ctx, []int64{5, 5, 5, 5})
	})
	row.step("admin:delete-group", func(ctx context.Context) error {
		if _, err := admin.DeleteGroup(ctx, group); err != nil {
			return err
		}
		found, err := admin.ListGroups(ctx)
		if err == nil && slices.Contains(found.Groups(), group) {
			err = errors.New("the group is still listed")
		}
		return err
	})
}

func adminRecords(topic string, ends []int64) {
	offset := func(found kadm.ListedOffsets, err error) (int64, error) {
		if err == nil {
			err = found.Error()
		}
		listed, _ := found.Lookup(topic, 0)
		return listed.Offset, err
	}
	row.step("admin:list-offsets", func(ctx context.Context) error {
		start, err1 := offset(admin.ListStartOffsets(ctx, topic))
		end, err2 := offset(admin.ListEndOffsets(ctx, topic))
		after, err3 := offset(admin.ListOffsetsAfterMilli(ctx, 1, topic))
		_, err4 := offset(admin.ListMaxTimestampOffsets(ctx, topic))
		if err := errors.Join(err1, err2, err3, err4); err != nil {
			return err
		}
		if start != 0 || end != ends[0] || after != 0 {
			return fmt.Errorf("start %d, end %d, after the epoch %d", start, end, after)
		}
		return nil
	})
	row.step("admin:offset-for-leader-epoch", func(ctx context.Context) error {
		var request kadm.OffsetForLeaderEpochRequest
		metadata, err := admin.ListTopics(ctx, topic)
		if err != nil {
			return err
		}
		request.Add(topic, 0, metadata[topic].Partitions[0].LeaderEpoch)
		found, err := admin.OffsetForLeaderEpoch(ctx, request)
		if err == nil && found[topic][0].EndOffset != ends[0] {
			err = fmt.Errorf("%+v", found[topic][0])
		}
		return err
	})
	row.step("admin:describe-producers", func(ctx context.Context) error {
		found, err := admin.DescribeProducers(ctx, kadm.TopicsSet{topic: {0: {}}})
		if err == nil && len(found[topic].Partitions[0].ActiveProducers) == 0 {
			err = fmt.Errorf("%+v", found)
		}
		return err
	})
	row.step("admin:describe-log-dirs", func(ctx context.Context) error {
		found, err := admin.DescribeAllLogDirs(ctx, kadm.TopicsSet{topic: {0: {}}})
		size := int64(0)
		found.Each(func(dir kadm.DescribedLogDir) {
			err = errors.Join(err, dir.Err)
			size += dir.Size()
		})
		if err == nil && size == 0 {
			err = fmt.Errorf("size 0: %+v", found)
		}
		return err
	})
	row.step("admin:delete-records", func(ctx context.Context) error {
		before := kadm.Offsets{}
		before.AddOffset(topic, 0, 100, -1)
		answer, err := admin.DeleteRecords(ctx, before)
		if err == nil {
			err = answer.Error()
		}
		if err != nil {
			return err
		}
		start, err := offset(admin.ListStartOffsets(ctx, topic))
		if err == nil && start != 100 {
			err = fmt.Errorf("the log starts at %d", start)
		}
		return err
	})
}

func versions() string {
	var found []string
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range info.Deps {
			if strings.HasPrefix(dep.Path, "github.com/twmb/franz-go") && !strings.HasSuffix(dep.Path, "kmsg") {
				found = append(found, strings.TrimPrefix(dep.Path, "github.com/twmb/")+" "+dep.Version)
			}
		}
	}
	return strings.Join(found, ", ")
}

func main() {
	row.info("version", versions())
	client, err := open()
	if err != nil {
		fmt.Println("FAIL admin:connect:", err)
		os.Exit(1)
	}
	admin = kadm.NewClient(client)
	topic, group, ends := row.topic("t"), row.topic("resume"), make([]int64, partitions)
	row.step("admin:create-topic", func(ctx context.Context) error {
		configs := map[string]*string{"retention.ms": kadm.StringPtr("7200000")}
		_, err := admin.CreateTopic(ctx, partitions, -1, configs, topic)
		return err
	})
	produceCodecs(topic, ends)
	member := func(group string, extra ...kgo.Opt) openMember {
		return func(_ string, hooks ...kgo.Opt) (*kgo.Client, error) {
			return open(slices.Concat(extra, hooks, []kgo.Opt{kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic)})...)
		}
	}
	groupScenario("group", topic, ends, member(row.topic("group")))
	resume(topic, group, ends)
	adminTopics(topic)
	adminConfigs(topic)
	adminGroups(topic, group, ends)
	// The default balancer is cooperative-sticky, so the eager one is the variant here.
	groupScenario("membership:eager-range", topic, ends, member(row.topic("eager"), kgo.Balancers(kgo.RangeBalancer())))
	staticScenario(func(name string, hooks ...kgo.Opt) (*kgo.Client, error) {
		return member(row.topic("static"), kgo.InstanceID(name))(name, hooks...)
	})
	adminRecords(topic, ends)
	time.AfterFunc(5*time.Second, func() { os.Exit(row.code()) })
	client.Close()
	os.Exit(row.code())
}
