//! Damaged and lost objects of a chain: what the rest of them tells is served, healthy neighbours are, and nobody goes back in silence.

use std::collections::BTreeMap;

use kafscale_meta::records::TopicRecord;
use object_store::ObjectStoreExt;

use super::*;
use crate::log::rewrite::rewrite;
use crate::scrub::{Finding, Progress, ScrubError, Watch, scrub};

/// The offsets of a partition that are found, and those that are lost.
async fn offsets_around(p: &Partition) -> (Vec<i64>, Vec<i64>) {
    let (found, lost) = read_around(p).await;
    (found.into_iter().map(|(offset, _)| offset).collect(), lost)
}

/// A broker that is gone: it wrote one batch of three records to each partition in each of its six objects.
async fn written(cluster: &mut Cluster) -> Log {
    cluster.config.tail_cache_bytes = 0;
    // All that is said here is about chains.
    cluster.store.rule(|asked, path| match (asked, path.as_ref().starts_with("topics/")) {
        (Asked::Put, true) => Fault::SlowDown,
        _ => Fault::None,
    });
    let log = cluster.owner(1, 0).await;
    for tag in 0..6 {
        // What is appended before the writer has its turn comes together.
        let pending: Vec<_> = (0..3).map(|p| begin(&partition(&log, p), 3, tag).unwrap()).collect();
        for appended in pending {
            appended.durable.wait().await.unwrap();
        }
    }
    log
}

/// The objects of a chain that hold batches.
async fn full_objects(cluster: &Cluster, of: &Log) -> Vec<Path> {
    let mut full = Vec::new();
    for name in cluster.objects(&chain(of).directory()).await {
        let path = Path::from(name);
        if cluster.store.inner.head(&path).await.unwrap().size > 96 {
            full.push(path);
        }
    }
    full.sort();
    full
}

async fn change(cluster: &Cluster, path: &Path, how: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let bytes = cluster.store.inner.get(path).await.unwrap().bytes().await.unwrap().to_vec();
    let mut changed = bytes.clone();
    how(&mut changed);
    cluster.store.inner.put(path, changed.into()).await.unwrap();
    bytes
}

type Change = fn(&mut Vec<u8>);

#[tokio::test(start_paused = true)]
async fn a_damaged_index_or_footer_hides_nothing() {
    let cases: [(&str, bool, Change); 8] = [
        ("a bit of the footer", true, |b| *b.last_mut().unwrap() ^= 1),
        ("the whole footer", true, |b| {
            let at = b.len() - 32;
            b[at..].fill(0);
        }),
        ("a bit of the index", true, |b| {
            let at = b.len() - 32 - 96 - 50;
            b[at] ^= 8;
        }),
        ("index and footer", true, |b| {
            let at = b.len() - 32 - 3 * 96;
            b[at..].fill(0);
        }),
        ("cut off before the index", true, |b| b.truncate(b.len() - 32 - 3 * 96)),
        ("the header", false, |b| b[..64].fill(0)),
        ("the copy of the index", false, |b| b[64..64 + 3 * 96].fill(0xff)),
        ("a bit of the copy", false, |b| b[70] ^= 1),
    ];
    for (what, is_told, hurt) in cases {
        let mut cluster = Cluster::new();
        let first = written(&mut cluster).await;
        let objects = full_objects(&cluster, &first).await;
        change(&cluster, &objects[objects.len() / 2], hurt).await;
        let second = cluster.broker(2).await;
        seal(&second, &first).await;
        for (id, outcome) in second.acquire(hosted(1)).await {
            assert_eq!(outcome, Ok(()), "{what}: {id}");
        }
        for index in 0..3 {
            let (found, lost) = offsets_around(&partition(&second, index)).await;
            assert_eq!((found, lost), ((0..18).collect(), vec![]), "{what}");
            append(&partition(&second, index), 1, 9).await;
        }
        let told = second.damages().places;
        assert_eq!(!told.is_empty(), is_told, "{what}: {told:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_cut_costs_the_batches_behind_it_and_no_others() {
    let mut cluster = Cluster::new();
    let first = written(&mut cluster).await;
    let objects = full_objects(&cluster, &first).await;
    // Within the second of three batches, or with the size of a seal.
    for (object, size) in [(1, None), (3, Some(96))] {
        let cut = |b: &mut Vec<u8>| {
            let body = b.len() - 96 - 6 * 96;
            b.truncate(size.unwrap_or(64 + 3 * 96 + body / 2));
        };
        if objects.len() > object {
            change(&cluster, &objects[object], cut).await;
        }
    }
    let second = cluster.broker(2).await;
    seal(&second, &first).await;
    second.acquire(hosted(1)).await;
    let (mut all_lost, mut readable) = (0, 0);
    for index in 0..3 {
        let (found, lost) = offsets_around(&partition(&second, index)).await;
        let mut all = [&found[..], &lost[..]].concat();
        all.sort_unstable();
        assert_eq!(all, (0..18).collect::<Vec<_>>(), "partition {index}");
        (all_lost, readable) = (all_lost + lost.len(), readable + found.len());
    }
    assert!((3..=18).contains(&all_lost) && readable >= 36, "{all_lost} lost, {readable} readable");
    assert!(second.damages().summary().unwrap().contains("unreadable offsets"));
}

#[tokio::test(start_paused = true)]
async fn a_lost_object_costs_its_records_and_no_others() {
    for delete in [true, false] {
        let mut cluster = Cluster::new();
        let first = written(&mut cluster).await;
        let objects = full_objects(&cluster, &first).await;
        let path = objects[1].clone();
        match delete {
            true => cluster.store.inner.delete(&path).await.unwrap(),
            false => drop(change(&cluster, &path, |b| b.fill(0)).await),
        }
        let second = cluster.broker(2).await;
        seal(&second, &first).await;
        for (id, outcome) in second.acquire(hosted(1)).await {
            assert_eq!(outcome, Ok(()), "{id}: what follows shows what is missing");
        }
        let mut lost_of_all = 0;
        for index in 0..3 {
            let (found, lost) = offsets_around(&partition(&second, index)).await;
            assert_eq!(found.len() + lost.len(), 18);
            assert!(lost.iter().all(|o| (3..9).contains(o)), "{lost:?}");
            lost_of_all += lost.len();
            append(&partition(&second, index), 1, 9).await;
        }
        assert!(lost_of_all > 0);
        let report = second.damages();
        let told = report.places.iter().filter(|d| *d.object == *path.as_ref());
        assert_eq!(told.map(|d| d.unreadable_offsets()).sum::<u64>() as usize, lost_of_all, "{report:?}");
        // It may be put back; so nothing of the chain goes.
        cluster.store.heal();
        second.collect().await.unwrap();
        assert!(cluster.record(&first).await.unwrap().first_seq <= 1);
    }
}

/// It may have written what is lost, and goes on behind that; what is known of it is not written twice.
#[tokio::test(start_paused = true)]
async fn an_idempotent_producer_goes_on_behind_a_lost_object() {
    let sequence = |first| Some((7, 0, first));
    // In the middle of the log, or at its end. What is given up is moved into segments, and is known to their readers.
    for (lost, given_up) in [(1, false), (1, true), (3, true)] {
        let mut cluster = Cluster::new();
        let first = cluster.owner(1, 0).await;
        append_from(&partition(&first, 0), 3, 0, sequence(0)).await.unwrap();
        for tag in 1..4 {
            let producer = sequence(3).filter(|_| tag == lost);
            append_from(&partition(&first, 0), 3, tag, producer).await.unwrap();
        }
        let object = chain(&first).object(u64::from(lost));
        match given_up {
            true => drop(change(&cluster, &object, Vec::clear).await),
            false => cluster.store.inner.delete(&object).await.unwrap(),
        }
        let mut owner = cluster.broker(2).await;
        seal(&owner, &first).await;
        assert_eq!(owner.acquire(hosted(1)).await[0].1, Ok(()));
        if given_up {
            rewrite(&owner.shared, &partition(&owner, 0).inner).await.unwrap();
            let next = cluster.broker(3).await;
            seal(&next, &owner).await;
            assert_eq!(next.acquire(hosted(2)).await[0].1, Ok(()));
            owner = next;
        }
        let p = partition(&owner, 0);
        let end = p.offsets().log_end;
        assert_eq!(append_from(&p, 3, 0, sequence(0)).await, Ok(Offset(0)), "a duplicate is known");
        let overlaps = append_from(&p, 3, 9, sequence(2)).await;
        assert!(matches!(overlaps, Err(AppendError::Sequence(_))), "{overlaps:?}");
        assert_eq!(append_from(&p, 3, 9, sequence(6)).await, Ok(end), "object {lost}");
        let leaves_out = append_from(&p, 3, 9, sequence(12)).await;
        assert!(matches!(leaves_out, Err(AppendError::Sequence(_))), "nothing is lost there: {leaves_out:?}");
    }
}

/// Also where records were appended behind the hole since.
#[tokio::test(start_paused = true)]
async fn a_lost_object_that_is_put_back_is_read_by_the_next_incarnation() {
    for put_back in [true, false] {
        let mut cluster = Cluster::new();
        let first = written(&mut cluster).await;
        let path = full_objects(&cluster, &first).await[1].clone();
        let whole = change(&cluster, &path, |b| b.fill(0)).await;
        let second = cluster.broker(2).await;
        seal(&second, &first).await;
        second.acquire(hosted(1)).await;
        cluster.store.heal();
        assert!(!read_around(&partition(&second, 0)).await.1.is_empty());
        append(&partition(&second, 0), 3, 9).await;
        let waits = tokio::time::timeout(Duration::from_secs(500), second.fenced()).await;
        assert!(waits.is_err(), "nothing has changed");
        let whole = if put_back { whole } else { Vec::new() };
        cluster.store.inner.put(&path, whole.into()).await.unwrap();
        tokio::time::timeout(Duration::from_secs(30), second.fenced()).await.expect("it is looked for");
        let refused = append_from(&partition(&second, 0), 1, 9, None).await;
        assert_eq!(refused, Err(AppendError::Fenced));
        let third = cluster.broker(2).await;
        seal(&third, &second).await;
        for (id, outcome) in third.acquire(hosted(2)).await {
            assert_eq!(outcome, Ok(()), "{id}");
        }
        let mut lost_of_all = 0;
        for (index, end) in [(0, 21), (1, 18), (2, 18)] {
            let (found, lost) = offsets_around(&partition(&third, index)).await;
            assert_eq!(found.len() + lost.len(), end);
            lost_of_all += lost.len();
            rewrite(&third.shared, &partition(&third, index).inner).await.unwrap();
        }
        assert_eq!(lost_of_all == 0, put_back);
        third.collect().await.unwrap();
        assert_eq!(cluster.record(&first).await, None, "nothing of it is needed any more");
    }
}

#[tokio::test(start_paused = true)]
async fn whose_last_records_may_be_lost_takes_none() {
    for put_back in [true, false] {
        let mut cluster = Cluster::new();
        let first = cluster.owner(1, 0).await;
        append(&partition(&first, 0), 3, 1).await;
        append(&partition(&first, 1), 3, 1).await;
        append(&partition(&first, 0), 3, 2).await;
        let lost = chain(&first).object(1);
        let whole = change(&cluster, &lost, |b| b.fill(0)).await;
        let second = cluster.broker(2).await;
        seal(&second, &first).await;
        for restarted in [false, true] {
            let outcomes = second.acquire(hosted(1)).await;
            assert_eq!(outcomes[0].1, Ok(()), "its log goes on behind");
            for (id, outcome) in &outcomes[1..] {
                let Err(AcquireError::Held(why)) = outcome else { panic!("{id}: {outcome:?}") };
                assert!(why.contains(lost.as_ref()), "{restarted}: {why}");
            }
        }
        assert_eq!(offsets_around(&partition(&second, 0)).await, ((0..6).collect(), vec![]));
        let held = partition(&second, 1);
        assert_eq!(held.offsets().high_watermark, Offset(0));
        assert!(held.held().is_some());
        assert!(matches!(append_from(&held, 1, 7, None).await, Err(AppendError::Unavailable(_))));
        let whole = if put_back { whole } else { Vec::new() };
        cluster.store.inner.put(&lost, whole.into()).await.unwrap();
        for (id, outcome) in second.acquire(hosted(1)).await {
            assert_eq!(outcome, Ok(()), "{id}");
        }
        assert_eq!(held.append(valid_batch(1, 1, 1, NOW_MS, None)).unwrap_err(), AppendError::Gone);
        let found = if put_back { 3 } else { 0 };
        assert_eq!(offsets_around(&partition(&second, 1)).await, ((0..found).collect(), vec![]));
        append(&partition(&second, 1), 1, 7).await;
    }
}

/// It came back after it had been given up, and others have its offsets.
#[tokio::test(start_paused = true)]
async fn what_comes_back_replaces_nothing_that_was_acknowledged_since() {
    for (in_segment, count) in [(false, 1), (false, 5), (true, 1)] {
        let mut cluster = Cluster::new();
        let first = cluster.owner(1, 0).await;
        append(&partition(&first, 1), 3, 1).await;
        append(&partition(&first, 1), 3, 2).await;
        append(&partition(&first, 0), 3, 2).await;
        let given_up = chain(&first).object(1);
        let whole = change(&cluster, &given_up, Vec::clear).await;
        let second = cluster.broker(2).await;
        seal(&second, &first).await;
        second.acquire(hosted(1)).await;
        let p = partition(&second, 1);
        assert_eq!(append(&p, count, 7).await, Offset(3), "the offsets of what was given up");
        if in_segment {
            rewrite(&second.shared, &p.inner).await.unwrap();
        }
        cluster.store.inner.put(&given_up, whole.into()).await.unwrap();
        let third = cluster.broker(3).await;
        seal(&third, &second).await;
        for (id, outcome) in third.acquire(hosted(2)).await {
            assert_eq!(outcome, Ok(()), "{id}");
        }
        let p = partition(&third, 1);
        assert_eq!(p.offsets().high_watermark, Offset(3 + i64::from(count)), "{in_segment}");
        let bytes = p.read(Offset(3), 1, true).await.unwrap().chunks.concat();
        assert_eq!(bytes[bytes.len() - 2], 7, "{in_segment}: {count}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_damaged_object_without_batches_is_no_obstacle() {
    for sealed in [true, false] {
        for at in [6, 20, 61, 95] {
            let mut cluster = Cluster::new();
            let first = cluster.owner(1, 0).await;
            append(&partition(&first, 0), 3, 1).await;
            let empty = chain(&first).object(1);
            match sealed {
                // A controller that died before it wrote the record.
                true => {
                    let seal = crate::wal::object::encode_seal_of(chain(&first), 1);
                    cluster.store.inner.put(&empty, seal.into()).await.unwrap();
                }
                false => drop(first.prove().await.unwrap()),
            }
            change(&cluster, &empty, |b| b[at] ^= 1).await;
            let second = cluster.broker(2).await;
            seal(&second, &first).await;
            let end = if sealed { 1 } else { 2 };
            assert_eq!(cluster.record(&first).await.unwrap().sealed_at, Some(end), "byte {at}");
            for (id, outcome) in second.acquire(hosted(1)).await {
                assert_eq!(outcome, Ok(()), "{id}");
            }
            assert_eq!(offsets_around(&partition(&second, 0)).await, ((0..3).collect(), vec![]));
        }
    }
}

/// Reads of one object fail like this, other requests do not.
fn on_reads_of(object: Path, fault: Fault) -> impl FnMut(Asked, &Path) -> Fault + Send {
    move |asked, path| match asked == Asked::Get && *path == object {
        true => fault.clone(),
        false => Fault::None,
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_not_given_hides_nothing_before_it() {
    for fault in [Fault::Denied, Fault::SlowDown] {
        let mut cluster = Cluster::new();
        let log = written(&mut cluster).await;
        let objects = full_objects(&cluster, &log).await;
        let p = partition(&log, 2);
        // All that is read is far more than what there is.
        assert_eq!(p.read(Offset(0), 100_000, true).await.unwrap().chunks.len(), 6);
        cluster.store.rule(on_reads_of(objects.last().unwrap().clone(), fault.clone()));
        let read = p.read(Offset(0), 100_000, true).await.unwrap();
        assert!((1..6).contains(&read.chunks.len()), "{fault:?}: {} batches", read.chunks.len());
        let error = p.read(Offset(17), 100_000, true).await.unwrap_err();
        assert!(matches!(error, ReadError::Unavailable(_)), "{fault:?}: {error}");
        assert_eq!(log.unreadable().objects.len(), 1, "{fault:?}");
        cluster.store.heal();
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(p.read(Offset(0), 100_000, true).await.unwrap().chunks.len(), 6, "{fault:?}");
        assert!(log.unreadable().objects.is_empty(), "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_that_fails_again_and_again_is_not_waited_for_at_each_read() {
    for rewritten in [false, true] {
        let mut cluster = Cluster::new();
        cluster.config.tail_cache_bytes = 0;
        let log = cluster.owner(1, 0).await;
        let p = partition(&log, 0);
        append(&p, 3, 1).await;
        if rewritten {
            rewrite(&p.log, &p.inner).await.unwrap();
        }
        cluster.store.rule(|asked, _| if asked == Asked::Get { Fault::SlowDown } else { Fault::None });
        let read = async || {
            let (from, asked) = (tokio::time::Instant::now(), cluster.store.total());
            let error = p.read(Offset(0), 10_000, true).await.unwrap_err();
            assert!(matches!(error, ReadError::Unavailable(_)), "{error}");
            (from.elapsed(), cluster.store.total() - asked)
        };
        let (took, asked) = read().await;
        assert!(took > Duration::from_secs(1) && asked > 2, "{rewritten}: {took:?}, {asked} requests");
        assert!(took < Duration::from_secs(4), "{rewritten}: it was waited for more than once: {took:?}");
        for _ in 0..10 {
            let (took, asked) = read().await;
            assert_eq!((took.as_millis(), asked), (0, 0), "{rewritten}");
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(read().await.1 > 2, "{rewritten}: it is asked for again");
    }
}

/// Tells nobody.
struct Silent;

impl Watch for Silent {
    fn found(&mut self, _: &Finding) {}
    fn progress(&mut self, _: &Progress) {}
}

#[tokio::test(start_paused = true)]
async fn verify_of_a_place_without_anything_does_not_say_that_all_is_well() {
    let mut cluster = Cluster::new();
    let store = cluster.config.store.clone();
    let refused = scrub(&store, NOW_MS, &mut Silent).await.unwrap_err();
    assert!(matches!(refused, ScrubError::Empty(_)), "{refused}");
    // A broker that has written nothing yet.
    cluster.broker(1).await.shutdown().await;
    assert_eq!(scrub(&store, NOW_MS, &mut Silent).await.unwrap().findings, Vec::new());
}

#[tokio::test(start_paused = true)]
async fn verify_waits_for_the_snapshot_that_does_not_name_what_retention_took() {
    let mut cluster = Cluster::new();
    let topic = TopicRecord {
        topic_id: TOPIC.0,
        partitions: 3,
        configs: BTreeMap::new(),
        created_ms: 1,
        internal: false,
    };
    cluster.meta.put(&Cluster::keys().topic("orders"), topic.encode()).await.unwrap();
    let log = cluster.owner(1, 0).await;
    let p = partition(&log, 0);
    append(&p, 3, 1).await;
    rewrite(&p.log, &p.inner).await.unwrap();
    log.snapshot().await.unwrap();
    let store = cluster.config.store.clone();
    let segments = cluster.objects(&Path::from("topics")).await;
    // As retention does.
    p.delete_records(Offset(3)).await.unwrap();
    eventually("deletion", || cluster.store.count(Asked::Delete, &segments[0]) > 0).await;
    let later = async {
        tokio::time::sleep(Duration::from_secs(30)).await;
        log.snapshot().await.unwrap();
    };
    let mut silent = Silent;
    let (scrubbed, ()) = tokio::join!(scrub(&store, NOW_MS + 60_000, &mut silent), later);
    assert_eq!(scrubbed.unwrap().findings, Vec::new());
    // Where nobody writes snapshots any more, and where the new one names what is gone, it is missed.
    append(&p, 3, 2).await;
    rewrite(&p.log, &p.inner).await.unwrap();
    log.snapshot().await.unwrap();
    for name in cluster.objects(&Path::from("topics")).await {
        cluster.store.inner.delete(&Path::from(name)).await.unwrap();
    }
    for now_ms in [NOW_MS, NOW_MS + 3_600_000] {
        assert_eq!(scrub(&store, now_ms, &mut Silent).await.unwrap().findings.len(), 1);
    }
}
