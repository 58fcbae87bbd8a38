//! One writer, and a store that fails.

use super::*;

/// The first requests fail in one way each; the append is acknowledged once, and everything is there.
async fn survives(faults: Vec<Fault>) {
    let mut cluster = Cluster::new();
    let log = cluster.owner(1, 0).await;
    let p = partition(&log, 0);
    append(&p, 2, 1).await;
    let mut left = faults.clone().into_iter();
    cluster.store.rule(move |asked, path| match (asked, path.as_ref().starts_with("wal/")) {
        (Asked::Put, true) => left.next().unwrap_or(Fault::None),
        _ => Fault::None,
    });
    assert_eq!(append(&p, 3, 2).await, Offset(2), "{faults:?}");
    assert_eq!(append(&p, 1, 3).await, Offset(5));
    assert_eq!(log.health(), Ok(()), "it recovered by itself");
    assert_eq!(cluster.objects(&chain(&log).directory()).await.len(), 3, "no object is there twice");
    assert_eq!(read_all(&p, 0).await, expected(&[(2, 1), (3, 2), (1, 3)]));
    let next = cluster.broker(2).await;
    seal(&next, &log).await;
    next.acquire(hosted(1)).await;
    assert_eq!(read_all(&partition(&next, 0), 0).await, expected(&[(2, 1), (3, 2), (1, 3)]));
}

#[tokio::test(start_paused = true)]
async fn an_append_survives_every_failure_of_the_store() {
    use Fault::{Conflict, LostAnswer, LostRequest, Silence, SlowDown};
    for faults in [
        vec![LostAnswer],
        vec![LostRequest, LostAnswer],
        vec![Conflict, Conflict],
        vec![SlowDown; 12],
        vec![Silence],
        vec![Silence, LostAnswer, Conflict, SlowDown],
    ] {
        survives(faults).await;
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_acknowledged_before_what_is_below_it() {
    let mut cluster = Cluster::new();
    let log = cluster.owner(1, 0).await;
    let gate = Arc::new(Semaphore::new(0));
    let (held, first) = (gate.clone(), chain(&log).object(0));
    cluster.store.rule(move |asked, path| match asked == Asked::Put && *path == first {
        true => Fault::HeldBefore(held.clone()),
        false => Fault::None,
    });
    let mut waiting = Vec::new();
    for i in 0..6 {
        waiting.push(begin(&partition(&log, i % 3), 1, i as u8).unwrap().durable);
        settle().await;
    }
    let k = cluster.config.wal_uploads;
    assert_eq!(cluster.objects(&chain(&log).directory()).await.len(), k - 1, "no more than k are uncertain");
    for p in log.partitions() {
        assert_eq!(p.offsets().high_watermark, Offset(0), "nothing is visible");
    }
    gate.add_permits(1);
    for durable in waiting {
        durable.wait().await.unwrap();
    }
    for i in 0..3 {
        assert_eq!(read_all(&partition(&log, i), 0).await, expected(&[(1, i as u8), (1, i as u8 + 3)]));
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_costs_bounded_memory_and_comes_back_by_itself() {
    let mut cluster = Cluster::new();
    cluster.config.wal_pending_bytes = 50_000;
    cluster.config.wal_object_bytes = 8_000;
    let log = cluster.owner(1, 0).await;
    let p = partition(&log, 0);
    cluster.store.rule(on_chain_puts(Fault::LostRequest));
    let mut accepted = Vec::new();
    let refusal = loop {
        match begin(&p, 10, 7) {
            Ok(appended) => accepted.push(appended.durable),
            Err(e) => break e,
        }
        settle().await;
        assert!(accepted.len() < 100, "appends are accepted without a limit");
    };
    assert!(matches!(refusal, AppendError::Unavailable(_)), "{refusal:?}");
    assert!(log.stats().wal_pending_bytes <= 50_000);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(log.health().unwrap_err().contains("connection reset"));
    assert!(begin(&p, 10, 8).is_err());
    assert_eq!(p.offsets().high_watermark, Offset(0));
    cluster.store.heal();
    let count = accepted.len();
    for durable in accepted {
        durable.wait().await.unwrap();
    }
    append(&p, 10, 9).await;
    assert_eq!((log.health(), log.stats().wal_pending_bytes), (Ok(()), 0));
    let tags: Vec<_> = std::iter::repeat_n((10, 7), count).chain([(10, 9)]).collect();
    assert_eq!(read_all(&p, 0).await, expected(&tags));
}

#[tokio::test(start_paused = true)]
async fn requests_are_bounded_by_the_interval_and_an_idle_broker_makes_none() {
    let mut cluster = Cluster::new();
    cluster.config.wal_min_interval = Duration::from_millis(250);
    let log = cluster.owner(1, 0).await;
    let before = cluster.store.total();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(cluster.store.total(), before, "an idle broker asks for nothing");
    let from = tokio::time::Instant::now();
    let mut last = None;
    while from.elapsed() < Duration::from_secs(10) {
        for i in 0..3 {
            last = Some(begin(&partition(&log, i), 1, 1).unwrap().durable);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    last.unwrap().wait().await.unwrap();
    let puts = cluster.store.count(Asked::Put, "wal/");
    assert!((38..=42).contains(&puts), "{puts} objects in 10 seconds");
    // A lone append after a pause waits for nothing.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let from = tokio::time::Instant::now();
    append(&partition(&log, 0), 1, 1).await;
    assert!(from.elapsed() < Duration::from_millis(5));
}

#[tokio::test(start_paused = true)]
async fn large_appends_are_sent_before_the_interval_is_over() {
    let mut cluster = Cluster::new();
    cluster.config.wal_min_interval = Duration::from_secs(60);
    cluster.config.wal_object_bytes = 20_000;
    let log = cluster.owner(1, 0).await;
    let p = partition(&log, 0);
    append(&p, 1, 1).await;
    let from = tokio::time::Instant::now();
    let first = begin(&p, 100, 2).unwrap().durable;
    let second = begin(&p, 100, 3).unwrap().durable;
    first.wait().await.unwrap();
    assert!(from.elapsed() < Duration::from_secs(1));
    second.wait().await.unwrap();
    assert!(from.elapsed() >= Duration::from_secs(59), "what is not full waits");
    assert_eq!(cluster.objects(&chain(&log).directory()).await.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_stop_without_an_answer_fails_what_is_not_known_to_be_there() {
    let mut cluster = Cluster::new();
    let log = cluster.owner(1, 0).await;
    cluster.store.rule(on_chain_puts(Fault::Silence));
    let pending = begin(&partition(&log, 0), 1, 1).unwrap().durable;
    let later = async {
        settle().await;
        log.shutdown().await;
    };
    let (outcome, ()) = tokio::join!(pending.wait(), later);
    assert!(matches!(outcome, Err(AppendError::Unavailable(_))), "{outcome:?}");
}

/// Whatever was asked of the store: objects of the chain, more than are under way at a time, a segment, the seal.
#[tokio::test(start_paused = true)]
async fn a_planned_stop_is_over_in_its_time_whatever_the_store_does() {
    let mut cluster = Cluster::new();
    cluster.config.wal_object_bytes = 1_000;
    let log = cluster.owner(1, 0).await;
    let p = partition(&log, 0);
    append(&p, 1, 1).await;
    cluster.store.rule(|_, _| Fault::Silence);
    let releasing = tokio::spawn({
        let (log, id) = (log.clone(), partition(&log, 1).id());
        async move { log.release(id).await }
    });
    let many = (0..20).map(|i| begin(&p, 10, i).unwrap().durable);
    let pending: Vec<_> = many.collect();
    settle().await;
    let from = tokio::time::Instant::now();
    assert!(log.seal_own(Duration::from_secs(4)).await.is_err());
    log.shutdown().await;
    assert!(from.elapsed() <= Duration::from_millis(4_010), "it took {:?}", from.elapsed());
    for (i, durable) in pending.into_iter().enumerate() {
        let outcome = tokio::time::timeout(Duration::ZERO, durable.wait()).await.expect("it is over");
        assert!(matches!(outcome, Err(AppendError::Unavailable(_))), "{i}: {outcome:?}");
    }
    releasing.abort();
}

#[tokio::test(start_paused = true)]
async fn old_batches_are_read_back_from_the_chain() {
    let mut cluster = Cluster::new();
    cluster.config.tail_cache_bytes = 0;
    let log = cluster.owner(1, 0).await;
    let mut wrote = vec![Vec::new(); 3];
    for i in 0..30u8 {
        append(&partition(&log, i32::from(i % 3)), 4, i).await;
        wrote[usize::from(i % 3)].push((4, i));
    }
    for (i, wrote) in wrote.iter().enumerate() {
        assert_eq!(read_all(&partition(&log, i as i32), 0).await, expected(wrote));
    }
    assert!(log.stats().tail_misses > 0);
}
