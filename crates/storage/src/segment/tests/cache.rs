//! What the store is asked for, and what is kept.

use super::*;

/// A segment of 24 blocks of 1 MiB, in batches of about 100 KiB.
async fn large(bucket: &Bucket) -> (Vec<PlacedBatch>, SegmentRef) {
    let batches = batches(&[(0, 1, 100_000); 250]);
    let segment = bucket.put_segment(build(&batches, 4096)).await;
    (batches, segment)
}

#[test]
fn what_was_read_is_not_fetched_again() {
    run(async {
        let bucket = Bucket::new(64 << 20);
        let (batches, segment) = large(&bucket).await;
        for _ in 0..3 {
            let mut from = segment.base_offset;
            while from <= segment.last_offset {
                let read = bucket.reader.read(&segment, from, 500_000, true).await.unwrap();
                assert!(read.size_bytes > 0);
                from = read.next;
            }
        }
        check_read(&bucket, &segment, &batches, segment.base_offset, usize::MAX, true).await;
        assert_eq!(bucket.gets(), 2 + 24, "twice for the header and the index, once for each block");
        assert_eq!(bucket.reader.stats().misses, 24);
    });
}

#[test]
fn readers_who_miss_together_fetch_once() {
    run(async {
        let bucket = Bucket::new(64 << 20);
        let (_, segment) = large(&bucket).await;
        let readers = (0..50).map(|_| {
            let (reader, segment) = (bucket.reader.clone(), segment.clone());
            tokio::spawn(async move { reader.read(&segment, Offset(105), 1000, true).await })
        });
        for read in readers.collect::<Vec<_>>() {
            assert!(read.await.unwrap().unwrap().size_bytes > 100_000);
        }
        bucket.reader.shutdown().await;
        assert_eq!(bucket.gets(), 2 + 1);
    });
}

#[test]
fn the_budget_is_kept_and_small_ones_still_serve() {
    run(async {
        for budget in [0, 100_000, 2 << 20, 9 << 20] {
            let bucket = Bucket::new(budget);
            let (batches, segment) = large(&bucket).await;
            for from in (100..350).step_by(7) {
                check_read(&bucket, &segment, &batches, Offset(from), 300_000, true).await;
                assert!(bucket.reader.stats().held_bytes <= budget as u64, "{budget}");
            }
        }
    });
}

#[test]
fn reading_in_order_reads_ahead_and_reading_at_random_does_not() {
    run(async {
        let bucket = Bucket::new(64 << 20);
        let (_, segment) = large(&bucket).await;
        let read = bucket.reader.read(&segment, Offset(300), 1, true).await.unwrap();
        assert_eq!(read.next, Offset(301));
        bucket.reader.shutdown().await;
        assert_eq!(bucket.gets(), 3);

        let bucket = Bucket::new(64 << 20);
        let (_, segment) = large(&bucket).await;
        bucket.reader.read(&segment, segment.base_offset, 1, true).await.unwrap();
        while bucket.gets() < 4 {
            tokio::task::yield_now().await;
        }
        assert_eq!(bucket.gets(), 4);

        // One who goes on in order has more and more of it loaded ahead.
        let (mut next, mut read_bytes) = (Offset(1), 0);
        for _ in 0..5 {
            let read = bucket.reader.read(&segment, next, 1 << 20, true).await.unwrap();
            (next, read_bytes) = (read.next, read_bytes + read.size_bytes);
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        }
        let read_blocks = read_bytes.div_ceil(1 << 20);
        assert!(bucket.gets() >= 2 + read_blocks + 7, "{} for {read_blocks}", bucket.gets());
    });
}

#[test]
fn a_forgotten_segment_frees_its_memory() {
    run(async {
        let bucket = Bucket::new(64 << 20);
        let (_, segment) = large(&bucket).await;
        bucket.reader.read(&segment, segment.base_offset, usize::MAX, true).await.unwrap();
        assert!(bucket.reader.stats().held_bytes > 20 << 20);
        bucket.reader.forget(&segment);
        assert_eq!(bucket.reader.stats().held_bytes, 0);
    });
}

#[test]
fn a_failed_load_is_tried_again_by_the_next() {
    run(async {
        let bucket = Bucket::new(64 << 20);
        let (batches, segment) = large(&bucket).await;
        let path = Path::from(&*segment.path);
        let bytes = bucket.store.get(&path).await.unwrap().bytes().await.unwrap();
        bucket.store.delete(&path).await.unwrap();
        let error = bucket.reader.read(&segment, Offset(100), 1, true).await.unwrap_err();
        assert!(error.is_not_found());
        bucket.store.put(&path, bytes.into()).await.unwrap();
        check_read(&bucket, &segment, &batches, Offset(100), 1_000_000, true).await;
    });
}

#[test]
fn small_reads_do_not_keep_blocks_alive() {
    run(async {
        let bucket = Bucket::new(64 << 20);
        let batches = batches(&[(0, 1, 100); 1000]);
        let segment = bucket.put_segment(build(&batches, 4096)).await;
        let read = bucket.reader.read(&segment, Offset(500), 1000, true).await.unwrap();
        assert!(read.chunks.iter().all(Bytes::is_unique));
    });
}
