//! Steps of an expression that give NULL on each row on which they fail, as casts that only try do: for rows that are held until they
//! are in a group, since that a step failed, and where, would tell of the row.
//!
//! Invariant: neither an error nor a panic of the step itself gets out, whatever is in a row, and no text that it puts together is
//! longer than [`TEXT_BYTES_MAX`], so that no row is so large that its size is felt.

use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{
    Array as _, ArrayRef, AsArray as _, BooleanArray, RecordBatch, RecordBatchOptions, new_null_array,
};
use arrow::compute::kernels::length::length;
use arrow::compute::{cast, concat, nullif};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode as _, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::context::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable as _, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};

/// Of a text that is put together from others.
pub const TEXT_BYTES_MAX: i64 = 8 << 10;
pub const NAME: &str = "or_null";

/// The step, over columns with its arguments.
#[derive(Debug)]
struct OrNull {
    step: Expr,
    /// What it is called where it was.
    written: String,
    is_bounded: bool,
    physical: Arc<dyn PhysicalExpr>,
    arguments: SchemaRef,
    gives: DataType,
    signature: Signature,
}

/// The same expression, of which the outermost step gives NULL where it fails. `is_bounded`: or where its text would be too long.
pub fn or_null(expression: Expr, schema: &DFSchema, is_bounded: bool) -> Result<Expr> {
    let (mut count, mut are_literals) = (0, true);
    expression.apply_children(|child| {
        count += 1;
        are_literals &= matches!(child, Expr::Literal(..));
        Ok(TreeNodeRecursion::Continue)
    })?;
    if count == 0 {
        return Ok(expression);
    }
    let written = expression.schema_name().to_string();
    let (mut at, mut arguments, mut fields) = (0, Vec::new(), Vec::new());
    let step = expression.map_children(|child| {
        at += 1;
        // Some functions take literals only, so that these stay; without a column there would be nothing to evaluate it on.
        if matches!(child, Expr::Literal(..)) && !(are_literals && at == count) {
            return Ok(Transformed::no(child));
        }
        let name = format!("a{}", arguments.len());
        fields.push(Field::new(&name, child.get_type(schema)?, true));
        arguments.push(child);
        Ok(Transformed::yes(Expr::Column(Column::new_unqualified(name))))
    })?;
    let columns = Arc::new(Schema::new(fields));
    let of_columns = DFSchema::try_from(columns.as_ref().clone())?;
    let (props, context) = (ExecutionProps::new(), PhysicalPlanningContext::default());
    let physical = create_physical_expr(&step.data, &of_columns, &props, &context)?;
    let gives = physical.data_type(&columns)?;
    let function = OrNull {
        step: step.data,
        written,
        is_bounded,
        physical,
        gives,
        signature: Signature::any(arguments.len(), Volatility::Immutable),
        arguments: columns,
    };
    Ok(ScalarUDF::from(function).call(arguments))
}

impl PartialEq for OrNull {
    fn eq(&self, other: &Self) -> bool {
        self.step == other.step && self.arguments == other.arguments && self.is_bounded == other.is_bounded
    }
}

impl Eq for OrNull {}

impl Hash for OrNull {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.step.hash(state);
    }
}

impl ScalarUDFImpl for OrNull {
    fn name(&self) -> &str {
        NAME
    }

    fn schema_name(&self, _: &[Expr]) -> Result<String> {
        Ok(self.written.clone())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.gives.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let is_one = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if is_one { 1 } else { args.number_rows };
        let columns = args.args.into_iter().zip(self.arguments.fields()).map(|(arg, field)| {
            let array = arg.into_array(rows)?;
            Ok(if array.data_type() == field.data_type() { array } else { cast(&array, field.data_type())? })
        });
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let arguments = Arc::clone(&self.arguments);
        let batch = columns.collect::<Result<Vec<ArrayRef>>>();
        let batch =
            batch.and_then(|columns| Ok(RecordBatch::try_new_with_options(arguments, columns, &options)?));
        let values = match batch {
            Ok(batch) => self.values(&batch)?,
            Err(_) => new_null_array(&self.gives, rows),
        };
        if is_one {
            Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&values, 0)?))
        } else {
            Ok(ColumnarValue::Array(values))
        }
    }
}

impl OrNull {
    /// Those of some rows, and then those of the others, where the step fails on all together.
    fn values(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        let rows = batch.num_rows();
        match self.tried(batch) {
            Ok(values) => Ok(values),
            Err(_) if rows <= 1 => Ok(new_null_array(&self.gives, rows)),
            Err(_) => {
                let half = rows / 2;
                let (first, second) = (batch.slice(0, half), batch.slice(half, rows - half));
                Ok(concat(&[self.values(&first)?.as_ref(), self.values(&second)?.as_ref()])?)
            }
        }
    }

    fn tried(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        let evaluate = || self.physical.evaluate(batch)?.into_array(batch.num_rows());
        // Dates beyond all calendars make some of the engine's functions panic.
        let values = catch_unwind(AssertUnwindSafe(evaluate));
        let values = values.map_err(|_| DataFusionError::Execution("it panicked".to_owned()))??;
        let values = if values.data_type() == &self.gives { values } else { cast(&values, &self.gives)? };
        if !self.is_bounded || !is_measured(&self.gives) {
            return Ok(values);
        }
        let lengths = cast(&length(&values)?, &DataType::Int64)?;
        let is_long = |bytes: Option<i64>| Some(bytes.is_some_and(|bytes| bytes > TEXT_BYTES_MAX));
        let long: BooleanArray = lengths.as_primitive::<Int64Type>().iter().map(is_long).collect();
        Ok(if long.true_count() == 0 { values } else { nullif(&values, &long)? })
    }
}

fn is_measured(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Utf8
            | DataType::LargeUtf8
            | DataType::Utf8View
            | DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView
    )
}
