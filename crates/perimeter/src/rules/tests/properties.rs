//! What holds of all rules: their order does not matter, and none more makes anything less strict.

use std::cmp::Ordering;

use proptest::prelude::*;

use super::*;
use crate::rules::strictness::compare;
use crate::shape::TableShape;

fn mask() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("mask = \"null\"".to_owned()),
        "[a-c]".prop_map(|text| format!("mask = {{ fixed = \"{text}\" }}")),
        "[kl]".prop_map(|key| format!("mask = {{ hash = \"{key}\" }}")),
        "[kl]".prop_map(|key| format!("mask = {{ tokenise = \"{key}\" }}")),
        (1..4u32).prop_map(|count| format!("mask = {{ keep_last = {count} }}")),
        "year|quarter|month|day".prop_map(|part| format!("mask = {{ date = \"{part}\" }}")),
        (1..4u32).prop_map(|width| format!("mask = {{ bucket = {width} }}")),
        Just("hide = true".to_owned()),
    ]
}

fn of_table() -> impl Strategy<Value = String> {
    prop_oneof![
        (2..9u32).prop_map(|size| format!("min_group = {{ entity = \"id\", size = {size} }}")),
        (2..9u32).prop_map(|size| format!("min_group = {{ entity = \"ssn\", size = {size} }}")),
        (1..9u32).prop_map(|rows| format!("max_rows = {rows}")),
        (1..9u32).prop_map(|bytes| format!("max_bytes = {bytes}\nmax_rows = 7")),
        "[a-c]".prop_map(|ward| format!("row_filter = \"ward = '{ward}'\"")),
        "[a-c]".prop_map(|text| format!(
            "validate = {{ withhold = {{ {text} = \"{text}\" }}, refuse = {{ x = \"x\" }} }}"
        )),
        (1..9u32).prop_map(|n| format!("budgets = {{ queries_per_day = {n}, rows_per_day = 10 }}")),
    ]
}

fn condition() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        "[a-d]".prop_map(|group| format!("unless = {{ groups = \"{group}\" }}\n")),
        "[a-d]".prop_map(|group| format!("when = {{ groups = \"{group}\" }}\n")),
        Just("shadow = true\n".to_owned()),
    ]
}

/// An obligation without its id.
fn obligation() -> impl Strategy<Value = String> {
    let selection = "table = \"\\*\"|labels = \"l\\.\\*\"|labels = \"l\\.[ab]\"";
    let of_column = (selection, condition(), mask(), prop::option::of("id|name|b\\*")).prop_map(
        |(selection, condition, mask, column)| {
            let column = column.map(|column| format!("column = \"{column}\"\n")).unwrap_or_default();
            format!("{selection}\n{column}{condition}{mask}\n")
        },
    );
    let of_table = (selection, condition(), of_table())
        .prop_map(|(selection, condition, owed)| format!("{selection}\n{condition}{owed}\n"));
    prop_oneof![of_column, of_table]
}

fn rules(obligations: &[(usize, String)]) -> String {
    let mut text = String::from(
        "[keys.k]\nenv = \"K\"\n[keys.l]\nenv = \"L\"\n\
         [[label]]\ntable = \"*\"\ncolumn = \"id\"\nlabels = \"l.a\"\n\
         [[label]]\ntable = \"*\"\ncolumn = \"*n*\"\nlabels = \"l.b\"\n",
    );
    for (id, obligation) in obligations {
        text.push_str(&format!("[[obligation]]\nid = \"o{id}\"\n{obligation}"));
    }
    text
}

fn policy() -> impl Strategy<Value = String> {
    let scope = "principal|principal in Group::\"[a-d]\"|principal == User::\"alice\"";
    let action = "action|action == Action::\"query\"|action == Action::\"export\"";
    let resource = "resource|resource in Collection::\"hospital\"|resource in Table::\"hospital\\.patients\"|\
                    resource == Column::\"hospital\\.patients\\.name\"|resource is Column";
    let condition = "|when \\{ resource\\.labels\\.contains\\(\"l\\.[ab]\"\\) \\}|when \\{ context\\.purpose == \"x\" \\}|\
                     unless \\{ principal in Group::\"[a-d]\" \\}";
    (scope, action, resource, condition).prop_map(|(principal, action, resource, condition)| {
        format!("({principal}, {action}, {resource}) {condition};\n")
    })
}

/// Whether everything of a decision is as strict as of another, or stricter.
fn is_as_strict(decision: &Decision, as_other: &Decision) -> bool {
    let (shape, other) = match (decision.shape(), as_other.shape()) {
        (None, _) => return true,
        (Some(_), None) => return false,
        (Some(shape), Some(other)) => (shape, other),
    };
    let columns = shape.columns.iter().zip(&other.columns);
    let limit =
        |one: Option<u64>, other: Option<u64>| other.is_none() || one.is_some_and(|one| Some(one) <= other);
    let group = |shape: &TableShape| shape.min_group.as_ref().map(|group| (group.entity.clone(), group.size));
    columns.into_iter().all(|(one, other)| compare(&one.shown, &other.shown) != Ordering::Greater)
        && other.row_filters.iter().all(|filter| shape.row_filters.contains(filter))
        && other.patterns.iter().all(|pattern| shape.patterns.contains(pattern))
        && limit(shape.max_rows, other.max_rows)
        && limit(shape.max_bytes, other.max_bytes)
        && limit(decision.budgets.queries_per_day, as_other.budgets.queries_per_day)
        && limit(decision.budgets.rows_per_day, as_other.budgets.rows_per_day)
        && match (group(shape), group(other)) {
            (_, None) => true,
            (Some(one), Some(other)) => one.0 == other.0 && one.1 >= other.1,
            (None, Some(_)) => false,
        }
}

fn ask(policies: &str, rules: &str, groups: &[String]) -> Decision {
    let book = book(policies, rules);
    let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
    let first = decide(&book, &caller("alice", &groups, "x"), Action::Query);
    // What is remembered is what was decided.
    assert_eq!(first, decide(&book, &caller("alice", &groups, "x"), Action::Query));
    first
}

fn groups() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec("[a-d]", 0..3)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_order_of_obligations_does_not_matter(
        (one, other) in prop::collection::vec(obligation(), 0..8)
            .prop_map(|list| list.into_iter().enumerate().collect::<Vec<_>>())
            .prop_flat_map(|list| (Just(list.clone()), Just(list).prop_shuffle())),
        groups in groups(),
    ) {
        let policies = "permit (principal, action, resource);";
        let (one, other) = (ask(policies, &rules(&one), &groups), ask(policies, &rules(&other), &groups));
        prop_assert_eq!(&one.outcome, &other.outcome);
        prop_assert_eq!(one.budgets, other.budgets);
        prop_assert_eq!(&one.reasons.rules, &other.reasons.rules);
        prop_assert_eq!(&one.reasons.shadow, &other.reasons.shadow);
    }

    #[test]
    fn an_obligation_more_makes_nothing_less_strict(
        list in prop::collection::vec(obligation(), 1..8),
        groups in groups(),
    ) {
        let policies = "permit (principal, action, resource);";
        let list: Vec<_> = list.into_iter().enumerate().collect();
        let (all, but_one) = (ask(policies, &rules(&list), &groups), ask(policies, &rules(&list[1..]), &groups));
        prop_assert!(is_as_strict(&all, &but_one), "{:?} {:?}", all, but_one);
    }

    #[test]
    fn a_forbid_more_allows_nothing_more(
        permits in prop::collection::vec(policy(), 1..5),
        forbids in prop::collection::vec(policy(), 1..3),
        list in prop::collection::vec(obligation(), 0..3),
        groups in groups(),
    ) {
        let text = |forbids: &[String]| {
            let permits = permits.iter().map(|policy| format!("permit {policy}"));
            permits.chain(forbids.iter().map(|policy| format!("forbid {policy}"))).collect::<String>()
        };
        let rules = rules(&list.into_iter().enumerate().collect::<Vec<_>>());
        let (all, but_one) = (ask(&text(&forbids), &rules, &groups), ask(&text(&forbids[1..]), &rules, &groups));
        prop_assert!(is_as_strict(&all, &but_one), "{:?} {:?}", all, but_one);
    }

    #[test]
    fn no_text_of_rules_panics(
        policies in "(permit|forbid|\\(|\\)|principal|action|resource|when|\\{|\\}|;|\"|::|Group|\\PC){0,20}",
        rules in "(\\[\\[(label|obligation|table)\\]\\]\n|(labels|mask|table|unless|when) = (\"\\*\"|\\{\\}|\\[\\])\n|\\PC){0,10}",
    ) {
        let _ = try_book(&policies, &rules);
    }

    #[test]
    fn no_caller_panics(
        principal in "\\PC{0,20}|(User|Agent|Service):\\PC{0,5}",
        groups in prop::collection::vec("\\PC{0,8}", 0..4),
        purpose in any::<String>(),
        agent in prop::option::of(any::<String>()),
        collection in "\\PC{0,8}|hospital",
        table in "\\PC{0,8}|patients",
        column in any::<String>(),
    ) {
        let book = book(POLICIES, RULES);
        let caller = Caller { principal, groups, purpose, agent, ..Caller::default() };
        let columns = [ColumnInfo::new(column, DataType::Utf8)];
        let request = Request::new(&caller, Action::Query, i64::MAX);
        book.decide(&request, &TableName::new(collection.as_str(), table), &columns);
        book.sees_collection(&request, &collection);
    }
}
