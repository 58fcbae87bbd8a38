//! The command line: subcommands, their help, and the raw arguments of each.
//!
//! Stage one of two. clap settles flag over variable over TOML (see `settings_file`) over default and checks
//! each value alone; `config` then checks the values together. Every setting is declared here once: its
//! variable is `KAFSCALE_` and its TOML key is the name of the flag, which a test and docs/configuration.md hold to.

use std::path::PathBuf;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use kafscale_meta::MetaUrl;
use kafscale_settings::perimeter::PerimeterArgs;
use kafscale_settings::sql::SqlArgs;

use crate::audit::AuditCommand;
use crate::backend::{EtcdArgs, StoreUrl};
use crate::health::HealthCommand;
use crate::logging::LogLevel;
use crate::mcp::{McpArgs, McpCommand};
use crate::restore::{self, RestoreArgs};
use crate::s3::S3Args;
use crate::set_store::{self, SetStoreArgs};
use crate::units::{ByteSize, HostPort, Limit, ListenAddr, Span};
use crate::verify::{self, VerifyArgs};

const TOP_EXAMPLES: &str = "\
Examples:
  kafscale demo                   a broker with sample topics and groups, to look around
  kafscale broker                 a broker for development, data in ./kafscale-data
  kafscale broker --data-dir /var/lib/kafscale \\
      --listen 0.0.0.0:9092 --advertise kafka.example:9092
  kafscale broker --config kafscale.toml
  kafscale sql                    topics as tables, for psql on 127.0.0.1:5432
  kafscale perimeter              data collections for agents under rules, on 127.0.0.1:8091/mcp
  kafscale mcp --meta etcd://etcd:2379   the cluster for AI agents, on http://127.0.0.1:8090/mcp
  kcat -b 127.0.0.1:9092 -L       ask a running broker for its topics

Where to look next:
  kafscale broker --help          every setting, with defaults
  docs/configuration.md           the settings as a table: flag, variable, TOML key
  docs/operations.md              metrics, health, data directory, troubleshooting";

const BROKER_EXAMPLES: &str = "\
Every setting can be given in three ways; the first one found wins:
  a flag         --wal-max-bytes 2GiB
  a variable     KAFSCALE_WAL_MAX_BYTES=2GiB
  a TOML key     wal-max-bytes = \"2GiB\"        (in the file named by --config or KAFSCALE_CONFIG)

Sizes: 1048576, 64MiB, 1GB. Times: 500ms, 5s, 10m, 12h, 7d.

Exit status: 0 stopped cleanly, 1 failed at run time, 2 a wrong setting.";

const DEMO_EXAMPLES: &str = "\
All settings of `kafscale broker` hold here too. Stop with Ctrl-C; start again to go on with the same data;
remove the data directory to begin anew.";

const MCP_EXAMPLES: &str = "\
Examples:
  kafscale mcp --meta etcd://etcd-1:2379,etcd-2:2379
      for agents on this machine: http://127.0.0.1:8090/mcp, without a token
  KAFSCALE_MCP_ETCD_ENDPOINTS=etcd-1:2379 KAFSCALE_MCP_AUTH_TOKEN=$TOKEN \\
      kafscale mcp --mcp-http-addr 0.0.0.0:8090 --mcp-allowed-hosts mcp.example
      for agents elsewhere, who send the header Authorization: Bearer $TOKEN
  kafscale mcp --meta etcd://etcd-1:2379 --stdio
      for a client that starts programs; nothing listens

An MCP client is told:
  { \"mcpServers\": { \"kafscale\": { \"type\": \"http\", \"url\": \"http://localhost:8090/mcp\",
    \"headers\": { \"Authorization\": \"Bearer TOKEN\" } } } }

The server reads the metadata and the brokers' metrics. It opens no Kafka connection and writes nothing but its audit log.
Every flag has a variable: --mcp-audit-log is KAFSCALE_MCP_AUDIT_LOG. More in docs/mcp.md.";

const AUDIT_EXAMPLES: &str = "\
Examples:
  kafscale audit verify /var/log/kafscale/audit.jsonl
  kafscale audit report /var/log/kafscale/audit.jsonl --since 2026-11-01 --format html > page.html

Exit status: 0 every line holds, 1 a line was changed, removed or moved, or the file cannot be read.";

/// A Kafka-compatible broker in one binary: no JVM, no ZooKeeper, no setup.
///
/// Ordinary Kafka clients connect to it as they are. The log and the metadata are kept in a local directory,
/// and a record is acknowledged only when it is on disk.
#[derive(Debug, Parser)]
#[command(name = "kafscale", version, after_help = TOP_EXAMPLES, arg_required_else_help = true)]
#[command(disable_help_subcommand = true, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// The command line with the variables left out of the help: the rule for their names is told once, below it.
pub fn command() -> clap::Command {
    // In the demo nobody waits for more members than those that start with it.
    let at_once = |arg: clap::Arg| arg.default_value("200ms");
    Cli::command()
        .mut_subcommand("demo", |sub| sub.mut_arg("group_initial_rebalance_delay", at_once))
        .mut_subcommands(|sub| sub.mut_args(|arg| arg.hide_env(true)).mut_args(negative_is_a_value))
}

/// `--node-id -1` is a wrong number, not an unknown argument.
fn negative_is_a_value(arg: clap::Arg) -> clap::Arg {
    let is_value = arg.get_long().is_some() && arg.get_action().takes_values();
    if is_value { arg.allow_negative_numbers(true) } else { arg }
}

impl Command {
    /// What it logs, where it runs until it is stopped.
    pub fn logging(&self) -> Option<&LoggingArgs> {
        match self {
            Command::Demo(args) => Some(&args.broker.logging),
            Command::Broker(args) => Some(&args.logging),
            Command::Mcp(command) => Some(&command.logging),
            Command::Workload(args) => Some(&args.logging),
            Command::Health(_)
            | Command::Audit { .. }
            | Command::Restore(_)
            | Command::SetStore(_)
            | Command::Sql(_)
            | Command::Perimeter(_)
            | Command::Verify(_)
            | Command::Completions { .. }
            | Command::ConfigDocs => None,
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a broker with sample topics, records and consumer groups, to try things out
    #[command(after_help = DEMO_EXAMPLES)]
    Demo(Box<DemoArgs>),
    /// Run a broker
    #[command(after_help = BROKER_EXAMPLES)]
    Broker(Box<BrokerArgs>),
    /// Serve AI agents (Model Context Protocol), read-only, for brokers on shared metadata
    #[command(after_help = MCP_EXAMPLES)]
    Mcp(Box<McpCommand>),
    /// Run the demo's sample topics, records and consumer groups against a broker that runs elsewhere
    Workload(WorkloadArgs),
    /// Ask a running broker or MCP server whether it is well: exit status 0 if it is
    Health(HealthCommand),
    /// Check and report what an audit log of agents and of SQL says
    #[command(after_help = AUDIT_EXAMPLES)]
    Audit {
        #[command(subcommand)]
        command: AuditCommand,
    },
    /// Rebuild lost metadata from the store, or bring one topic back as it was at some time
    #[command(after_help = restore::EXAMPLES)]
    Restore(Box<RestoreArgs>),
    /// Give a cluster another store, as long as it has no topics
    #[command(after_help = set_store::EXAMPLES)]
    SetStore(Box<SetStoreArgs>),
    /// Check a whole store against its checksums, and say what is damaged; writes nothing
    #[command(after_help = verify::EXAMPLES)]
    Verify(Box<VerifyArgs>),
    /// Query topics with SQL, from psql and other clients of PostgreSQL, without loading a broker
    #[command(after_help = kafscale_settings::sql::EXAMPLES)]
    Sql(Box<SqlArgs>),
    /// Let agents work on data collections under rules, with filtered and audited answers
    #[command(after_help = kafscale_settings::perimeter::EXAMPLES)]
    Perimeter(Box<PerimeterArgs>),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  kafscale completions bash > /etc/bash_completion.d/kafscale")]
    Completions { shell: Shell },
    /// Print the table of settings for docs/configuration.md
    #[command(hide = true)]
    ConfigDocs,
}

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Run the broker alone, without sample topics and clients
    #[arg(long, env = "KAFSCALE_NO_WORKLOAD", help_heading = "Demo")]
    pub no_workload: bool,

    /// How many orders the sample workload makes in a second
    #[arg(long, env = "KAFSCALE_ORDERS_PER_SECOND", value_name = "N", default_value_t = 20)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000), help_heading = "Demo")]
    pub orders_per_second: u32,

    #[command(flatten)]
    pub broker: BrokerArgs,
}

#[derive(Debug, Args)]
pub struct WorkloadArgs {
    /// A broker of the cluster
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9092")]
    pub bootstrap: HostPort,

    /// How many orders are made in a second
    #[arg(long, env = "KAFSCALE_ORDERS_PER_SECOND", value_name = "N", default_value_t = 20)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub orders_per_second: u32,

    /// Make this file when the sample topics, records and groups are there, for whoever waits for them
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,

    #[command(flatten)]
    pub logging: LoggingArgs,
}

#[derive(Debug, Args)]
pub struct BrokerArgs {
    /// Read settings from this TOML file
    #[arg(long, env = "KAFSCALE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    #[command(flatten)]
    pub data: DataArgs,
    #[command(flatten)]
    pub etcd: EtcdArgs,
    #[command(flatten)]
    pub s3: S3Args,
    #[command(flatten)]
    pub network: NetworkArgs,
    #[command(flatten)]
    pub limits: LimitArgs,
    #[command(flatten)]
    pub topics: TopicArgs,
    #[command(flatten)]
    pub log: LogArgs,
    #[command(flatten)]
    pub groups: GroupArgs,
    #[command(flatten)]
    pub mcp: McpArgs,
    #[command(flatten)]
    pub logging: LoggingArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Identity and data")]
pub struct DataArgs {
    /// Directory for the log and the metadata, unless --store and --meta say otherwise
    #[arg(long, env = "KAFSCALE_DATA_DIR", value_name = "DIR", default_value = "./kafscale-data")]
    pub data_dir: PathBuf,

    /// Where the log is kept: file:///path, s3://bucket/prefix, or memory: to keep nothing [default: the data directory]
    #[arg(long, env = "KAFSCALE_STORE", value_name = "URL")]
    pub store: Option<StoreUrl>,

    /// Where the metadata is kept: file:///path, etcd://host:port,host:port, etcds:// for TLS, or memory: to keep nothing [default: the data directory]
    #[arg(long, env = "KAFSCALE_META", value_name = "URL")]
    pub meta: Option<MetaUrl>,

    /// Number of this broker, unique in its cluster
    #[arg(long, env = "KAFSCALE_NODE_ID", value_name = "ID", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(i32).range(0..))]
    pub node_id: i32,

    /// Name of the cluster: letters, digits, dots, dashes and underscores
    #[arg(long, env = "KAFSCALE_CLUSTER_NAME", value_name = "NAME", default_value = "kafscale")]
    pub cluster_name: String,

    /// Rack or availability zone of this broker, told to clients
    #[arg(long, env = "KAFSCALE_RACK", value_name = "NAME")]
    pub rack: Option<String>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Network")]
pub struct NetworkArgs {
    /// Address for Kafka clients
    #[arg(long, env = "KAFSCALE_LISTEN", value_name = "IP:PORT", default_value = "127.0.0.1:9092")]
    pub listen: ListenAddr,

    /// Name and port that clients are told to use [default: the listen address, or this host's name if that is 0.0.0.0]
    #[arg(long, env = "KAFSCALE_ADVERTISE", value_name = "HOST:PORT")]
    pub advertise: Option<HostPort>,

    /// Address of a second listener, for clients and brokers inside the network
    #[arg(long, env = "KAFSCALE_LISTEN_INTERNAL", value_name = "IP:PORT")]
    pub listen_internal: Option<ListenAddr>,

    /// Name and port that clients of the second listener are told to use [default: its address, or this host's name if that is 0.0.0.0]
    #[arg(long, env = "KAFSCALE_ADVERTISE_INTERNAL", value_name = "HOST:PORT", requires = "listen_internal")]
    pub advertise_internal: Option<HostPort>,

    /// Address for /metrics, /healthz and /readyz
    #[arg(long, env = "KAFSCALE_METRICS_LISTEN", value_name = "IP:PORT", default_value = "127.0.0.1:9093")]
    pub metrics_listen: ListenAddr,

    /// Name and port under which others reach that address [default: the address, or the advertised name if that is 0.0.0.0]
    #[arg(long, env = "KAFSCALE_ADVERTISE_METRICS", value_name = "HOST:PORT")]
    pub advertise_metrics: Option<HostPort>,

    /// How long the cluster takes a broker for alive that is not heard of; its partitions then go to others. With etcd only
    #[arg(long, env = "KAFSCALE_BROKER_SESSION_TIMEOUT", value_name = "TIME", default_value_t = Span::seconds(3))]
    pub broker_session_timeout: Span,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Largest request that a client may send
    #[arg(long, env = "KAFSCALE_SOCKET_REQUEST_MAX_BYTES", value_name = "SIZE", default_value_t = ByteSize::mib(100))]
    pub socket_request_max_bytes: ByteSize,

    /// Memory for requests that are being received and processed; more wait on their connections
    #[arg(long, env = "KAFSCALE_REQUEST_MEMORY", value_name = "SIZE", default_value_t = ByteSize::mib(512))]
    pub request_memory: ByteSize,

    /// Memory for fetched records that clients have not taken yet; more wait to be read
    #[arg(long, env = "KAFSCALE_RESPONSE_MEMORY", value_name = "SIZE", default_value_t = ByteSize::mib(512))]
    pub response_memory: ByteSize,

    /// Memory for answers other than fetched records that clients have not taken yet, of which one may take half; never less than a list
    /// of all partitions needs
    #[arg(long, env = "KAFSCALE_ANSWER_MEMORY", value_name = "SIZE", default_value_t = ByteSize::mib(256))]
    pub answer_memory: ByteSize,

    /// Most records, in bytes, that one fetch gets
    #[arg(long, env = "KAFSCALE_FETCH_MAX_BYTES", value_name = "SIZE", default_value_t = ByteSize::mib(55))]
    pub fetch_max_bytes: ByteSize,

    /// Fetch sessions that are remembered at once; a client without one sends its partitions each time
    #[arg(long, env = "KAFSCALE_FETCH_SESSION_SLOTS", value_name = "N", default_value_t = 1_000)]
    pub fetch_session_slots: u32,

    /// Client connections open at once; more wait to be accepted. The last sixteenth of them is for addresses that have none
    #[arg(long, env = "KAFSCALE_MAX_CONNECTIONS", value_name = "N", default_value_t = 10_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub max_connections: u32,

    /// Client connections of one address; further ones are closed. Half of all by default
    #[arg(long, env = "KAFSCALE_MAX_CONNECTIONS_PER_IP", value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub max_connections_per_ip: Option<u32>,

    /// A connection without a request for this long is closed
    #[arg(long, env = "KAFSCALE_CONNECTIONS_MAX_IDLE", value_name = "TIME", default_value_t = Span::seconds(600))]
    pub connections_max_idle: Span,

    /// A client that takes no byte of its answer for this long is disconnected
    #[arg(long, env = "KAFSCALE_WRITE_STALL_TIMEOUT", value_name = "TIME", default_value_t = Span::seconds(60))]
    pub write_stall_timeout: Span,

    /// How long a stop takes at most, requests under way and stores that do not answer included
    #[arg(long, env = "KAFSCALE_DRAIN_TIMEOUT", value_name = "TIME", default_value_t = Span::seconds(10))]
    pub drain_timeout: Span,

    /// Most partitions that one topic may have
    #[arg(long, env = "KAFSCALE_MAX_PARTITIONS_PER_TOPIC", value_name = "N", default_value_t = 10_000)]
    #[arg(value_parser = clap::value_parser!(i32).range(1..))]
    pub max_partitions_per_topic: i32,

    /// Most partitions that all topics together may have
    #[arg(long, env = "KAFSCALE_MAX_PARTITIONS", value_name = "N", default_value_t = 200_000)]
    #[arg(value_parser = clap::value_parser!(i32).range(1..))]
    pub max_partitions: i32,

    /// Memory for batches: half for the newest, half for what is read from segments
    #[arg(long, env = "KAFSCALE_CACHE_BYTES", value_name = "SIZE", default_value_t = ByteSize::mib(256))]
    pub cache_bytes: ByteSize,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Topics")]
pub struct TopicArgs {
    /// Create a topic when a client asks for one that does not exist: true or false
    #[arg(long, env = "KAFSCALE_AUTO_CREATE_TOPICS", value_name = "BOOL", default_value_t = true)]
    #[arg(action = clap::ArgAction::Set)]
    pub auto_create_topics: bool,

    /// Partitions of a topic whose creator does not say
    #[arg(long, env = "KAFSCALE_NUM_PARTITIONS", value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(i32).range(1..=100_000))]
    pub num_partitions: i32,

    /// How long records are kept, for topics without retention.ms
    #[arg(long, env = "KAFSCALE_LOG_RETENTION_TIME", value_name = "TIME", default_value_t = Limit::At(Span::days(7)))]
    #[arg(allow_negative_numbers = true)]
    pub log_retention_time: Limit<Span>,

    /// How many bytes of a partition are kept, for topics without retention.bytes
    #[arg(long, env = "KAFSCALE_LOG_RETENTION_BYTES", value_name = "SIZE", default_value_t = Limit::Unlimited)]
    #[arg(allow_negative_numbers = true)]
    pub log_retention_bytes: Limit<ByteSize>,

    /// Size of a segment, for topics without segment.bytes
    #[arg(long, env = "KAFSCALE_SEGMENT_BYTES", value_name = "SIZE", default_value_t = ByteSize::gib(1))]
    pub segment_bytes: ByteSize,

    /// Largest batch of records, for topics without max.message.bytes
    #[arg(long, env = "KAFSCALE_MAX_MESSAGE_BYTES", value_name = "SIZE", default_value_t = ByteSize(1_048_588))]
    pub max_message_bytes: ByteSize,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Log")]
pub struct LogArgs {
    /// Size of the write-ahead log at which rewriting into segments begins
    #[arg(long, env = "KAFSCALE_WAL_MAX_BYTES", value_name = "SIZE", default_value_t = ByteSize::mib(256))]
    pub wal_max_bytes: ByteSize,

    /// On a local disk rewriting waits while appends keep the disk busy, until the write-ahead log has this size
    #[arg(long, env = "KAFSCALE_WAL_BURST_BYTES", value_name = "SIZE", default_value_t = ByteSize::gib(2))]
    pub wal_burst_bytes: ByteSize,

    /// Size of one file of the write-ahead log
    #[arg(long, env = "KAFSCALE_WAL_FILE_BYTES", value_name = "SIZE", default_value_t = ByteSize::mib(64))]
    pub wal_file_bytes: ByteSize,

    /// Least time between two writes; 0 writes at once, more gathers batches and costs latency. In an object store each write costs money: 250ms are up to 10 million PUTs a month [default: 0ms on a local disk, 250ms in an object store]
    #[arg(long, env = "KAFSCALE_WAL_MIN_INTERVAL", value_name = "TIME")]
    pub wal_min_interval: Option<Span>,

    /// In an object store, a write is done at this size whatever the interval
    #[arg(long, env = "KAFSCALE_WAL_OBJECT_BYTES", value_name = "SIZE", default_value_t = ByteSize::mib(8))]
    pub wal_object_bytes: ByteSize,

    /// Writes that are under way to an object store at a time
    #[arg(long, env = "KAFSCALE_WAL_UPLOADS", value_name = "N", default_value_t = 4)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=16))]
    pub wal_uploads: u32,

    /// Memory for what is appended while an object store is slow or away; beyond it producers are told to try again later
    #[arg(long, env = "KAFSCALE_WAL_PENDING_BYTES", value_name = "SIZE", default_value_t = ByteSize::mib(256))]
    pub wal_pending_bytes: ByteSize,

    /// How often retention is applied
    #[arg(long, env = "KAFSCALE_LOG_RETENTION_CHECK_INTERVAL", value_name = "TIME", default_value_t = Span::seconds(300))]
    pub log_retention_check_interval: Span,

    /// How long a segment that no metadata names is kept before it is deleted
    #[arg(long, env = "KAFSCALE_ORPHAN_QUARANTINE", value_name = "TIME", default_value_t = Span::days(1))]
    pub orphan_quarantine: Span,

    /// How often topics with cleanup.policy=compact are looked at; one is compacted when enough of it is new
    #[arg(long, env = "KAFSCALE_LOG_CLEANER_BACKOFF", value_name = "TIME", default_value_t = Span::seconds(15))]
    pub log_cleaner_backoff: Span,

    /// How long an idle idempotent producer is remembered, for the recognition of duplicates
    #[arg(long, env = "KAFSCALE_PRODUCER_ID_EXPIRATION", value_name = "TIME", default_value_t = Span::days(1))]
    pub producer_id_expiration: Span,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Consumer groups")]
pub struct GroupArgs {
    /// How long committed offsets are kept after their group has become empty
    #[arg(long, env = "KAFSCALE_OFFSETS_RETENTION", value_name = "TIME", default_value_t = Span::days(7))]
    pub offsets_retention: Span,

    /// How often committed offsets that are too old are looked for
    #[arg(long, env = "KAFSCALE_OFFSETS_RETENTION_CHECK_INTERVAL", value_name = "TIME", default_value_t = Span::seconds(600))]
    pub offsets_retention_check_interval: Span,

    /// Longest text that a client may store with a committed offset
    #[arg(long, env = "KAFSCALE_OFFSET_METADATA_MAX_BYTES", value_name = "SIZE", default_value_t = ByteSize(4096))]
    pub offset_metadata_max_bytes: ByteSize,

    /// Bytes that the committed offsets of one group may take; beyond it commits of further partitions or longer texts are refused
    #[arg(long, env = "KAFSCALE_GROUP_OFFSETS_MAX_BYTES", value_name = "SIZE", default_value_t = ByteSize::mib(32))]
    pub group_offsets_max_bytes: ByteSize,

    /// Bytes that the committed offsets of all groups of this broker may take
    #[arg(long, env = "KAFSCALE_OFFSETS_MAX_BYTES", value_name = "SIZE", default_value_t = ByteSize::mib(128))]
    pub offsets_max_bytes: ByteSize,

    /// Most consumer groups
    #[arg(long, env = "KAFSCALE_MAX_GROUPS", value_name = "N", default_value_t = 100_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub max_groups: u32,

    /// Most members of one group
    #[arg(long, env = "KAFSCALE_GROUP_MAX_SIZE", value_name = "N", default_value_t = i32::MAX)]
    #[arg(value_parser = clap::value_parser!(i32).range(1..))]
    pub group_max_size: i32,

    /// Memory for the members of all groups; beyond it new ones are told to try again later
    #[arg(long, env = "KAFSCALE_GROUP_MEMORY", value_name = "SIZE", default_value_t = ByteSize::mib(512))]
    pub group_memory: ByteSize,

    /// How long a new group waits for more members before its first assignment
    #[arg(long, env = "KAFSCALE_GROUP_INITIAL_REBALANCE_DELAY", value_name = "TIME", default_value_t = Span::seconds(3))]
    pub group_initial_rebalance_delay: Span,

    /// Shortest session timeout that a member may ask for
    #[arg(long, env = "KAFSCALE_GROUP_MIN_SESSION_TIMEOUT", value_name = "TIME", default_value_t = Span::seconds(6))]
    pub group_min_session_timeout: Span,

    /// Longest session timeout that a member may ask for
    #[arg(long, env = "KAFSCALE_GROUP_MAX_SESSION_TIMEOUT", value_name = "TIME", default_value_t = Span::seconds(1800))]
    pub group_max_session_timeout: Span,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Logging")]
pub struct LoggingArgs {
    /// Form of the log lines on standard error
    #[arg(long, env = "KAFSCALE_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// What is logged: off, error, warn, info, debug, trace, or filters such as info,kafscale_storage=debug
    #[arg(long, env = "KAFSCALE_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    pub log_level: LogLevel,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[cfg(test)]
mod tests {
    use kafscale_settings::refusals::reworded;

    use super::*;

    #[test]
    fn a_bad_number_is_refused_in_plain_words() {
        for (args, expected) in [
            (["--num-partitions", "six"], "--num-partitions: `six` is not a whole number"),
            (["--num-partitions", "1.5"], "--num-partitions: `1.5` is not a whole number"),
            (["--num-partitions", "0"], "--num-partitions must be between 1 and 100000, not 0"),
            (["--node-id", "-1"], "--node-id must be 0 or more, not -1"),
            (["--fetch-session-slots", "-5"], "--fetch-session-slots must be 0 or more, not -5"),
            (
                ["--node-id", "99999999999999999999"],
                "--node-id: `99999999999999999999` is more than this program can count",
            ),
            (["--wal-uploads", "17"], "--wal-uploads must be between 1 and 16, not 17"),
            (["--max-connections", "0"], "--max-connections must be 1 or more, not 0"),
            (["--listen", "127.0.0.1:99999"], "the port must be between 0 and 65535"),
            (["--advertise", "a:99999"], "the port must be between 0 and 65535"),
            (["--auto-create-topics", "maybe"], "[possible values: true, false]"),
            (["--log-level", "loud"], "off, error, warn, info, debug or trace"),
        ] {
            let line = ["kafscale", "broker"].into_iter().chain(args);
            let error = command().try_get_matches_from(line).unwrap_err();
            let text = reworded(error).to_string();
            assert!(text.contains(expected), "{args:?}: {text}");
            assert!(!text.contains("invalid digit"), "{args:?}: {text}");
        }
    }

    /// No number of any command may be refused in the library's words.
    #[test]
    fn every_number_is_refused_in_plain_words() {
        let command = command();
        for sub in command.get_subcommands() {
            for arg in sub.get_arguments() {
                let Some(name) = arg.get_long().filter(|_| arg.get_action().takes_values()) else { continue };
                for value in ["six", "-1"] {
                    let flag = format!("--{name}");
                    let line = ["kafscale", sub.get_name(), &flag, value];
                    let refused = command.clone().try_get_matches_from(line).map_err(reworded);
                    let Err(error) = refused else { continue };
                    let text = error.to_string();
                    let raw = ["invalid digit", "unexpected argument", "is not in "];
                    assert!(
                        !raw.iter().any(|raw| text.contains(raw)),
                        "{} {flag} {value}: {text}",
                        sub.get_name()
                    );
                }
            }
        }
        Cli::command().debug_assert();
    }
}
