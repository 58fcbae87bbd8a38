//! What the documents say about the repository, held against the repository: crate graph, commands, links.
#![expect(clippy::unwrap_used, reason = "a test ends where its world is not as expected")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

/// Tests run in the directory of their package. Its name at compile time is that of another clone where clones share a target directory.
fn root() -> PathBuf {
    PathBuf::from("../..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Files below `dir` with this extension, as paths from the root of the repository.
fn files(dir: &str, extension: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![root().join(dir)];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                // What a workspace of its own has compiled is no source.
                if !path.ends_with("target") {
                    open.push(path);
                }
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path.strip_prefix(root()).unwrap().display().to_string());
            }
        }
    }
    found
}

fn documents() -> Vec<String> {
    let top = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"];
    top.into_iter().map(String::from).chain(files("docs", "md")).collect()
}

/// By crate: the crates that it depends on, outside of its tests.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let list = |value: &serde_json::Value| value.as_array().unwrap().clone();
    list(&metadata["packages"])
        .iter()
        .map(|package| {
            let normal = list(&package["dependencies"]).into_iter().filter(|d| d["kind"].is_null());
            (text(&package["name"]), normal.map(|d| text(&d["name"])).collect())
        })
        .collect()
}

#[test]
fn the_crate_graph_is_the_one_in_architecture_md() {
    let document = read("ARCHITECTURE.md");
    let (_, rest) = document.split_once("```crate-graph\n").expect("ARCHITECTURE.md has a crate-graph block");
    let (block, _) = rest.split_once("```").expect("the block ends");
    let stated: BTreeMap<String, BTreeSet<String>> = block
        .lines()
        .map(|line| {
            let (from, to) = line.split_once("->").expect("a line is `crate -> crates`");
            (from.trim().to_owned(), to.split_whitespace().map(String::from).collect())
        })
        .collect();
    let actual: BTreeMap<String, BTreeSet<String>> = dependencies()
        .into_iter()
        .map(|(name, deps)| (name, deps.into_iter().filter(|d| d.starts_with("kafscale")).collect()))
        .collect();
    assert_eq!(actual, stated);
}

#[test]
fn only_the_stated_crates_name_a_backend_the_network_or_the_protocol() {
    let rules: [(&str, &[&str]); 8] = [
        ("kafscale-sim-entropy", &["kafscale-sim"]),
        ("object_store", &["kafscale-sim", "kafscale-storage"]),
        ("redb", &["kafscale-meta"]),
        ("tonic", &["kafscale-meta"]),
        ("axum", &["kafscale-agent", "kafscale-broker"]),
        ("kafka-protocol", &["kafscale", "kafscale-bench", "kafscale-broker", "kafscale-sim"]),
        ("clap", &["kafscale", "kafscale-bench", "kafscale-settings"]),
        (
            "tokio",
            &[
                "kafscale",
                "kafscale-agent",
                "kafscale-audit",
                "kafscale-bench",
                "kafscale-broker",
                "kafscale-identity",
                "kafscale-meta",
                "kafscale-observe",
                "kafscale-sim",
                "kafscale-storage",
            ],
        ),
    ];
    let dependencies = dependencies();
    for (dependency, allowed) in rules {
        let users = dependencies.iter().filter(|(_, deps)| deps.contains(dependency));
        for (user, _) in users {
            assert!(allowed.contains(&user.as_str()), "{user} must not depend on {dependency}");
        }
    }
}

#[test]
fn every_source_file_opens_with_what_it_owns() {
    for path in ["crates", "sim", "bench"].iter().flat_map(|dir| files(dir, "rs")) {
        assert!(read(&path).starts_with("//!"), "{path} does not open with `//!`");
    }
}

/// The lines of fenced blocks whose language is a shell.
fn commands(document: &str) -> Vec<String> {
    let mut inside = false;
    let mut found = Vec::new();
    for line in document.lines() {
        if line.trim_start().starts_with("```") {
            inside = !inside && matches!(line.trim(), "```sh" | "```console");
        } else if inside {
            let command = line.trim().trim_start_matches("$ ");
            found.push(command.split(" #").next().unwrap_or_default().trim().to_owned());
        }
    }
    found
}

#[test]
fn every_command_in_the_documents_exists() {
    let makefile = read("Makefile");
    let mut checked = 0;
    for path in documents() {
        for command in commands(&read(&path)) {
            let words: Vec<&str> = command.split_whitespace().collect();
            match words.as_slice() {
                ["make", target, ..] if !target.contains('=') => {
                    assert!(makefile.contains(&format!("\n{target}:")), "{path}: no target for `{command}`");
                }
                [program, role, rest @ ..] if program.ends_with("kafscale") && !role.starts_with('-') => {
                    check_flags(&path, role, rest);
                }
                _ => continue,
            }
            checked += 1;
        }
    }
    assert!(checked > 5, "only {checked} commands were found; has the form of the blocks changed?");
}

fn check_flags(path: &str, role: &str, words: &[&str]) {
    // `kafscale audit verify FILE --anchor ANCHOR`, `kafscale perimeter erasure find --subject ID`
    let is_command = |word: &&&str| word.chars().all(|c| c.is_ascii_lowercase());
    let commands = words.iter().take_while(is_command);
    let mut command = Command::new(env!("CARGO_BIN_EXE_kafscale"));
    let output = command.arg(role).args(commands).arg("--help").output().unwrap();
    assert!(output.status.success(), "{path}: `kafscale {role}` is no command");
    let help = String::from_utf8_lossy(&output.stdout).into_owned();
    for flag in words.iter().filter(|word| word.starts_with("--")) {
        let name = flag.split('=').next().unwrap_or_default();
        let known = help.split_whitespace().any(|word| word == name);
        assert!(known, "{path}: `kafscale {role}` has no {name}");
    }
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    for path in documents() {
        let text = read(&path);
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            if file.is_empty() || target.contains("://") {
                continue;
            }
            let from = root().join(&path);
            let linked = from.parent().expect("a file has a directory").join(file);
            assert!(linked.exists(), "{path} links to {target}, which is not there");
        }
    }
}

#[test]
fn every_source_file_that_a_document_names_exists() {
    let sources: Vec<String> =
        ["crates", "sim", "bench", "fuzz/fuzz_targets"].iter().flat_map(|dir| files(dir, "rs")).collect();
    for path in documents() {
        for name in read(&path).split('`').skip(1).step_by(2).filter(|name| name.ends_with(".rs")) {
            // Named from the root, or by the end of its path: `api/produce.rs`.
            let end = format!("/{name}");
            assert!(
                root().join(name).exists() || sources.iter().any(|source| source.ends_with(&end)),
                "{path} names {name}, which is not there"
            );
        }
    }
}

/// The string literals of Rust source, as they stand there, with the lines that they begin in. Raw strings and tests are left out.
fn literals(source: &str) -> Vec<(usize, &str)> {
    let source = source.split("#[cfg(test)]").next().unwrap_or_default();
    let bytes = source.as_bytes();
    let (mut at, mut line, mut found) = (0, 1, Vec::new());
    while let Some(byte) = bytes.get(at) {
        // In the middle of a character there is nothing to find.
        let rest = source.get(at..).unwrap_or_default();
        let taken = match byte {
            b'/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            b'\'' if rest.starts_with(r"'\") => 4 + rest[3..].find('\'').unwrap_or(0),
            b'\'' if rest.starts_with("'\"'") => 3,
            b'r' if rest.starts_with("r\"") => 3 + rest[2..].find('"').unwrap_or(0),
            b'r' if rest.starts_with("r#") => rest.find("\"#").map_or(1, |end| end + 2),
            b'"' => {
                let mut end = 1;
                while let Some(byte) = bytes.get(at + end).filter(|byte| **byte != b'"') {
                    end += if *byte == b'\\' { 2 } else { 1 };
                }
                found.push((line, rest.get(1..end).unwrap_or_default()));
                end + 1
            }
            _ => 1,
        };
        line += bytes[at..at + taken.max(1)].iter().filter(|byte| **byte == b'\n').count();
        at += taken.max(1);
    }
    found
}

/// A line continuation that lost its backslash leaves the indentation of the source in the message.
fn lost_continuation(literal: &str) -> Option<&str> {
    let is_word = |c: char| c.is_alphanumeric() || "`'(".contains(c);
    literal.match_indices("   ").find_map(|(at, _)| {
        let before = literal[..at].trim_end_matches(' ');
        let after = literal[at..].trim_start_matches(' ');
        let line = before.rsplit('\n').next().unwrap_or_default();
        // Behind a line break indentation is meant, and in a line that is indented itself: a row of a table.
        let is_prose = line.ends_with(|c: char| is_word(c) || ".,;:)".contains(c));
        let is_meant = line.ends_with("\\n") || line.starts_with("  ");
        // Where other lines of the text are continued.
        let is_mixed = literal.contains("\\\n") && !literal.starts_with("\\\n");
        let over_lines = is_mixed && before.ends_with('\n') && !before.ends_with("\\\n");
        ((is_prose && !is_meant || over_lines) && after.starts_with(is_word))
            .then(|| &literal[before.len()..])
    })
}

#[test]
fn no_message_has_the_indentation_of_its_source() {
    for (literal, is_lost) in [
        ("put it back          from a copy", true),
        ("it was damaged. \\\n         Put it back\n         from a copy", true),
        ("SELECT 1\n  FROM one", false),
        ("put it back \\\n         from a copy", false),
        ("What can be done:\\n    nothing", false),
        ("\\\nExamples:\n  kafscale demo      a broker", false),
        ("    nothing", false),
        ("  topics   orders", false),
        ("{a}   {b}", false),
    ] {
        assert_eq!(lost_continuation(literal).is_some(), is_lost, "{literal}");
    }
    let mut checked = 0;
    for path in ["crates", "sim", "bench"].iter().flat_map(|dir| files(dir, "rs")) {
        if path.contains("/tests") {
            continue;
        }
        for (line, literal) in literals(&read(&path)) {
            let lost = lost_continuation(literal);
            assert!(lost.is_none(), "{path}:{line}: a run of spaces in a message: {lost:?}");
            checked += 1;
        }
    }
    assert!(checked > 5_000, "only {checked} literals were found");
}
