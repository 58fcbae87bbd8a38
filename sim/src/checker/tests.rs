//! Histories that are wrong in one way each, and the rule that must say so.

use std::sync::Arc;
use std::time::Duration;

use super::{Rule, check};
use crate::client::reader::CORRUPT;
use crate::history::{CallId, Entry, Event, Produced, TopicPartition, Value};
use crate::nemesis::THE_END;

/// Writes a history by hand; time goes on by 10 ms with each event.
#[derive(Default)]
struct Script {
    entries: Vec<Entry>,
    now_ms: u64,
    next_call: u64,
}

fn at(topic: &str) -> TopicPartition {
    TopicPartition { topic: topic.into(), partition: 0 }
}

fn values(client: u32, numbers: &[u64]) -> Vec<Value> {
    numbers.iter().map(|number| Value { client, number: *number }).collect()
}

/// Values at offsets in a row.
fn row(first: i64, values: Vec<Value>) -> Vec<(i64, Value)> {
    (first..).zip(values).collect()
}

impl Script {
    fn note(&mut self, event: Event) {
        self.now_ms += 10;
        self.entries.push(Entry { at: Duration::from_millis(self.now_ms), event });
    }

    fn wait(&mut self, ms: u64) {
        self.now_ms += ms;
    }

    fn call(&mut self) -> CallId {
        self.next_call += 1;
        CallId(self.next_call)
    }

    fn begin(&mut self, client: u32, first: u64, count: u32) -> CallId {
        let call = self.call();
        self.note(Event::Produce { call, client, at: at("t"), first, count, idempotent: true });
        call
    }

    fn end(&mut self, call: CallId, outcome: Produced) {
        self.note(Event::ProduceEnded { call, outcome });
    }

    fn produce(&mut self, client: u32, first: u64, count: u32, base: i64) {
        let call = self.begin(client, first, count);
        self.end(call, Produced::At(base));
    }

    fn fetch(&mut self, offset: i64, high_watermark: i64, records: Vec<(i64, Value)>) {
        let call = self.call();
        self.note(Event::Fetch { call, client: 9, at: at("t"), offset });
        self.note(Event::Fetched { call, log_start: 0, high_watermark, records });
    }

    fn last(&mut self, log_start: i64, records: Vec<(i64, Value)>) {
        self.last_damaged(log_start, records, vec![]);
    }

    fn last_damaged(&mut self, log_start: i64, records: Vec<(i64, Value)>, damaged: Vec<i64>) {
        self.note(Event::Final { at: at("t"), log_start, records, damaged });
    }

    fn fetch_fails(&mut self, offset: i64, code: i16) {
        let call = self.call();
        self.note(Event::Fetch { call, client: 9, at: at("t"), offset });
        self.note(Event::FetchFailed { call, code });
    }

    fn damaged(&mut self, object: &str, records: Vec<(i64, Value)>) {
        self.note(Event::Damaged { object: object.into(), records });
    }

    fn mended(&mut self, object: &str, records: Vec<(i64, Value)>) {
        self.note(Event::Mended { object: object.into(), records });
    }

    fn delete(&mut self, before: i64) {
        let call = self.call();
        self.note(Event::DeleteRecords { call, at: at("t"), before });
        self.note(Event::RecordsDeleted { call, log_start: before });
    }

    fn commit(&mut self, client: u32, generation: i32, offset: i64, code: Option<i16>) {
        let call = self.call();
        let group: Arc<str> = "g".into();
        self.note(Event::Commit { call, client, group, generation, at: at("t"), offset });
        self.note(Event::CommitEnded { call, code });
    }

    fn committed(&mut self, offset: i64) {
        let call = self.call();
        self.note(Event::ReadCommitted { call, group: "g".into() });
        self.note(Event::Committed { call, at: at("t"), offset });
    }

    fn heartbeat(&mut self, generation: i32, code: i16) {
        let call = self.call();
        self.note(Event::Heartbeat { call, group: "g".into(), generation });
        self.note(Event::HeartbeatEnded { call, code });
    }

    fn assigned(&mut self, client: u32, generation: i32) {
        let (group, partitions) = ("g".into(), vec![at("t")]);
        self.note(Event::Assigned { client, group, generation, partitions });
    }
}

/// The rules that a history breaks, each once.
#[track_caller]
fn broken(write: impl FnOnce(&mut Script), expected: &[Rule]) {
    let mut script = Script::default();
    write(&mut script);
    let found = check(&script.entries);
    let mut rules: Vec<Rule> = found.iter().map(|violation| violation.rule).collect();
    rules.dedup();
    assert_eq!(rules, expected, "{found:#?}");
}

#[test]
fn a_good_history_breaks_no_rule() {
    broken(
        |s| {
            s.produce(1, 0, 2, 0);
            s.produce(2, 0, 1, 2);
            s.fetch(0, 3, row(0, [values(1, &[0, 1]), values(2, &[0])].concat()));
            let unknown = s.begin(1, 2, 1);
            s.end(unknown, Produced::Unknown);
            s.delete(1);
            s.commit(1, 1, 2, Some(0));
            s.committed(2);
            s.last(1, row(1, [values(1, &[1]), values(2, &[0])].concat()));
        },
        &[],
    );
}

#[test]
fn an_acknowledged_record_that_is_missing_is_lost() {
    let lost = |last: fn(&mut Script)| {
        move |s: &mut Script| {
            s.produce(1, 0, 2, 0);
            last(s);
        }
    };
    broken(lost(|s| s.last(0, row(0, values(1, &[0])))), &[Rule::AcknowledgedRecordLost]);
    broken(lost(|s| s.last(0, vec![])), &[Rule::AcknowledgedRecordLost]);
}

#[test]
fn a_batch_that_an_earlier_attempt_has_stored_must_be_there_too() {
    broken(
        |s| {
            let call = s.begin(1, 0, 1);
            s.end(call, Produced::Before);
            s.last(0, vec![]);
        },
        &[Rule::AcknowledgedRecordLost],
    );
}

#[test]
fn a_record_that_was_read_must_not_go_away_even_if_nobody_acknowledged_it() {
    broken(
        |s| {
            let call = s.begin(1, 0, 1);
            s.fetch(0, 1, row(0, values(1, &[0])));
            s.end(call, Produced::Unknown);
            s.last(0, vec![]);
        },
        &[Rule::ReadRecordLost],
    );
}

#[test]
fn an_offset_has_one_value() {
    broken(
        |s| {
            let call = s.begin(1, 0, 1);
            s.fetch(0, 1, row(0, values(1, &[0])));
            s.end(call, Produced::Unknown);
            s.produce(2, 0, 1, 0);
            s.last(0, row(0, values(2, &[0])));
        },
        &[Rule::ReadRecordLost, Rule::OffsetWithTwoValues],
    );
}

#[test]
fn a_value_has_one_offset() {
    broken(
        |s| {
            s.produce(1, 0, 1, 0);
            s.last(0, row(0, values(1, &[0, 0])));
        },
        &[Rule::ValueTwice],
    );
}

#[test]
fn a_fetch_leaves_nothing_out() {
    let values = || values(1, &[0, 1, 2]);
    let produced = |s: &mut Script| s.produce(1, 0, 3, 0);
    broken(
        |s| {
            produced(s);
            let records = row(0, values()).into_iter().filter(|(offset, _)| *offset != 1).collect();
            s.fetch(0, 3, records);
        },
        &[Rule::Gap],
    );
    broken(
        |s| {
            produced(s);
            s.fetch(0, 3, row(0, values())[1..].to_vec());
        },
        &[Rule::Gap],
    );
    broken(
        |s| {
            produced(s);
            s.fetch(0, 2, row(0, values()));
        },
        &[Rule::Gap],
    );
}

#[test]
fn the_batches_of_a_producer_keep_their_order() {
    broken(
        |s| {
            let (a, b) = (s.begin(1, 0, 1), s.begin(1, 1, 1));
            s.end(b, Produced::At(0));
            s.end(a, Produced::At(1));
            s.last(0, row(0, values(1, &[1, 0])));
        },
        &[Rule::OutOfOrder],
    );
}

#[test]
fn what_begins_after_an_acknowledgement_comes_behind_it() {
    broken(
        |s| {
            s.produce(1, 0, 1, 1);
            s.produce(2, 0, 1, 0);
            s.last(0, row(0, [values(2, &[0]), values(1, &[0])].concat()));
        },
        &[Rule::OutOfOrder],
    );
}

#[test]
fn a_read_may_be_old_but_not_for_long() {
    let read = |after_ms| {
        move |s: &mut Script| {
            s.produce(1, 0, 1, 0);
            s.wait(after_ms);
            s.fetch(0, 0, vec![]);
            s.last(0, row(0, values(1, &[0])));
        }
    };
    broken(read(1000), &[]);
    broken(read(3000), &[Rule::StaleRead]);
    // What is lost at the end of a partition's log is not known of.
    let lost = |s: &mut Script| {
        s.produce(1, 0, 1, 0);
        s.damaged("wal/a", row(0, values(1, &[0])));
        s.wait(3000);
        s.fetch(0, 0, vec![]);
        s.mended("wal/a", row(0, values(1, &[0])));
        s.last(0, row(0, values(1, &[0])));
    };
    broken(lost, &[]);
}

#[test]
fn what_was_deleted_stays_deleted_and_nothing_else_is() {
    broken(
        |s| {
            s.produce(1, 0, 2, 0);
            s.delete(1);
            s.last(0, row(0, values(1, &[0, 1])));
        },
        &[Rule::DeletedRecordBack],
    );
    broken(
        |s| {
            s.produce(1, 0, 2, 0);
            s.delete(1);
            s.last(2, vec![]);
        },
        &[Rule::RecordsGone],
    );
}

#[test]
fn retention_deletes_what_is_old_and_nothing_else() {
    let history = |age_ms| {
        move |s: &mut Script| {
            s.note(Event::Retention { topic: "t".into(), retention_ms: 5000 });
            s.produce(1, 0, 1, 0);
            s.wait(age_ms);
            s.last(1, vec![]);
        }
    };
    broken(history(8000), &[]);
    broken(history(1000), &[Rule::RecordsGone]);
}

#[test]
fn a_topic_that_is_made_again_has_no_old_records() {
    let topic: Arc<str> = "t".into();
    broken(
        |s| {
            s.note(Event::TopicCreated { topic: topic.clone(), partitions: 1 });
            s.wait(2000);
            s.produce(1, 0, 1, 0);
            s.note(Event::TopicDeleting { topic: topic.clone() });
            s.note(Event::TopicDeleted { topic: topic.clone() });
            s.note(Event::TopicCreated { topic: topic.clone(), partitions: 1 });
            s.wait(2000);
            s.fetch(0, 1, row(0, values(1, &[0])));
        },
        &[Rule::DeletedRecordBack],
    );
}

#[test]
fn the_lives_of_a_topic_have_offsets_of_their_own() {
    let topic: Arc<str> = "t".into();
    broken(
        |s| {
            for client in [1, 2] {
                s.note(Event::TopicCreated { topic: topic.clone(), partitions: 1 });
                s.wait(2000);
                s.produce(client, 0, 1, 0);
                s.fetch(0, 1, row(0, values(client, &[0])));
                s.note(Event::TopicDeleting { topic: topic.clone() });
                s.note(Event::TopicDeleted { topic: topic.clone() });
            }
        },
        &[],
    );
}

#[test]
fn a_producer_id_is_given_once() {
    broken(
        |s| {
            s.note(Event::ProducerId { client: 1, producer_id: 7, epoch: 0 });
            s.note(Event::ProducerId { client: 2, producer_id: 7, epoch: 0 });
        },
        &[Rule::ProducerIdTwice],
    );
}

#[test]
fn a_committed_offset_is_the_one_that_was_committed_last() {
    let refused = Some(kafka_protocol::ResponseError::IllegalGeneration.code());
    let read = |offset| {
        move |s: &mut Script| {
            s.commit(1, 1, 5, Some(0));
            s.commit(1, 1, 9, Some(0));
            s.commit(1, 1, 12, refused);
            s.committed(offset);
        }
    };
    broken(read(9), &[]);
    broken(read(5), &[Rule::CommittedOffsetMovedBack]);
    broken(read(-1), &[Rule::CommittedOffsetMovedBack]);
    broken(read(7), &[Rule::CommittedOffsetFromNowhere]);
    broken(read(12), &[Rule::CommittedOffsetFromNowhere]);
}

#[test]
fn a_commit_without_an_answer_may_count_at_any_time() {
    for offset in [5, 9] {
        broken(
            |s| {
                s.commit(1, 1, 5, None);
                s.commit(1, 1, 9, Some(0));
                s.committed(offset);
            },
            &[],
        );
    }
}

#[test]
fn a_partition_has_one_owner_in_a_generation() {
    broken(
        |s| {
            s.assigned(1, 1);
            s.assigned(2, 2);
            s.assigned(1, 2);
        },
        &[Rule::PartitionOfTwoMembers],
    );
}

#[test]
fn an_old_generation_commits_nothing() {
    broken(
        |s| {
            s.assigned(1, 1);
            s.commit(1, 1, 5, Some(0));
            s.assigned(2, 2);
            s.commit(1, 1, 6, Some(0));
        },
        &[Rule::OldGenerationCommitted],
    );
}

#[test]
fn a_member_of_an_old_generation_hears_that_it_is_over() {
    let over = kafka_protocol::ResponseError::IllegalGeneration.code();
    let heard = |code| {
        move |s: &mut Script| {
            s.assigned(1, 1);
            s.heartbeat(1, 0);
            s.assigned(2, 2);
            s.heartbeat(1, code);
        }
    };
    broken(heard(over), &[]);
    broken(heard(0), &[Rule::OldGenerationAlive]);
}

#[test]
fn being_stuck_panics_lost_sequences_and_trespasses_are_told() {
    broken(
        |s| {
            s.note(Event::SequenceLost { client: 1, at: at("t"), code: 45 });
            s.note(Event::Trespass { node: 1, what: "writes".into() });
            s.note(Event::Stuck { who: "a client".into() });
            s.note(Event::Panicked { what: "an assertion".into() });
        },
        &[Rule::ProducerStateLost, Rule::FormerCoordinatorWrote, Rule::Stuck, Rule::Panicked],
    );
}

#[test]
fn damage_hides_its_own_batch_and_no_other() {
    let story = |offset, code, last: Vec<(i64, Value)>, told: Vec<i64>| {
        move |s: &mut Script| {
            s.produce(1, 0, 2, 0);
            s.produce(1, 2, 2, 2);
            s.damaged("a segment", row(0, values(1, &[0, 1])));
            s.fetch_fails(offset, code);
            s.last_damaged(0, last, told);
        }
    };
    let neighbour = || row(2, values(1, &[2, 3]));
    broken(story(1, CORRUPT, neighbour(), vec![0, 1]), &[]);
    broken(story(1, CORRUPT, row(0, values(1, &[0, 1, 2, 3])), vec![]), &[]);
    broken(story(2, CORRUPT, neighbour(), vec![0, 1]), &[Rule::HealthyBatchHidden]);
    broken(story(2, 6, neighbour(), vec![0, 1]), &[]);
    // Damage that nobody tells is a loss like any other.
    broken(story(1, CORRUPT, neighbour(), vec![]), &[Rule::AcknowledgedRecordLost, Rule::Gap]);
    broken(story(1, CORRUPT, vec![], vec![0, 1]), &[Rule::AcknowledgedRecordLost]);
    broken(story(1, CORRUPT, vec![], vec![0, 1, 2, 3]), &[Rule::AcknowledgedRecordLost]);
}

#[test]
fn what_was_put_back_is_readable_unless_it_is_damaged_elsewhere_too() {
    let story = |object: &'static str, also: bool, ends: bool| {
        move |s: &mut Script| {
            s.produce(1, 0, 1, 0);
            s.damaged(object, row(0, values(1, &[0])));
            if also {
                s.damaged("a segment", row(0, values(1, &[0])));
            }
            s.fetch_fails(0, CORRUPT);
            s.mended(object, row(0, values(1, &[0])));
            if ends {
                s.note(Event::NodeCrashed { node: 1, at: THE_END.into() });
            }
            s.fetch_fails(0, CORRUPT);
        }
    };
    broken(story("topics/a", true, false), &[]);
    broken(story("topics/a", false, false), &[Rule::HealthyBatchHidden]);
    // A broker looks for a lost object from time to time, and at its start.
    broken(story("wal/a", false, false), &[]);
    broken(story("wal/a", false, true), &[Rule::HealthyBatchHidden]);
}

#[test]
fn bytes_that_nobody_wrote_metadata_of_others_and_giving_up_are_told() {
    broken(
        |s| {
            let call = s.call();
            s.note(Event::Fetch { call, client: 9, at: at("t"), offset: 0 });
            s.note(Event::Garbled { call, why: "no value".into() });
            s.note(Event::NodeRefused { node: 1, why: "the metadata is new".into() });
            s.note(Event::Foreign { node: 1, what: "serves".into() });
            s.note(Event::NodeGaveUp { node: 1, why: "503".into() });
        },
        &[Rule::Garbled, Rule::ForeignMetadata, Rule::GaveUp],
    );
}
