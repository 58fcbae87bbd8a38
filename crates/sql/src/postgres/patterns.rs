//! Regular expressions as PostgreSQL has them: a dot is for a newline, too, unless a flag says something else.
//!
//! PostgreSQL's flags (its manual, embedded options) that the engine has others for: `n`, or `m`, for patterns of
//! lines, `p` and `w` for the halves of that, and `s`, which is how patterns are without a flag.

use arrow::datatypes::DataType;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable as _, Operator, lit};

use crate::growth;

/// What patterns begin with.
const PLAIN: &str = "(?s)";
const LINES: &str = "(?m-s)";
const DOTS_OF_LINES: &str = "(?-s)";
const ENDS_OF_LINES: &str = "(?sm)";

/// Functions with the places of their patterns and flags.
const FUNCTIONS: [(&str, usize, Option<usize>); 7] = [
    ("regexp_count", 1, Some(3)),
    ("regexp_instr", 1, Some(5)),
    ("regexp_like", 1, Some(2)),
    ("regexp_match", 1, Some(2)),
    ("regexp_replace", 1, Some(3)),
    ("regexp_split_to_array", 1, Some(2)),
    ("regexp_substr", 1, Some(4)),
];

pub fn is_match(operator: Operator) -> bool {
    use Operator::{RegexIMatch, RegexMatch, RegexNotIMatch, RegexNotMatch};
    matches!(operator, RegexMatch | RegexIMatch | RegexNotMatch | RegexNotIMatch)
}

/// `text ~ pattern`
pub fn matched(mut binary: BinaryExpr, schema: &DFSchema) -> Transformed<Expr> {
    let is_changed = begin_with(&mut binary.right, PLAIN, schema);
    Transformed::new_transformed(Expr::BinaryExpr(binary), is_changed)
}

pub fn called(mut call: ScalarFunction, schema: &DFSchema) -> Transformed<Expr> {
    let known = FUNCTIONS.iter().find(|(name, ..)| *name == call.name());
    let Some((_, pattern, flags)) = known.copied() else {
        return Transformed::no(Expr::ScalarFunction(call));
    };
    let beginning = match flags.filter(|at| at + 1 == call.args.len()).map(|at| &mut call.args[at]) {
        Some(Expr::Literal(flags, metadata)) => match flags.try_as_str().flatten().map(split) {
            Some((beginning, rest)) => {
                *call.args.last_mut().expect("it was found") =
                    Expr::Literal(ScalarValue::Utf8(Some(rest)), metadata.take());
                beginning
            }
            None => PLAIN,
        },
        _ => PLAIN,
    };
    // Others take no empty flags.
    if flags == Some(call.args.len() - 1) && is_empty(&call.args[call.args.len() - 1]) {
        call.args.pop();
    }
    let is_changed = call.args.get_mut(pattern).is_some_and(|pattern| begin_with(pattern, beginning, schema));
    Transformed::new_transformed(Expr::ScalarFunction(call), is_changed)
}

fn is_empty(expr: &Expr) -> bool {
    matches!(expr, Expr::Literal(value, _) if value.try_as_str().flatten() == Some(""))
}

/// What flags mean for the pattern, and those that the engine has, too. The last one counts.
fn split(flags: &str) -> (&'static str, String) {
    let beginning = |flag: char| match flag {
        'n' | 'm' => Some(LINES),
        'p' => Some(DOTS_OF_LINES),
        'w' => Some(ENDS_OF_LINES),
        's' => Some(PLAIN),
        _ => None,
    };
    let found = flags.chars().rev().find_map(beginning).unwrap_or(PLAIN);
    (found, flags.chars().filter(|flag| beginning(*flag).is_none()).collect())
}

fn begin_with(pattern: &mut Expr, beginning: &str, schema: &DFSchema) -> bool {
    match pattern {
        Expr::Literal(value, _) => {
            let Some(text) = value.try_as_str().flatten() else { return false };
            // It has been here before.
            if [PLAIN, LINES, DOTS_OF_LINES, ENDS_OF_LINES].iter().any(|known| text.starts_with(known)) {
                return false;
            }
            *pattern = lit(format!("{beginning}{}", embedded(text)));
            true
        }
        Expr::ScalarFunction(call)
            if growth::is_text_chain(&Expr::ScalarFunction(call.clone()))
                && matches!(call.args.first(), Some(Expr::Literal(value, _)) if value.try_as_str().flatten() == Some(beginning)) =>
        {
            false
        }
        other => {
            let is_text = other.get_type(schema).is_ok_and(|kind| kind.is_string() && kind != DataType::Null);
            if is_text {
                *other = growth::text_concat().call(vec![lit(beginning), std::mem::take(other)]);
            }
            is_text
        }
    }
}

/// `(?n)…`: flags in the pattern itself.
fn embedded(pattern: &str) -> String {
    let flags = pattern.strip_prefix("(?").and_then(|rest| rest.split_once(')'));
    let Some((flags, rest)) = flags else { return pattern.to_owned() };
    let is_of_lines = flags.contains(['n', 'm', 'p', 'w']);
    if !is_of_lines || !flags.chars().all(|flag| "bceimnpqstwx".contains(flag)) {
        return pattern.to_owned();
    }
    let (beginning, others) = split(flags);
    let others: String = others.chars().filter(|flag| matches!(flag, 'i' | 'x')).collect();
    let others = if others.is_empty() { others } else { format!("(?{others})") };
    format!("{beginning}{others}{rest}")
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{Field, Schema};
    use datafusion::functions::regex;
    use datafusion::logical_expr::col;

    use super::*;

    fn schema() -> DFSchema {
        let fields = ["t", "p"].map(|name| Field::new(name, DataType::Utf8, true));
        DFSchema::try_from(Schema::new(fields.to_vec())).unwrap()
    }

    #[test]
    fn patterns_say_what_a_dot_is_for() {
        let replace = |args: Vec<Expr>| match regex::regexp_replace().call(args) {
            Expr::ScalarFunction(call) => called(call, &schema()).data.to_string(),
            other => other.to_string(),
        };
        let args = |pattern: &str, flags: &str| vec![col("t"), lit(pattern), lit("x"), lit(flags)];
        for (pattern, flags, expected) in [
            ("a.b", "g", "regexp_replace(t, Utf8(\"(?s)a.b\"), Utf8(\"x\"), Utf8(\"g\"))"),
            ("a.b", "", "regexp_replace(t, Utf8(\"(?s)a.b\"), Utf8(\"x\"))"),
            ("a.b", "ng", "regexp_replace(t, Utf8(\"(?m-s)a.b\"), Utf8(\"x\"), Utf8(\"g\"))"),
            ("a.b", "p", "regexp_replace(t, Utf8(\"(?-s)a.b\"), Utf8(\"x\"))"),
            ("(?n)a.b", "i", "regexp_replace(t, Utf8(\"(?s)(?m-s)a.b\"), Utf8(\"x\"), Utf8(\"i\"))"),
            ("(?:a|b)", "i", "regexp_replace(t, Utf8(\"(?s)(?:a|b)\"), Utf8(\"x\"), Utf8(\"i\"))"),
        ] {
            assert_eq!(replace(args(pattern, flags)), expected, "{pattern} {flags}");
        }
    }

    #[test]
    fn operators_take_newlines_and_change_once() {
        for (right, expected) in [
            (lit("a.b"), "t ~ Utf8(\"(?s)a.b\")"),
            (col("p"), "t ~ text_concat(Utf8(\"(?s)\"), p)"),
            (lit(ScalarValue::Utf8(None)), "t ~ Utf8(NULL)"),
        ] {
            let binary = BinaryExpr::new(Box::new(col("t")), Operator::RegexMatch, Box::new(right));
            let made = matched(binary, &schema()).data;
            assert_eq!(made.to_string(), expected);
            let Expr::BinaryExpr(again) = made else { panic!("it is an operator") };
            assert!(!matched(again, &schema()).transformed);
        }
    }
}
