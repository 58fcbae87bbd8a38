//! Stage two of the settings: raw arguments become one validated `Config`.
//!
//! Everything that needs two settings at once is decided here, so that the rest of the program sees values that
//! hold: no optional backends, no limits that contradict each other.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use kafscale_meta::MetaUrl;

use crate::backend::StoreUrl;
use crate::cli::{BrokerArgs, DataArgs, GroupArgs, LimitArgs, LogArgs, LoggingArgs, NetworkArgs, TopicArgs};
use crate::failure::Failure;
use crate::units::{HostPort, Span};

/// Smallest limits under which ordinary clients still work.
const MIN_REQUEST_BYTES: u64 = 64 << 10;
const MIN_WAL_FILE_BYTES: u64 = 1 << 20;

/// Settings of one broker, checked alone and together.
#[derive(Debug)]
pub struct Config {
    pub node_id: i32,
    pub cluster_name: String,
    pub rack: Option<String>,
    pub store: StoreUrl,
    pub meta: MetaUrl,
    pub listen: SocketAddr,
    pub metrics_listen: SocketAddr,
    pub advertise: Advertise,
    pub limits: LimitArgs,
    pub topics: TopicArgs,
    pub log: LogArgs,
    pub groups: GroupArgs,
    pub logging: LoggingArgs,
}

/// What clients are told to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Advertise {
    /// The address that the listener got, port included.
    ListenAddress,
    /// A name of the user's, or of this host. Port 0 stands for the port that the listener got.
    Named(HostPort),
}

impl Config {
    /// Checks the arguments together. `host_name` is asked only when clients need a name for a wildcard address.
    pub fn from_args(args: BrokerArgs, host_name: impl FnOnce() -> String) -> Result<Self, Failure> {
        let BrokerArgs { config: _, data, network, limits, topics, log, groups, logging } = args;
        check_cluster_name(&data.cluster_name)?;
        check_limits(&limits, &topics, &log, &groups)?;
        let (store, meta) = backends(&data)?;
        let NetworkArgs { listen, advertise, metrics_listen } = network;
        let (listen, metrics_listen) = (listen.0, metrics_listen.0);
        if listen == metrics_listen && listen.port() != 0 {
            return Err(Failure::usage(format!(
                "--listen and --metrics-listen are both {listen}; they need two ports"
            )));
        }
        let advertise = match advertise {
            Some(named) => Advertise::Named(named),
            None if listen.ip().is_unspecified() => Advertise::Named(HostPort { host: host_name(), port: 0 }),
            None => Advertise::ListenAddress,
        };
        let DataArgs { node_id, cluster_name, rack, .. } = data;
        Ok(Self {
            node_id,
            cluster_name,
            rack,
            store,
            meta,
            listen,
            metrics_listen,
            advertise,
            limits,
            topics,
            log,
            groups,
            logging,
        })
    }

    /// True when a restart finds nothing, because a backend only lives in memory.
    pub fn forgets(&self) -> bool {
        self.store == StoreUrl::Memory || self.meta == MetaUrl::Memory
    }
}

fn backends(data: &DataArgs) -> Result<(StoreUrl, MetaUrl), Failure> {
    let local = || absolute(&data.data_dir);
    let store = match &data.store {
        Some(StoreUrl::Memory) => StoreUrl::Memory,
        Some(StoreUrl::File(path)) => StoreUrl::File(absolute(path)?),
        None => StoreUrl::File(local()?),
    };
    let meta = match &data.meta {
        Some(MetaUrl::File(path)) => MetaUrl::File(absolute(path)?),
        Some(url @ (MetaUrl::Memory | MetaUrl::Etcd(_))) => url.clone(),
        None => MetaUrl::File(local()?),
    };
    if (store == StoreUrl::Memory) != (meta == MetaUrl::Memory) {
        return Err(Failure::usage(
            "--store and --meta must both be memory: or both be kept: topics without their records, or records without \
             their topics, are of no use after a restart.",
        ));
    }
    Ok((store, meta))
}

/// Absolute, so that messages name the place and a later change of directory does not move it.
fn absolute(dir: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(dir).map_err(|e| Failure::usage(format!("the directory `{}`: {e}", dir.display())))
}

fn check_cluster_name(name: &str) -> Result<(), Failure> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if name.is_empty() || name.len() > 128 || !name.chars().all(allowed) {
        return Err(Failure::usage(format!(
            "--cluster-name `{name}` must be 1 to 128 letters, digits, dots, dashes or underscores"
        )));
    }
    Ok(())
}

fn check_limits(
    limits: &LimitArgs,
    topics: &TopicArgs,
    log: &LogArgs,
    groups: &GroupArgs,
) -> Result<(), Failure> {
    let request_max = limits.socket_request_max_bytes;
    let rules = [
        (
            request_max.0 >= MIN_REQUEST_BYTES && request_max.0 <= i32::MAX as u64,
            format!("--socket-request-max-bytes is {request_max}; it must be between 64KiB and 2147483647"),
        ),
        (
            limits.request_memory >= request_max,
            format!(
                "--request-memory ({}) must hold one request of --socket-request-max-bytes ({request_max})",
                limits.request_memory
            ),
        ),
        (
            topics.max_message_bytes <= request_max,
            format!(
                "--max-message-bytes ({}) is more than --socket-request-max-bytes ({request_max}), so such a batch could never be sent",
                topics.max_message_bytes
            ),
        ),
        (
            topics.segment_bytes.0 <= i32::MAX as u64 && topics.segment_bytes.0 >= 1 << 20,
            format!("--segment-bytes is {}; it must be between 1MiB and 2147483647", topics.segment_bytes),
        ),
        (
            log.wal_file_bytes.0 >= MIN_WAL_FILE_BYTES,
            format!("--wal-file-bytes is {}; it must be at least 1MiB", log.wal_file_bytes),
        ),
        (
            log.wal_max_bytes.0 >= log.wal_file_bytes.0.saturating_mul(2),
            format!(
                "--wal-max-bytes ({}) must be at least two files of --wal-file-bytes ({})",
                log.wal_max_bytes, log.wal_file_bytes
            ),
        ),
        (
            groups.group_min_session_timeout <= groups.group_max_session_timeout,
            format!(
                "--group-min-session-timeout ({}) is longer than --group-max-session-timeout ({})",
                groups.group_min_session_timeout, groups.group_max_session_timeout
            ),
        ),
        (
            topics.num_partitions <= limits.max_partitions_per_topic,
            format!(
                "--num-partitions ({}) is more than --max-partitions-per-topic ({})",
                topics.num_partitions, limits.max_partitions_per_topic
            ),
        ),
        (
            groups.group_max_session_timeout <= Span::ms(i32::MAX as u64),
            format!(
                "--group-max-session-timeout ({}) is more than 24 days",
                groups.group_max_session_timeout
            ),
        ),
        (
            !groups.offsets_retention_check_interval.0.is_zero(),
            "--offsets-retention-check-interval must be more than 0".to_owned(),
        ),
        (!limits.connections_max_idle.0.is_zero(), "--connections-max-idle must be more than 0".to_owned()),
        (!limits.write_stall_timeout.0.is_zero(), "--write-stall-timeout must be more than 0".to_owned()),
        (
            !log.log_retention_check_interval.0.is_zero(),
            "--log-retention-check-interval must be more than 0".to_owned(),
        ),
    ];
    match rules.into_iter().find(|(holds, _)| !holds) {
        Some((_, message)) => Err(Failure::usage(message)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn config(args: &[&str]) -> Result<Config, String> {
        let cli =
            Cli::try_parse_from(["kafscale", "broker"].iter().chain(args)).map_err(|e| e.to_string())?;
        let Command::Broker(args) = cli.command else { panic!("not a broker") };
        Config::from_args(*args, || "host-name".into()).map_err(|failure| match failure {
            Failure::Usage(message) => message,
            other => panic!("not a usage failure: {other:?}"),
        })
    }

    #[test]
    fn defaults_are_valid_and_keep_data_in_one_directory() {
        let config = config(&[]).unwrap();
        let here = std::env::current_dir().unwrap().join("kafscale-data");
        assert_eq!(config.store, StoreUrl::File(here.clone()));
        assert_eq!(config.meta, MetaUrl::File(here));
        assert_eq!(config.advertise, Advertise::ListenAddress);
        assert!(!config.forgets());
    }

    #[test]
    fn a_wildcard_address_is_advertised_under_the_host_name() {
        let named = |host: &str, port| Advertise::Named(HostPort { host: host.into(), port });
        assert_eq!(config(&["--listen", "0.0.0.0:9092"]).unwrap().advertise, named("host-name", 0));
        let args = ["--listen", "0.0.0.0:9092", "--advertise", "kafka.example:19092"];
        assert_eq!(config(&args).unwrap().advertise, named("kafka.example", 19092));
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        let cases: [(&[&str], &str); 9] = [
            (&["--store", "memory:"], "must both be memory:"),
            (&["--listen", "127.0.0.1:5", "--metrics-listen", "127.0.0.1:5"], "two ports"),
            (&["--request-memory", "1MiB"], "--request-memory"),
            (&["--socket-request-max-bytes", "1KiB"], "--socket-request-max-bytes"),
            (&["--max-message-bytes", "1GiB"], "--max-message-bytes"),
            (&["--wal-max-bytes", "64MiB"], "--wal-max-bytes"),
            (&["--segment-bytes", "4GiB"], "--segment-bytes"),
            (&["--group-min-session-timeout", "1h"], "--group-min-session-timeout"),
            (&["--cluster-name", "a/b"], "--cluster-name"),
        ];
        for (args, expected) in cases {
            let message = config(args).unwrap_err();
            assert!(message.contains(expected), "{args:?}: {message}");
        }
    }

    #[test]
    fn memory_backends_are_known_to_forget() {
        assert!(config(&["--store", "memory:", "--meta", "memory:"]).unwrap().forgets());
    }
}
