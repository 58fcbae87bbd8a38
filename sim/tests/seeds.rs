//! The simulation as CI runs it: some seeds twice, whose histories must be the same byte by byte, and all seeds that once found a bug.
#![expect(clippy::unwrap_used, reason = "a test ends where its world is not as expected")]

use std::process::Command;

/// Seeds that are run twice.
const SEEDS: &str = "30";

fn passes(arguments: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_kafscale-sim")).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_seed_gives_the_same_bytes_twice_and_breaks_no_rule() {
    passes(&["twice", "1", SEEDS]);
}

#[test]
fn seeds_that_once_found_a_bug_find_it_no_more() {
    passes(&["named", "seeds.txt"]);
}
