//! Filters: what is refused, and that no value becomes more than a literal.

use datafusion::sql::sqlparser::ast::{VisitMut, VisitorMut};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::caller::Caller;
use crate::rules::{Action, Request};

fn subject(claims: &Value, purpose: &str, groups: &[&str]) -> Subject {
    let caller = Caller {
        principal: "O'Neill".to_owned(),
        groups: groups.iter().map(|g| (*g).to_owned()).collect(),
        purpose: purpose.to_owned(),
        claims: claims.as_object().cloned().unwrap_or_default(),
        ..Caller::default()
    };
    Subject::of(&Request::new(&caller, Action::Query, 0)).unwrap()
}

fn fill(filter: &str, claims: &Value, groups: &[&str]) -> String {
    Filter::parse(filter).unwrap().fill(&subject(claims, "care", groups))
}

#[test]
fn values_are_put_in_as_literals() {
    for (filter, claims, expected) in [
        ("nurse = :principal", json!({}), "nurse = 'O''Neill'"),
        ("why = :purpose AND x = 1", json!({}), "why = 'care' AND x = 1"),
        ("team IN :groups", json!({}), "team IN ('a', 'b')"),
        ("team in (:groups) OR y", json!({}), "team in ('a', 'b') OR y"),
        ("ward = :claim.ward", json!({"ward": "W3"}), "ward = 'W3'"),
        ("ward = :claim.ward", json!({"ward": -3}), "ward = (-3)"),
        ("ward - :claim.ward > 0", json!({"ward": -3}), "ward - (-3) > 0"),
        ("x = :claim.x", json!({"x": true}), "x = TRUE"),
        ("x = :claim.x", json!({"x": ["only"]}), "x = 'only'"),
        ("x IN :claim.x", json!({"x": "one"}), "x IN ('one')"),
        ("x NOT IN :claim.x", json!({"x": [1, "b"]}), "x NOT IN ((1), 'b')"),
        ("x IN :claim.x", json!({"x": []}), "x IN (NULL)"),
        ("d = :claim.d::date", json!({"d": "2026-01-01"}), "d = '2026-01-01'::date"),
        ("x = :claim.\"https://a/b\"", json!({"https://a/b": "c"}), "x = 'c'"),
        ("note = ':principal' AND \":x\" = 1", json!({}), "note = ':principal' AND \":x\" = 1"),
    ] {
        assert_eq!(fill(filter, &claims, &["b", "a"]), expected, "{filter}");
    }
}

#[test]
fn a_filter_that_lacks_a_value_is_false() {
    for (filter, claims) in [
        ("ward = :claim.ward", json!({})),
        ("NOT (ward = :claim.ward)", json!({"ward": null})),
        ("x = 1 OR ward <> :claim.ward", json!({"ward": {"a": 1}})),
        ("ward = :claim.ward", json!({"ward": ["a", "b"]})),
        ("ward = :claim.ward", json!({"ward": []})),
        ("ward IN :claim.ward", json!({"ward": ["a", null]})),
        ("ward = :claim.ward", json!({"ward": "a\nb"})),
        ("ward = :claim.ward", json!({"ward": "a\0b"})),
        ("a = :agent", json!({})),
        ("a = :on_behalf_of", json!({})),
    ] {
        assert_eq!(fill(filter, &claims, &[]), "FALSE", "{filter} {claims}");
    }
    let filter = Filter::parse("a = :purpose").unwrap();
    assert_eq!(filter.fill(&subject(&json!({}), " ", &[])), "FALSE");
}

#[test]
fn filters_that_could_mean_something_else_are_refused() {
    for (filter, expected) in [
        ("", "is no condition"),
        ("ward =", "is no condition"),
        ("ward = 1; DROP TABLE x", "a semicolon"),
        ("ward = 1 -- :principal", "a comment"),
        ("ward = 1 /* x */", "a comment"),
        ("ward = 'a\\'", "a backslash"),
        ("ward = E'a'", "a letter before a quote"),
        ("ward = U&'a'", "a letter before a quote"),
        ("ward = $$a$$", "a dollar sign"),
        ("ward = 'a", "ends within quotes"),
        ("ward = :wards", "`:wards`"),
        ("ward = :claim", "`:claim`"),
        ("ward = :claim.", "`:claim`"),
        ("ward = 'a':principal", "within a word"),
        ("ward = :principal'a'", "within a word"),
        ("ward = :groups", "IN :groups"),
        ("ward IN (SELECT 1)", "a query within it"),
        ("EXISTS (SELECT 1)", "a query within it"),
        ("row_number() OVER () = 1", "a window function"),
        ("patients.ward = 1", "without their table"),
        ("1 = 1", "names no column"),
        ("ward = 1) OR (x = 2", "stands behind its end"),
        ("ward = ?", "is no condition"),
    ] {
        let error = Filter::parse(filter).unwrap_err().to_string();
        assert!(error.contains(expected), "{filter}: {error}");
    }
    assert!(Filter::parse(&"x = 1 OR ".repeat(4_000)).is_err());
    assert!(Filter::parse(&("(".repeat(8_000) + "x")).is_err());
}

#[test]
fn columns_are_named_as_the_engine_looks_for_them() {
    let filter = Filter::parse("Ward = 1 AND \"Team\" IN :groups AND lower(name) = 'x'").unwrap();
    assert_eq!(filter.columns, ["Team", "name", "ward"]);
    assert_eq!(filter.missing(|name| name != "Team"), Some("Team"));
    assert_eq!(filter.missing(|_| true), None);
}

/// Puts a mark in the place of each literal.
struct Marks(Vec<String>);

impl VisitorMut for Marks {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Value(value) = expr
            && let SqlValue::SingleQuotedString(text) = &mut value.value
        {
            self.0.push(std::mem::take(text));
        }
        ControlFlow::Continue(())
    }
}

proptest! {
    #[test]
    fn a_value_is_one_literal_whatever_is_in_it(
        value in "(\\PC|['\"\\\\;:$-]|--|/\\*|' OR 1=1){0,40}",
        purpose in "[ a-z'\\\\\"]{1,20}",
    ) {
        let filter = Filter::parse("ward = :claim.ward AND why = :purpose AND x IN :claim.ward").unwrap();
        let subject = subject(&json!({"ward": value}), &purpose, &[]);
        let filled = filter.fill(&subject);
        if value.chars().any(char::is_control) || subject.purpose.is_empty() {
            prop_assert_eq!(filled, "FALSE");
        } else {
            let mut condition = parse_condition(&filled).unwrap();
            let mut marks = Marks(Vec::new());
            let _ = condition.visit(&mut marks);
            prop_assert_eq!(condition.to_string(), "ward = '' AND why = '' AND x IN ('')");
            prop_assert_eq!(marks.0, vec![value.clone(), subject.purpose.clone(), value]);
        }
    }

    #[test]
    fn no_text_of_an_operator_panics(text in "(\\PC|['\"\\\\;:$()-]|:claim\\.|:groups| IN ){0,60}") {
        let _ = Filter::parse(&text);
    }
}
