//! Settings from a TOML file, put between environment and defaults.
//!
//! A key of the file becomes the default of its argument, and the command line is then parsed once more: flag over
//! variable over file over default falls out of clap's own order, and there is one set of value parsers.
//! A key is the name of a flag without dashes. A key that is no flag is an error, never ignored.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{ArgMatches, Command, Id};

use crate::failure::Failure;
use crate::refusals;

/// Shares at least this much with a known name, or is not worth suggesting.
const SIMILAR: f64 = 0.75;
/// A variable that differs in more letters than this is somebody else's (`KAFSCALE_PORT`).
const MISSPELT_MAX: usize = 2;

/// The variable of the argument that names the file.
const VARIABLE: &str = "KAFSCALE_CONFIG";
/// More is no settings file.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// How the file is read.
pub type Read = fn(&Path) -> std::io::Result<String>;

/// At the start a pipe will do, as of a shell's `<(…)`: whoever starts the program writes to it.
pub fn read_once(path: &Path) -> std::io::Result<String> {
    kafscale_meta::files::read_text_once(path)
}

/// While the program runs.
pub fn read_again(path: &Path) -> std::io::Result<String> {
    kafscale_meta::files::read_small_text(path, MAX_FILE_BYTES)
}

/// Parses `args`, with the settings file of the chosen subcommand (if it names one) as a layer under the environment.
///
/// Gives the command beside them, as to make it takes long.
pub fn parse(new: fn() -> Command, args: &[OsString], read: Read) -> Result<(ArgMatches, Command), Failure> {
    let mut command = new();
    let matches = command.try_get_matches_from_mut(args)?;
    let Some((role, sub)) = matches.subcommand() else { return Ok((matches, command)) };
    if !has_settings_file(&command, role) {
        return Ok((matches, command));
    }
    let Ok(Some(path)) = sub.try_get_one::<PathBuf>("config") else { return Ok((matches, command)) };
    let problem = |what: String| Failure::usage(format!("settings file {}: {what}", path.display()));
    let text = read(path).map_err(|e| problem(format!("cannot be read: {e}")))?;
    let mut layered = layer(new(), role, &text).map_err(problem)?;
    Ok((layered.try_get_matches_from_mut(args)?, layered))
}

/// `kafscale perimeter --config` names a file of another kind, which the perimeter itself reads.
fn has_settings_file(command: &Command, role: &str) -> bool {
    let sub = command.find_subcommand(role).expect("clap has matched this subcommand");
    sub.get_arguments().any(|arg| arg.get_id() == "config" && arg.get_env() == Some(VARIABLE.as_ref()))
}

/// Makes every value of the file the default of its argument in the subcommand `role`.
fn layer(command: Command, role: &str, text: &str) -> Result<Command, String> {
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| format!("not valid TOML: {e}"))?;
    let sub = command.find_subcommand(role).expect("clap has matched this subcommand");
    let defaults = table
        .iter()
        .map(|(key, value)| default_from_file(sub, key, value))
        .collect::<Result<Vec<(Id, String)>, String>>()?;
    Ok(command.mut_subcommand(role, |sub| {
        defaults.into_iter().fold(sub, |sub, (id, text)| sub.mut_arg(id, |arg| arg.default_value(text)))
    }))
}

/// The argument that a key stands for and its value as text, after the argument's own parser has accepted it.
fn default_from_file(sub: &Command, key: &str, value: &toml::Value) -> Result<(Id, String), String> {
    let is_table = |value: &toml::Value| matches!(value, toml::Value::Table(_));
    if is_table(value) || value.as_array().is_some_and(|values| values.iter().any(is_table)) {
        return Err(format!("`{key}` is a table; settings are top-level keys, without [tables]"));
    }
    let settings = || sub.get_arguments().filter(|a| a.get_env().is_some() && a.get_id() != "config");
    let Some(arg) = settings().find(|a| a.get_long() == Some(key)) else {
        let known = settings().filter_map(|a| a.get_long());
        let hint = similar(key, known).map(|s| format!("; did you mean `{s}`?")).unwrap_or_default();
        return Err(format!("`{key}` is not a setting of `kafscale {}`{hint}", sub.get_name()));
    };
    let text = match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Integer(number) => number.to_string(),
        toml::Value::Boolean(flag) => flag.to_string(),
        toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Array(_) | toml::Value::Table(_) => {
            return Err(format!("`{key}` must be a string, a whole number, true or false"));
        }
    };
    let alone = arg.clone().env(None::<&str>).default_value(text.clone());
    match Command::new("file").arg(alone).try_get_matches_from(["file"]) {
        Ok(_) => Ok((arg.get_id().clone(), text)),
        Err(error) => Err(format!("`{key}`: {}", refusal(error))),
    }
}

/// clap's message without its `error:` and without usage hints, which speak of flags; with the possible values if there are some.
fn refusal(error: clap::Error) -> String {
    let text = refusals::reworded(error).to_string();
    let mut lines = text.lines().map(str::trim);
    let first = lines.next().unwrap_or_default().trim_start_matches("error: ");
    match lines.find(|line| line.starts_with("[possible values")) {
        Some(values) => format!("{first} {values}"),
        None => first.to_owned(),
    }
}

/// Warnings for `KAFSCALE_*` variables that are almost the name of a setting. Others are let alone: orchestrators put
/// variables of their own (`KAFSCALE_SERVICE_HOST`) beside ours.
pub fn misspelt_variables(command: &Command, names: impl Iterator<Item = String>) -> Vec<String> {
    let known: Vec<&str> = command
        .get_subcommands()
        .flat_map(|sub| sub.get_arguments())
        .filter_map(|arg| arg.get_env()?.to_str())
        .collect();
    names
        .filter(|name| name.starts_with("KAFSCALE_") && !known.contains(&name.as_str()))
        .filter_map(|name| {
            let best = similar(&name, known.iter().copied())
                .filter(|best| strsim::levenshtein(best, &name) <= MISSPELT_MAX)?;
            Some(format!("the variable {name} is not a setting and is ignored; did you mean {best}?"))
        })
        .collect()
}

fn similar<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(score, _)| *score >= SIMILAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use clap::{CommandFactory as _, FromArgMatches as _};

    use super::*;
    use crate::cli::{BrokerArgs, Cli, Command as Role};

    #[test]
    fn the_file_of_the_perimeter_is_no_settings_file() {
        let mut toml = tempfile::NamedTempFile::new().unwrap();
        toml.write_all(b"[collections.clinic]\nkind = \"sqlite\"\n").unwrap();
        let file = toml.path().to_str().unwrap();
        for words in [&["check"][..], &["check", "--config", file], &["--config", file]] {
            let line = ["kafscale", "perimeter"].iter().chain(words).map(OsString::from).collect::<Vec<_>>();
            parse(Cli::command, &line, read_once).unwrap();
        }
    }

    /// Settings as `kafscale broker --config FILE ARGS` sees them.
    fn broker(file: &str, args: &[&str]) -> Result<BrokerArgs, Failure> {
        let mut toml = tempfile::NamedTempFile::new().unwrap();
        toml.write_all(file.as_bytes()).unwrap();
        let mut line: Vec<OsString> = vec!["kafscale".into(), "broker".into(), "--config".into()];
        line.push(toml.path().into());
        line.extend(args.iter().map(OsString::from));
        let (matches, _) = parse(Cli::command, &line, read_once)?;
        let cli = Cli::from_arg_matches(&matches)?;
        match cli.command {
            Role::Broker(args) => Ok(*args),
            other => panic!("not a broker: {other:?}"),
        }
    }

    fn refusal_of(file: &str) -> String {
        match broker(file, &[]) {
            Err(Failure::Usage(message)) => message,
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn a_flag_is_stronger_than_the_file_and_the_file_than_the_default() {
        let file = "num-partitions = 6\nwal-file-bytes = \"8MiB\"\nauto-create-topics = false\n";
        let args = broker(file, &["--num-partitions", "12"]).unwrap();
        assert_eq!(args.topics.num_partitions, 12);
        assert_eq!(args.log.wal_file_bytes.to_string(), "8MiB");
        assert!(!args.topics.auto_create_topics);
        assert_eq!(args.data.node_id, 1);
    }

    #[test]
    fn an_unknown_key_is_refused_with_a_suggestion() {
        let message = refusal_of("metrics-lsiten = \"127.0.0.1:1\"");
        assert!(message.contains("did you mean `metrics-listen`?"), "{message}");
        assert!(refusal_of("zzz = 1").contains("`zzz` is not a setting of `kafscale broker`"));
    }

    #[test]
    fn a_bad_value_is_refused_under_its_key() {
        let cases = [
            ("wal-max-bytes = \"12 parsecs\"", "`wal-max-bytes`: invalid value '12 parsecs'"),
            ("num-partitions = 0", "`num-partitions`: "),
            ("listen = [\"a\"]", "`listen` must be a string"),
            ("store = \"http://bucket/x\"", "`store`: "),
            ("config = \"other.toml\"", "`config` is not a setting"),
            ("listen = ", "not valid TOML"),
            (
                "[topics]\nnum-partitions = 3",
                "`topics` is a table; settings are top-level keys, without [tables]",
            ),
            ("[[listen]]\na = 3", "`listen` is a table; settings are top-level keys, without [tables]"),
            ("auto-create-topics = \"maybe\"", "[possible values: true, false]"),
            ("log-format = \"xml\"", "[possible values: text, json]"),
            ("log-level = \"loud\"", "error, warn, info, debug or trace"),
            ("num-partitions = \"six\"", "`six` is not a whole number"),
            ("node-id = -1", "must be 0 or more"),
        ];
        for (file, expected) in cases {
            let message = refusal_of(file);
            assert!(message.contains(expected), "{file}: {message}");
        }
    }

    #[test]
    fn a_missing_file_is_an_error_that_names_it() {
        let args = ["kafscale", "broker", "--config", "/no/such/file.toml"].map(OsString::from);
        let Err(Failure::Usage(message)) = parse(Cli::command, &args, read_once) else { panic!("accepted") };
        assert!(message.contains("/no/such/file.toml"), "{message}");
    }

    #[test]
    fn only_near_misses_of_variables_are_warned_about() {
        let names = ["KAFSCALE_LISEN", "KAFSCALE_LISTEN", "KAFSCALE_SERVICE_HOST", "KAFSCALE_PORT", "PATH"];
        let warnings = misspelt_variables(&Cli::command(), names.into_iter().map(String::from));
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains("did you mean KAFSCALE_LISTEN?"), "{warnings:?}");
    }
}
