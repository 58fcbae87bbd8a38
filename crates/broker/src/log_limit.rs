//! Lines of the log that peers can cause: so many of each kind in a time, and the number of those that were left out.
//!
//! A peer that is refused a thousand times a second must not fill the disk with the reasons, nor hide what else happens.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

/// Lines of one kind that are written in [`PERIOD`].
const LINES_PER_PERIOD: u32 = 10;
const PERIOD: Duration = Duration::from_secs(10);
/// How often the numbers of lines that were left out are written.
const SUMMARY_INTERVAL: Duration = Duration::from_secs(60);

/// What a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// A connection was closed for what it sent.
    ConnectionRefused,
    /// A connection was closed because its address has too many.
    AddressFull,
    /// All connections are taken.
    AllTaken,
    AcceptFailed,
    TopicsCreated,
    TopicsNotCreated,
    TransactionRefused,
    NoProducerId,
    GroupRebalances,
    GroupDeleted,
    TooManyGroups,
    MembersFull,
    OffsetsFull,
    WriteFailed,
    AnswerRefused,
    /// What the MCP library says about requests.
    AgentRequests,
    /// What the MCP server says for itself.
    AgentServer,
    /// SIGHUP: the settings were read anew.
    SettingsRead,
    SettingsUnread,
}

const KINDS: [(Line, &str); 19] = [
    (Line::ConnectionRefused, "connections closed for what they sent"),
    (Line::AddressFull, "connections closed because their address has too many"),
    (Line::AllTaken, "times that all connections were taken"),
    (Line::AcceptFailed, "connections that could not be accepted"),
    (Line::TopicsCreated, "topics created because clients asked for them"),
    (Line::TopicsNotCreated, "topics that could not be created automatically"),
    (Line::TransactionRefused, "transactions refused"),
    (Line::NoProducerId, "producer ids that could not be given out"),
    (Line::GroupRebalances, "groups that rebalance"),
    (Line::GroupDeleted, "groups deleted"),
    (Line::TooManyGroups, "groups refused because there are too many"),
    (Line::MembersFull, "members refused because they take too much memory"),
    (Line::OffsetsFull, "commits refused because offsets take too much"),
    (Line::WriteFailed, "groups and offsets that could not be written"),
    (Line::AnswerRefused, "requests refused because of the size of their answer"),
    (Line::AgentRequests, "requests of MCP clients that failed"),
    (Line::AgentServer, "what the MCP server had to say"),
    (Line::SettingsRead, "times that the log level was read anew"),
    (Line::SettingsUnread, "times that the settings could not be read anew"),
];

#[derive(Debug, Default, Clone, Copy)]
struct Count {
    period_began: Option<Instant>,
    written: u32,
    left_out: u64,
}

/// The counts of all kinds.
#[derive(Debug, Default)]
pub struct LogLimits {
    counts: Mutex<[Count; KINDS.len()]>,
}

impl LogLimits {
    /// Whether a line may be written now; if not, it is counted.
    pub fn allow(&self, line: Line) -> bool {
        let now = Instant::now();
        let mut counts = self.counts.lock();
        let count = &mut counts[line as usize];
        if count.period_began.is_none_or(|began| now.duration_since(began) >= PERIOD) {
            (count.period_began, count.written) = (Some(now), 0);
        }
        let allowed = count.written < LINES_PER_PERIOD;
        if allowed {
            count.written += 1;
        } else {
            count.left_out += 1;
        }
        allowed
    }

    /// What was left out since this was asked last.
    fn take_left_out(&self) -> Vec<(&'static str, u64)> {
        let mut counts = self.counts.lock();
        let taken = KINDS.iter().map(|(line, what)| {
            let left_out = std::mem::take(&mut counts[*line as usize].left_out);
            (*what, left_out)
        });
        taken.filter(|(_, left_out)| *left_out > 0).collect()
    }

    /// Writes what was left out since the last time.
    pub fn summarize(&self) {
        for (what, left_out) in self.take_left_out() {
            tracing::warn!(left_out, "lines left out: {what}");
        }
    }
}

/// Writes what was left out now and then, until `stop`.
pub async fn summaries(limits: Vec<std::sync::Arc<LogLimits>>, stop: CancellationToken) {
    let mut ticks = interval_at(Instant::now() + SUMMARY_INTERVAL, SUMMARY_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        limits.iter().for_each(|limits| limits.summarize());
    }
    limits.iter().for_each(|limits| limits.summarize());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_counted_instead_of_written() {
        let limits = LogLimits::default();
        let written = (0..1000).filter(|_| limits.allow(Line::ConnectionRefused)).count();
        assert_eq!(written, LINES_PER_PERIOD as usize);
        assert!(limits.allow(Line::AddressFull), "other kinds have room of their own");
        assert_eq!(limits.take_left_out(), [(KINDS[0].1, 1000 - u64::from(LINES_PER_PERIOD))]);
        assert_eq!(limits.take_left_out(), []);
        tokio::time::advance(PERIOD).await;
        assert!(limits.allow(Line::ConnectionRefused), "a new period has begun");
    }

    #[test]
    fn every_kind_stands_in_its_place() {
        assert!(KINDS.iter().enumerate().all(|(place, (line, _))| *line as usize == place));
    }
}
