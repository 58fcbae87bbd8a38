//! The sample workload: a shop that takes orders and payments, two groups that keep up and one that has been
//! paused far behind.
//!
//! It goes on where the last run stopped: the order numbers follow from what the topics hold, and the backlog is
//! made once.

use std::net::SocketAddr;
use std::time::Duration;

use kafscale_core::clock::Clock as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::cluster::Cluster;
use super::connection::ClientError;
use super::consumer::Consumer;
use super::group::Membership;
use super::producer::{Message, Producer};
use super::sample;
use crate::clock::SystemClock;

use super::topics::{LATEST, ensure_topic, offsets_at};

const ORDERS: &str = "orders";
const PAYMENTS: &str = "payments";
const ORDERS_PARTITIONS: i32 = 6;
const PAYMENTS_PARTITIONS: i32 = 4;

/// Orders that are there before the steady rate begins: enough for one partition to be 10,000 ahead of a reader.
const BACKLOG_ORDERS: i64 = 50_000;
/// The backlog looks like the orders of the last hours.
const BACKLOG_SPAN_MS: i64 = 6 * 3_600_000;
const BACKLOG_CHUNK: i64 = 1_000;
const PAYMENT_DELAY_MS: i64 = 4_000;
const TICK: Duration = Duration::from_millis(250);

/// Members of the groups that keep up: group, topic, client id.
const LIVE_MEMBERS: [(&str, &str, &str); 4] = [
    ("orders", ORDERS, "orders-1"),
    ("orders", ORDERS, "orders-2"),
    ("payments-worker", PAYMENTS, "payments-worker-1"),
    ("payments-worker", PAYMENTS, "payments-worker-2"),
];

/// Runs until it is told to stop, or until the broker refuses it for good. Then every member has left its group.
///
/// `ready` is told once topics, backlog and groups are there: those that keep up have done so once.
pub async fn run(
    broker: SocketAddr,
    orders_per_second: u32,
    ready: oneshot::Sender<()>,
    stop: CancellationToken,
) -> Result<(), ClientError> {
    let shop = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        prepared = prepare(broker) => prepared?,
    };
    let mut members = JoinSet::new();
    let leave = stop.child_token();
    let (at_work, all_at_work) = mpsc::channel(1);
    for (group, topic, client_id) in LIVE_MEMBERS {
        let member = Consumer::new(broker, Membership::new(group, topic, client_id));
        members.spawn(member.run(at_work.clone(), leave.clone()));
    }
    drop(at_work);
    let ended = tokio::select! {
        () = stop.cancelled() => Ok(()),
        ended = shop.open_for_business(broker, orders_per_second, all_at_work, ready) => {
            let Err(error) = ended;
            Err(error)
        }
    };
    leave.cancel();
    while members.join_next().await.is_some() {}
    ended
}

/// Makes the topics and the backlog.
async fn prepare(broker: SocketAddr) -> Result<Shop, ClientError> {
    let mut cluster = Cluster::open(broker, "demo-admin").await?;
    ensure_topic(cluster.any(), ORDERS, ORDERS_PARTITIONS).await?;
    ensure_topic(cluster.any(), PAYMENTS, PAYMENTS_PARTITIONS).await?;
    let orders_so_far = offsets_at(&mut cluster, ORDERS, LATEST).await?.values().sum();
    let producer = Producer::open(broker, &[ORDERS, PAYMENTS]).await?;
    let mut shop = Shop { producer, rng: StdRng::from_os_rng(), next_order: orders_so_far };
    shop.fill_backlog().await?;
    Ok(shop)
}

/// Where orders come from.
struct Shop {
    producer: Producer,
    rng: StdRng,
    next_order: i64,
}

impl Shop {
    async fn open_for_business(
        mut self,
        broker: SocketAddr,
        orders_per_second: u32,
        mut all_at_work: mpsc::Receiver<()>,
        ready: oneshot::Sender<()>,
    ) -> Result<std::convert::Infallible, ClientError> {
        let analytics = Consumer::new(broker, Membership::new("analytics", ORDERS, "analytics-1"));
        analytics.glance_and_leave().await?;
        let announce = async {
            // Every member keeps a sender until it has kept up for the first time.
            while all_at_work.recv().await.is_some() {}
            tracing::info!(orders_per_second, "the sample workload is running");
            _ = ready.send(());
        };
        tokio::join!(announce, self.steady(orders_per_second)).1
    }

    async fn fill_backlog(&mut self) -> Result<(), ClientError> {
        while self.next_order < BACKLOG_ORDERS {
            let count = BACKLOG_CHUNK.min(BACKLOG_ORDERS - self.next_order);
            let now = SystemClock.now_ms();
            let age = |number: i64| (BACKLOG_ORDERS - number) * BACKLOG_SPAN_MS / BACKLOG_ORDERS;
            self.place(count, |number| now - age(number)).await?;
        }
        Ok(())
    }

    async fn steady(&mut self, orders_per_second: u32) -> Result<std::convert::Infallible, ClientError> {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let ticks_per_second =
            u32::try_from(Duration::from_secs(1).as_millis() / TICK.as_millis()).unwrap_or(1);
        let mut owed = 0;
        loop {
            ticks.tick().await;
            owed += orders_per_second;
            let now = SystemClock.now_ms();
            self.place(i64::from(owed / ticks_per_second), |_| now).await?;
            owed %= ticks_per_second;
        }
    }

    /// Places the next `count` orders, and their payments.
    async fn place(&mut self, count: i64, placed_at: impl Fn(i64) -> i64) -> Result<(), ClientError> {
        let mut messages = Vec::new();
        for number in self.next_order..self.next_order + count {
            let timestamp_ms = placed_at(number);
            let order = sample::order(&mut self.rng, number, timestamp_ms);
            let paid_at_ms = (timestamp_ms + PAYMENT_DELAY_MS).min(SystemClock.now_ms());
            let payment = sample::payment(&mut self.rng, &order, number, paid_at_ms);
            let key = order.customer_id.clone();
            messages.push(message(ORDERS, key, &order, timestamp_ms)?);
            messages.push(message(PAYMENTS, order.order_id, &payment, paid_at_ms)?);
        }
        self.next_order += count;
        self.producer.send(messages).await
    }
}

fn message(
    topic: &'static str,
    key: String,
    value: &impl serde::Serialize,
    timestamp_ms: i64,
) -> Result<Message, ClientError> {
    let value = serde_json::to_vec(value).map_err(|e| ClientError::Protocol(e.to_string()))?;
    Ok(Message { topic, key, value, timestamp_ms })
}
