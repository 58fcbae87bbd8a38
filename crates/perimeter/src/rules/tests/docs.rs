//! docs/perimeter-rules.md: each of its blocks is loaded, and its cases hold.

use std::path::Path;

use super::*;

const PAGE: &str = include_str!("../../../../../docs/perimeter-rules.md");

/// The blocks that open with this.
fn blocks(opening: &str) -> Vec<&'static str> {
    let after = PAGE.split("\n```").skip(1).step_by(2);
    after.filter_map(|block| block.strip_prefix(opening)?.strip_prefix('\n')).collect()
}

#[test]
fn the_examples_of_the_page_are_rules() {
    let (policies, rules, cases) = (blocks("cedar"), blocks("toml"), blocks("toml cases"));
    assert_eq!((policies.len(), rules.len(), cases.len()), (1, 1, 1));
    let book = book(policies[0], rules[0]);
    assert!(book.warnings().is_empty(), "{:?}", book.warnings());
    let report = cases::run(&book, Path::new("cases.toml"), cases[0]).unwrap();
    assert_eq!((report.passed, report.failed), (3, 0), "{}", report.text);
}
