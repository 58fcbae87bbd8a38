//! Numbers as PostgreSQL has them: where a type does not hold an integer, there is an error
//! (22003), and the engine's would be another number; and an error (22012) where a fraction is
//! divided by zero.
//!
//! Once types are known, each tree of operators of integers becomes one call of a function that is
//! written as the operators are, and that is what constants are folded by, too. One call for a
//! whole tree, and not one for each operator, since the engine writes out a call's name, and asks
//! for its type, for each call around it: a sum of 2,000 numbers would be planned for minutes.
//!
//! Before types are known, what has no sign (the row's number, an array's length) becomes a bigint,
//! which it is in PostgreSQL, a numeric that is divided gets as many digits as PostgreSQL gives,
//! and what `sum` adds up is an integer where its constants are small, so that `sum(CASE WHEN paid
//! THEN 1 ELSE 0 END)` is a bigint.
//!
//! Fractions in the text become numerics where PostgreSQL has numerics ([`literals`]).
//!
//! The perimeter does without all of this: which rows an error comes from would tell of values that
//! are hidden.

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, Datum};
use arrow::compute::kernels::numeric::{add, div, mul, neg, rem, sub};
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type};
use arrow::error::ArrowError;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::{FunctionRewrite, NamePreserver};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, ExprSchemable as _, LogicalPlan, Operator, ReturnFieldArgs,
    ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, cast,
};
use datafusion::optimizer::AnalyzerRule;
use datafusion::optimizer::analyzer::function_rewrite::ApplyFunctionRewrites;
use datafusion::physical_expr_common::datum::apply;

use super::literals;
use super::semantics::interval_span;
use super::types;
use crate::error::SqlError;
use crate::planning;

/// Behind the point of a quotient of numerics, as PostgreSQL has it at least.
const QUOTIENT_DIGITS: i8 = 16;
/// The engine gives a quotient so many more than its dividend has.
const ADDED_DIGITS: i8 = 4;
const SUM: &str = "sum";

/// The rule that is to come behind all others.
pub fn rule() -> Arc<dyn AnalyzerRule + Send + Sync> {
    Arc::new(ApplyFunctionRewrites::new(vec![Arc::new(Checked)]))
}

/// A plan, before the engine makes types alike, with those of PostgreSQL. Clients are told of them
/// before it is executed.
pub fn with_types(plan: LogicalPlan) -> Result<LogicalPlan> {
    let of_step = |step: LogicalPlan| {
        planning::check()?;
        let (schema, names) = (merge_schema(&step.inputs()), NamePreserver::new(&step));
        let step = by_length(step, &schema);
        let step = step.map_expressions(|expr| {
            let name = names.save(&expr);
            let expr = expr.transform_up(|expr| {
                literals::exact(expr, &schema).transform_data(|expr| Ok(with_type(expr, &schema)))
            })?;
            Ok(expr.update_data(|expr| name.restore(expr)))
        })?;
        step.map_data(LogicalPlan::recompute_schema)
    };
    Ok(plan.transform_up_with_subqueries(of_step)?.data)
}

/// Intervals are sorted by how long they are: the engine takes months, then days, then the rest.
fn by_length(step: LogicalPlan, schema: &DFSchema) -> LogicalPlan {
    let LogicalPlan::Sort(mut sort) = step else { return step };
    for key in &mut sort.expr {
        if matches!(key.expr.get_type(schema), Ok(DataType::Interval(_) | DataType::Duration(_))) {
            key.expr = interval_span().call(vec![std::mem::take(&mut key.expr)]);
        }
    }
    LogicalPlan::Sort(sort)
}

fn with_type(expr: Expr, schema: &DFSchema) -> Transformed<Expr> {
    match expr {
        Expr::BinaryExpr(binary) if Step::of(binary.op).is_some() => with_sides(binary, schema),
        Expr::AggregateFunction(mut call) if call.func.name() == SUM => {
            let is_changed = sum_of_integers(&mut call.params.args, schema);
            transformed(Expr::AggregateFunction(call), is_changed)
        }
        Expr::WindowFunction(mut call) if call.fun.name() == SUM => {
            let is_changed = sum_of_integers(&mut call.params.args, schema);
            transformed(Expr::WindowFunction(call), is_changed)
        }
        other => Transformed::no(other),
    }
}

fn transformed(expr: Expr, is_changed: bool) -> Transformed<Expr> {
    if is_changed { Transformed::yes(expr) } else { Transformed::no(expr) }
}

fn sum_of_integers(args: &mut [Expr], schema: &DFSchema) -> bool {
    let [arg] = args else { return false };
    let is_small = matches!(arg.get_type(schema), Ok(DataType::Int64)) && is_integer(arg, schema);
    if is_small {
        *arg = cast(std::mem::take(arg), DataType::Int32);
    }
    is_small
}

/// Whether an expression is no more than an integer in PostgreSQL, for which constants are as small
/// as they may be.
fn is_integer(expr: &Expr, schema: &DFSchema) -> bool {
    let is_integer = |expr: &Expr| is_integer(expr, schema);
    match expr {
        Expr::Literal(ScalarValue::Int64(value), _) => value.is_none_or(|value| i32::try_from(value).is_ok()),
        Expr::Literal(ScalarValue::Null, _) => true,
        Expr::Alias(alias) => is_integer(&alias.expr),
        Expr::Negative(inner) => is_integer(inner),
        Expr::BinaryExpr(binary) => {
            Step::of(binary.op).is_some() && is_integer(&binary.left) && is_integer(&binary.right)
        }
        Expr::Case(case) => {
            let mut results = case.when_then_expr.iter().map(|(_, then)| then).chain(&case.else_expr);
            results.all(|result| is_integer(result))
        }
        Expr::ScalarFunction(call) if ["abs", "coalesce", "greatest", "least"].contains(&call.name()) => {
            call.args.iter().all(is_integer)
        }
        other => matches!(other.get_type(schema), Ok(DataType::Int8 | DataType::Int16 | DataType::Int32)),
    }
}

fn with_sides(binary: BinaryExpr, schema: &DFSchema) -> Transformed<Expr> {
    let BinaryExpr { left, op, right } = binary;
    if op == Operator::Divide
        && let Some(digits) = quotient_digits(&left, &right, schema)
    {
        let dividend = Box::new(cast(*left, DataType::Decimal256(76, digits - ADDED_DIGITS)));
        let quotient = Expr::BinaryExpr(BinaryExpr { left: dividend, op, right });
        return Transformed::yes(cast(quotient, DataType::Decimal128(38, digits - 1)));
    }
    let is_changed = has_no_sign(&left, schema) || has_no_sign(&right, schema);
    let signed = |side: Box<Expr>| match has_no_sign(&side, schema) {
        true => Box::new(cast(*side, DataType::Int64)),
        false => side,
    };
    transformed(Expr::BinaryExpr(BinaryExpr { left: signed(left), op, right: signed(right) }), is_changed)
}

fn has_no_sign(side: &Expr, schema: &DFSchema) -> bool {
    // The sides of an operator have signs already.
    let is_operator = matches!(side, Expr::BinaryExpr(inner) if Step::of(inner.op).is_some());
    !is_operator && side.get_type(schema).is_ok_and(|kind| kind.is_unsigned_integer())
}

/// How many digits the quotient of numerics is worked out to: one more than it is given with, since
/// the engine cuts and does not round.
fn quotient_digits(left: &Expr, right: &Expr, schema: &DFSchema) -> Option<i8> {
    let digits = |side: &Expr| match side.get_type(schema).ok()? {
        kind if kind.is_integer() => Some((0, false)),
        DataType::Decimal128(_, digits) => Some((digits, true)),
        _ => None,
    };
    match (digits(left)?, digits(right)?) {
        ((_, false), (_, false)) => None,
        ((of_left, _), (of_right, _)) => Some(of_left.max(of_right).max(QUOTIENT_DIGITS) + 1),
    }
}

#[derive(Debug)]
struct Checked;

impl FunctionRewrite for Checked {
    fn name(&self) -> &'static str {
        "checked_integers"
    }

    /// Comes from the leaves up.
    fn rewrite(&self, expr: Expr, schema: &DFSchema, _: &ConfigOptions) -> Result<Transformed<Expr>> {
        planning::check()?;
        let number = |expr: &Expr| number_type(expr, schema);
        Ok(match expr {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
                match (Step::of(op), number(&left), number(&right)) {
                    (Some(step), Some(kind), Some(other)) if kind == other && step.is_for(&kind) => {
                        Transformed::yes(call(step, kind, vec![*left, *right]))
                    }
                    _ => Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right })),
                }
            }
            Expr::Negative(value) => match number(&value).filter(DataType::is_integer) {
                Some(kind) => Transformed::yes(call(Step::Negate, kind, vec![*value])),
                None => Transformed::no(Expr::Negative(value)),
            },
            other => Transformed::no(other),
        })
    }
}

fn number_type(expr: &Expr, schema: &DFSchema) -> Option<DataType> {
    match program_of(expr) {
        Some(program) => Some(program.kind.clone()),
        None => expr.get_type(schema).ok().filter(|kind| kind.is_integer() || *kind == DataType::Float64),
    }
}

fn program_of(expr: &Expr) -> Option<&Program> {
    let Expr::ScalarFunction(ScalarFunction { func, .. }) = expr else { return None };
    func.inner().downcast_ref::<Program>()
}

/// One call for an operator and what its sides are calls for.
fn call(step: Step, kind: DataType, sides: Vec<Expr>) -> Expr {
    let (mut steps, mut args) = (Vec::new(), Vec::new());
    for side in sides {
        let inner = program_of(&side).filter(|program| program.kind == kind);
        let inner = inner.map(|program| program.steps.clone());
        match (inner, side) {
            (Some(inner), Expr::ScalarFunction(call)) => {
                steps.extend(inner);
                args.extend(call.args);
            }
            (_, leaf) => {
                steps.push(Step::Argument);
                args.push(leaf);
            }
        }
    }
    steps.push(step);
    let signature = Signature::any(args.len(), Volatility::Immutable);
    let function = ScalarUDF::new_from_impl(Program { steps, kind, signature });
    Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(function), args))
}

/// One step of the computing: all but the first take the values that the last ones gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
    /// The next one.
    Argument,
    Negate,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

impl Step {
    fn of(operator: Operator) -> Option<Step> {
        match operator {
            Operator::Plus => Some(Step::Add),
            Operator::Minus => Some(Step::Subtract),
            Operator::Multiply => Some(Step::Multiply),
            Operator::Divide => Some(Step::Divide),
            Operator::Modulo => Some(Step::Remainder),
            _ => None,
        }
    }

    fn is_for(self, kind: &DataType) -> bool {
        kind.is_integer() || self == Step::Divide
    }

    fn sign(self) -> &'static str {
        match self {
            Step::Argument => "",
            Step::Add => " + ",
            Step::Subtract | Step::Negate => " - ",
            Step::Multiply => " * ",
            Step::Divide => " / ",
            Step::Remainder => " % ",
        }
    }
}

/// The steps of a tree of operators, its leaves first.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Program {
    steps: Vec<Step>,
    kind: DataType,
    signature: Signature,
}

/// What is written next, from the end on.
enum Piece {
    Tree,
    Text(&'static str),
}

impl Program {
    /// As the engine writes operators.
    fn written(&self, args: &[Expr]) -> String {
        let (mut steps, mut args) = (self.steps.iter().rev(), args.iter().rev());
        let (mut left, mut pieces) = (vec![Piece::Tree], Vec::new());
        while let Some(piece) = left.pop() {
            let step = match piece {
                Piece::Text(text) => {
                    pieces.push(text.to_owned());
                    continue;
                }
                Piece::Tree => steps.next(),
            };
            match step {
                None => break,
                Some(Step::Argument) => pieces.extend(args.next().map(|arg| arg.schema_name().to_string())),
                Some(Step::Negate) => {
                    pieces.push(")".to_owned());
                    left.extend([Piece::Text("(- "), Piece::Tree]);
                }
                Some(operator) => left.extend([Piece::Tree, Piece::Text(operator.sign()), Piece::Tree]),
            }
        }
        pieces.reverse();
        pieces.concat()
    }

    fn computed(&self, args: Vec<ColumnarValue>) -> Result<ColumnarValue> {
        let (mut args, mut values) = (args.into_iter(), Vec::new());
        for step in &self.steps {
            let value = match step {
                Step::Argument => args.next().expect("each argument has a step"),
                Step::Negate => negated(&taken(&mut values))?,
                operator => {
                    let right = taken(&mut values);
                    apply(&taken(&mut values), &right, operator.kernel(&self.kind))?
                }
            };
            values.push(value);
        }
        Ok(taken(&mut values))
    }
}

/// A function of this file as bytes, for another process of the same program.
pub fn written(function: &ScalarUDF) -> Option<Vec<u8>> {
    let program = function.inner().downcast_ref::<Program>()?;
    let steps = program.steps.iter().map(|step| step.letter()).collect::<String>();
    Some(format!("{} {steps}", program.kind).into_bytes())
}

/// What [`written`] wrote. `None`: it is none, or its operators do not stand behind their sides.
pub fn read(bytes: &[u8]) -> Option<ScalarUDF> {
    let (kind, letters) = std::str::from_utf8(bytes).ok()?.split_once(' ')?;
    let kind: DataType = kind.parse().ok()?;
    let is_number = kind.is_integer() || kind == DataType::Float64;
    let steps: Vec<Step> = letters.chars().map(Step::of_letter).collect::<Option<_>>()?;
    let (mut depth, mut args) = (0_usize, 0);
    for step in &steps {
        let (takes, is_argument) = match step {
            Step::Argument => (0, true),
            Step::Negate => (1, false),
            _ => (2, false),
        };
        args += usize::from(is_argument);
        depth = depth.checked_sub(takes)? + 1;
    }
    let is_whole = depth == 1 && steps.len() > 1 && is_number;
    let is_for = steps.iter().all(|step| matches!(step, Step::Argument) || step.is_for(&kind));
    let signature = Signature::any(args, Volatility::Immutable);
    (is_whole && is_for).then(|| ScalarUDF::new_from_impl(Program { steps, kind, signature }))
}

impl Step {
    const LETTERS: [(Step, char); 7] = [
        (Step::Argument, 'a'),
        (Step::Negate, 'n'),
        (Step::Add, '+'),
        (Step::Subtract, '-'),
        (Step::Multiply, '*'),
        (Step::Divide, '/'),
        (Step::Remainder, '%'),
    ];

    fn letter(self) -> char {
        Step::LETTERS.into_iter().find(|(step, _)| *step == self).map_or('a', |(_, letter)| letter)
    }

    fn of_letter(letter: char) -> Option<Step> {
        Step::LETTERS.into_iter().find(|(_, known)| *known == letter).map(|(step, _)| step)
    }
}

type Kernel = fn(&dyn Datum, &dyn Datum) -> Result<ArrayRef, ArrowError>;

impl Step {
    fn kernel(self, kind: &DataType) -> Kernel {
        match self {
            Step::Divide if *kind == DataType::Float64 => quotient,
            Step::Add => add,
            Step::Subtract => sub,
            Step::Multiply => mul,
            Step::Divide => div,
            Step::Remainder => rem,
            Step::Argument | Step::Negate => unreachable!("it has not two sides"),
        }
    }
}

/// Of fractions, which the engine divides by zero.
fn quotient(left: &dyn Datum, right: &dyn Datum) -> Result<ArrayRef, ArrowError> {
    let quotients = div(left, right)?;
    let doubles = quotients.as_primitive::<Float64Type>();
    let (divisors, is_one) = right.get();
    let divisors = divisors.as_primitive::<Float64Type>();
    let divisor = |row: usize| if is_one { divisors.value(0) } else { divisors.value(row) };
    let is_by_zero =
        |row: usize| !doubles.value(row).is_finite() && doubles.is_valid(row) && divisor(row) == 0.0;
    match (0..doubles.len()).any(is_by_zero) {
        true => Err(ArrowError::DivideByZero),
        false => Ok(quotients),
    }
}

fn taken(values: &mut Vec<ColumnarValue>) -> ColumnarValue {
    values.pop().expect("each operator stands behind its sides")
}

fn negated(value: &ColumnarValue) -> Result<ColumnarValue> {
    Ok(match value {
        ColumnarValue::Array(values) => ColumnarValue::Array(neg(values)?),
        ColumnarValue::Scalar(value) => {
            ColumnarValue::Scalar(ScalarValue::try_from_array(&neg(&value.to_array()?)?, 0)?)
        }
    })
}

impl ScalarUDFImpl for Program {
    fn name(&self) -> &str {
        match self.steps.as_slice() {
            [.., Step::Negate] if self.steps.len() == 2 => "checked_negate",
            [_, _, Step::Add] => "checked_add",
            [_, _, Step::Subtract] => "checked_subtract",
            [_, _, Step::Multiply] => "checked_multiply",
            [_, _, Step::Divide] => "checked_divide",
            [_, _, Step::Remainder] => "checked_remainder",
            _ => "checked_arithmetic",
        }
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        Ok(self.written(args))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.kind.clone())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let nullable = args.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Arc::new(Field::new(self.name(), self.kind.clone(), nullable)))
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        self.computed(args.args).map_err(|error| match error.find_root() {
            DataFusionError::ArrowError(inner, _) if matches!(**inner, ArrowError::ArithmeticOverflow(_)) => {
                let message = format!("{} out of range", types::name_of(&self.kind));
                SqlError::State { code: "22003", message }.into()
            }
            _ => error,
        })
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;
    use arrow::datatypes::Schema;
    use datafusion::logical_expr::{col, lit};

    use super::*;

    fn rewritten(expr: Expr) -> Expr {
        let fields = ["a", "b"].map(|name| Field::new(name, DataType::Int64, true));
        let schema = DFSchema::try_from(Schema::new(fields.to_vec())).unwrap();
        let options = ConfigOptions::default();
        expr.transform_up(|expr| Checked.rewrite(expr, &schema, &options)).unwrap().data
    }

    fn evaluated(expr: &Expr, a: &[i64], b: i64) -> Result<Vec<i64>> {
        let Expr::ScalarFunction(call) = expr else { panic!("{expr} is no call") };
        let program = program_of(expr).unwrap();
        let value = |arg: &Expr| match arg {
            Expr::Column(column) if column.name == "a" => {
                ColumnarValue::Array(Arc::new(Int64Array::from(a.to_vec())))
            }
            Expr::Column(_) => ColumnarValue::Scalar(ScalarValue::Int64(Some(b))),
            Expr::Literal(value, _) => ColumnarValue::Scalar(value.clone()),
            other => panic!("{other}"),
        };
        let value = program.computed(call.args.iter().map(value).collect())?.into_array(a.len())?;
        Ok(value.as_primitive::<arrow::datatypes::Int64Type>().values().to_vec())
    }

    #[test]
    fn a_tree_of_operators_is_one_call_that_is_written_as_they_are() {
        let tree = || -(col("a") - (col("b") + lit(2_i64)) * col("a")) / (lit(3_i64) % col("b"));
        let made = rewritten(tree());
        assert_eq!(made.schema_name().to_string(), tree().schema_name().to_string());
        assert_eq!(program_of(&made).unwrap().steps.len(), 12);
        let by_hand = |a: i64, b: i64| -(a - (b + 2) * a) / (3 % b);
        let a = [7, -5, 0, 1_000];
        assert_eq!(evaluated(&made, &a, 2).unwrap(), a.map(|a| by_hand(a, 2)));
        assert!(evaluated(&made, &[i64::MAX], 2).is_err());
        assert_eq!(evaluated(&rewritten(col("a") % col("b")), &[i64::MIN], -1).unwrap(), [0]);
        assert!(evaluated(&rewritten(col("a") / col("b")), &[i64::MIN], -1).is_err());
        assert!(evaluated(&rewritten(-col("a")), &[i64::MIN], 0).is_err());
    }

    #[test]
    fn long_sums_are_not_nested() {
        let sum = (0..2_000_i64).fold(col("a"), |sum, n| sum + lit(n));
        let made = rewritten(sum);
        let Expr::ScalarFunction(call) = &made else { panic!("{made} is no call") };
        assert_eq!(call.args.len(), 2_001);
        assert_eq!(evaluated(&made, &[1], 0).unwrap(), [1_999_001]);
    }
}
