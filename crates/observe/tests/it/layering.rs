//! What this crate must not be able to reach.

use std::collections::{BTreeMap, BTreeSet};

/// Crates that read or write record data, or speak Kafka.
const FORBIDDEN: &[&str] =
    &["kafscale-storage", "kafscale-broker", "kafka-protocol", "object_store", "rdkafka"];

#[test]
fn the_server_does_not_link_the_code_that_reads_records() {
    let lock = std::fs::read_to_string("../../Cargo.lock").unwrap();
    let mut depends: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in lock.split("[[package]]").skip(1) {
        let name = package.lines().find_map(|line| line.strip_prefix("name = ")).unwrap().trim_matches('"');
        let dependencies = package.split_once("dependencies = [").map_or("", |(_, rest)| rest);
        let dependencies = dependencies.split(']').next().unwrap();
        let names = dependencies.lines().map(|line| line.trim().trim_matches([',', '"']));
        let names = names.filter_map(|line| line.split(' ').next()).filter(|name| !name.is_empty());
        depends.entry(name).or_default().extend(names);
    }
    let (mut seen, mut next) = (BTreeSet::new(), vec!["kafscale-observe"]);
    while let Some(name) = next.pop() {
        if seen.insert(name) {
            next.extend(depends[name].iter().copied());
        }
    }
    assert!(seen.contains("kafscale-meta") && seen.contains("rmcp"));
    for name in FORBIDDEN {
        assert!(!seen.contains(name), "{name} is linked");
    }
}
