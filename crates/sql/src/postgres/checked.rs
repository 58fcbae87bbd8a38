//! Integers that do not wrap: where a type does not hold a result, PostgreSQL has an error (22003), and the engine another number.
//!
//! Once types are known, operators of integers become functions that are written as the operators are. Sums are another
//! matter: they are numbers of the engine's own accumulators.

use std::sync::Arc;

use arrow::compute::kernels::numeric::{add, mul, neg, sub};
use arrow::datatypes::{DataType, Field, FieldRef};
use arrow::error::ArrowError;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, ExprSchemable as _, Operator, ReturnFieldArgs, ScalarFunctionArgs,
    ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::optimizer::AnalyzerRule;
use datafusion::optimizer::analyzer::function_rewrite::ApplyFunctionRewrites;
use datafusion::physical_expr_common::datum::apply;

use super::types;
use crate::error::SqlError;

/// The rule, which is to come behind all others.
pub fn rule() -> Arc<dyn AnalyzerRule + Send + Sync> {
    Arc::new(ApplyFunctionRewrites::new(vec![Arc::new(Checked)]))
}

#[derive(Debug)]
struct Checked;

impl FunctionRewrite for Checked {
    fn name(&self) -> &'static str {
        "checked_integers"
    }

    fn rewrite(&self, expr: Expr, schema: &DFSchema, _: &ConfigOptions) -> Result<Transformed<Expr>> {
        let is_integer = |expr: &Expr| expr.get_type(schema).is_ok_and(|kind| kind.is_integer());
        Ok(match expr {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => match Operation::of(op) {
                Some(operation) if is_integer(&left) && is_integer(&right) => {
                    Transformed::yes(operation.function().call(vec![*left, *right]))
                }
                _ => Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right })),
            },
            Expr::Negative(value) if is_integer(&value) => {
                Transformed::yes(Operation::Negate.function().call(vec![*value]))
            }
            other => Transformed::no(other),
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Operation {
    Add,
    Subtract,
    Multiply,
    Negate,
}

impl Operation {
    fn of(operator: Operator) -> Option<Operation> {
        match operator {
            Operator::Plus => Some(Operation::Add),
            Operator::Minus => Some(Operation::Subtract),
            Operator::Multiply => Some(Operation::Multiply),
            _ => None,
        }
    }

    fn sign(self) -> &'static str {
        match self {
            Operation::Add => "+",
            Operation::Subtract | Operation::Negate => "-",
            Operation::Multiply => "*",
        }
    }

    fn function(self) -> ScalarUDF {
        let arguments = if self == Operation::Negate { 1 } else { 2 };
        let signature = Signature::any(arguments, Volatility::Immutable);
        ScalarUDF::new_from_impl(OfIntegers { operation: self, signature })
    }

    /// As SQL has it.
    fn written(self, args: &[String]) -> String {
        match args {
            [left, right] => format!("{left} {} {right}", self.sign()),
            args => format!("(- {})", args.join(", ")),
        }
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct OfIntegers {
    operation: Operation,
    signature: Signature,
}

impl ScalarUDFImpl for OfIntegers {
    fn name(&self) -> &str {
        match self.operation {
            Operation::Add => "checked_add",
            Operation::Subtract => "checked_subtract",
            Operation::Multiply => "checked_multiply",
            Operation::Negate => "checked_negate",
        }
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let args: Vec<String> = args.iter().map(|arg| arg.schema_name().to_string()).collect();
        Ok(self.operation.written(&args))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok(arguments[0].clone())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let nullable = args.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Arc::new(Field::new(self.name(), args.arg_fields[0].data_type().clone(), nullable)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let done = match (self.operation, args.args.as_slice()) {
            (Operation::Add, [left, right]) => apply(left, right, add),
            (Operation::Subtract, [left, right]) => apply(left, right, sub),
            (Operation::Multiply, [left, right]) => apply(left, right, mul),
            (_, [ColumnarValue::Array(values)]) => {
                neg(values).map(ColumnarValue::Array).map_err(DataFusionError::from)
            }
            (_, values) => {
                let values = ColumnarValue::values_to_arrays(values)?;
                let value = neg(&values[0]).map_err(DataFusionError::from);
                value.and_then(|value| ScalarValue::try_from_array(&value, 0)).map(ColumnarValue::Scalar)
            }
        };
        done.map_err(|error| match error.find_root() {
            DataFusionError::ArrowError(inner, _) if matches!(**inner, ArrowError::ArithmeticOverflow(_)) => {
                let message = format!("{} out of range", types::name_of(args.return_field.data_type()));
                SqlError::State { code: "22003", message }.into()
            }
            _ => error,
        })
    }
}
