//! Decisions: tables of cases, and what holds of all rules.

mod docs;
mod properties;

use arrow::datatypes::{DataType, TimeUnit};

use super::load::Texts;
use super::*;
use crate::shape::{DatePart, Mask, Shown, TableName};

pub(super) const POLICIES: &str = r#"
@id("analysts")
permit (principal in Group::"analysts", action in [Action::"describe", Action::"query"],
        resource in Collection::"hospital");

@id("nurses")
permit (principal in Group::"nurses", action == Action::"query", resource in Table::"hospital.patients")
when { context.purpose == "treatment" };

@id("no-secrets")
@tell("The field office decides about this.")
forbid (principal, action, resource) when { resource.labels.contains("secret") }
unless { principal in Group::"officers" };
"#;

pub(super) const RULES: &str = r#"
[keys.ssn]
env = "SSN_KEY"

[[label]]
table = "hospital.patients"
column = ["name", "*_name"]
labels = "pii.name"

[[label]]
table = "hospital.*"
column = "ssn"
labels = ["pii.ssn", "pii.id"]

[[label]]
table = "hospital.patients"
column = "hiv"
labels = "secret"

[[label]]
table = "hospital.patients"
column = "born"
labels = "pii.birth"

[[obligation]]
id = "names"
labels = "pii.name"
mask = { fixed = "***" }
unless = { groups = "nurses" }
tell = "Names are for the ward alone."

[[obligation]]
id = "ssn"
labels = "pii.ssn"
mask = { hash = "ssn" }

[[obligation]]
id = "births"
labels = "pii.birth"
mask = { date = "year" }
unless = { groups = "nurses", purposes = "treatment" }

[[obligation]]
id = "ward"
table = "hospital.patients"
when = { groups = "nurses" }
row_filter = "ward = :claim.ward"

[[obligation]]
id = "groups"
labels = "pii.*"
when = { groups = "analysts" }
min_group = { entity = "id", size = 10 }
max_rows = 1000
budgets = { queries_per_day = 100, rows_per_day = 500 }
"#;

pub(super) fn book(policies: &str, rules: &str) -> Rulebook {
    try_book(policies, rules).unwrap()
}

pub(super) fn try_book(policies: &str, rules: &str) -> Result<Rulebook, RulesError> {
    Rulebook::of(&Texts::of(policies, rules), &|source| match source.env.as_deref() {
        Some("SHORT") => Ok(vec![1; 15]),
        Some("MISSING") => Err("the variable is not set".into()),
        _ => Ok(vec![7; 32]),
    })
}

#[test]
fn patterns_of_all_obligations_that_hold_are_looked_for() {
    let rules = "[[obligation]]\nid = \"one\"\ntable = \"hospital.*\"\nvalidate = { withhold = { \"case number\" = 'CASE-\\d+' } }\n\
                 [[obligation]]\nid = \"two\"\ntable = \"*\"\nunless = { groups = \"nurses\" }\nvalidate = { refuse = { privileged = 'PRIVILEGED' } }\n";
    let book = book("permit (principal, action, resource);", rules);
    let of = |groups: &[&str]| {
        let decision = decide(&book, &caller("alice", groups, "treatment"), Action::Query);
        decision.shape().expect("it is allowed").patterns.iter().map(|p| p.in_words()).collect::<Vec<_>>()
    };
    assert_eq!(of(&["nurses"]), ["case number withheld"]);
    assert_eq!(of(&[]), ["answers with privileged refused", "case number withheld"]);
    for (validate, told) in [
        ("{ }", "neither"),
        ("{ withhold = { a = '(' } }", "the pattern `a`"),
        ("{ withold = { a = 'b' } }", "withold"),
    ] {
        let rules = format!("[[obligation]]\nid = \"o\"\ntable = \"*\"\nvalidate = {validate}\n");
        let error = try_book("", &rules).unwrap_err().to_string();
        assert!(error.contains(told), "{validate}: {error}");
    }
}

pub(super) fn columns() -> Vec<ColumnInfo> {
    let types = [
        ("id", DataType::Int64),
        ("name", DataType::Utf8),
        ("ssn", DataType::Utf8),
        ("hiv", DataType::Boolean),
        ("born", DataType::Date32),
        ("ward", DataType::Utf8),
    ];
    types.into_iter().map(|(name, data_type)| ColumnInfo::new(name, data_type)).collect()
}

pub(super) fn caller(principal: &str, groups: &[&str], purpose: &str) -> Caller {
    Caller {
        principal: principal.to_owned(),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        purpose: purpose.to_owned(),
        ..Caller::default()
    }
}

fn decide_on(book: &Rulebook, caller: &Caller, action: Action, table: &TableName) -> Decision {
    book.decide(&Request::new(caller, action, 0), table, &columns())
}

fn decide(book: &Rulebook, caller: &Caller, action: Action) -> Decision {
    decide_on(book, caller, action, &TableName::new("hospital", "patients"))
}

/// The columns of a shape in short.
pub(super) fn shown(decision: &Decision) -> Vec<String> {
    let columns = decision.shape().map(|shape| shape.columns.as_slice()).unwrap_or_default();
    columns.iter().map(|column| format!("{}={}", column.name, strictness::describe(&column.shown))).collect()
}

#[test]
fn policies_and_obligations_make_a_shape() {
    let book = book(POLICIES, RULES);
    assert!(book.warnings().is_empty(), "{:?}", book.warnings());
    let decision = decide(&book, &caller("alice", &["analysts"], "research"), Action::Query);
    assert_eq!(
        shown(&decision),
        [
            "id=shown",
            "name=masked:fixed",
            "ssn=masked:hash(ssn)",
            "hiv=hidden",
            "born=masked:date(year)",
            "ward=shown"
        ]
    );
    let shape = decision.shape().unwrap();
    let group = shape.min_group.as_ref().unwrap();
    assert_eq!((group.entity.as_str(), group.size, shape.max_rows), ("id", 10, Some(1000)));
    assert_eq!((shape.row_filters.len(), shape.max_bytes), (0, None));
    assert_eq!(decision.budgets.rows_per_day, Some(500));
    assert_eq!(decision.budgets.entities_per_day, None);
    assert_eq!(shape.columns[1].rules, ["names"]);
    assert_eq!(shape.columns[2].labels, ["pii.id", "pii.ssn"]);

    let mut nurse = caller("bob", &["nurses"], "treatment");
    nurse.claims.insert("ward".to_owned(), "W'3".into());
    let decision = decide(&book, &nurse, Action::Query);
    assert_eq!(
        shown(&decision),
        ["id=shown", "name=shown", "ssn=masked:hash(ssn)", "hiv=hidden", "born=shown", "ward=shown"]
    );
    let shape = decision.shape().unwrap();
    assert_eq!(
        (shape.row_filters.as_slice(), shape.min_group.as_ref()),
        (&["ward = 'W''3'".to_owned()][..], None)
    );
    // Of another ward, or of none that the token says.
    nurse.claims.clear();
    assert_eq!(decide(&book, &nurse, Action::Query).shape().unwrap().row_filters, ["FALSE"]);
}

#[test]
fn what_nothing_permits_is_denied() {
    let book = book(POLICIES, RULES);
    for (principal, groups, purpose, action) in [
        ("eve", &[][..], "treatment", Action::Query),
        ("bob", &["nurses"], "marketing", Action::Query),
        ("bob", &["nurses"], "Treatment", Action::Query),
        ("bob", &["nurses"], "treatment", Action::Export),
        ("bob", &["Nurses"], "treatment", Action::Query),
        ("bob", &["nurses "], "treatment", Action::Query),
        ("nurses", &["*"], "treatment", Action::Query),
        ("", &["analysts"], "research", Action::Query),
        ("Group:analysts", &[], "research", Action::Query),
        ("al\u{200b}ice", &["analysts"], "research", Action::Query),
    ] {
        let decision = decide(&book, &caller(principal, groups, purpose), action);
        assert_eq!(decision.outcome, Outcome::Deny, "{principal} {groups:?} {purpose} {action:?}");
    }
    let alice = caller("alice", &["analysts"], "");
    for (collection, table) in
        [("hospital2", "patients"), ("hospital.patients", "x"), ("Hospital", "patients")]
    {
        let decision = decide_on(&book, &alice, Action::Query, &TableName::new(collection, table));
        assert_eq!(decision.outcome, Outcome::Deny, "{collection}.{table}");
    }
    assert!(decide_on(&book, &alice, Action::Query, &TableName::new("hospital", "wards")).shape().is_some());
}

#[test]
fn a_denial_is_told_as_if_nothing_were_there() {
    let book = book(
        "permit (principal, action, resource in Table::\"a.seen\");\
         @id(\"hush-hush\") forbid (principal, action, resource in Table::\"a.forbidden\");",
        "",
    );
    let eve = caller("eve", &[], "x");
    let told = |table: &str| {
        let decision = decide_on(&book, &eve, Action::Query, &TableName::new("a", table));
        let text = decision.reasons.for_caller.join(" ");
        assert!(!text.contains("hush"), "{text}");
        text.replace(table, "T")
    };
    assert_eq!(told("forbidden"), told("unknown"));
    assert_ne!(told("seen"), told("unknown"));
}

#[test]
fn a_caller_reads_nothing_of_hidden_columns_nor_ids() {
    let book = book(POLICIES, RULES);
    let decision = decide(&book, &caller("alice", &["analysts"], "research"), Action::Query);
    let told = decision.reasons.for_caller.join("\n");
    for hidden in ["hiv", "secret", "no-secrets"] {
        assert!(!told.contains(hidden), "{told}");
    }
    for expected in
        ["3 columns masked: name, ssn, born", "some columns are held back", "Names are for the ward"]
    {
        assert!(told.contains(expected), "{told}");
    }
    let audited = decision.reasons.for_auditor.join("\n");
    for expected in ["columns hiv: forbidden by no-secrets", "name: masked:fixed by names", "hidden: hiv"] {
        assert!(audited.contains(expected), "{audited}");
    }
    assert_eq!(decision.reasons.rules, ["analysts", "births", "groups", "names", "no-secrets", "ssn"]);
}

#[test]
fn an_obligation_that_cannot_be_carried_out_denies_the_table() {
    let permit = "permit (principal, action, resource);";
    for (rules, expected) in [
        ("row_filter = \"clinic = 'x'\"", "needs the column `clinic`"),
        ("row_filter = '\"Ward\" = 1'", "needs the column `Ward`"),
        ("min_group = { entity = \"patient\", size = 5 }", "the column `patient`"),
        (
            "min_group = { entity = \"id\", size = 5 }\n[[obligation]]\ntable = \"*\"\nmin_group = { entity = \"ssn\", size = 5 }",
            "two different entities",
        ),
    ] {
        let book = book(permit, &format!("[[obligation]]\ntable = \"*\"\n{rules}"));
        let decision = decide(&book, &caller("alice", &[], ""), Action::Query);
        assert_eq!(decision.outcome, Outcome::Deny, "{rules}");
        let audited = decision.reasons.for_auditor.join("\n");
        assert!(audited.contains(expected), "{audited}");
    }
    // By case alone, it is the same entity.
    let rules = "[[obligation]]\ntable = \"*\"\nmin_group = { entity = \"ID\", size = 5 }";
    let decision = decide(&book(permit, rules), &caller("alice", &[], ""), Action::Query);
    assert_eq!(decision.shape().unwrap().min_group.as_ref().unwrap().entity, "id");
}

#[test]
fn unlabelled_columns_of_closed_tables_are_hidden() {
    let rules = "[[table]]\nname = \"hospital.*\"\nclosed = true\n\
                 [[label]]\ntable = \"hospital.*\"\nlabels = \"clinical\"\n\
                 [[label]]\ntable = \"hospital.*\"\ncolumn = [\"ID\", \"ward\"]\nlabels = \"plain\"";
    let book = book("permit (principal, action, resource);", rules);
    let decision = decide(&book, &caller("alice", &[], ""), Action::Query);
    assert_eq!(
        shown(&decision),
        ["id=shown", "name=hidden", "ssn=hidden", "hiv=hidden", "born=hidden", "ward=shown"]
    );
    assert_eq!(decision.shape().unwrap().columns[0].labels, ["clinical", "plain"]);
}

#[test]
fn the_strictest_mask_holds_and_one_that_does_not_fit_is_null() {
    let permit = "permit (principal, action, resource);";
    for (masks, data_type, expected) in [
        (&["{ keep_last = 4 }", "{ hash = \"k\" }"][..], DataType::Utf8, "masked:hash(k)"),
        (&["{ keep_last = 4 }", "{ keep_last = 2 }"], DataType::Utf8, "masked:keep_last(2)"),
        (&["{ bucket = 5 }", "{ bucket = 10 }"], DataType::Int64, "masked:bucket(10)"),
        (&["{ bucket = 5 }", "{ bucket = 10 }"], DataType::Utf8, "masked:null"),
        (&["{ date = \"month\" }"], DataType::Timestamp(TimeUnit::Second, None), "masked:date(month)"),
        (&["{ date = \"month\" }"], DataType::Utf8, "masked:date(month)"),
        (&["{ date = \"month\" }"], DataType::Int64, "masked:null"),
        (&["\"null\"", "{ fixed = \"x\" }"], DataType::Utf8, "masked:null"),
        (&["{ tokenise = \"k\" }", "{ fixed = \"x\" }"], DataType::Utf8, "masked:fixed"),
    ] {
        let rules: String = masks
            .iter()
            .map(|mask| format!("[[obligation]]\ntable = \"*\"\ncolumn = \"x\"\nmask = {mask}\n"))
            .collect();
        let book = book(permit, &format!("[keys.k]\nenv = \"K\"\n{rules}"));
        let columns = [ColumnInfo::new("x", data_type)];
        let alice = caller("alice", &[], "");
        let decision =
            book.decide(&Request::new(&alice, Action::Query, 0), &TableName::new("a", "b"), &columns);
        assert_eq!(shown(&decision), [format!("x={expected}")], "{masks:?}");
    }
}

#[test]
fn rules_in_shadow_change_nothing_and_are_told() {
    let policies = "permit (principal, action, resource);\
                    @id(\"soon\") @shadow forbid (principal, action, resource is Column) when \
                    { resource.labels.contains(\"secret\") };";
    let rules = "[[label]]\ntable = \"*\"\ncolumn = \"hiv\"\nlabels = \"secret\"\n\
                 [[obligation]]\nid = \"try\"\nlabels = \"secret\"\nmask = \"null\"\nshadow = true\n\
                 [[obligation]]\nid = \"few\"\ntable = \"*\"\nmax_rows = 5\nshadow = true";
    let decision = decide(&book(policies, rules), &caller("alice", &[], ""), Action::Query);
    assert!(shown(&decision).iter().all(|column| column.ends_with("=shown")));
    assert_eq!(decision.shape().unwrap().max_rows, None);
    assert_eq!(
        decision.reasons.shadow,
        ["obligation few: at most 5 rows", "soon: columns hiv forbidden", "try: hiv masked:null"]
    );
}

#[test]
fn only_purposes_of_the_list_are_taken() {
    let book = book("permit (principal, action, resource);", "purposes = [\"care\", \"research\"]");
    for (purpose, action, allowed) in [
        ("care", Action::Query, true),
        (" care\n", Action::Query, true),
        ("Care", Action::Query, false),
        ("", Action::Query, false),
        ("", Action::Describe, true),
        ("other", Action::Describe, false),
    ] {
        let decision = decide(&book, &caller("alice", &[], purpose), action);
        assert_eq!(decision.shape().is_some(), allowed, "{purpose} {action:?}");
        assert!(allowed || decision.reasons.for_caller[0].contains("care, research"));
    }
}

#[test]
fn agents_and_persons_are_part_of_a_decision() {
    let book = book(
        "permit (principal is Agent, action, resource) when { context has on_behalf_of && context.on_behalf_of == \"alice\" };\
         permit (principal == Service::\"etl\", action == Action::\"export\", resource);",
        "[[obligation]]\ntable = \"*\"\ncolumn = \"name\"\nmask = \"null\"\nunless = { agents = \"clerk-*\", principals = \"Agent:*\" }",
    );
    let mut agent = caller("Agent:helper", &[], "");
    assert_eq!(decide(&book, &agent, Action::Query).outcome, Outcome::Deny);
    agent.on_behalf_of = Some("alice".to_owned());
    assert_eq!(shown(&decide(&book, &agent, Action::Query))[1], "name=masked:null");
    agent.agent = Some("clerk-1".to_owned());
    assert_eq!(shown(&decide(&book, &agent, Action::Query))[1], "name=shown");
    agent.principal = "helper".to_owned();
    assert_eq!(decide(&book, &agent, Action::Query).outcome, Outcome::Deny);
    assert!(decide(&book, &caller("Service:etl", &[], ""), Action::Export).shape().is_some());
    assert_eq!(decide(&book, &caller("etl", &[], ""), Action::Export).outcome, Outcome::Deny);
}

#[test]
fn masks_of_a_date_keep_their_part() {
    let book = book(POLICIES, RULES);
    let decision = decide(&book, &caller("alice", &["analysts"], "research"), Action::Query);
    assert_eq!(decision.shape().unwrap().columns[4].shown, Shown::Masked(Mask::Date(DatePart::Year)));
}

#[test]
fn rules_that_cannot_be_meant_are_refused_with_their_line() {
    let good = "permit (principal, action, resource);";
    for (policies, rules, expected) in [
        (
            good,
            "[[obligation]]\ntable = \"*\"",
            "rules.toml, line 1: the obligation `obligation1` owes nothing",
        ),
        (good, "\n[[obligation]]\nhide = true", "line 2: the obligation `obligation1` names neither"),
        (good, "[[obligation]]\ntable = \"*\"\nhide = true\nmask = \"null\"", "hides and masks"),
        (good, "[[obligation]]\ntable = \"*\"\nrow_filter = \"x = \"", "is no condition in SQL"),
        (good, "[[obligation]]\ntable = \"*\"\nmask = { hash = \"k\" }", "there is no key `k`"),
        (good, "[keys.k]\nenv = \"SHORT\"", "can be guessed"),
        (good, "[keys.k]\nenv = \"MISSING\"", "the variable is not set"),
        (good, "[keys.k]\nenv = \"A\"\nfile = \"b\"", "one of env, file and command"),
        (good, "[[obligation]]\ntable = \"*\"\nmin_group = { entity = \"x\", size = 1 }", "another size"),
        (good, "[[obligation]]\ntable = \"*\"\nmask = { bucket = 0 }", "a width above 0"),
        (good, "[[obligation]]\ntable = \"*\"\nmask = { bucket = nan }", "a width above 0"),
        (good, "[[obligation]]\ntable = \"*\"\nmax_rows = 0", "lets nothing out"),
        (good, "[[obligation]]\ntable = \"*\"\nbudgets = {}", "budgets without a number"),
        (good, "[[obligation]]\ntable = \"*\"\nbudgets = { entities_per_day = 5 }", "without an `entity`"),
        (
            good,
            "[[obligation]]\ntable = \"*\"\nbudgets = { rows_per_day = 5, entity = \"id\" }",
            "that nothing counts",
        ),
        (good, "[[obligation]]\ntable = \"*\"\nhide = true\nunless = {}", "always holds"),
        (
            good,
            "[[obligation]]\ntable = \"*\"\nhide = true\nwhen = { actions = \"read\" }",
            "`read` is no action",
        ),
        (good, "[[obligation]]\ntable = \"*\"\ncolumn = \"a\"\nmax_rows = 5", "make two of it"),
        (
            good,
            "[[obligation]]\nid = \"a\"\ntable = \"*\"\nhide = true\n[[obligation]]\nid = \"a\"\ntable = \"*\"\nhide = true",
            "the id `a`",
        ),
        (good, "[[label]]\nlabels = \"a\"", "to a `collection` or to a `table`"),
        (good, "[[label]]\ntable = \"*\"\nlabels = \"PII\"", "lower-case"),
        (good, "[[labels]]\n", "labels"),
        ("permit (principal, action, resource)", "", "policies.cedar, line 1"),
        ("\npermit (principal, action == Action::\"read\", resource);", "", "policies.cedar, line 2"),
        ("permit (principal, action, resource) when { resource.label == \"x\" };", "", "label"),
        ("permit (principal == Person::\"a\", action, resource);", "", "Person"),
        ("permit (principal, action, resource in Table::\"patients\");", "", "write COLLECTION.TABLE"),
        ("permit (principal == ?principal, action, resource);", "", "a template"),
        ("@shadow permit (principal, action, resource);", "", "only a forbid"),
        ("@advice(\"x\") permit (principal, action, resource);", "", "the annotations"),
        (
            "@id(\"a\") permit (principal, action, resource); @id(\"a\") forbid (principal, action, resource);",
            "",
            "two policies",
        ),
        ("permit (principal in Group::\"\u{430}nalysts\", action, resource);", "", "several scripts"),
        ("permit (principal, action, resource) when { context.agent == \"x\" };", "", "agent"),
        ("permit (principal, action, resource) when { principal.getTag(\"a\").contains(\"b\") };", "", "tag"),
        (
            "permit (principal, action, resource) when { principal.hasTag(context.purpose) };",
            "",
            "hasTag takes the name",
        ),
    ] {
        let error = try_book(policies, rules).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains(expected), "{policies} {rules}: {error}");
    }
}

#[test]
fn rules_that_are_odd_are_told() {
    for (policies, rules, expected) in [
        ("", "[[obligation]]\nlabels = \"pii.*\"\nhide = true", "which no [[label]] gives"),
        ("", "[[obligation]]\ntable = \"*\"\nhide = true\nwhen = { purposes = \"x\" }", "write `unless`"),
        ("", "[[obligation]]\ntable = \"*\"\nhide = true\nwhen = { agents = \"x\" }", "write `unless`"),
        (
            "",
            "purposes = \"a\"\n[[obligation]]\ntable = \"*\"\nhide = true\nunless = { purposes = \"b\" }",
            "`b`",
        ),
        ("", "[keys.k]\nenv = \"K\"", "no mask uses the key `k`"),
        ("permit (principal, action, resource == Table::\"a.b\");", "", "write `resource in"),
        ("forbid (principal, action, resource) when { false };", "", "policies.cedar, line 1"),
    ] {
        let book = book(policies, rules);
        let told = book.warnings().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        assert!(told.contains(expected), "{policies} {rules}: {told}");
    }
}

#[test]
fn the_hash_is_of_all_that_was_read() {
    let hash = |policies: &str, rules: &str| book(policies, rules).hash().to_owned();
    let permit = "permit (principal, action, resource);";
    assert_eq!(hash(permit, ""), hash(permit, ""));
    assert_ne!(hash(permit, ""), hash(permit, "#"));
    assert_ne!(hash(permit, ""), hash(&format!("{permit} "), ""));
}

#[test]
fn entities_are_counted_by_one_column() {
    let policies = "permit (principal, action, resource);";
    let of = |rules: &str| decide(&book(policies, rules), &caller("eve", &[], ""), Action::Query);
    let one = |entity: &str, more: &str| {
        format!(
            "[[obligation]]\ntable = \"*\"\nbudgets = {{ entities_per_day = 50, entity = \"{entity}\" }}\n{more}"
        )
    };
    // The strictest of two, of which one has the entity of its groups.
    let groups = "[[obligation]]\ntable = \"*\"\nmin_group = { entity = \"id\", size = 5 }\nbudgets = { entities_per_day = 20 }";
    let decision = of(&one("ID", groups));
    let counted = decision.shape().and_then(|shape| shape.counted.clone());
    assert_eq!(counted, Some(crate::shape::Counted { entity: "id".to_owned(), per_day: 20 }));
    assert_eq!(decision.budgets.entities_per_day, Some(20));
    for rules in [one("ward", groups), one("patient", "")] {
        assert_eq!(of(&rules).outcome, Outcome::Deny, "{rules}");
    }
}

#[test]
fn labels_that_stick_to_a_column_count_as_those_of_rules() {
    let policies = "permit (principal, action, resource);\n\
                    forbid (principal, action, resource is Column) when { resource.labels.contains(\"phi.note\") };";
    let rules = "[[label]]\ntable = \"x.*\"\ncolumn = \"y\"\nlabels = \"pii.name\"\n\
                 [[obligation]]\nlabels = \"pii.name\"\nmask = \"null\"";
    let (book, eve) = (book(policies, rules), caller("eve", &[], ""));
    let of = |labels: &[&str]| {
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        let columns = [ColumnInfo { labels, ..ColumnInfo::new("who", DataType::Utf8) }];
        let request = Request::new(&eve, Action::Query, 0);
        shown(&book.decide(&request, &TableName::new("events", "out"), &columns))
    };
    assert_eq!(of(&[]), ["who=shown"]);
    assert_eq!(of(&["pii.name"]), ["who=masked:null"]);
    assert_eq!(of(&["phi.note"]), [""; 0]);
}

#[test]
fn a_label_to_which_nothing_is_owed_is_told() {
    let label =
        |name: &str| format!("[[label]]\ntable = \"hospital.*\"\ncolumn = \"ssn\"\nlabels = \"{name}\"\n");
    let warnings = |policies: &str, rules: &str| {
        let book = book(policies, rules);
        book.warnings().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let told = warnings(POLICIES, &label("pii.ssn"));
    assert!(told.len() == 1 && told[0].contains("line 1: the label `pii.ssn` changes nothing"), "{told:?}");
    assert!(warnings(POLICIES, &label("secret")).is_empty(), "a policy is about it");
    assert!(warnings(POLICIES, &label("plain")).is_empty());
    let owed = "[[obligation]]\nlabels = \"pii.*\"\nhide = true\n";
    assert!(warnings(POLICIES, &format!("{}{owed}", label("pii.ssn"))).is_empty());
}

#[test]
fn a_mask_keeps_little() {
    let rules = |count: u32| format!("[[obligation]]\ntable = \"*\"\nmask = {{ keep_last = {count} }}");
    assert!(try_book(POLICIES, &rules(16)).is_ok());
    let told = try_book(POLICIES, &rules(17)).unwrap_err().to_string();
    assert!(told.contains("keep_last keeps at most 16 characters"), "{told}");
}
