//! What the row needs besides its calls: verdicts, the record rule, and the group with a second member.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::{ClientConfig, ClientContext};

pub const PARTITIONS: i32 = 6;
const WAIT_LIMIT: Duration = Duration::from_secs(45);

pub type Failure = Box<dyn std::error::Error + Send + Sync>;

pub struct Row {
    name: &'static str,
    bootstrap: String,
    run_id: String,
    failed: bool,
}

impl Row {
    pub fn from_args(name: &'static str) -> Result<Row, Failure> {
        let mut args = std::env::args().skip(1);
        match (args.next(), args.next()) {
            (Some(bootstrap), Some(run_id)) => Ok(Row { name, bootstrap, run_id, failed: false }),
            _ => Err("usage: matrix-rdkafka BOOTSTRAP RUN_ID".into()),
        }
    }

    pub fn topic(&self, suffix: &str) -> String {
        format!("{}-{}-{suffix}", self.name, self.run_id)
    }

    pub fn info(&self, key: &str, value: &str) {
        println!("INFO {key} {value}");
    }

    pub fn step(&mut self, name: &str, run: impl FnOnce(&Row) -> Result<(), Failure>) {
        match run(self) {
            Ok(()) => println!("PASS {name}"),
            Err(error) => {
                self.failed = true;
                println!("FAIL {name}: {}", error.to_string().replace('\n', " "));
            }
        }
    }

    pub fn exit_code(&self) -> i32 {
        i32::from(self.failed)
    }
}

pub fn check(holds: bool, otherwise: &str) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(otherwise.into()) }
}

pub fn wait_for(what: &str, mut done: impl FnMut() -> Result<bool, Failure>) -> Result<(), Failure> {
    let deadline = Instant::now() + WAIT_LIMIT;
    while Instant::now() < deadline {
        if done()? {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err(format!("timed out waiting for {what}").into())
}

pub fn config(row: &Row) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &row.bootstrap);
    config
}

pub fn consumer(
    row: &Row,
    topic: &str,
    group: &str,
    settings: &[(&'static str, String)],
) -> Result<BaseConsumer, Failure> {
    let mut config = config(row);
    config.set("group.id", group).set("auto.offset.reset", "earliest");
    for (key, value) in settings {
        config.set(*key, value);
    }
    let consumer: BaseConsumer = config.create()?;
    consumer.subscribe(&[topic])?;
    Ok(consumer)
}

fn key_of(partition: i32, offset: i64) -> String {
    format!("k-{partition}-{offset}")
}

fn value_of(partition: i32, offset: i64) -> String {
    format!("v-{partition}-{offset}-{}", "x".repeat((offset * 7 % 211) as usize))
}

fn headers_of(partition: i32, offset: i64) -> Vec<(&'static str, String)> {
    vec![("at", format!("{partition}/{offset}")), ("empty", String::new()), ("at", "again".into())]
}

/// The place of a record, once its bytes are what that place says.
pub fn check_record(message: &BorrowedMessage<'_>) -> Result<(i32, i64), Failure> {
    let (partition, offset) = (message.partition(), message.offset());
    let headers: Vec<(&str, &[u8])> = message
        .headers()
        .map(|found| found.iter().map(|h| (h.key, h.value.unwrap_or_default())).collect())
        .unwrap_or_default();
    let wanted = headers_of(partition, offset);
    let wanted: Vec<(&str, &[u8])> = wanted.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
    let same = message.key() == Some(key_of(partition, offset).as_bytes())
        && message.payload() == Some(value_of(partition, offset).as_bytes())
        && headers == wanted;
    check(same, &format!("record {partition}/{offset} has key {:?}, headers {headers:?}", message.key()))?;
    Ok((partition, offset))
}

/// Keeps what goes wrong with deliveries, so that a flush can tell.
#[derive(Clone, Default)]
struct Deliveries(Arc<Mutex<Vec<String>>>);

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<i64>;

    fn delivery(&self, result: &DeliveryResult<'_>, wanted: Box<i64>) {
        let wrong = match result {
            Ok(message) if message.offset() == *wanted => return,
            Ok(message) => format!("{wanted} was acknowledged at {}", message.offset()),
            Err((error, _)) => error.to_string(),
        };
        self.0.lock().expect("no delivery panics").push(wrong);
    }
}

fn send(
    producer: &BaseProducer<Deliveries>,
    topic: &str,
    partition: i32,
    offset: i64,
) -> Result<(), Failure> {
    let headers = headers_of(partition, offset)
        .iter()
        .fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: Some(value) }));
    let (key, value) = (key_of(partition, offset), value_of(partition, offset));
    let record = BaseRecord::with_opaque_to(topic, Box::new(offset))
        .partition(partition)
        .key(&key)
        .payload(&value)
        .headers(headers);
    producer.send(record).map_err(|(error, _)| error.into())
}

fn finish(producer: &BaseProducer<Deliveries>, deliveries: &Deliveries) -> Result<(), Failure> {
    producer.flush(Duration::from_secs(30))?;
    let wrong = deliveries.0.lock().expect("no delivery panics");
    check(wrong.is_empty(), &wrong.join("; "))
}

/// Writes some records to every partition and checks the offset of every acknowledgement.
pub fn produce_round(
    row: &Row,
    topic: &str,
    ends: &mut [i64],
    settings: &[(&str, &str)],
) -> Result<(), Failure> {
    let rounds = std::env::var("MATRIX_RECORDS").ok().and_then(|n| n.parse().ok()).unwrap_or(200);
    let mut config = config(row);
    for (key, value) in settings {
        config.set(*key, *value);
    }
    let deliveries = Deliveries::default();
    let producer: BaseProducer<Deliveries> = config.create_with_context(deliveries.clone())?;
    for _ in 0..rounds {
        for (partition, end) in ends.iter_mut().enumerate() {
            send(&producer, topic, partition as i32, *end)?;
            *end += 1;
        }
    }
    finish(&producer, &deliveries)
}

/// Accounts for every record of a topic, whoever consumed it.
#[derive(Default)]
struct Ledger {
    next: [i64; PARTITIONS as usize],
    repeats: u64,
    error: Option<String>,
}

impl Ledger {
    fn settled(&self, ends: &[i64]) -> bool {
        self.error.is_some() || self.next == ends
    }

    fn see(&mut self, message: &BorrowedMessage<'_>) {
        let place =
            check_record(message).map_err(|error| error.to_string()).and_then(|(partition, offset)| {
                let next = &mut self.next[partition as usize];
                if offset > *next {
                    return Err(format!("partition {partition}: {offset} follows {}", *next - 1));
                }
                self.repeats += u64::from(offset < *next);
                *next = (*next).max(offset + 1);
                Ok(())
            });
        if let Err(error) = place {
            self.error.get_or_insert(error);
        }
    }
}

/// The partitions that a member owns, and those it has read from.
type Partitions = Mutex<(Vec<i32>, Vec<i32>)>;

fn take(consumer: &BaseConsumer, ledger: &Mutex<Ledger>, partitions: &Partitions) -> Result<(), Failure> {
    if let Some(message) = consumer.poll(Duration::from_millis(100)) {
        let message = message?;
        ledger.lock().expect("the ledger is whole").see(&message);
        let read = &mut partitions.lock().expect("the state is whole").1;
        if !read.contains(&message.partition()) {
            read.push(message.partition());
        }
    }
    Ok(())
}

/// A consumer in a thread of its own, with what it owns and what it has read from.
struct Member {
    state: Arc<Partitions>,
    stopping: Arc<AtomicBool>,
    thread: JoinHandle<Result<(), Failure>>,
}

impl Member {
    fn start(consumer: BaseConsumer, ledger: Arc<Mutex<Ledger>>) -> Member {
        let state = Arc::new(Mutex::new((Vec::new(), Vec::new())));
        let stopping = Arc::new(AtomicBool::new(false));
        let (shared, stop) = (state.clone(), stopping.clone());
        let thread = std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                take(&consumer, &ledger, &shared)?;
                let mut owned: Vec<i32> =
                    consumer.assignment()?.elements().iter().map(|p| p.partition()).collect();
                owned.sort_unstable();
                shared.lock().expect("the state is whole").0 = owned;
            }
            // Dropping the consumer would poll until it is closed and lose, and yet commit, what it polls.
            consumer.close_queue()?;
            while !consumer.closed() {
                take(&consumer, &ledger, &shared)?;
            }
            Ok(())
        });
        Member { state, stopping, thread }
    }

    fn owned(&self) -> Vec<i32> {
        self.state.lock().expect("the state is whole").0.clone()
    }

    fn partitions_read(&self) -> usize {
        self.state.lock().expect("the state is whole").1.len()
    }

    fn stop(self) -> Result<(), Failure> {
        self.stopping.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| "the consumer panicked")?
    }
}

fn halves(one: &Member, two: &Member) -> bool {
    let mut all = [one.owned(), two.owned()].concat();
    all.sort_unstable();
    one.owned().len() == two.owned().len() && all == (0..PARTITIONS).collect::<Vec<_>>()
}

/// The flag that stops the load, and the thread that gives the log ends when it is joined.
type Load = (Arc<AtomicBool>, JoinHandle<Result<Vec<i64>, Failure>>);

/// Produces to every partition in the background; joining gives the log ends.
fn load(row: &Row, topic: &str, ends: &[i64]) -> Result<Load, Failure> {
    let deliveries = Deliveries::default();
    let producer: BaseProducer<Deliveries> = config(row).create_with_context(deliveries.clone())?;
    let stopping = Arc::new(AtomicBool::new(false));
    let (stop, topic, mut ends) = (stopping.clone(), topic.to_owned(), ends.to_vec());
    let thread = std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            for (partition, end) in ends.iter_mut().enumerate() {
                send(&producer, &topic, partition as i32, *end)?;
                *end += 1;
            }
            producer.poll(Duration::from_millis(20));
        }
        finish(&producer, &deliveries)?;
        Ok(ends)
    });
    Ok((stopping, thread))
}

/// A second member joins while the first one consumes a live load, then leaves again.
pub fn group(
    row: &mut Row,
    prefix: &str,
    topic: &str,
    ends: &mut Vec<i64>,
    settings: &[(&'static str, String)],
) {
    let group = row.topic(&prefix.replace(':', "-"));
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let (mut first, mut second, mut producing) = (None, None, None);
    let start = |row: &Row| -> Result<Member, Failure> {
        Ok(Member::start(consumer(row, topic, &group, settings)?, ledger.clone()))
    };
    row.step(&format!("{prefix}:first-member"), |row| {
        producing = Some(load(row, topic, ends)?);
        let member = first.insert(start(row)?);
        wait_for("records of all partitions", || Ok(member.partitions_read() == PARTITIONS as usize))
    });
    row.step(&format!("{prefix}:second-joins"), |row| {
        let (one, two) = (first.as_ref().ok_or("no first member")?, second.insert(start(row)?));
        wait_for("three partitions on each member", || Ok(halves(one, two)))?;
        wait_for("records on the second member", || Ok(two.partitions_read() == 3))
    });
    row.step(&format!("{prefix}:second-leaves"), |_| {
        second.take().ok_or("no second member")?.stop()?;
        let one = first.as_ref().ok_or("no first member")?;
        wait_for("all partitions on the first member", || Ok(one.owned().len() == PARTITIONS as usize))
    });
    row.step(&format!("{prefix}:all-accounted"), |_| {
        let (stopping, thread) = producing.take().ok_or("no load")?;
        stopping.store(true, Ordering::Relaxed);
        *ends = thread.join().map_err(|_| "the load panicked")??;
        let complete =
            wait_for("every record", || Ok(ledger.lock().expect("the ledger is whole").settled(ends)));
        first.take().ok_or("no first member")?.stop()?;
        let ledger = ledger.lock().expect("the ledger is whole");
        complete.map_err(|error| format!("{error}: consumed {:?} of {ends:?}", ledger.next))?;
        check(ledger.error.is_none(), ledger.error.as_deref().unwrap_or_default())
    });
    let repeats = ledger.lock().expect("the ledger is whole").repeats;
    row.info(&format!("{prefix}-repeats"), &repeats.to_string());
}

/// A static member that comes back within its session timeout gets the same partitions again.
pub fn static_members(row: &mut Row, topic: &str) {
    let group = row.topic("static");
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let start = |row: &Row, name: &str| -> Result<Member, Failure> {
        let settings = [("group.instance.id", name.to_owned())];
        Ok(Member::start(consumer(row, topic, &group, &settings)?, ledger.clone()))
    };
    row.step("membership:static", |row| {
        let (one, two) = (start(row, "one")?, start(row, "two")?);
        wait_for("three partitions on each member", || Ok(halves(&one, &two)))?;
        let before = two.owned();
        two.stop()?;
        let two = start(row, "two")?;
        wait_for("three partitions on each member after the return", || Ok(halves(&one, &two)))?;
        check(two.owned() == before, &format!("owned {before:?}, then {:?}", two.owned()))?;
        one.stop()?;
        two.stop()
    });
}
