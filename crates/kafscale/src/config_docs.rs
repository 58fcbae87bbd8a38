//! The tables of docs/configuration.md, made from the arguments themselves, so that they cannot be wrong.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::{Arg, Command};

/// One table per help heading, in the order of the help.
pub fn tables(command: &Command) -> String {
    let mut order: Vec<&str> = Vec::new();
    let mut rows: BTreeMap<&str, Vec<&Arg>> = BTreeMap::new();
    for role in ["broker", "demo"] {
        let sub = command.find_subcommand(role).expect("the role is a subcommand");
        for arg in sub.get_arguments().filter(|arg| arg.get_env().is_some()) {
            let heading = arg.get_help_heading().unwrap_or("Settings file");
            if !order.contains(&heading) {
                order.push(heading);
            }
            let known = rows.entry(heading).or_default();
            if !known.iter().any(|other| other.get_id() == arg.get_id()) {
                known.push(arg);
            }
        }
    }
    let mut text = String::new();
    for heading in order {
        let _ = writeln!(
            text,
            "\n### {heading}\n\n| Flag | Variable | TOML key | Default | Meaning |\n|---|---|---|---|---|"
        );
        for arg in &rows[heading] {
            text.push_str(&row(arg));
        }
    }
    text
}

fn row(arg: &Arg) -> String {
    let long = arg.get_long().unwrap_or_default();
    let variable = arg.get_env().map(|v| v.to_string_lossy()).unwrap_or_default();
    let takes_value = arg.get_action().takes_values();
    let value = arg.get_value_names().filter(|_| takes_value).and_then(|names| names.first());
    let flag = value.map_or(format!("--{long}"), |name| format!("--{long} {name}"));
    // The settings file cannot name another settings file.
    let key = if long == "config" { "".to_owned() } else { format!("`{long}`") };
    let (meaning, default) = meaning_and_default(arg);
    format!("| `{flag}` | `{variable}` | {key} | {default} | {meaning} |\n")
}

/// A default that depends on other settings is written in the help as `[default: …]`, and moves to its column here.
fn meaning_and_default(arg: &Arg) -> (String, String) {
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    if let Some((meaning, default)) = help.split_once(" [default: ") {
        return (meaning.to_owned(), default.trim_end_matches(']').to_owned());
    }
    if !arg.get_action().takes_values() {
        return (help, "`false`".to_owned());
    }
    let default: Vec<String> =
        arg.get_default_values().iter().map(|value| format!("`{}`", value.to_string_lossy())).collect();
    (help, default.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli;

    #[test]
    fn every_flag_has_a_variable_of_its_own_name() {
        let command = cli::command();
        for role in ["broker", "demo"] {
            let sub = command.find_subcommand(role).unwrap();
            for arg in sub.get_arguments().filter(|a| !matches!(a.get_id().as_str(), "help" | "version")) {
                let long = arg.get_long().expect("every setting is a flag");
                let expected = format!("KAFSCALE_{}", long.replace('-', "_").to_uppercase());
                assert_eq!(arg.get_env().and_then(|e| e.to_str()), Some(expected.as_str()), "--{long}");
            }
        }
    }

    #[test]
    fn every_default_is_accepted_by_its_own_parser() {
        cli::command().debug_assert();
    }

    #[test]
    fn every_setting_has_a_meaning_and_a_row() {
        let command = cli::command();
        let text = tables(&command);
        for arg in
            command.find_subcommand("broker").unwrap().get_arguments().filter(|a| a.get_env().is_some())
        {
            let long = arg.get_long().unwrap();
            assert!(arg.get_help().is_some(), "--{long} has no help");
            assert!(text.contains(&format!("| `--{long}")), "--{long} has no row");
        }
    }

    #[test]
    fn the_committed_documentation_is_the_generated_one() {
        let text = std::fs::read_to_string("../../docs/configuration.md").unwrap();
        let (_, rest) = text.split_once("<!-- settings -->\n").expect("a start marker");
        let (committed, _) = rest.split_once("\n<!-- end of settings -->").expect("an end marker");
        let generated = tables(&cli::command());
        assert!(
            committed.trim() == generated.trim(),
            "docs/configuration.md is out of date; put the output of `kafscale config-docs` between its markers"
        );
    }
}
