//! `sum` of integers, which is exact: the engine's own goes on with another number where 64 bits do
//! not hold it.
//!
//! As in PostgreSQL, the sum of bigints is a numeric, and that of smaller ones a bigint, beyond
//! which is an error (22003). Sums of all else are the engine's.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, BooleanArray, Decimal128Array, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Decimal128Type, Field, FieldRef, Int64Type};
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::functions_aggregate::sum::sum_udaf;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::type_coercion::functions::fields_with_udf;
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, Expr, ExprSchemable as _, GroupsAccumulator,
    LogicalPlan, ReversedUDAF, SetMonotonicity, Signature, Volatility,
};

use crate::error::SqlError;

/// Of parts of a sum, which may be beyond 64 bits before the others are added. 2^64 values of 64
/// bits add up to no more than 128 bits hold.
const NUMERIC: DataType = DataType::Decimal128(38, 0);

pub fn function() -> AggregateUDF {
    AggregateUDF::from(Sum {
        of_others: sum_udaf(),
        signature: Signature::user_defined(Volatility::Immutable),
    })
}

/// Whether a sum of a step's sums would have another type: those of integers are bigints, and of
/// bigints numerics.
pub fn changes_types(plan: &LogicalPlan) -> bool {
    let LogicalPlan::Aggregate(step) = plan else { return false };
    let is_bigint = |expr: &Expr| matches!(expr.get_type(step.input.schema()), Ok(DataType::Int64));
    step.aggr_expr.iter().any(|expr| match expr.clone().unalias() {
        Expr::AggregateFunction(call) if call.func.name() == "sum" && !call.params.distinct => {
            is_bigint(expr)
        }
        _ => false,
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Sum {
    of_others: Arc<AggregateUDF>,
    signature: Signature,
}

fn is_exact(fields: &[FieldRef]) -> bool {
    fields.first().is_some_and(|field| field.data_type().is_integer())
}

impl AggregateUDFImpl for Sum {
    fn name(&self) -> &str {
        "sum"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        use DataType::{Int8, Int16, Int32, Int64, UInt8, UInt16, UInt32, UInt64};
        let field = |kind: &DataType| Arc::new(Field::new("f", kind.clone(), true));
        match types {
            [Int8 | Int16 | Int32 | UInt8 | UInt16] => Ok(vec![Int32]),
            [Int64 | UInt32 | UInt64] => Ok(vec![Int64]),
            types => {
                let fields: Vec<FieldRef> = types.iter().map(field).collect();
                let fields = fields_with_udf(&fields, self.of_others.as_ref())?;
                Ok(fields.iter().map(|field| field.data_type().clone()).collect())
            }
        }
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        match arguments {
            [DataType::Int32] => Ok(DataType::Int64),
            [DataType::Int64] => Ok(NUMERIC),
            others => self.of_others.return_type(others),
        }
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        if !is_exact(args.input_fields) {
            return self.of_others.inner().state_fields(args);
        }
        let (name, values) = (args.name, Field::new_list_field(DataType::Int64, true));
        Ok(vec![Arc::new(match args.is_distinct {
            true => Field::new_list(format!("{name}[values]"), values, true),
            false => Field::new(format!("{name}[sum]"), NUMERIC, true),
        })])
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        if !is_exact(args.expr_fields) {
            return self.of_others.inner().accumulator(args);
        }
        let returns = args.return_field.data_type().clone();
        Ok(match args.is_distinct {
            true => Box::new(Distinct { counts: HashMap::new(), returns }),
            false => Box::new(Total { sum: 0, values: 0, returns }),
        })
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        match is_exact(args.expr_fields) {
            true => self.accumulator(args),
            false => self.of_others.inner().create_sliding_accumulator(args),
        }
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        self.of_others.inner().groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        match is_exact(args.expr_fields) {
            true => {
                Ok(Box::new(Totals { of_groups: Vec::new(), returns: args.return_field.data_type().clone() }))
            }
            false => self.of_others.inner().create_groups_accumulator(args),
        }
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.of_others.inner().set_monotonicity(data_type)
    }
}

fn bigint(total: i128) -> Result<i64> {
    let beyond = |_| SqlError::State { code: "22003", message: "bigint out of range".to_owned() }.into();
    i64::try_from(total).map_err(beyond)
}

/// A sum, or NULL where there was no value.
fn given(sum: Option<i128>, returns: &DataType) -> Result<ScalarValue> {
    Ok(match returns {
        DataType::Int64 => ScalarValue::Int64(sum.map(bigint).transpose()?),
        _ => ScalarValue::Decimal128(sum, 38, 0),
    })
}

fn each(values: &ArrayRef) -> Result<ArrayRef> {
    Ok(cast(values, &DataType::Int64)?)
}

#[derive(Debug)]
struct Total {
    sum: i128,
    values: u64,
    returns: DataType,
}

impl Total {
    /// What is added or taken away.
    fn of(values: &ArrayRef) -> Result<(i128, u64)> {
        let values = each(values)?;
        let values = values.as_primitive::<Int64Type>();
        let sum = values.iter().flatten().map(i128::from).sum();
        Ok((sum, (values.len() - values.null_count()) as u64))
    }
}

impl Accumulator for Total {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let (sum, values) = Total::of(&values[0])?;
        self.sum += sum;
        self.values += values;
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let (sum, values) = Total::of(&values[0])?;
        self.sum -= sum;
        self.values -= values;
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        given((self.values > 0).then_some(self.sum), &self.returns)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![given((self.values > 0).then_some(self.sum), &NUMERIC)?])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        for part in states[0].as_primitive::<Decimal128Type>().iter().flatten() {
            self.sum += part;
            self.values += 1;
        }
        Ok(())
    }

    fn size(&self) -> usize {
        size_of::<Self>()
    }
}

/// Of values that are counted once each.
#[derive(Debug)]
struct Distinct {
    counts: HashMap<i64, u64>,
    returns: DataType,
}

impl Accumulator for Distinct {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for value in each(&values[0])?.as_primitive::<Int64Type>().iter().flatten() {
            *self.counts.entry(value).or_default() += 1;
        }
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for value in each(&values[0])?.as_primitive::<Int64Type>().iter().flatten() {
            if let Some(count) = self.counts.get_mut(&value) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&value);
                }
            }
        }
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let sum = self.counts.keys().copied().map(i128::from).sum();
        given((!self.counts.is_empty()).then_some(sum), &self.returns)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let values: Vec<ScalarValue> =
            self.counts.keys().map(|value| ScalarValue::Int64(Some(*value))).collect();
        Ok(vec![ScalarValue::List(ScalarValue::new_list_nullable(&values, &DataType::Int64))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        for values in states[0].as_list::<i32>().iter().flatten() {
            self.update_batch(&[values])?;
        }
        Ok(())
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.counts.capacity() * (size_of::<(i64, u64)>() + 1)
    }
}

/// Of groups: nothing where no value was.
#[derive(Debug)]
struct Totals {
    of_groups: Vec<Option<i128>>,
    returns: DataType,
}

impl Totals {
    fn add(
        &mut self,
        values: impl Iterator<Item = Option<i128>>,
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) {
        self.of_groups.resize(total, None);
        for (at, (value, group)) in values.zip(groups).enumerate() {
            if let Some(value) = value
                && filter.is_none_or(|filter| filter.is_valid(at) && filter.value(at))
            {
                *self.of_groups[*group].get_or_insert(0) += value;
            }
        }
    }
}

fn parts(sums: impl Iterator<Item = Option<i128>>) -> Result<ArrayRef> {
    Ok(Arc::new(sums.collect::<Decimal128Array>().with_precision_and_scale(38, 0)?))
}

impl GroupsAccumulator for Totals {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        let values = each(&values[0])?;
        let values = values.as_primitive::<Int64Type>().iter().map(|value| value.map(i128::from));
        self.add(values, groups, filter, total);
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.add(states[0].as_primitive::<Decimal128Type>().iter(), groups, None, total);
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let sums = emit_to.take_needed(&mut self.of_groups).into_iter();
        if self.returns != DataType::Int64 {
            return parts(sums);
        }
        let sums = sums.map(|sum| sum.map(bigint).transpose()).collect::<Result<Int64Array>>()?;
        Ok(Arc::new(sums))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(vec![parts(emit_to.take_needed(&mut self.of_groups).into_iter())?])
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let values = each(&values[0])?;
        let is_in = |at: usize| filter.is_none_or(|filter| filter.is_valid(at) && filter.value(at));
        let sums = values.as_primitive::<Int64Type>().iter().enumerate();
        Ok(vec![parts(sums.map(|(at, value)| value.filter(|_| is_in(at)).map(i128::from)))?])
    }

    fn size(&self) -> usize {
        self.of_groups.capacity() * size_of::<Option<i128>>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn total(returns: DataType) -> Total {
        Total { sum: 0, values: 0, returns }
    }

    fn bigints(values: &[Option<i64>]) -> [ArrayRef; 1] {
        [Arc::new(Int64Array::from(values.to_vec()))]
    }

    #[test]
    fn parts_of_a_sum_may_be_beyond_what_its_type_holds() {
        let most = Some(i64::MAX);
        let mut parts = [total(DataType::Int64), total(DataType::Int64)];
        parts[0].update_batch(&bigints(&[most, most, None])).unwrap();
        parts[1].update_batch(&bigints(&[Some(-i64::MAX)])).unwrap();
        assert!(parts[0].evaluate().is_err());
        let mut whole = total(DataType::Int64);
        assert_eq!(whole.evaluate().unwrap(), ScalarValue::Int64(None));
        for part in &mut parts {
            let states: Vec<ArrayRef> =
                part.state().unwrap().iter().map(|state| state.to_array().unwrap()).collect();
            whole.merge_batch(&states).unwrap();
        }
        assert_eq!(whole.evaluate().unwrap(), ScalarValue::Int64(most));
        whole.retract_batch(&bigints(&[most])).unwrap();
        assert_eq!(whole.evaluate().unwrap(), ScalarValue::Int64(Some(0)));
    }

    #[test]
    fn distinct_values_leave_with_the_last_of_them() {
        let mut sum = Distinct { counts: HashMap::new(), returns: NUMERIC };
        sum.update_batch(&bigints(&[Some(2), Some(2), None, Some(i64::MAX)])).unwrap();
        let numeric = |sum| ScalarValue::Decimal128(sum, 38, 0);
        assert_eq!(sum.evaluate().unwrap(), numeric(Some(i128::from(i64::MAX) + 2)));
        sum.retract_batch(&bigints(&[Some(2), Some(i64::MAX)])).unwrap();
        assert_eq!(sum.evaluate().unwrap(), numeric(Some(2)));
        sum.retract_batch(&bigints(&[Some(2)])).unwrap();
        assert_eq!(sum.evaluate().unwrap(), numeric(None));
    }
}
