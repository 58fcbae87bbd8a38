//! Consumers without a group: they follow partitions from the start, look at the end now and then, and sometimes begin anew.

use kafka_protocol::ResponseError;
use tokio::time::sleep;

use super::Client;
use super::reader::{CORRUPT, EARLIEST, LATEST, end_offset, fetch};
use crate::history::TopicPartition;

/// Reads until the end, one partition after the other, each for a while.
pub async fn follow(mut client: Client, partitions: Vec<TopicPartition>) {
    let mut positions = vec![0; partitions.len()];
    while !client.setting.closing.is_cancelled() {
        let which = client.rng.below(partitions.len() as u64) as usize;
        let at = &partitions[which];
        if client.rng.per_mille(30) {
            positions[which] = 0;
        }
        for _ in 0..client.rng.between(1, 10) {
            if client.setting.closing.is_cancelled() {
                return;
            }
            let wait_ms = client.rng.between(0, 400) as i32;
            match fetch(&mut client, at, positions[which], wait_ms).await {
                Ok(fetched) => {
                    let end = fetched.records.last().map(|(offset, _)| offset + 1);
                    positions[which] = end.unwrap_or(positions[which]);
                    sleep(client.rng.ms(0, 50)).await;
                }
                Err(Some(code)) if code == ResponseError::OffsetOutOfRange.code() => {
                    // Only where records were deleted; the checker knows where.
                    positions[which] = end_offset(&mut client, at, EARLIEST).await.unwrap_or(0);
                    client.back_off().await;
                }
                Err(Some(CORRUPT)) => positions[which] += 1,
                Err(_) => client.back_off().await,
            }
        }
        if client.rng.per_mille(200) {
            end_offset(&mut client, at, LATEST).await;
        }
    }
}
