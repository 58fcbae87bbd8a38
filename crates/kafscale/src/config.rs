//! Stage two of the settings: raw arguments become one validated `Config`.
//!
//! Everything that needs two settings at once is decided here, so that the rest of the program sees values that
//! hold: no optional backends, no limits that contradict each other.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kafscale_meta::{EtcdOptions, MetaUrl};

use crate::backend::StoreUrl;
use crate::cli::{BrokerArgs, DataArgs, GroupArgs, LimitArgs, LogArgs, LoggingArgs, NetworkArgs, TopicArgs};
use crate::command_line::Given;
use crate::failure::Failure;
use crate::mcp::McpArgs;
use crate::s3::process_variables;
use crate::units::{HostPort, ListenAddr, Span};

/// Smallest limits under which ordinary clients still work.
const MIN_REQUEST_BYTES: u64 = 64 << 10;
const MIN_WAL_FILE_BYTES: u64 = 1 << 20;
const MIN_SEGMENT_BYTES: u64 = 1 << 20;
/// Kafka's sizes and times are of 32 bits where they go over the wire.
const MAX_I32: u64 = i32::MAX as u64;

/// How long a broker alone may be stopped before it joins its own cluster anew.
const ALONE_SESSION_TIMEOUT: Duration = Duration::from_secs(30);

/// Settings of one broker, checked alone and together.
#[derive(Debug)]
pub struct Config {
    pub node_id: i32,
    pub cluster_name: String,
    pub rack: Option<String>,
    pub store: StoreUrl,
    pub meta: MetaUrl,
    pub etcd: EtcdOptions,
    /// What other commands need to reach the same store and the same metadata, beyond their addresses.
    pub reached_with: Given,
    /// Where and how the log of this broker is written.
    pub log_store: kafscale_storage::StoreUrl,
    pub listen: SocketAddr,
    pub advertise: Advertise,
    pub internal: Option<InternalListener>,
    pub metrics_listen: SocketAddr,
    pub advertise_metrics: Option<HostPort>,
    /// How long a broker is taken for alive that is not heard of.
    pub session_timeout: Duration,
    pub limits: LimitArgs,
    pub topics: TopicArgs,
    pub log: LogArgs,
    pub groups: GroupArgs,
    pub mcp: McpArgs,
    pub logging: LoggingArgs,
}

/// The listener for what is inside the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InternalListener {
    pub listen: SocketAddr,
    pub advertise: Advertise,
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
    pub fn from_args(args: BrokerArgs, host_name: impl Fn() -> String) -> Result<Self, Failure> {
        let BrokerArgs { config: _, data, etcd, s3, network, limits, topics, log, groups, mcp, logging } =
            args;
        check_cluster_name(&data.cluster_name)?;
        check_limits(&limits, &topics)?;
        check_log(&log)?;
        check_groups(&groups)?;
        let (store, meta) = backends(&data)?;
        let mut reached_with = Given::default();
        if store.is_shared() {
            reached_with = reached_with.and(Given::s3(&s3, process_variables()));
        }
        if matches!(meta, MetaUrl::Etcd(_)) {
            reached_with = reached_with.and(Given::etcd(&etcd));
        }
        let etcd = etcd.options()?;
        let log_store = match &store {
            StoreUrl::File(dir) => kafscale_storage::StoreUrl::File(dir.clone()),
            StoreUrl::Memory => kafscale_storage::StoreUrl::Memory,
            StoreUrl::S3 { bucket, prefix } => {
                kafscale_storage::StoreUrl::S3(Box::new(s3.config(bucket, prefix, process_variables())?))
            }
        };
        let session_timeout = session_timeout(&network, &meta)?;
        check_addresses(&network)?;
        check_advertised(&network)?;
        let NetworkArgs { listen, advertise, listen_internal, advertise_internal, metrics_listen, .. } =
            network;
        let (listen, metrics_listen) = (listen.0, metrics_listen.0);
        let advertise = advertised(listen, advertise, &host_name);
        let internal = listen_internal.map(|ListenAddr(listen)| InternalListener {
            listen,
            advertise: advertised(listen, advertise_internal, &host_name),
        });
        let DataArgs { node_id, cluster_name, rack, .. } = data;
        Ok(Self {
            node_id,
            cluster_name,
            rack,
            store,
            meta,
            etcd,
            reached_with,
            log_store,
            listen,
            advertise,
            internal,
            metrics_listen,
            advertise_metrics: network.advertise_metrics,
            session_timeout,
            limits,
            topics,
            log,
            groups,
            mcp,
            logging,
        })
    }

    /// True when a restart finds nothing, because a backend only lives in memory.
    pub fn forgets(&self) -> bool {
        self.store == StoreUrl::Memory || self.meta == MetaUrl::Memory
    }
}

/// A wildcard address is advertised under a name that clients can connect to.
fn advertised(listen: SocketAddr, named: Option<HostPort>, host_name: impl Fn() -> String) -> Advertise {
    match named {
        Some(named) => Advertise::Named(named),
        None if listen.ip().is_unspecified() => Advertise::Named(HostPort { host: host_name(), port: 0 }),
        None => Advertise::ListenAddress,
    }
}

fn check_addresses(network: &NetworkArgs) -> Result<(), Failure> {
    let internal = network.listen_internal.as_ref().map(|internal| ("--listen-internal", internal.0));
    let all = [("--listen", network.listen.0), ("--metrics-listen", network.metrics_listen.0)];
    let all: Vec<_> = all.into_iter().chain(internal).collect();
    for (at, (flag, address)) in all.iter().enumerate() {
        if let Some((other, _)) = all[..at].iter().find(|(_, other)| other == address && other.port() != 0) {
            return Err(Failure::usage(format!(
                "{other} and {flag} are both {address}; they need two ports"
            )));
        }
    }
    Ok(())
}

/// Whoever is told to connect to "any address" cannot.
fn check_advertised(network: &NetworkArgs) -> Result<(), Failure> {
    let advertised = [
        ("--advertise", &network.advertise),
        ("--advertise-internal", &network.advertise_internal),
        ("--advertise-metrics", &network.advertise_metrics),
    ];
    for (flag, named) in advertised {
        let host = named.as_ref().and_then(|named| named.host.parse::<IpAddr>().ok());
        require(!host.is_some_and(|ip| ip.is_unspecified()), || {
            format!(
                "{flag} names any address, to which nobody can connect: name this host as others reach it, such as \
                 kafka.example:9092, or leave {flag} out for the name of this host"
            )
        })?;
    }
    Ok(())
}

fn session_timeout(network: &NetworkArgs, meta: &MetaUrl) -> Result<Duration, Failure> {
    let timeout = network.broker_session_timeout;
    require((Span::seconds(2)..=Span::seconds(3600)).contains(&timeout), || {
        format!("--broker-session-timeout is {timeout}; it must be between 2s and 1h")
    })?;
    match meta {
        MetaUrl::Etcd(_) => Ok(timeout.0),
        // Nobody else is there who could take anything over.
        MetaUrl::File(_) | MetaUrl::Memory => Ok(timeout.0.max(ALONE_SESSION_TIMEOUT)),
    }
}

fn backends(data: &DataArgs) -> Result<(StoreUrl, MetaUrl), Failure> {
    let local = || absolute(&data.data_dir);
    let store = match &data.store {
        Some(url @ (StoreUrl::Memory | StoreUrl::S3 { .. })) => url.clone(),
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

/// Either the setting is fine, or this is what is wrong with it.
fn require(holds: bool, message: impl FnOnce() -> String) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(Failure::usage(message())) }
}

fn check_limits(limits: &LimitArgs, topics: &TopicArgs) -> Result<(), Failure> {
    let request_max = limits.socket_request_max_bytes;
    require((MIN_REQUEST_BYTES..=MAX_I32).contains(&request_max.0), || {
        format!("--socket-request-max-bytes is {request_max}; it must be between 64KiB and 2147483647")
    })?;
    require(limits.request_memory >= request_max, || {
        let have = limits.request_memory;
        format!(
            "--request-memory ({have}) must hold one request of --socket-request-max-bytes ({request_max})"
        )
    })?;
    require(topics.max_message_bytes <= request_max, || {
        let batch_max = topics.max_message_bytes;
        format!(
            "--max-message-bytes ({batch_max}) is more than --socket-request-max-bytes ({request_max}), so such a \
             batch could never be sent"
        )
    })?;
    require((MIN_SEGMENT_BYTES..=MAX_I32).contains(&topics.segment_bytes.0), || {
        format!("--segment-bytes is {}; it must be between 1MiB and 2147483647", topics.segment_bytes)
    })?;
    require(topics.num_partitions <= limits.max_partitions_per_topic, || {
        let (count, max) = (topics.num_partitions, limits.max_partitions_per_topic);
        format!("--num-partitions ({count}) is more than --max-partitions-per-topic ({max})")
    })?;
    more_than_zero("--connections-max-idle", limits.connections_max_idle)?;
    more_than_zero("--write-stall-timeout", limits.write_stall_timeout)
}

fn check_log(log: &LogArgs) -> Result<(), Failure> {
    require(log.wal_file_bytes.0 >= MIN_WAL_FILE_BYTES, || {
        format!("--wal-file-bytes is {}; it must be at least 1MiB", log.wal_file_bytes)
    })?;
    require(log.wal_max_bytes.0 >= log.wal_file_bytes.0.saturating_mul(2), || {
        let (max, file) = (log.wal_max_bytes, log.wal_file_bytes);
        format!("--wal-max-bytes ({max}) must be at least two files of --wal-file-bytes ({file})")
    })?;
    require(log.wal_object_bytes.0 >= 1, || "--wal-object-bytes must be more than 0".to_owned())?;
    more_than_zero("--log-retention-check-interval", log.log_retention_check_interval)?;
    more_than_zero("--log-cleaner-backoff", log.log_cleaner_backoff)
}

fn check_groups(groups: &GroupArgs) -> Result<(), Failure> {
    let (min, max) = (groups.group_min_session_timeout, groups.group_max_session_timeout);
    require(min <= max, || {
        format!("--group-min-session-timeout ({min}) is longer than --group-max-session-timeout ({max})")
    })?;
    require(max <= Span::ms(MAX_I32), || {
        format!("--group-max-session-timeout ({max}) is more than 24 days")
    })?;
    more_than_zero("--offsets-retention-check-interval", groups.offsets_retention_check_interval)
}

fn more_than_zero(flag: &str, span: Span) -> Result<(), Failure> {
    require(!span.0.is_zero(), || format!("{flag} must be more than 0"))
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
        let cases: [(&[&str], &str); 12] = [
            (&["--advertise", "0.0.0.0:9092"], "--advertise names any address"),
            (
                &["--listen-internal", "127.0.0.1:7", "--advertise-internal", "[::]:9092"],
                "--advertise-internal names any address",
            ),
            (&["--advertise-metrics", "0.0.0.0:0"], "--advertise-metrics names any address"),
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
