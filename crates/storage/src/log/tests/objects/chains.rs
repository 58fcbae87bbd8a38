//! The life of a chain: sealed by whoever, freed by its owner, collected when it is dead.

use super::*;
use crate::log::objects::UPLOADS_MAX;

#[tokio::test(start_paused = true)]
async fn sealing_again_changes_nothing_and_the_first_seal_counts() {
    let mut cluster = Cluster::new();
    let first = cluster.owner(1, 0).await;
    append(&partition(&first, 0), 1, 1).await;
    let (a, b) = (cluster.broker(2).await, cluster.broker(3).await);
    let id = chain(&first);
    // The first controller dies after its seal; what the writer had under way lands above it.
    let bytes = crate::wal::object::encode_seal_of(id, 1);
    cluster.store.inner.put_opts(&id.object(1), bytes.clone().into(), Default::default()).await.unwrap();
    cluster.store.inner.put_opts(&id.object(2), bytes.into(), Default::default()).await.unwrap();
    tokio::join!(seal(&a, &first), seal(&b, &first));
    assert_eq!(cluster.record(&first).await.unwrap().sealed_at, Some(1));
    seal(&a, &first).await;
    a.seal(77, 77).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_planned_stop_seals_its_own_chain() {
    let mut cluster = Cluster::new();
    let first = cluster.owner(1, 0).await;
    let pending = begin(&partition(&first, 0), 5, 1).unwrap();
    first.seal_own(STOP_WITHIN).await.unwrap();
    pending.durable.wait().await.unwrap();
    assert_eq!(cluster.record(&first).await.unwrap().sealed_at, Some(1));
    assert!(begin(&partition(&first, 0), 1, 2).is_err());
    let second = cluster.owner(2, 1).await;
    assert_eq!(read_all(&partition(&second, 0), 0).await, expected(&[(5, 1)]));
    first.shutdown().await;
    // One that wrote nothing.
    let idle = cluster.broker(3).await;
    idle.seal_own(STOP_WITHIN).await.unwrap();
    assert_eq!(cluster.record(&idle).await.unwrap().sealed_at, Some(0));
}

#[tokio::test(start_paused = true)]
async fn what_was_rewritten_is_freed() {
    let mut cluster = Cluster::new();
    cluster.config.wal_max_bytes = 64 << 10;
    let log = cluster.owner(1, 0).await;
    let mut wrote = vec![Vec::new(); 3];
    for i in 0..200 {
        append(&partition(&log, i % 3), 10, i as u8).await;
        wrote[(i % 3) as usize].push((10, i as u8));
    }
    let objects = async || cluster.objects(&chain(&log).directory()).await.len();
    let from = tokio::time::Instant::now();
    while objects().await > 100 {
        assert!(from.elapsed() < Duration::from_secs(60), "{} objects are left", objects().await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let first_seq = cluster.record(&log).await.unwrap().first_seq;
    assert_eq!(objects().await as u64, 200 - first_seq + UPLOADS_MAX, "what is freed last stays");
    let second = cluster.broker(2).await;
    seal(&second, &log).await;
    second.acquire(hosted(1)).await;
    for (i, wrote) in wrote.iter().enumerate() {
        assert_eq!(read_all(&partition(&second, i as i32), 0).await, expected(wrote));
    }
}

#[tokio::test(start_paused = true)]
async fn a_few_large_objects_are_rewritten_at_the_limit() {
    let mut cluster = Cluster::new();
    cluster.config.wal_max_bytes = 16 << 10;
    cluster.config.retention_check_interval = Duration::from_secs(3600);
    let log = cluster.owner(1, 0).await;
    for i in 0..20 {
        append(&partition(&log, 0), 20, i).await;
    }
    eventually("rewriting", || log.stats().segments_written > 0).await;
    assert!(log.stats().wal_bytes < 20 * 2000, "{} bytes are left", log.stats().wal_bytes);
}

#[tokio::test(start_paused = true)]
async fn many_small_objects_are_rewritten_too() {
    let mut cluster = Cluster::new();
    cluster.config.wal_max_objects = 50;
    let log = cluster.owner(1, 0).await;
    for i in 0..200 {
        append(&partition(&log, 0), 1, i as u8).await;
    }
    let from = tokio::time::Instant::now();
    while cluster.objects(&chain(&log).directory()).await.len() > 60 {
        assert!(from.elapsed() < Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(log.stats().segments_written > 0);
}

#[tokio::test(start_paused = true)]
async fn an_idle_broker_proves_that_it_is_not_fenced() {
    let mut cluster = Cluster::new();
    let log = cluster.owner(1, 0).await;
    assert_eq!(log.proved_at(), None);
    let now = tokio::time::Instant::now();
    assert!(log.prove().await.unwrap() >= now);
    append(&partition(&log, 0), 1, 1).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(log.proved_at().unwrap().elapsed() >= Duration::from_secs(5));
    log.prove().await.unwrap();
    let second = cluster.broker(2).await;
    seal(&second, &log).await;
    assert_eq!(cluster.record(&log).await.unwrap().sealed_at, Some(3));
    assert_eq!(log.prove().await, Err(AppendError::Fenced));
    second.acquire(hosted(1)).await;
    assert_eq!(read_all(&partition(&second, 0), 0).await, expected(&[(1, 1)]));
}

#[tokio::test(start_paused = true)]
async fn an_object_that_became_a_seal_cannot_be_read() {
    let mut cluster = Cluster::new();
    cluster.config.tail_cache_bytes = 0;
    let first = cluster.owner(1, 0).await;
    let p = partition(&first, 0);
    // The first is sent at once; the others gather meanwhile, and are one object.
    let appended: Vec<_> = (0..4).map(|tag| begin(&p, 1, tag).unwrap()).collect();
    for one in appended {
        one.durable.wait().await.unwrap();
    }
    assert_eq!(read_all(&p, 0).await, expected(&[(1, 0), (1, 1), (1, 2), (1, 3)]));
    let id = chain(&first);
    for seq in 0..2 {
        let bytes = crate::wal::object::encode_seal_of(id, seq);
        cluster.store.inner.put_opts(&id.object(seq), bytes.into(), Default::default()).await.unwrap();
    }
    for from in 0..4 {
        let read = p.read(Offset(from), 20_000, true).await;
        assert!(matches!(read, Err(ReadError::Unavailable(_))), "{from}: {read:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_chain_of_a_deleted_topic_is_collected() {
    let mut cluster = Cluster::new();
    let first = cluster.owner(1, 0).await;
    append(&partition(&first, 0), 1, 1).await;
    let second = cluster.broker(2).await;
    seal(&second, &first).await;
    second.collect().await.unwrap();
    assert!(cluster.record(&first).await.is_some(), "nobody has taken it over yet");
    cluster.meta.delete(&Cluster::keys().assignment(TOPIC.0)).await.unwrap();
    second.collect().await.unwrap();
    assert!(cluster.record(&first).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_chain_that_was_sealed_before_it_began_is_not_opened() {
    let mut cluster = Cluster::new();
    let log = cluster.broker(1).await;
    let config = LogConfig { incarnation: 99, ..log.shared.config.clone() };
    let open = async || {
        Log::open(config.clone(), cluster.meta.clone(), Cluster::keys(), cluster.clock.clone()).await
    };
    assert!(matches!(open().await, Err(OpenError::Fenced)), "no record");
    let record = ChainRecord { sealed_at: Some(0), ..ChainRecord::default() };
    cluster.meta.put(&Cluster::keys().chain(1, 99), record.encode()).await.unwrap();
    assert!(matches!(open().await, Err(OpenError::Fenced)), "sealed");
}
