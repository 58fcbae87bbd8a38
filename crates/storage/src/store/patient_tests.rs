//! A patient store's reads arrive whole whatever happens on the way, or fail soon enough.

use object_store::memory::InMemory;

use super::*;
use crate::store::counted::{Counted, RequestCounters};
use crate::testing::faulty::{Asked, Fault, Faulty};

const SIZE: usize = 1000;

fn content() -> Bytes {
    (0..SIZE).map(|i| (i % 251) as u8).collect()
}

/// A store with one object, `a`, and its patient side.
async fn store() -> (Arc<Faulty>, Patient) {
    let faulty = Faulty::new();
    faulty.inner.put(&Path::from("a"), content().into()).await.unwrap();
    (faulty.clone(), Patient::new(faulty, 1))
}

/// Reads `a` in every way that there is.
async fn read_all_ways(store: &Patient) -> Result<()> {
    let (a, whole) = (Path::from("a"), content());
    assert_eq!(store.get(&a).await?.bytes().await?, whole);
    assert_eq!(store.get_range(&a, 10..910).await?, whole.slice(10..910));
    assert_eq!(store.get_ranges(&a, &[5..6, 100..990]).await?, [whole.slice(5..6), whole.slice(100..990)]);
    let end = GetOptions { range: Some(GetRange::Suffix(300)), ..GetOptions::default() };
    let end = store.get_opts(&a, end).await?;
    assert_eq!((end.meta.size, end.range.clone()), (1000, 700..1000));
    assert_eq!(end.bytes().await?, whole.slice(700..));
    assert_eq!(store.head(&a).await?.size, 1000);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_read_that_breaks_off_goes_on_where_it_ended() {
    for fault in [Fault::Cut, Fault::Short, Fault::Stall] {
        let (faulty, store) = store().await;
        // Every answer breaks off in its middle, for ever: what is left halves each time, down to one byte, which no half is left of.
        let (rule, mut asked) = (fault.clone(), 0);
        faulty.rule(move |_, _| {
            asked += 1;
            if asked % 8 == 0 { Fault::None } else { rule.clone() }
        });
        read_all_ways(&store).await.unwrap_or_else(|e| panic!("{fault:?}: {e}"));
    }
}

#[tokio::test(start_paused = true)]
async fn many_objects_are_read_though_one_answer_of_fifty_is_cut() {
    let (faulty, store) = store().await;
    let mut asked = 0u32;
    faulty.rule(move |_, _| {
        asked += 1;
        if asked % 50 == 7 { Fault::Cut } else { Fault::None }
    });
    for _ in 0..1000 {
        assert_eq!(store.get_range(&Path::from("a"), 0..500).await.unwrap(), content().slice(..500));
    }
    assert!(faulty.total() < 1100, "only what was cut is repeated: {} requests", faulty.total());
}

#[tokio::test(start_paused = true)]
async fn refusals_and_lost_answers_are_repeated_with_growing_waits() {
    for fault in [Fault::SlowDown, Fault::LostRequest, Fault::LostAnswer] {
        let (faulty, store) = store().await;
        let mut left = 4;
        faulty.rule(move |_, _| {
            left -= i32::from(left > 0);
            if left > 0 { fault.clone() } else { Fault::None }
        });
        let from = Instant::now();
        read_all_ways(&store).await.unwrap();
        assert!(from.elapsed() >= Duration::from_millis(25 + 50 + 100));
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_that_never_ends_fails_after_a_bounded_time() {
    for fault in [Fault::Silence, Fault::LostRequest, Fault::SlowDown] {
        let (faulty, store) = store().await;
        let stays = fault.clone();
        faulty.rule(move |_, _| stays.clone());
        let from = Instant::now();
        let error = store.get(&Path::from("a")).await.unwrap_err();
        assert_eq!(kind_of(&error), StoreErrorKind::Retry, "{fault:?}: {error}");
        assert!(from.elapsed() <= 2 * ANSWER_TIMEOUT + PATIENCE, "{fault:?}: {:?}", from.elapsed());
        assert!(faulty.count(Asked::Get, "a") >= 2);
    }
}

#[tokio::test(start_paused = true)]
async fn answers_that_bring_next_to_nothing_do_not_go_on_for_ever() {
    let (faulty, store) = store().await;
    // The half of two bytes is one byte.
    let big = Bytes::from(vec![7; 1 << 20]);
    faulty.inner.put(&Path::from("big"), big.into()).await.unwrap();
    let mut asked = 0u32;
    faulty.rule(move |_, _| {
        asked += 1;
        if asked == 1 { Fault::None } else { Fault::Cut }
    });
    for _ in 0..3 {
        let _ = store.get_range(&Path::from("big"), 0..1 << 20).await.map(|b| assert_eq!(b.len(), 1 << 20));
    }
    assert!(faulty.total() < 4 * ATTEMPTS_MAX as usize, "{}", faulty.total());
}

#[tokio::test(start_paused = true)]
async fn what_another_attempt_does_not_change_is_said_at_once() {
    let (faulty, store) = store().await;
    assert!(matches!(store.get(&Path::from("b")).await, Err(Error::NotFound { .. })));
    assert_eq!(faulty.total(), 1);
    assert!(store.get_range(&Path::from("a"), 5000..6000).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_replaced_is_not_pieced_together() {
    let (faulty, store) = store().await;
    let got = store.get(&Path::from("a")).await.unwrap();
    faulty.rule(|_, _| Fault::Cut);
    let cut = store.get(&Path::from("a")).await.unwrap();
    faulty.heal();
    faulty.inner.put(&Path::from("a"), Bytes::from(vec![0; SIZE]).into()).await.unwrap();
    assert_eq!(got.bytes().await.unwrap(), content(), "this answer had begun before");
    assert!(matches!(cut.bytes().await, Err(Error::Precondition { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_listing_goes_on_after_the_last_name_that_came() {
    let (faulty, store) = store().await;
    for i in 0..30 {
        faulty.inner.put(&Path::from(format!("d/{i:03}")), PutPayload::new()).await.unwrap();
    }
    let mut asked = 0;
    faulty.rule(move |_, _| {
        asked += 1;
        if asked % 5 == 0 { Fault::None } else { Fault::Cut }
    });
    let names: Vec<_> =
        store.list(Some(&Path::from("d"))).map_ok(|meta| meta.location).try_collect().await.unwrap();
    let all: Vec<_> = (0..30).map(|i| Path::from(format!("d/{i:03}"))).collect();
    assert_eq!(names, all, "each once, in order");
    let from = Path::from("d/027");
    let rest: Vec<_> = store.list_with_offset(Some(&Path::from("d")), &from).try_collect().await.unwrap();
    assert_eq!(rest.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn every_attempt_is_counted_and_a_cut_answer_is_a_failure() {
    let faulty = Faulty::new();
    faulty.inner.put(&Path::from("a"), content().into()).await.unwrap();
    let counters = Arc::new(RequestCounters::default());
    let counted = Counted::new(faulty.clone(), counters.clone());
    let store = Patient::new(Arc::new(counted), 1);
    let mut asked = 0;
    faulty.rule(move |_, _| {
        asked += 1;
        if asked <= 2 { Fault::Cut } else { Fault::None }
    });
    assert_eq!(store.get(&Path::from("a")).await.unwrap().bytes().await.unwrap(), content());
    let failures = counters.gets.failures.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!((counters.gets.latency.snapshot().count, failures), (3, 2));
}

#[tokio::test]
async fn writes_pass_as_they_are() {
    let store = Patient::new(Arc::new(InMemory::new()), 1);
    store.put(&Path::from("x"), PutPayload::from_static(b"x")).await.unwrap();
    store.delete(&Path::from("x")).await.unwrap();
    assert!(store.list(None).try_collect::<Vec<_>>().await.unwrap().is_empty());
}
