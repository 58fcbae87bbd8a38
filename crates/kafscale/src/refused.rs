//! Why a broker does not start, for a person: what happened, and the commands that help.

use std::fmt::Display;

use kafscale_broker::{JoinError, StartError};
use kafscale_meta::{ErrorKind, MetaUrl};
use kafscale_storage::{IdentityError, OpenError};

use crate::backend::StoreUrl;
use crate::command_line::CommandLine;
use crate::config::Config;
use crate::failure::Failure;
use crate::refusals::cannot_listen;

/// What an error of the metadata store means for a start: an etcd that is away is waited for, and room on a full disk.
pub fn metadata_failure(config: &Config, error: &kafscale_meta::Error, text: String) -> Failure {
    let text = match text.contains("`kafscale restore`") {
        true => format!("{text}.\nThe command: {}", restore(config)),
        false => text,
    };
    match (error.kind(), &config.meta) {
        (ErrorKind::Retry, MetaUrl::Etcd(_)) | (ErrorKind::Full, _) => Failure::away(text),
        (ErrorKind::InUse, _) => in_use(config, &text),
        _ => Failure::runtime(text),
    }
}

pub fn start_failure(config: &Config, error: &StartError) -> Failure {
    match error {
        StartError::Listen { address, error } => {
            let flag = match address {
                address if *address == config.metrics_listen => "--metrics-listen",
                address if config.internal.as_ref().is_some_and(|i| i.listen == *address) => {
                    "--listen-internal"
                }
                _ => "--listen",
            };
            Failure::runtime(cannot_listen(*address, error, flag))
        }
        StartError::RequestMemory { .. } => Failure::usage(format!("--request-memory: {error}")),
        StartError::TopicDefaults(error) => Failure::usage(error.to_string()),
        StartError::StoredTopic { .. } => Failure::runtime(error.to_string()),
        StartError::Metadata(e) => metadata_failure(config, e, error.to_string()),
    }
}

pub fn join_failure(config: &Config, error: &JoinError) -> Failure {
    match error {
        JoinError::Metadata(e) => {
            metadata_failure(config, e, format!("the metadata in {}: {e}", config.meta))
        }
        JoinError::NodeIdTaken(node_id) => Failure::refused(format!(
            "another broker with --node-id {node_id} is running in the cluster `{}`; give each broker a number of its own",
            config.cluster_name
        )),
        JoinError::OtherStore { .. } => Failure::refused(other_place(config, error)),
    }
}

/// A log that does not open; with the commands that help.
pub fn open_failure(config: &Config, error: &OpenError) -> Failure {
    if error.may_pass() {
        return Failure::away(error.to_string());
    }
    let identity = match error {
        OpenError::Identity(identity) => identity,
        OpenError::OtherNode { .. } => return Failure::refused(error.to_string()),
        OpenError::InUse { .. } => return in_use(config, &error.to_string()),
        OpenError::Wal(wal) if wal.is_loss() => {
            return Failure::refused(format!("{error}.\nTo do without: {} --accept-loss", restore(config)));
        }
        other => return Failure::runtime(other.to_string()),
    };
    let restore = restore(config);
    match identity {
        IdentityError::OtherPlace { .. } => Failure::refused(other_place(config, identity)),
        IdentityError::NewMetadata { .. } | IdentityError::OtherStore { .. } => {
            Failure::refused(format!("{error}.\nTo rebuild the metadata from the store: {restore}"))
        }
        IdentityError::OldMetadata { .. }
        | IdentityError::OldEnds { .. }
        | IdentityError::ShortLog { .. } => {
            Failure::refused(format!("{error}.\nTo rebuild the metadata from the store: {restore} --replace"))
        }
        IdentityError::OtherData { .. }
        | IdentityError::OtherFile { .. }
        | IdentityError::NotAFile { .. }
        | IdentityError::NewerVersion { .. } => Failure::refused(error.to_string()),
        IdentityError::Store { .. } | IdentityError::Meta(_) => Failure::runtime(error.to_string()),
    }
}

/// The cluster has another store, with the ways out.
fn other_place(config: &Config, error: &impl Display) -> String {
    let text =
        format!("--store: {error}. Correct --store, or give this broker another cluster with --cluster-name");
    if !config.store.is_shared() {
        return text;
    }
    let set_store = with_places(config, "kafscale set-store");
    format!(
        "{text}; or, where the cluster has no topics yet, stop its brokers and move it here:\n  {set_store}"
    )
}

fn restore(config: &Config) -> CommandLine {
    with_places(config, "kafscale restore")
}

/// With the arguments that name the store, the metadata and the cluster, and how they are reached.
fn with_places(config: &Config, command: &str) -> CommandLine {
    let Config { store, meta, cluster_name, reached_with, .. } = config;
    let line = CommandLine::new(command).flag("--store", store).flag("--meta", meta);
    line.flag("--cluster-name", cluster_name).with(reached_with)
}

/// A directory that another process has; with the flag that names another one.
fn in_use(config: &Config, error: &str) -> Failure {
    let is_one = matches!((&config.store, &config.meta), (StoreUrl::File(store), MetaUrl::File(meta)) if store == meta);
    let flag = if is_one { "--data-dir" } else { "--store and --meta" };
    Failure::runtime(format!("{error}, or choose another {flag}"))
}

#[cfg(test)]
mod tests {
    use std::process::Command as Program;

    use clap::FromArgMatches as _;
    use kafscale_storage::RecoveryError;

    use super::*;
    use crate::cli::{self, Cli, Command};
    use crate::restore::RestoreArgs;
    use crate::set_store::SetStoreArgs;

    fn parsed(words: &[String]) -> Command {
        let matches = cli::command().try_get_matches_from(words).unwrap_or_else(|e| panic!("{words:?}: {e}"));
        Cli::from_arg_matches(&matches).unwrap().command
    }

    fn config(args: &[&str]) -> Config {
        let words: Vec<String> = ["kafscale", "broker"].iter().chain(args).map(|w| (*w).to_owned()).collect();
        let Command::Broker(args) = parsed(&words) else { panic!("not a broker") };
        Config::from_args(*args, || "host".into()).unwrap()
    }

    /// The words of the commands in a message, as a shell reads them.
    fn commands(message: &str) -> Vec<Vec<String>> {
        let printed = ["kafscale restore --", "kafscale set-store --"];
        let found = printed.into_iter().flat_map(|begin| message.match_indices(begin));
        let found = found.filter(|(at, _)| !message[..*at].ends_with('`'));
        found.filter_map(|(at, _)| message[at..].lines().next()).map(as_words).collect()
    }

    fn as_words(line: &str) -> Vec<String> {
        let script = format!("set -- {line}; printf '%s\\0' \"$@\"");
        let mut shell = Program::new("sh");
        shell.env("KAFSCALE_S3_SECRET_ACCESS_KEY", "a secret").env("KAFSCALE_ETCD_PASSWORD", "pass word");
        let printed = shell.args(["-c", &script]).output().unwrap().stdout;
        let text = String::from_utf8(printed).unwrap();
        text.split_terminator('\0').map(str::to_owned).collect()
    }

    const FAR: &[&str] = &[
        "--store=s3://bucket/a/prefix",
        "--s3-endpoint=http://127.0.0.1:9000/it's here",
        "--s3-region=eu central",
        "--s3-virtual-host=true",
        "--s3-access-key-id=an id",
        "--s3-secret-access-key=a secret",
        "--s3-request-timeout=7s",
        "--s3-connect-timeout=1500ms",
        "--meta=etcds://etcd-1:2379,etcd-2:2379",
        "--etcd-username=me & you",
        "--etcd-password=pass word",
        "--etcd-ca-file=/tmp/a b/ca.pem",
        "--etcd-request-timeout=9s",
        "--cluster-name=c1",
    ];

    fn refusals(config: &Config) -> Vec<String> {
        let place = || "somewhere".to_owned();
        let identity = |error: IdentityError| open_failure(config, &error.into()).message();
        let last_missing = RecoveryError::LastMissing {
            path: "/tmp/it's here/7.kfw".into(),
            point: "/tmp/it's here/recovery-point".into(),
            known: String::new(),
        };
        let missing = RecoveryError::Missing { path: "/tmp/it's here/5.kfw".into(), others: 1 };
        let damaged = kafscale_meta::Error::new(ErrorKind::Corrupt, "run `kafscale restore`");
        vec![
            identity(IdentityError::NewMetadata { place: place() }),
            identity(IdentityError::OtherStore { place: place(), recorded: place(), found: place() }),
            identity(IdentityError::ShortLog { place: place(), file_no: 1, position: 2, found: place() }),
            open_failure(config, &last_missing.into()).message(),
            open_failure(config, &missing.into()).message(),
            metadata_failure(config, &damaged, damaged.to_string()).message(),
        ]
    }

    #[test]
    fn printed_commands_are_complete_and_a_shell_and_the_program_read_them() {
        let config = config(FAR);
        for message in refusals(&config) {
            assert!(!message.contains("a secret") && !message.contains("pass word"), "{message}");
            let [words] = &commands(&message)[..] else { panic!("{message}") };
            let Command::Restore(args) = parsed(words) else { panic!("{words:?}") };
            let RestoreArgs { store, meta, cluster_name, s3, etcd, .. } = *args;
            assert_eq!((store, meta), (Some(config.store.clone()), Some(config.meta.clone())));
            assert_eq!((cluster_name, s3.s3_virtual_host), ("c1".to_owned(), true));
            assert_eq!(s3.s3_endpoint.as_deref(), Some("http://127.0.0.1:9000/it's here"));
            assert_eq!(s3.s3_secret_access_key.as_deref(), Some("a secret"));
            assert_eq!(
                (s3.s3_region.as_deref(), s3.s3_request_timeout),
                (Some("eu central"), "7s".parse().unwrap())
            );
            assert_eq!(etcd.etcd_username.as_deref(), Some("me & you"));
            assert_eq!(etcd.etcd_password.as_deref(), Some("pass word"));
            assert_eq!(etcd.etcd_ca_file, Some("/tmp/a b/ca.pem".into()));
        }
        let theirs = || "s3://bucket/other".to_owned();
        let moved = IdentityError::OtherPlace { theirs: theirs(), own: theirs() };
        let message = open_failure(&config, &moved.into()).message();
        let [words] = &commands(&message)[..] else { panic!("{message}") };
        let Command::SetStore(args) = parsed(words) else { panic!("{words:?}") };
        let SetStoreArgs { store, s3, .. } = *args;
        assert_eq!((store, s3.s3_access_key_id.as_deref()), (config.store.clone(), Some("an id")));
    }

    #[test]
    fn a_local_directory_of_any_name_is_quoted() {
        let config = config(&["--data-dir=/tmp/it's \"mine\" $HOME"]);
        for message in refusals(&config) {
            let [words] = &commands(&message)[..] else { panic!("{message}") };
            let Command::Restore(args) = parsed(words) else { panic!("{words:?}") };
            assert_eq!((args.store, args.meta), (Some(config.store.clone()), Some(config.meta.clone())));
        }
    }
}
