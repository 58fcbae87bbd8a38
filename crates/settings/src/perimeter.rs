//! The settings of `kafscale perimeter`: collections, rules, who calls, and what an answer may take.
//!
//! They are declared here and not in the program that uses them, `kafscale-analytics`, so that `kafscale perimeter --help` works
//! where that program was not built.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

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
  kafscale perimeter erasure find --subject - --config perimeter.toml
      looks for a data subject in every collection

Nothing can be changed in a collection. What no policy permits is denied. Every flag has a variable: --listen is
KAFSCALE_PERIMETER_LISTEN. More in docs/perimeter.md.

Exit status: 0 fine, 1 failed at run time, 2 a wrong argument.";

const ERASURE_EXAMPLES: &str = "\
A request, from its opening to its end:
  echo 4711 | kafscale perimeter erasure find --subject -
      where the subject is, what erases it there, and what was not searched; nothing is kept
  kafscale perimeter erasure open --subject file:/run/subject --by dpo --reason \"letter 12\"
      the same, kept in the register without the identifier; prints the request's id
  kafscale perimeter erasure record ID --table clinic.visits --by ann --note \"ticket 4\"
      what somebody erased; with --until, what has to stay and how long; with --elsewhere, backups and the like
  kafscale perimeter erasure verify ID --by dpo
      looks again: exit status 0 and closed if nothing is found and nothing was left out
  kafscale perimeter erasure accept ID --table \"papers.*\" --by dpo --reason \"looked through by hand\"
      takes away a gap of that look
  kafscale perimeter erasure report

The perimeter erases nothing: the owners of the sources do. The rules say what identifies a subject, in [[subject]]. More in
docs/erasure.md.";

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
    /// Find a data subject, and keep a register of erasure requests
    #[command(after_help = ERASURE_EXAMPLES)]
    Erasure {
        #[command(subcommand)]
        command: ErasureCommand,
    },
    /// Test, explain and compare rules
    Policy {
        #[command(subcommand)]
        command: PolicyCommand,
    },
}

#[derive(Debug, Subcommand)]
pub enum ErasureCommand {
    /// Look for a data subject in every collection, and say what erases it
    Find {
        #[command(flatten)]
        subject: SubjectArgs,
        /// Print the identifiers, too, those that links found among them: they are personal data
        #[arg(long)]
        identifiers: bool,
    },
    /// Look, and open a request in the register
    Open {
        #[command(flatten)]
        subject: SubjectArgs,
        /// Who opens it, for the register
        #[arg(long, value_name = "NAME")]
        by: String,
        /// Why, such as the number of the letter; nothing that names the subject
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
    /// Record what somebody did for a table, or that the subject is elsewhere, such as in backups
    Record(RecordArgs),
    /// Accept a gap of the last `verify`: somebody looked there otherwise, or knows that nothing of the subject is there
    Accept {
        /// The id that `open` printed
        request: String,
        /// The table of the gap, as `report` names it
        #[arg(long, value_name = "NAME")]
        table: String,
        /// Who accepts it, for the register
        #[arg(long, value_name = "NAME")]
        by: String,
        /// Why
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Look again; the request is closed if nothing is found and no gap is left
    Verify {
        /// The id that `open` printed
        request: String,
        /// Who looks, for the register
        #[arg(long, value_name = "NAME")]
        by: String,
    },
    /// End a request that was opened by mistake, or refused
    Withdraw {
        /// The id that `open` printed
        request: String,
        /// Who ends it, for the register
        #[arg(long, value_name = "NAME")]
        by: String,
        /// Why
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Tell of one request, or of all
    Report {
        /// The id that `open` printed
        request: Option<String>,
        #[arg(long, value_enum, default_value_t = ErasureFormat::Text)]
        format: ErasureFormat,
    },
}

/// Forms of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ErasureFormat {
    Text,
    Json,
}

#[derive(Debug, Args)]
pub struct RecordArgs {
    /// The id that `open` printed
    pub request: String,
    /// collection.table
    #[arg(long, value_name = "NAME", conflicts_with = "elsewhere", required_unless_present = "elsewhere")]
    pub table: Option<String>,
    /// What holds the subject, and is no table, such as a backup
    #[arg(long, value_name = "TEXT")]
    pub elsewhere: Option<String>,
    /// Who did it, or says so
    #[arg(long, value_name = "NAME")]
    pub by: String,
    /// What was done, and how
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub note: String,
    /// The day by which it ends there: a request of which nothing else is left waits for it
    #[arg(long, value_name = "YYYY-MM-DD")]
    pub until: Option<String>,
}

#[derive(Debug, Args)]
pub struct SubjectArgs {
    /// Where the subject's identifiers are, one on each line or LABEL=identifier: `-` (standard input), file:PATH or env:NAME
    #[arg(long, value_name = "SOURCE")]
    pub subject: String,
    /// Which kind of [[subject]] in the rules it is [default: the only one]
    #[arg(long, value_name = "NAME")]
    pub kind: Option<String>,
    #[arg(long, value_enum, default_value_t = ErasureFormat::Text)]
    pub format: ErasureFormat,
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
        global = true,
        env = "KAFSCALE_PERIMETER_AUDIT_LOG",
        value_name = "FILE",
        default_value = "perimeter-audit.jsonl"
    )]
    pub audit_log: PathBuf,

    /// File, best on another disk or host, that keeps where the audit log ends [default: beside it, which shows less]
    #[arg(long, global = true, env = "KAFSCALE_PERIMETER_AUDIT_ANCHOR", value_name = "FILE")]
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
