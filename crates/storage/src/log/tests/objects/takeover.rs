//! Partitions that change their owner, with writers that do not know it yet.

use object_store::ObjectStoreExt;

use super::*;

#[tokio::test(start_paused = true)]
async fn what_was_acknowledged_is_there_for_the_next_owner() {
    let mut cluster = Cluster::new();
    let first = cluster.owner(1, 0).await;
    for tag in 0..5 {
        append(&partition(&first, 0), 3, tag).await;
        append(&partition(&first, 1), 1, tag).await;
    }
    append_from(&partition(&first, 2), 10, 1, Some((7, 0, 0))).await.unwrap();
    let second = cluster.broker(2).await;
    seal(&second, &first).await;
    for (_, outcome) in second.acquire(hosted(1)).await {
        assert_eq!(outcome, Ok(()));
    }
    let p = partition(&second, 0);
    let wrote: Vec<_> = (0..5).map(|tag| (3, tag)).collect();
    assert_eq!(read_all(&p, 0).await, expected(&wrote));
    assert_eq!(append(&p, 1, 9).await, Offset(15));
    assert_eq!(p.epoch_at(Offset(14)), Some(LeaderEpoch(0)));
    assert_eq!(p.epoch_at(Offset(15)), Some(LeaderEpoch(1)));
    let p = partition(&second, 2);
    assert_eq!(append_from(&p, 10, 1, Some((7, 0, 0))).await, Ok(Offset(0)), "a duplicate is known");
    // The first one still lives, and finds out with its next append.
    assert_eq!(append_from(&partition(&first, 0), 1, 5, None).await, Err(AppendError::Fenced));
    first.fenced().await;
    assert_eq!(append_from(&partition(&first, 1), 1, 5, None).await, Err(AppendError::Fenced));
    assert!(first.health().is_err());
}

#[tokio::test(start_paused = true)]
async fn producers_go_on_behind_deleted_records_at_the_next_owner() {
    for before in [20, 15] {
        let mut cluster = Cluster::new();
        let first = cluster.owner(1, 0).await;
        let p = partition(&first, 0);
        append_from(&p, 10, 1, Some((7, 0, 0))).await.unwrap();
        append_from(&p, 10, 2, Some((8, 0, 0))).await.unwrap();
        assert_eq!(p.delete_records(Offset(before)).await, Ok(Offset(before)));
        let second = cluster.broker(2).await;
        seal(&second, &first).await;
        second.acquire(hosted(1)).await;
        let p = partition(&second, 0);
        assert_eq!(append_from(&p, 10, 1, Some((7, 0, 0))).await, Ok(Offset(0)), "a duplicate is known");
        assert_eq!(append_from(&p, 1, 3, Some((7, 0, 10))).await, Ok(Offset(20)));
        assert_eq!(append_from(&p, 1, 4, Some((8, 0, 10))).await, Ok(Offset(21)));
        assert_eq!(p.offsets().log_start, Offset(before));
    }
}

/// A writer with one object under way that is held back, at whatever moment.
async fn paused(
    hold: impl Fn(Arc<Semaphore>) -> Fault + Send + 'static,
) -> (Cluster, Log, Arc<Semaphore>, Vec<Appended>) {
    let mut cluster = Cluster::new();
    let log = cluster.owner(1, 0).await;
    append(&partition(&log, 0), 5, 1).await;
    let gate = Arc::new(Semaphore::new(0));
    let (held, at) = (gate.clone(), chain(&log).object(1));
    let mut once = false;
    cluster.store.rule(move |asked, path| match asked == Asked::Put && *path == at && !once {
        true => {
            once = true;
            hold(held.clone())
        }
        false => Fault::None,
    });
    let mut pending = vec![begin(&partition(&log, 0), 2, 2).unwrap()];
    settle().await;
    // More, which lands in the store above what is held.
    pending.push(begin(&partition(&log, 0), 3, 3).unwrap());
    settle().await;
    (cluster, log, gate, pending)
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_wakes_up_after_the_seal_acknowledges_nothing() {
    let (mut cluster, first, gate, pending) = paused(Fault::HeldBefore).await;
    assert_eq!(cluster.objects(&chain(&first).directory()).await.len(), 2, "objects 0 and 2");
    let second = cluster.broker(2).await;
    seal(&second, &first).await;
    assert_eq!(cluster.record(&first).await.unwrap().sealed_at, Some(1));
    second.acquire(hosted(1)).await;
    let p = partition(&second, 0);
    assert_eq!(read_all(&p, 0).await, expected(&[(5, 1)]), "what is above the seal is dead");
    assert_eq!(append(&p, 1, 9).await, Offset(5));
    gate.add_permits(1);
    for appended in pending {
        assert_eq!(appended.durable.wait().await, Err(AppendError::Fenced));
    }
    first.fenced().await;
    assert_eq!(read_all(&p, 0).await, expected(&[(5, 1), (1, 9)]));
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_wakes_up_after_the_collection_acknowledges_nothing() {
    for hold in [Fault::HeldBefore, Fault::HeldAnswer] {
        let (mut cluster, first, gate, pending) = paused(hold).await;
        let second = cluster.broker(2).await;
        seal(&second, &first).await;
        second.acquire(hosted(1)).await;
        let log_end = partition(&second, 0).offsets().log_end;
        assert!(log_end == Offset(5) || log_end == Offset(10), "{log_end}");
        while cluster.record(&first).await.is_some() {
            tokio::time::sleep(Duration::from_millis(50)).await;
            second.collect().await.unwrap();
        }
        let left = cluster.objects(&chain(&first).directory()).await;
        let sealed_at = if log_end == Offset(5) { 1 } else { 3 };
        assert_eq!(left.len(), sealed_at + 1, "only seals are left: {left:?}");
        gate.add_permits(1);
        for appended in pending {
            assert_eq!(appended.durable.wait().await, Err(AppendError::Fenced));
        }
        first.fenced().await;
        let third = cluster.broker(3).await;
        seal(&third, &second).await;
        third.acquire(hosted(2)).await;
        assert_eq!(partition(&third, 0).offsets().log_end, log_end);
    }
}

#[tokio::test(start_paused = true)]
async fn a_fenced_owner_publishes_nothing() {
    let mut cluster = Cluster::new();
    let first = cluster.owner(1, 0).await;
    append(&partition(&first, 0), 5, 1).await;
    let second = cluster.broker(2).await;
    seal(&second, &first).await;
    second.acquire(hosted(1)).await;
    // It has not noticed, and hands over what it was asked to before.
    let id = partition(&first, 0).id();
    assert_eq!(first.release(id).await, Err(ReleaseError::NotOwner));
    first.fenced().await;
    let p = partition(&second, 0);
    assert_eq!(p.delete_records(Offset(2)).await, Ok(Offset(2)));
    assert_eq!(second.release(id).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_takeover_of_a_takeover_has_everything_in_order() {
    let mut cluster = Cluster::new();
    // Nothing is rewritten, so that all that the last owner has comes from chains.
    cluster.store.rule(|asked, path| match (asked, path.as_ref().starts_with("topics/")) {
        (Asked::Put, true) => Fault::SlowDown,
        _ => Fault::None,
    });
    let (mut owners, mut wrote): (Vec<Log>, _) = (Vec::new(), Vec::new());
    for epoch in 0..4 {
        let log = cluster.broker(1 + epoch % 2).await;
        if let Some(before) = owners.last() {
            seal(&log, before).await;
        }
        log.acquire(hosted(epoch)).await;
        for i in 0..3 {
            let tag = (epoch * 3 + i) as u8;
            append(&partition(&log, 0), 2, tag).await;
            wrote.push((2, tag));
        }
        assert_eq!(read_all(&partition(&log, 0), 0).await, expected(&wrote));
        owners.push(log);
    }
    let last = owners.last().unwrap();
    last.collect().await.unwrap();
    assert_eq!(last.stats().segments_written, 0);
    assert!(cluster.record(&owners[0]).await.is_some(), "what no manifest covers is kept");
    cluster.store.heal();
    while cluster.record(&owners[0]).await.is_some() {
        tokio::time::sleep(Duration::from_millis(100)).await;
        last.collect().await.unwrap();
    }
    assert_eq!(read_all(&partition(last, 0), 0).await, expected(&wrote));
    assert!(cluster.record(&owners[2]).await.is_none(), "rewritten at once, without more appends");
}

#[tokio::test(start_paused = true)]
async fn a_released_partition_goes_on_at_another_broker() {
    let mut cluster = Cluster::new();
    let (first, second) = (cluster.owner(1, 0).await, cluster.broker(2).await);
    append(&partition(&first, 0), 5, 1).await;
    append_from(&partition(&first, 0), 1, 2, Some((3, 0, 0))).await.unwrap();
    append(&partition(&first, 1), 1, 3).await;
    let id = partition(&first, 0).id();
    assert_eq!(first.release(id).await, Ok(()));
    let mine: Vec<_> = hosted(1).into_iter().filter(|h| h.id == id).collect();
    second.acquire(mine.clone()).await;
    let p = partition(&second, 0);
    assert_eq!(append_from(&p, 1, 2, Some((3, 0, 0))).await, Ok(Offset(5)));
    assert_eq!(append(&p, 1, 4).await, Offset(6));
    // And back, while the first one's chain has grown.
    append(&partition(&first, 1), 1, 5).await;
    assert_eq!(second.release(id).await, Ok(()));
    let back = mine.into_iter().map(|h| HostedPartition { leader_epoch: LeaderEpoch(2), ..h }).collect();
    first.acquire(back).await;
    assert_eq!(read_all(&partition(&first, 0), 0).await, expected(&[(5, 1), (1, 2), (1, 4)]));
}

#[tokio::test(start_paused = true)]
async fn recovery_backs_off_from_a_store_that_is_busy() {
    let mut cluster = Cluster::new();
    let first = cluster.owner(1, 0).await;
    for tag in 0..20 {
        append(&partition(&first, 0), 1, tag).await;
    }
    let second = cluster.broker(2).await;
    let mut asked_so_far = 0;
    cluster.store.rule(move |_, _| {
        asked_so_far += 1;
        if asked_so_far % 2 == 0 { Fault::None } else { Fault::SlowDown }
    });
    seal(&second, &first).await;
    for (_, outcome) in second.acquire(hosted(1)).await {
        assert_eq!(outcome, Ok(()));
    }
    cluster.store.heal();
    let wrote: Vec<_> = (0..20).map(|tag| (1, tag)).collect();
    assert_eq!(read_all(&partition(&second, 0), 0).await, expected(&wrote));
    append(&partition(&second, 0), 1, 99).await;
    // One that refuses everything makes it fail, to be tried again as a whole.
    let third = cluster.broker(3).await;
    seal(&third, &second).await;
    cluster.store.rule(|_, _| Fault::SlowDown);
    let outcomes = third.acquire(hosted(2)).await;
    assert!(outcomes.iter().all(|(_, o)| matches!(o, Err(AcquireError::Retry(_)))), "{outcomes:?}");
    cluster.store.heal();
    assert_eq!(third.acquire(hosted(2)).await[0].1, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_hole_in_a_chain_is_found() {
    let mut cluster = Cluster::new();
    let first = cluster.owner(1, 0).await;
    for tag in 0..3 {
        append(&partition(&first, 0), 1, tag).await;
    }
    let second = cluster.broker(2).await;
    seal(&second, &first).await;
    // Somebody puts an object in the place of another.
    let empty = crate::wal::object::encode_seal_of(chain(&first), 1);
    cluster.store.inner.put_opts(&chain(&first).object(1), empty.into(), Default::default()).await.unwrap();
    let outcomes = second.acquire(hosted(1)).await;
    let gap = AcquireError::Gap { log_end: Offset(1), found: Offset(2) };
    assert_eq!(outcomes[0].1, Err(gap));
    assert_eq!(outcomes[1].1, Ok(()), "other partitions are served");
}

#[tokio::test(start_paused = true)]
async fn records_of_a_lost_object_can_be_given_up() {
    let mut cluster = Cluster::new();
    let first = cluster.owner(1, 0).await;
    for tag in 0..6 {
        append(&partition(&first, 0), 3, tag).await;
    }
    let id = chain(&first);
    // What a person does who has no copy.
    cluster.store.inner.put(&id.object(2), Vec::new().into()).await.unwrap();
    let second = cluster.broker(2).await;
    seal(&second, &first).await;
    for (_, outcome) in second.acquire(hosted(1)).await {
        assert_eq!(outcome, Ok(()));
    }
    let p = partition(&second, 0);
    for restarted in [false, true] {
        let mut found = Vec::new();
        for offset in 0..18 {
            match p.read(Offset(offset), 1, true).await {
                Ok(read) => {
                    found.extend(batch::batches(&read.chunks.concat()).map(|b| b.unwrap().1.base_offset.0))
                }
                Err(ReadError::Corrupt(why)) => assert!((6..9).contains(&offset), "{offset}: {why}"),
                Err(e) => panic!("{offset}: {e}"),
            }
        }
        found.dedup();
        assert_eq!(found, [0, 3, 9, 12, 15], "in segments: {restarted}");
        crate::log::rewrite::rewrite(&p.log, &p.inner).await.unwrap();
    }
}
