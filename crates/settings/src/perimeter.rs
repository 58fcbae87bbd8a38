//! The settings of `kafscale perimeter`: collections, rules, who calls, and what an answer may take.
//!
//! They are declared here and not in the program that uses them, `kafscale-analytics`, so that `kafscale perimeter --help` works
//! where that program was not built.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::sql::{QueryLimitArgs, SqlLoggingArgs};
use crate::units::{ByteSize, Limit, ListenAddr, Span};

pub const DEFAULT_ADDRESS: &str = "127.0.0.1:8091";

pub const EXAMPLES: &str = "\
Examples:
  kafscale perimeter check --config perimeter.toml
      connects to every collection, and says what works and what to do
  kafscale perimeter --config perimeter.toml --auth-token-file tokens --audit-log audit.jsonl
      serves agents on 127.0.0.1:8091/mcp
  kafscale perimeter policy test cases.toml --config perimeter.toml
      runs a table of cases against the rules

Nothing can be changed in a collection. What no policy permits is denied. Every flag has a variable: --listen is
KAFSCALE_PERIMETER_LISTEN. More in docs/perimeter.md.

Exit status: 0 fine, 1 failed at run time, 2 a wrong argument.";

#[derive(Debug, Args)]
pub struct PerimeterArgs {
    #[command(subcommand)]
    pub command: Option<PerimeterCommand>,
    #[command(flatten)]
    pub files: PerimeterFiles,
    #[command(flatten)]
    pub edge: PerimeterEdge,
    #[command(flatten)]
    pub limits: PerimeterLimitArgs,
    #[command(flatten)]
    pub logging: SqlLoggingArgs,
}

#[derive(Debug, Subcommand)]
pub enum PerimeterCommand {
    /// Connect to every collection, and say what works and what to do
    Check,
    /// Look at samples of columns, and propose labels for the rules
    Classify {
        /// Only this collection
        collection: Option<String>,
    },
    /// Test, explain and compare rules
    Policy {
        #[command(subcommand)]
        command: PolicyCommand,
    },
}

#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Run a table of cases against the rules
    Test {
        /// Cases in TOML
        file: PathBuf,
    },
    /// Say which rule decided, and why
    Explain(ExplainArgs),
    /// Decide again what an audit log has, under other rules, and show what would change
    Diff {
        /// Policies of the other rules: a file or a directory of *.cedar
        #[arg(long, value_name = "PATH")]
        new_policies: PathBuf,
        /// rules.toml of the other rules
        #[arg(long, value_name = "FILE")]
        new_rules: PathBuf,
        /// The audit log
        audit_log: PathBuf,
    },
}

#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Who asks
    #[arg(long, value_name = "NAME")]
    pub principal: String,
    /// Its groups, with commas between several
    #[arg(long, value_name = "GROUPS", value_delimiter = ',')]
    pub groups: Vec<String>,
    /// What for
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub purpose: String,
    /// collection.table
    #[arg(long, value_name = "NAME")]
    pub table: String,
    /// One of its columns
    #[arg(long, value_name = "NAME")]
    pub column: Option<String>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Collections and rules")]
pub struct PerimeterFiles {
    /// File that declares the collections
    #[arg(
        long,
        global = true,
        env = "KAFSCALE_PERIMETER_CONFIG",
        value_name = "FILE",
        default_value = "perimeter.toml"
    )]
    pub config: PathBuf,

    /// Policies: a file or a directory of *.cedar [default: policies, beside the file of --config]
    #[arg(long, global = true, env = "KAFSCALE_PERIMETER_POLICIES", value_name = "PATH")]
    pub policies: Option<PathBuf>,

    /// Labels and obligations [default: rules.toml, beside the file of --config]
    #[arg(long, global = true, env = "KAFSCALE_PERIMETER_RULES", value_name = "FILE")]
    pub rules: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Server for agents")]
pub struct PerimeterEdge {
    /// Address of the server
    #[arg(long, env = "KAFSCALE_PERIMETER_LISTEN", value_name = "IP:PORT", default_value = DEFAULT_ADDRESS)]
    pub listen: ListenAddr,

    /// Bearer token that clients must send; without any, only loopback is served
    #[arg(long, env = "KAFSCALE_PERIMETER_AUTH_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub auth_token: Option<String>,

    /// File of hashed tokens with names and scopes, followed while it changes
    #[arg(long, env = "KAFSCALE_PERIMETER_AUTH_TOKEN_FILE", value_name = "FILE")]
    pub auth_token_file: Option<PathBuf>,

    /// Issuer of access tokens (OpenID Connect, OAuth 2.1) that are accepted too: https://…, as in their claim iss
    #[arg(long, env = "KAFSCALE_PERIMETER_OIDC_ISSUER", value_name = "URL")]
    pub oidc_issuer: Option<String>,

    /// What those tokens must be for, with commas between several [default: the public URL]
    #[arg(long, env = "KAFSCALE_PERIMETER_OIDC_AUDIENCE", value_name = "AUDIENCE", value_delimiter = ',')]
    pub oidc_audience: Vec<String>,

    /// Where the issuer's keys are [default: where the issuer's own metadata say]
    #[arg(long, env = "KAFSCALE_PERIMETER_OIDC_JWKS_URL", value_name = "URL")]
    pub oidc_jwks_url: Option<String>,

    /// How clients reach the server, such as https://perimeter.example/mcp; an issuer gives out tokens for it
    #[arg(long, env = "KAFSCALE_PERIMETER_PUBLIC_URL", value_name = "URL")]
    pub public_url: Option<String>,

    /// PEM file with the certificate to serve TLS with, followed while it changes [default: no TLS]
    #[arg(long, env = "KAFSCALE_PERIMETER_TLS_CERT_FILE", value_name = "FILE")]
    pub tls_cert_file: Option<PathBuf>,

    /// PEM file with the key of that certificate
    #[arg(long, env = "KAFSCALE_PERIMETER_TLS_KEY_FILE", value_name = "FILE")]
    pub tls_key_file: Option<PathBuf>,

    /// PEM file with the authorities that vouch for the issuer [default: those of the system]
    #[arg(long, env = "KAFSCALE_PERIMETER_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,

    /// A client's session ends after this long without a request
    #[arg(long, env = "KAFSCALE_PERIMETER_SESSION_TIMEOUT", value_name = "TIME", default_value_t = Span::seconds(300))]
    pub session_timeout: Span,

    /// Names under which clients reach the server, besides localhost, with commas between several
    #[arg(long, env = "KAFSCALE_PERIMETER_ALLOWED_HOSTS", value_name = "HOSTS", value_delimiter = ',')]
    pub allowed_hosts: Vec<String>,

    /// Origins of browser clients, besides those on localhost, with commas between several
    #[arg(long, env = "KAFSCALE_PERIMETER_ALLOWED_ORIGINS", value_name = "ORIGINS", value_delimiter = ',')]
    pub allowed_origins: Vec<String>,

    /// File for the audit log: no answer without its lines; check it with `kafscale audit verify`
    #[arg(
        long,
        env = "KAFSCALE_PERIMETER_AUDIT_LOG",
        value_name = "FILE",
        default_value = "perimeter-audit.jsonl"
    )]
    pub audit_log: PathBuf,

    /// File, best on another disk or host, that keeps where the audit log ends [default: beside it, which shows less]
    #[arg(long, env = "KAFSCALE_PERIMETER_AUDIT_ANCHOR", value_name = "FILE")]
    pub audit_anchor: Option<PathBuf>,

    /// Calls that one client may make in a second; twice as many in a burst
    #[arg(long, env = "KAFSCALE_PERIMETER_CALLS_PER_SECOND", value_name = "N", default_value_t = 20)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub calls_per_second: u32,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub struct PerimeterLimitArgs {
    /// Queries that run at once; more wait
    #[arg(long, env = "KAFSCALE_PERIMETER_MAX_QUERIES", value_name = "N", default_value_t = 8)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub max_queries: u32,

    /// Memory of all queries together for sorting, grouping and joining; beyond it they use --spill-dir
    #[arg(long, env = "KAFSCALE_PERIMETER_MEMORY", value_name = "SIZE", default_value_t = ByteSize::mib(512))]
    pub memory: ByteSize,

    /// Directory for what does not fit into memory [default: that of the system for temporary files]
    #[arg(long, env = "KAFSCALE_PERIMETER_SPILL_DIR", value_name = "DIR")]
    pub spill_dir: Option<PathBuf>,

    /// Disk space that all queries together may take there
    #[arg(long, env = "KAFSCALE_PERIMETER_SPILL_LIMIT", value_name = "SIZE", default_value_t = ByteSize::gib(10))]
    pub spill_limit: ByteSize,

    /// A query that takes longer is ended
    #[arg(long, env = "KAFSCALE_PERIMETER_QUERY_TIMEOUT", value_name = "TIME", default_value_t = Span::seconds(30))]
    pub query_timeout: Span,
}

impl PerimeterLimitArgs {
    /// As the query engine takes them.
    pub fn of_queries(&self) -> QueryLimitArgs {
        QueryLimitArgs {
            max_queries: self.max_queries,
            memory: self.memory,
            spill_dir: self.spill_dir.clone(),
            spill_limit: self.spill_limit,
            cache_bytes: ByteSize::mib(64),
            scan_limit: Limit::Unlimited,
            statement_timeout: self.query_timeout,
            max_result_bytes: Limit::Unlimited,
        }
    }
}
