//! Which partitions, offsets and times the conditions of a query leave over.
//!
//! Conditions on partitions and offsets are taken over as they are; the engine does not look at them again. Those on time only say what
//! need not be read: the engine compares each row.

use std::ops::Range;

use datafusion::common::ScalarValue;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown};
use kafscale_storage::scan::Bounds;

use super::layout::MetaColumn;

/// What is left over of each partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub partitions: Range<i64>,
    pub offsets: Range<i64>,
    pub min_timestamp: Option<i64>,
    pub max_timestamp: Option<i64>,
}

impl Wanted {
    pub fn everything() -> Wanted {
        Wanted { partitions: 0..i64::MAX, offsets: 0..i64::MAX, min_timestamp: None, max_timestamp: None }
    }

    pub fn of(filters: &[Expr]) -> Wanted {
        let mut wanted = Wanted::everything();
        for filter in filters {
            if let Some(condition) = Condition::of(filter) {
                wanted.narrow(&condition);
            }
        }
        wanted
    }

    pub fn has_partition(&self, partition: i32) -> bool {
        self.partitions.contains(&i64::from(partition))
    }

    /// Whether it says what of the log to read, so that more of the log is not more to read.
    pub fn is_bounded(&self) -> bool {
        self.offsets != (0..i64::MAX) || self.bounds_time()
    }

    pub fn bounds_time(&self) -> bool {
        self.min_timestamp.is_some() || self.max_timestamp.is_some()
    }

    pub fn bounds(&self) -> Bounds {
        Bounds {
            offsets: self.offsets.clone(),
            min_timestamp: self.min_timestamp,
            max_timestamp: self.max_timestamp,
        }
    }

    fn narrow(&mut self, condition: &Condition) {
        let range = condition.range();
        match condition.column {
            Of::Partition => narrow(&mut self.partitions, &range),
            Of::Offset => narrow(&mut self.offsets, &range),
            Of::Timestamp => {
                if range.start > i64::MIN {
                    self.min_timestamp = self.min_timestamp.max(Some(range.start));
                }
                if range.end < i64::MAX {
                    let last = range.end - 1;
                    self.max_timestamp = Some(self.max_timestamp.map_or(last, |max| max.min(last)));
                }
            }
        }
    }
}

fn narrow(range: &mut Range<i64>, by: &Range<i64>) {
    range.start = range.start.max(by.start);
    range.end = range.end.min(by.end).max(range.start);
}

/// How a condition is treated.
pub fn pushdown(filter: &Expr) -> TableProviderFilterPushDown {
    match Condition::of(filter) {
        Some(Condition { column: Of::Partition | Of::Offset, .. }) => TableProviderFilterPushDown::Exact,
        Some(Condition { column: Of::Timestamp, .. }) => TableProviderFilterPushDown::Inexact,
        None => TableProviderFilterPushDown::Unsupported,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Partition,
    Offset,
    Timestamp,
}

/// A comparison of a column with a number.
#[derive(Debug)]
struct Condition {
    column: Of,
    operator: Operator,
    value: i64,
}

impl Condition {
    fn of(filter: &Expr) -> Option<Condition> {
        let Expr::BinaryExpr(BinaryExpr { left, op, right }) = filter else { return None };
        let (column, operator, literal) = match (&**left, &**right) {
            (Expr::Column(column), literal) => (column, *op, literal),
            (literal, Expr::Column(column)) => (column, op.swap()?, literal),
            _ => return None,
        };
        let column = match column.name.as_str() {
            name if name == MetaColumn::Partition.name() => Of::Partition,
            name if name == MetaColumn::Offset.name() => Of::Offset,
            name if name == MetaColumn::Timestamp.name() => Of::Timestamp,
            _ => return None,
        };
        let Expr::Literal(value, _) = literal else { return None };
        let is_known =
            matches!(operator, Operator::Eq | Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq);
        let value = number(column, value).filter(|_| is_known)?;
        Some(Condition { column, operator, value })
    }

    fn range(&self) -> Range<i64> {
        let after = self.value.saturating_add(1);
        match self.operator {
            Operator::Eq => self.value..after,
            Operator::Lt => i64::MIN..self.value,
            Operator::LtEq => i64::MIN..after,
            Operator::Gt => after..i64::MAX,
            Operator::GtEq => self.value..i64::MAX,
            _ => i64::MIN..i64::MAX,
        }
    }
}

fn number(column: Of, value: &ScalarValue) -> Option<i64> {
    match (column, value) {
        (Of::Partition | Of::Offset, ScalarValue::Int32(value)) => value.map(i64::from),
        (Of::Partition | Of::Offset, ScalarValue::Int64(value)) => *value,
        (Of::Timestamp, ScalarValue::TimestampMillisecond(value, _)) => *value,
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::logical_expr::{col, lit};

    use super::*;

    fn ts(ms: i64) -> Expr {
        lit(ScalarValue::TimestampMillisecond(Some(ms), Some("UTC".into())))
    }

    #[test]
    fn conditions_narrow_what_is_read() {
        let wanted = Wanted::of(&[
            col("_offset").gt(lit(9_i64)),
            lit(20_i64).gt_eq(col("_offset")),
            col("_partition").eq(lit(3)),
            col("_ts").gt_eq(ts(100)),
            col("_ts").lt(ts(200)),
            col("amount").gt(lit(1)),
        ]);
        let expected =
            Wanted { partitions: 3..4, offsets: 10..21, min_timestamp: Some(100), max_timestamp: Some(199) };
        assert_eq!(wanted, expected);
        assert!(wanted.is_bounded() && wanted.has_partition(3) && !wanted.has_partition(2));
        assert!(!Wanted::of(&[col("_partition").eq(lit(3))]).is_bounded());
    }

    #[test]
    fn conditions_that_exclude_each_other_leave_nothing() {
        let wanted = Wanted::of(&[col("_offset").gt(lit(20_i64)), col("_offset").lt(lit(10_i64))]);
        assert!(wanted.offsets.is_empty());
        assert!(Wanted::of(&[col("_offset").gt(lit(i64::MAX))]).offsets.is_empty());
    }

    #[test]
    fn only_conditions_on_offsets_and_partitions_are_exact() {
        use TableProviderFilterPushDown::{Exact, Inexact, Unsupported};
        for (filter, expected) in [
            (col("_offset").lt_eq(lit(1_i64)), Exact),
            (col("_partition").eq(lit(1)), Exact),
            (col("_ts").eq(ts(1)), Inexact),
            (col("_offset").not_eq(lit(1_i64)), Unsupported),
            (col("_offset").eq(lit(1_i64)).or(col("_offset").eq(lit(3_i64))), Unsupported),
            (col("_offset").eq(lit(1.5)), Unsupported),
            (col("_offset").eq(lit(ScalarValue::Int64(None))), Unsupported),
            (col("_key").eq(lit("a")), Unsupported),
        ] {
            assert_eq!(pushdown(&filter), expected, "{filter}");
        }
    }
}
