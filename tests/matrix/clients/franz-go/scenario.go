package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	partitions = 6
	stepLimit  = 60 * time.Second
)

var records = func() int {
	if n, err := strconv.Atoi(os.Getenv("MATRIX_RECORDS")); err == nil {
		return n
	}
	return 200
}()

// Row runs steps and prints their verdicts.
type Row struct {
	name, bootstrap, runID string
	failed                 bool
}

func newRow(name string) *Row {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: franz-go BOOTSTRAP RUN_ID")
		os.Exit(2)
	}
	return &Row{name: name, bootstrap: os.Args[1], runID: os.Args[2]}
}

func (r *Row) topic(suffix string) string { return r.name + "-" + r.runID + "-" + suffix }

func (r *Row) info(key, value string) { fmt.Println("INFO", key, value) }

func (r *Row) step(name string, run func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), stepLimit)
	defer cancel()
	if err := run(ctx); err != nil {
		r.failed = true
		fmt.Printf("FAIL %s: %q\n", name, err.Error())
		return
	}
	fmt.Println("PASS", name)
}

func (r *Row) code() int {
	if r.failed {
		return 1
	}
	return 0
}

func open(opts ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append(opts, kgo.SeedBrokers(row.bootstrap), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))...)
}

func sum(of []int64) (total int64) {
	for _, n := range of {
		total += n
	}
	return total
}

func waitFor(what string, done func() bool) error {
	for deadline := time.Now().Add(45 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if done() {
			return nil
		}
	}
	return errors.New("timed out waiting for " + what)
}

func newRecord(topic string, partition int32, offset int64) *kgo.Record {
	at := fmt.Sprintf("%d/%d", partition, offset)
	value := append(fmt.Appendf(nil, "v-%d-%d-", partition, offset), bytes.Repeat([]byte("x"), int(offset*7%211))...)
	return &kgo.Record{
		Topic: topic, Partition: partition, Key: fmt.Appendf(nil, "k-%d-%d", partition, offset), Value: value,
		Headers: []kgo.RecordHeader{{Key: "at", Value: []byte(at)}, {Key: "empty", Value: []byte{}}, {Key: "at", Value: []byte("again")}},
	}
}

func checkRecord(got *kgo.Record) error {
	want := newRecord(got.Topic, got.Partition, got.Offset)
	same := bytes.Equal(got.Key, want.Key) && bytes.Equal(got.Value, want.Value) && len(got.Headers) == len(want.Headers)
	for i := 0; same && i < len(want.Headers); i++ {
		same = got.Headers[i].Key == want.Headers[i].Key && bytes.Equal(got.Headers[i].Value, want.Headers[i].Value)
	}
	if !same {
		return fmt.Errorf("record %d/%d is %q %q %v", got.Partition, got.Offset, got.Key, got.Value, got.Headers)
	}
	return nil
}

// produceRound writes `rounds` records to every partition and checks the offsets of their acknowledgements.
func produceRound(ctx context.Context, client *kgo.Client, topic string, ends []int64, rounds int) error {
	var batch []*kgo.Record
	for range rounds {
		for p := range ends {
			batch = append(batch, newRecord(topic, int32(p), ends[p]))
			ends[p]++
		}
	}
	wanted := make([]int64, len(batch))
	for i, r := range batch {
		wanted[i] = ends[r.Partition] - int64(rounds) + int64(i/len(ends))
	}
	for i, result := range client.ProduceSync(ctx, batch...) {
		if result.Err != nil {
			return result.Err
		}
		if at := wantedOffset(result.Record); at != result.Record.Offset {
			return fmt.Errorf("%d/%d was acknowledged at %d", result.Record.Partition, wanted[i], result.Record.Offset)
		}
	}
	return nil
}

func wantedOffset(r *kgo.Record) int64 {
	offset, _ := strconv.ParseInt(string(r.Key[bytes.LastIndexByte(r.Key, '-')+1:]), 10, 64)
	return offset
}

// Ledger accounts for every record of a topic, whoever consumed it.
type Ledger struct {
	sync.Mutex
	next    [partitions]int64
	repeats int
	err     error
}

func (l *Ledger) see(r *kgo.Record) {
	l.Lock()
	defer l.Unlock()
	err := checkRecord(r)
	if r.Offset > l.next[r.Partition] {
		err = fmt.Errorf("partition %d: %d after %d", r.Partition, r.Offset, l.next[r.Partition]-1)
	}
	l.err = errors.Join(l.err, err)
	if r.Offset < l.next[r.Partition] {
		l.repeats++
	} else {
		l.next[r.Partition] = r.Offset + 1
	}
}

func (l *Ledger) complete(ends []int64) bool {
	l.Lock()
	defer l.Unlock()
	return l.err != nil || slices.Equal(l.next[:], ends)
}

// openMember makes a consumer of a group with the hooks that tell what it owns.
type openMember func(name string, hooks ...kgo.Opt) (*kgo.Client, error)

// Member is a consumer of a group that polls until it is stopped.
type Member struct {
	sync.Mutex
	client   *kgo.Client
	cancel   context.CancelFunc
	done     chan struct{}
	consumed map[int32]int
	owned    map[int32]bool
}

func newMember(ledger *Ledger, name string, open openMember) (*Member, error) {
	ctx, cancel := context.WithCancel(context.Background())
	m := &Member{cancel: cancel, done: make(chan struct{}), consumed: map[int32]int{}, owned: map[int32]bool{}}
	note := func(owned bool) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(_ context.Context, _ *kgo.Client, changed map[string][]int32) {
			m.Lock()
			defer m.Unlock()
			for _, found := range changed {
				for _, p := range found {
					m.owned[p] = owned
				}
			}
		}
	}
	var err error
	m.client, err = open(name, kgo.OnPartitionsAssigned(note(true)), kgo.OnPartitionsRevoked(commitThen(note(false))),
		kgo.OnPartitionsLost(note(false)))
	if err != nil {
		cancel()
		return nil, err
	}
	go func() {
		defer close(m.done)
		for ctx.Err() == nil {
			m.client.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
				ledger.see(r)
				m.Lock()
				m.consumed[r.Partition]++
				m.Unlock()
			})
		}
	}()
	return m, nil
}

// commitThen commits what was consumed before partitions go to another member: setting a revoke hook replaces
// the commit that the client makes there by default.
func commitThen(note func(context.Context, *kgo.Client, map[string][]int32)) func(context.Context, *kgo.Client, map[string][]int32) {
	return func(ctx context.Context, client *kgo.Client, revoked map[string][]int32) {
		if err := client.CommitUncommittedOffsets(ctx); err != nil {
			fmt.Println("INFO commit-on-revoke", err)
		}
		note(ctx, client, revoked)
	}
}

func (m *Member) assigned() []int32 {
	m.Lock()
	defer m.Unlock()
	var found []int32
	for p, owned := range m.owned {
		if owned {
			found = append(found, p)
		}
	}
	slices.Sort(found)
	return found
}

func (m *Member) partitionsConsumed() int {
	m.Lock()
	defer m.Unlock()
	return len(m.consumed)
}

func (m *Member) stop() {
	m.cancel()
	<-m.done
	m.client.Close()
}

func halves(first, second *Member) func() bool {
	return func() bool {
		one, two := first.assigned(), second.assigned()
		all := append(slices.Clone(one), two...)
		slices.Sort(all)
		return len(one) == len(two) && slices.Equal(all, []int32{0, 1, 2, 3, 4, 5})
	}
}

// load produces to every partition until the returned function is called, which gives its outcome.
func load(topic string, ends []int64) (func() error, error) {
	client, err := open(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		return nil, err
	}
	stop, outcome := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				outcome <- nil
				return
			case <-time.After(20 * time.Millisecond):
				ctx, cancel := context.WithTimeout(context.Background(), stepLimit)
				err := produceRound(ctx, client, topic, ends, 1)
				cancel()
				if err != nil {
					outcome <- err
					return
				}
			}
		}
	}()
	return func() error { close(stop); defer client.Close(); return <-outcome }, nil
}

// groupScenario lets a second member join while the first one consumes a live load, and leave again.
func groupScenario(prefix, topic string, ends []int64, open openMember) {
	ledger := &Ledger{}
	var first, second *Member
	stopLoad, err := load(topic, ends)
	row.step(prefix+":first-member", func(context.Context) (failure error) {
		if err != nil {
			return err
		}
		if first, failure = newMember(ledger, "first", open); failure != nil {
			return failure
		}
		return waitFor("all partitions on the first member", func() bool { return first.partitionsConsumed() == partitions })
	})
	if first == nil {
		return
	}
	row.step(prefix+":second-joins", func(context.Context) (failure error) {
		if second, failure = newMember(ledger, "second", open); failure != nil {
			return failure
		}
		if failure = waitFor("three partitions on each member", halves(first, second)); failure != nil {
			return failure
		}
		return waitFor("records on the second member", func() bool { return second.partitionsConsumed() == 3 })
	})
	row.step(prefix+":second-leaves", func(context.Context) error {
		if second != nil {
			second.stop()
		}
		return waitFor("the first member to own all partitions again", func() bool { return len(first.assigned()) == partitions })
	})
	row.step(prefix+":all-accounted", func(context.Context) error {
		if err := stopLoad(); err != nil {
			return err
		}
		err := waitFor("every record", func() bool { return ledger.complete(ends) })
		first.stop()
		if err != nil {
			err = fmt.Errorf("%w: consumed up to %v, produced %v", err, ledger.next, ends)
		}
		return errors.Join(err, ledger.err)
	})
	row.info(prefix+"-repeats", strconv.Itoa(ledger.repeats))
}

// staticScenario checks that a static member that comes back in time gets the same partitions again.
func staticScenario(open openMember) {
	row.step("membership:static", func(context.Context) error {
		ledger := &Ledger{}
		first, err1 := newMember(ledger, "one", open)
		second, err2 := newMember(ledger, "two", open)
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		if err := waitFor("three partitions on each member", halves(first, second)); err != nil {
			return err
		}
		before := second.assigned()
		second.stop()
		second, err := newMember(ledger, "two", open)
		if err != nil {
			return err
		}
		if err := waitFor("three partitions on each member after the return", halves(first, second)); err != nil {
			return err
		}
		if after := second.assigned(); !slices.Equal(before, after) {
			return fmt.Errorf("owned %v, then %v", before, after)
		}
		first.stop()
		second.stop()
		return ledger.err
	})
}
