//! The settings of `kafscale sql`: which cluster is read, where clients connect, and what a query may take.
//!
//! They are declared here and not in the program that uses them, `kafscale-analytics`, so that `kafscale sql --help` and its checks work
//! where that program was not built.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use kafscale_meta::files::read_text_once;
use kafscale_meta::{EtcdOptions, MetaUrl};

use crate::backend::{EtcdArgs, StoreUrl};
use crate::failure::Failure;
use crate::s3::{S3Args, process_variables};
use crate::units::{ByteSize, Limit, ListenAddr, Span};

pub const EXAMPLES: &str = "\
Examples:
  kafscale sql --data-dir ./kafscale-data
      beside a demo or a broker on this machine; then: psql -h 127.0.0.1
  kafscale sql --store s3://bucket/prefix --meta etcd://etcd-1:2379
      for a cluster; no broker is asked for anything
  kafscale sql --data-dir ./kafscale-data -c \"SELECT count(*) FROM orders\"
      answers once and ends
  kafscale sql --store s3://bucket/prefix --meta etcd://etcd-1:2379 --worker --listen 10.0.0.7:5433 --worker-secret-file secret
      on other machines, to do parts of large queries; then add to the server: --workers 10.0.0.7:5433 --worker-secret-file secret

Every topic is a table. Nothing can be changed: not topics, not records, not files.
Every flag has a variable: --scan-limit is KAFSCALE_SQL_SCAN_LIMIT. More in docs/sql.md.

Exit status: 0 answered or stopped cleanly, 1 failed at run time, 2 a wrong argument.";

#[derive(Debug, Args)]
pub struct SqlArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    #[command(flatten)]
    pub answer: AnswerArgs,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub workers: WorkerArgs,
    #[command(flatten)]
    pub limits: QueryLimitArgs,
    #[command(flatten)]
    pub schemas: SchemaArgs,
    #[command(flatten)]
    pub etcd: EtcdArgs,
    #[command(flatten)]
    pub s3: S3Args,
    #[command(flatten)]
    pub logging: SqlLoggingArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Identity and data")]
pub struct SourceArgs {
    /// Directory with the log and the metadata, unless --store and --meta say otherwise
    #[arg(long, env = "KAFSCALE_DATA_DIR", value_name = "DIR", default_value = "./kafscale-data")]
    pub data_dir: PathBuf,

    /// Where the log is kept: file:///path or s3://bucket/prefix [default: the data directory]
    #[arg(long, env = "KAFSCALE_STORE", value_name = "URL")]
    pub store: Option<StoreUrl>,

    /// Where the metadata is kept: file:///path, etcd://host:port,host:port, or etcds:// for TLS [default: the data directory]
    #[arg(long, env = "KAFSCALE_META", value_name = "URL")]
    pub meta: Option<MetaUrl>,

    /// Name of the cluster
    #[arg(long, env = "KAFSCALE_CLUSTER_NAME", value_name = "NAME", default_value = "kafscale")]
    pub cluster_name: String,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "One answer")]
pub struct AnswerArgs {
    /// Answer these statements, separated by semicolons, and end
    #[arg(short = 'c', long, value_name = "SQL")]
    pub command: Option<String>,

    /// Form of the answer of --command
    #[arg(long, env = "KAFSCALE_SQL_FORMAT", value_name = "FORMAT", value_enum, default_value_t = Format::Table)]
    pub format: Format,

    /// File for the answer of --command; it appears when it is whole [default: standard output]
    #[arg(long, value_name = "FILE", requires = "command")]
    pub output: Option<PathBuf>,

    /// Ask for statements at a prompt, with history and completion
    #[arg(short = 'i', long, conflicts_with = "command")]
    pub interactive: bool,
}

impl AnswerArgs {
    /// Whether this process answers its user and no clients.
    pub fn is_local(&self) -> bool {
        self.command.is_some() || self.interactive
    }
}

/// Forms of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Csv,
    /// One array of objects.
    Json,
    /// An object on each line.
    Ndjson,
    /// A stream of Apache Arrow's IPC format.
    Arrow,
    /// A file of Apache Parquet.
    Parquet,
}

impl Format {
    /// Whether it is nothing that a terminal could show, and one answer is one file.
    pub fn is_binary(self) -> bool {
        match self {
            Format::Table | Format::Csv | Format::Json | Format::Ndjson => false,
            Format::Arrow | Format::Parquet => true,
        }
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Server for clients of PostgreSQL")]
pub struct ServerArgs {
    /// Address for clients, or with --worker for other servers; without --users-file or a secret it must be on loopback
    #[arg(long, env = "KAFSCALE_SQL_LISTEN", value_name = "IP:PORT", default_value = "127.0.0.1:5432")]
    pub listen: ListenAddr,

    /// File of users: a line for each, name:password or name:SCRAM-SHA-256$…; followed while it changes [default: nobody has to log in]
    #[arg(long, env = "KAFSCALE_SQL_USERS_FILE", value_name = "FILE")]
    pub users_file: Option<PathBuf>,

    /// PEM file with the certificate to serve TLS with [default: no TLS]
    #[arg(long, env = "KAFSCALE_SQL_TLS_CERT_FILE", value_name = "FILE")]
    pub tls_cert_file: Option<PathBuf>,

    /// PEM file with the key of that certificate
    #[arg(long, env = "KAFSCALE_SQL_TLS_KEY_FILE", value_name = "FILE")]
    pub tls_key_file: Option<PathBuf>,

    /// Connections open at once; more are refused
    #[arg(long, env = "KAFSCALE_SQL_MAX_CONNECTIONS", value_name = "N", default_value_t = 100)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub max_connections: u32,

    /// File for the audit log: a line for each statement and each refused login; check it with `kafscale audit verify`
    #[arg(long, env = "KAFSCALE_SQL_AUDIT_LOG", value_name = "FILE")]
    pub audit_log: Option<PathBuf>,

    /// File, best on another disk or host, that keeps where the audit log ends
    #[arg(long, env = "KAFSCALE_SQL_AUDIT_ANCHOR", value_name = "FILE", requires = "audit_log")]
    pub audit_anchor: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "More than one machine")]
pub struct WorkerArgs {
    /// Answer no clients, and do parts of the queries of servers that name this process with --workers; it listens on --listen
    #[arg(long, env = "KAFSCALE_SQL_WORKER", conflicts_with_all = ["command", "interactive", "workers"])]
    pub worker: bool,

    /// Addresses of workers that take part in large queries: HOST:PORT,HOST:PORT. They must read the same store and be of the same version; one
    /// that cannot be reached is left out
    #[arg(long, env = "KAFSCALE_SQL_WORKERS", value_name = "HOST:PORT,…", value_delimiter = ',')]
    pub workers: Vec<WorkerAddr>,

    /// What servers and workers prove to each other that they know, of 16 characters or more; better in the variable or in a file than in a
    /// flag, which others can see [default: workers listen on loopback only]
    #[arg(long, env = "KAFSCALE_SQL_WORKER_SECRET", value_name = "SECRET", hide_env_values = true)]
    pub worker_secret: Option<String>,

    /// File with that secret
    #[arg(long, env = "KAFSCALE_SQL_WORKER_SECRET_FILE", value_name = "FILE")]
    pub worker_secret_file: Option<PathBuf>,

    /// PEM file with the authorities that sign the workers' certificates; with it all connections to workers use TLS. A worker shows
    /// --tls-cert-file, and needs this, too, to reach other workers
    #[arg(long, env = "KAFSCALE_SQL_WORKERS_CA_FILE", value_name = "FILE")]
    pub workers_ca_file: Option<PathBuf>,

    /// Queries that read less of topics than this are answered without workers
    #[arg(long, env = "KAFSCALE_SQL_WORKERS_MIN_BYTES", value_name = "SIZE", default_value_t = ByteSize::mib(64))]
    pub workers_min_bytes: ByteSize,
}

/// A worker's host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerAddr(pub String);

impl FromStr for WorkerAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<WorkerAddr, String> {
        let text = text.trim();
        let (host, port) =
            text.rsplit_once(':').ok_or_else(|| format!("`{text}` has no port: write HOST:PORT"))?;
        let is_host = |c: char| c.is_ascii_alphanumeric() || "-._:[]%".contains(c);
        match port.parse::<u16>() {
            Ok(1..) if !host.is_empty() && host.chars().all(is_host) => Ok(WorkerAddr(text.to_owned())),
            _ => Err(format!("`{text}` is no address of a worker: write HOST:PORT")),
        }
    }
}

/// Shorter secrets can be guessed.
const SECRET_CHARS_MIN: usize = 16;

/// How workers are reached, checked together.
#[derive(Clone)]
pub struct WorkerSettings {
    pub addresses: Vec<String>,
    pub secret: Option<String>,
    pub ca_file: Option<PathBuf>,
    pub min_bytes: u64,
}

impl WorkerArgs {
    /// Checks what belongs together, and reads the secret.
    pub fn settings(&self, listen: ListenAddr) -> Result<WorkerSettings, Failure> {
        let secret =
            secret("--worker-secret", self.worker_secret.as_ref(), self.worker_secret_file.as_ref())?;
        if secret.as_ref().is_some_and(|secret| secret.chars().count() < SECRET_CHARS_MIN) {
            return Err(Failure::usage(format!(
                "the secret of workers must have {SECRET_CHARS_MIN} characters or more; make one with: openssl rand -hex 32"
            )));
        }
        if self.worker && secret.is_none() && !listen.0.ip().is_loopback() {
            return Err(Failure::usage(format!(
                "--worker --listen {listen} is open to others, and anybody could run queries; add --worker-secret-file, or listen on 127.0.0.1"
            )));
        }
        Ok(WorkerSettings {
            addresses: self.workers.iter().map(|worker| worker.0.clone()).collect(),
            secret,
            ca_file: self.workers_ca_file.clone(),
            min_bytes: self.workers_min_bytes.0,
        })
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub struct QueryLimitArgs {
    /// Queries that run at once; more wait
    #[arg(long, env = "KAFSCALE_SQL_MAX_QUERIES", value_name = "N", default_value_t = 8)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub max_queries: u32,

    /// Memory of all queries together for sorting, grouping and joining; beyond it they use --spill-dir
    #[arg(long, env = "KAFSCALE_SQL_MEMORY", value_name = "SIZE", default_value_t = ByteSize::mib(512))]
    pub memory: ByteSize,

    /// Directory for what does not fit into memory [default: that of the system for temporary files]
    #[arg(long, env = "KAFSCALE_SQL_SPILL_DIR", value_name = "DIR")]
    pub spill_dir: Option<PathBuf>,

    /// Disk space that all queries together may take there
    #[arg(long, env = "KAFSCALE_SQL_SPILL_LIMIT", value_name = "SIZE", default_value_t = ByteSize::gib(100))]
    pub spill_limit: ByteSize,

    /// Memory for what was read of segments and may be asked for again
    #[arg(long, env = "KAFSCALE_SQL_CACHE_BYTES", value_name = "SIZE", default_value_t = ByteSize::mib(64))]
    pub cache_bytes: ByteSize,

    /// A query that would read more than this of a topic, without a bound on time or offsets, is refused; SCAN FULL lifts this for one query
    #[arg(long, env = "KAFSCALE_SQL_SCAN_LIMIT", value_name = "SIZE", default_value_t = Limit::At(ByteSize::gib(10)))]
    #[arg(allow_negative_numbers = true)]
    pub scan_limit: Limit<ByteSize>,

    /// A statement that takes longer is ended; clients may set less. 0 for no limit
    #[arg(long, env = "KAFSCALE_SQL_STATEMENT_TIMEOUT", value_name = "TIME", default_value_t = Span::seconds(3600))]
    pub statement_timeout: Span,

    /// An answer that is larger than this is ended with an error
    #[arg(long, env = "KAFSCALE_SQL_MAX_RESULT_BYTES", value_name = "SIZE", default_value_t = Limit::Unlimited)]
    #[arg(allow_negative_numbers = true)]
    pub max_result_bytes: Limit<ByteSize>,
}

/// Where the schemas of values in Avro and Protobuf are.
#[derive(Debug, Args)]
#[command(next_help_heading = "Schemas of values")]
pub struct SchemaArgs {
    /// File with the format and the schema of topics, instead of the topics' own settings: [topics.NAME], format = …, schema = …; followed
    /// while it changes
    #[arg(long, env = "KAFSCALE_SQL_TOPICS_FILE", value_name = "FILE")]
    pub topics_file: Option<PathBuf>,

    /// Directory with the files that schemas name as file:NAME
    #[arg(long, env = "KAFSCALE_SQL_SCHEMA_DIR", value_name = "DIR")]
    pub schema_dir: Option<PathBuf>,

    /// Address of a schema registry with Confluent's API, http://host:8081 or https://…
    #[arg(long, env = "KAFSCALE_SQL_SCHEMA_REGISTRY", value_name = "URL")]
    pub schema_registry: Option<String>,

    /// User of the schema registry
    #[arg(long, env = "KAFSCALE_SQL_SCHEMA_REGISTRY_USERNAME", value_name = "NAME")]
    pub schema_registry_username: Option<String>,

    /// Password of that user; better in the variable or in a file than in a flag, which others can see
    #[arg(
        long,
        env = "KAFSCALE_SQL_SCHEMA_REGISTRY_PASSWORD",
        value_name = "PASSWORD",
        hide_env_values = true
    )]
    pub schema_registry_password: Option<String>,

    /// File with the password of that user
    #[arg(long, env = "KAFSCALE_SQL_SCHEMA_REGISTRY_PASSWORD_FILE", value_name = "FILE")]
    pub schema_registry_password_file: Option<PathBuf>,

    /// Bearer token for the schema registry, instead of a user; better in the variable or in a file
    #[arg(long, env = "KAFSCALE_SQL_SCHEMA_REGISTRY_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub schema_registry_token: Option<String>,

    /// File with the bearer token
    #[arg(long, env = "KAFSCALE_SQL_SCHEMA_REGISTRY_TOKEN_FILE", value_name = "FILE")]
    pub schema_registry_token_file: Option<PathBuf>,

    /// PEM file with the authorities that sign the registry's certificate, beside those of the system
    #[arg(long, env = "KAFSCALE_SQL_SCHEMA_REGISTRY_CA_FILE", value_name = "FILE")]
    pub schema_registry_ca_file: Option<PathBuf>,

    /// How long a request to the schema registry may take; it is made up to three times
    #[arg(long, env = "KAFSCALE_SQL_SCHEMA_REGISTRY_TIMEOUT", value_name = "TIME", default_value_t = Span::seconds(5))]
    pub schema_registry_timeout: Span,
}

/// Who `kafscale sql` is to a schema registry.
#[derive(Clone, PartialEq, Eq)]
pub enum RegistryLogin {
    Nobody,
    Basic { username: String, password: String },
    Bearer(String),
}

/// How a schema registry is reached, checked together.
#[derive(Clone)]
pub struct RegistrySettings {
    pub url: String,
    pub login: RegistryLogin,
    /// Certificates in PEM.
    pub authorities: Option<Vec<u8>>,
    pub timeout: Duration,
}

impl SchemaArgs {
    /// Checks the settings of the registry, and reads its secrets.
    pub fn registry(&self) -> Result<Option<RegistrySettings>, Failure> {
        let login = self.login()?;
        let Some(url) = &self.schema_registry else {
            return match login == RegistryLogin::Nobody && self.schema_registry_ca_file.is_none() {
                true => Ok(None),
                false => Err(Failure::usage("the other --schema-registry-… flags need --schema-registry")),
            };
        };
        let host = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
        let host = host.and_then(|rest| rest.split('/').next()).filter(|host| !host.is_empty());
        match host {
            None => {
                return Err(Failure::usage(format!(
                    "--schema-registry `{url}` must begin with http:// or https://"
                )));
            }
            Some(host) if host.contains('@') => {
                return Err(Failure::usage(
                    "--schema-registry: give the user with --schema-registry-username",
                ));
            }
            Some(_) => {}
        }
        if self.schema_registry_timeout.0.is_zero() {
            return Err(Failure::usage("--schema-registry-timeout must be more than 0"));
        }
        let authorities =
            self.schema_registry_ca_file.as_deref().map(|file| text_of(file).map(String::into_bytes));
        let timeout = self.schema_registry_timeout.0;
        Ok(Some(RegistrySettings { url: url.clone(), login, authorities: authorities.transpose()?, timeout }))
    }

    fn login(&self) -> Result<RegistryLogin, Failure> {
        let password = secret(
            "--schema-registry-password",
            self.schema_registry_password.as_ref(),
            self.schema_registry_password_file.as_ref(),
        )?;
        let token = secret(
            "--schema-registry-token",
            self.schema_registry_token.as_ref(),
            self.schema_registry_token_file.as_ref(),
        )?;
        match (self.schema_registry_username.clone(), password, token) {
            (None, None, None) => Ok(RegistryLogin::Nobody),
            (Some(username), Some(password), None) => Ok(RegistryLogin::Basic { username, password }),
            (None, None, Some(token)) => Ok(RegistryLogin::Bearer(token)),
            (_, _, Some(_)) => Err(Failure::usage(
                "give --schema-registry-token or --schema-registry-username, and not both",
            )),
            (Some(_), None, None) | (None, Some(_), None) => Err(Failure::usage(
                "--schema-registry-username and --schema-registry-password belong together",
            )),
        }
    }
}

/// A secret that is given by itself or in a file.
fn secret(flag: &str, given: Option<&String>, file: Option<&PathBuf>) -> Result<Option<String>, Failure> {
    match (given, file) {
        (Some(_), Some(_)) => Err(Failure::usage(format!("give {flag} or {flag}-file, and not both"))),
        (Some(secret), None) => Ok(Some(secret.clone())),
        (None, Some(file)) => Ok(Some(text_of(file)?.trim_end_matches(['\r', '\n']).to_owned())),
        (None, None) => Ok(None),
    }
}

fn text_of(file: &Path) -> Result<String, Failure> {
    read_text_once(file).map_err(|e| Failure::usage(format!("the file {}: {e}", file.display())))
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Logging")]
pub struct SqlLoggingArgs {
    /// What is logged: off, error, warn, info, debug, trace, or filters such as info,kafscale_storage=debug
    #[arg(long, env = "KAFSCALE_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    pub log_level: String,
}

/// What is read, checked together.
#[derive(Debug)]
pub struct Source {
    pub store: kafscale_storage::StoreUrl,
    pub meta: MetaUrl,
    pub etcd: EtcdOptions,
    pub cluster_name: String,
}

impl SqlArgs {
    pub fn source(&self) -> Result<Source, Failure> {
        let SourceArgs { data_dir, store, meta, cluster_name } = &self.source;
        let store = match store {
            None => kafscale_storage::StoreUrl::File(data_dir.clone()),
            Some(StoreUrl::File(dir)) => kafscale_storage::StoreUrl::File(dir.clone()),
            Some(StoreUrl::Memory) => {
                return Err(Failure::usage("--store memory: keeps nothing that could be read"));
            }
            Some(StoreUrl::S3 { bucket, prefix }) => {
                let config = self.s3.config(bucket, prefix, process_variables())?;
                kafscale_storage::StoreUrl::S3(Box::new(config))
            }
        };
        let meta = match meta {
            None => MetaUrl::File(data_dir.clone()),
            Some(MetaUrl::Memory) => {
                return Err(Failure::usage("--meta memory: keeps nothing that could be read"));
            }
            Some(given @ (MetaUrl::File(_) | MetaUrl::Etcd(_))) => given.clone(),
        };
        Ok(Source { store, meta, etcd: self.etcd.options()?, cluster_name: cluster_name.clone() })
    }

    /// Checks what clap cannot: settings that need or exclude each other.
    pub fn check(&self) -> Result<(), Failure> {
        let ServerArgs { listen, users_file, tls_cert_file, tls_key_file, .. } = &self.server;
        if tls_cert_file.is_some() != tls_key_file.is_some() {
            return Err(Failure::usage("--tls-cert-file and --tls-key-file belong together"));
        }
        if users_file.is_none()
            && !listen.0.ip().is_loopback()
            && !self.answer.is_local()
            && !self.workers.worker
        {
            return Err(Failure::usage(format!(
                "--listen {listen} is open to others, and nobody would have to log in; add --users-file, or listen on 127.0.0.1"
            )));
        }
        Ok(())
    }
}
