//! `sum` of integers, which is exact: the engine's own goes on with another number where 64 bits do not hold it, and here
//! that is an error, as PostgreSQL's for a bigint. Sums of all else are the engine's.

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, BooleanArray, Decimal128Array, Int64Array};
use arrow::datatypes::{DataType, Decimal128Type, Field, FieldRef, Int64Type};
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::functions_aggregate::sum::sum_udaf;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, ReversedUDAF, SetMonotonicity,
    Signature,
};

use crate::error::SqlError;

/// Of the sums of parts: what adds up may have been beyond 64 bits before.
const PART: DataType = DataType::Decimal128(38, 0);

pub fn function() -> AggregateUDF {
    AggregateUDF::from(Sum { of_others: sum_udaf() })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Sum {
    of_others: Arc<AggregateUDF>,
}

fn is_exact(args: &AccumulatorArgs<'_>) -> bool {
    !args.is_distinct && *args.return_field.data_type() == DataType::Int64
}

impl AggregateUDFImpl for Sum {
    fn name(&self) -> &str {
        "sum"
    }

    fn signature(&self) -> &Signature {
        self.of_others.signature()
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.of_others.return_type(arguments)
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let is_exact = !args.is_distinct && *args.return_type() == DataType::Int64;
        let fields = self.of_others.inner().state_fields(args)?;
        let exact = |field: &FieldRef| Arc::new(Field::new(field.name(), PART, true));
        Ok(if is_exact { fields.iter().map(exact).collect() } else { fields })
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        if is_exact(&args) {
            Ok(Box::new(Total::default()))
        } else {
            self.of_others.inner().accumulator(args)
        }
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        match is_exact(&args) {
            true => Ok(Box::new(Total::default())),
            false => self.of_others.inner().create_sliding_accumulator(args),
        }
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        self.of_others.inner().groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        match is_exact(&args) {
            true => Ok(Box::new(Totals::default())),
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

fn held(total: i128) -> Result<i64> {
    let beyond = |_| SqlError::State { code: "22003", message: "bigint out of range".to_owned() }.into();
    i64::try_from(total).map_err(beyond)
}

/// 2^64 values of 64 bits add up to no more than 128 bits hold.
#[derive(Debug, Default)]
struct Total {
    sum: i128,
    values: u64,
}

impl Total {
    fn of(values: &ArrayRef) -> Total {
        let values = values.as_primitive::<Int64Type>();
        let sum = values.iter().flatten().map(i128::from).sum();
        Total { sum, values: (values.len() - values.null_count()) as u64 }
    }
}

impl Accumulator for Total {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let Total { sum, values } = Total::of(&values[0]);
        self.sum += sum;
        self.values += values;
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let Total { sum, values } = Total::of(&values[0]);
        self.sum -= sum;
        self.values -= values;
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Int64(if self.values == 0 { None } else { Some(held(self.sum)?) }))
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::Decimal128((self.values > 0).then_some(self.sum), 38, 0)])
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

/// Of groups: nothing where no value was.
#[derive(Debug, Default)]
struct Totals {
    of_groups: Vec<Option<i128>>,
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
        let values = values[0].as_primitive::<Int64Type>();
        self.add(values.iter().map(|value| value.map(i128::from)), groups, filter, total);
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.add(states[0].as_primitive::<Decimal128Type>().iter(), groups, None, total);
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let sums = emit_to.take_needed(&mut self.of_groups);
        let sums = sums.into_iter().map(|sum| sum.map(held).transpose());
        Ok(Arc::new(sums.collect::<Result<Int64Array>>()?))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(vec![parts(emit_to.take_needed(&mut self.of_groups).into_iter())?])
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let values = values[0].as_primitive::<Int64Type>();
        let is_in = |at: usize| filter.is_none_or(|filter| filter.is_valid(at) && filter.value(at));
        let sums = values.iter().enumerate();
        Ok(vec![parts(sums.map(|(at, value)| value.filter(|_| is_in(at)).map(i128::from)))?])
    }

    fn size(&self) -> usize {
        self.of_groups.capacity() * size_of::<Option<i128>>()
    }
}
