//! Aggregates of PostgreSQL that the engine does not have, or has by another name.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, ListArray, StructArray, new_empty_array};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, FieldRef, Fields};
use datafusion::common::ScalarValue;
use datafusion::common::utils::{SingleRowListArrayBuilder, compare_rows, get_row_at_idx};
use datafusion::error::Result;
use datafusion::functions_aggregate::bool_and_or::bool_and_udaf;
use datafusion::functions_aggregate::stddev::stddev_udaf;
use datafusion::functions_aggregate::variance::var_samp_udaf;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility};
use datafusion::physical_expr::PhysicalSortExpr;

use super::json_build::{JsonText, json_field};

/// Text of JSON that one aggregate may make.
const MOST_BYTES: usize = 256 << 20;

pub fn all() -> Vec<Arc<AggregateUDF>> {
    let again = |known: Arc<AggregateUDF>, names: &[&'static str]| {
        Arc::new(known.as_ref().clone().with_aliases(names.iter().copied()))
    };
    let json = |kind: Kind| Arc::new(AggregateUDF::from(Json::new(kind)));
    vec![
        again(bool_and_udaf(), &["every"]),
        again(var_samp_udaf(), &["variance"]),
        again(stddev_udaf(), &["stddev"]),
        json(Kind::Array),
        json(Kind::Object),
        super::single::function(),
    ]
}

/// Those that only this program knows.
pub fn names() -> impl Iterator<Item = String> {
    let known = [
        "every",
        "variance",
        "json_agg",
        "jsonb_agg",
        "json_object_agg",
        "jsonb_object_agg",
        "kafscale_only",
    ];
    known.into_iter().map(str::to_owned)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Array,
    Object,
}

/// `json_agg(value)` and `json_object_agg(name, value)`
#[derive(Debug, PartialEq, Eq, Hash)]
struct Json {
    kind: Kind,
    aliases: Vec<String>,
    signature: Signature,
}

impl Json {
    fn new(kind: Kind) -> Json {
        let (alias, count) = match kind {
            Kind::Array => ("jsonb_agg", 1),
            Kind::Object => ("jsonb_object_agg", 2),
        };
        let signature = Signature::any(count, Volatility::Immutable);
        Json { kind, aliases: vec![alias.to_owned()], signature }
    }
}

impl AggregateUDFImpl for Json {
    fn name(&self) -> &str {
        match self.kind {
            Kind::Array => "json_agg",
            Kind::Object => "json_object_agg",
        }
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn return_field(&self, _: &[FieldRef]) -> Result<FieldRef> {
        Ok(json_field(self.name()))
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let is_json = args.expr_fields.iter().map(|field| JsonText::is_json(field)).collect();
        let key = |sort: &PhysicalSortExpr| {
            let data_type = sort.expr.data_type(args.schema)?;
            Ok(Field::new(sort.expr.to_string(), data_type, true))
        };
        let key_fields = args.order_bys.iter().map(key).collect::<Result<Fields>>()?;
        let options = args.order_bys.iter().map(|sort| sort.options).collect();
        let (items, keys) = (Vec::new(), Vec::new());
        let seen = args.is_distinct.then(HashSet::new);
        Ok(Box::new(Items { kind: self.kind, is_json, items, seen, keys, key_fields, options, bytes: 0 }))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let items = Field::new_list("items", Field::new_list_field(DataType::Utf8, true), true);
        let mut fields = vec![Arc::new(items)];
        if !args.ordering_fields.is_empty() {
            let key = DataType::Struct(args.ordering_fields.iter().cloned().collect());
            fields.push(Arc::new(Field::new_list("keys", Field::new_list_field(key, true), true)));
        }
        Ok(fields)
    }

    /// Each partition has its rows in order, which is lost where they are put together; so items are sorted at the end.
    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Beneficial
    }

    fn with_beneficial_ordering(self: Arc<Self>, _: bool) -> Result<Option<Arc<dyn AggregateUDFImpl>>> {
        Ok(Some(self))
    }
}

#[derive(Debug)]
struct Items {
    kind: Kind,
    is_json: Vec<bool>,
    items: Vec<String>,
    /// Of DISTINCT: those that are there.
    seen: Option<HashSet<String>>,
    /// What each item is sorted by. Without ORDER BY there are none.
    keys: Vec<Vec<ScalarValue>>,
    key_fields: Fields,
    options: Vec<SortOptions>,
    bytes: usize,
}

impl Items {
    fn push(&mut self, item: String, keys: &[ArrayRef], row: usize) -> Result<()> {
        if let Some(seen) = &mut self.seen {
            if !seen.insert(item.clone()) {
                return Ok(());
            }
            self.bytes += item.len();
        }
        self.bytes += item.len() + 2;
        if !keys.is_empty() {
            let mut key = get_row_at_idx(keys, row)?;
            key.iter_mut().for_each(ScalarValue::compact);
            self.bytes += ScalarValue::size_of_vec(&key);
            self.keys.push(key);
        }
        if self.bytes > MOST_BYTES {
            let message = format!("an aggregate of JSON may have {MOST_BYTES} bytes");
            return Err(crate::error::SqlError::State { code: "54000", message }.into());
        }
        self.items.push(item);
        Ok(())
    }

    fn sort(&mut self) -> Result<()> {
        if self.keys.is_empty() {
            return Ok(());
        }
        let keys = std::mem::take(&mut self.keys);
        let mut of_keys: Vec<_> = keys.into_iter().zip(std::mem::take(&mut self.items)).collect();
        let mut failed = Ok(());
        of_keys.sort_by(|(one, _), (other, _)| {
            compare_rows(one, other, &self.options).unwrap_or_else(|error| {
                failed = Err(error);
                Ordering::Equal
            })
        });
        (self.keys, self.items) = of_keys.into_iter().unzip();
        failed
    }

    fn state_of_keys(&self) -> Result<ScalarValue> {
        let column = |at: usize| match self.keys.is_empty() {
            true => Ok(new_empty_array(self.key_fields[at].data_type())),
            false => ScalarValue::iter_to_array(self.keys.iter().map(|key| key[at].clone())),
        };
        let columns = (0..self.key_fields.len()).map(column).collect::<Result<_>>()?;
        let keys = StructArray::try_new(self.key_fields.clone(), columns, None)?;
        Ok(SingleRowListArrayBuilder::new(Arc::new(keys)).build_list_scalar())
    }
}

impl Accumulator for Items {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let texts: Vec<JsonText> = values
            .iter()
            .zip(&self.is_json)
            .map(|(array, is_json)| JsonText::new(array, *is_json))
            .collect::<Result<_>>()?;
        for row in 0..values[0].len() {
            let item = match self.kind {
                Kind::Array => texts[0].value(row)?,
                Kind::Object => format!("{} : {}", texts[0].name(row)?, texts[1].value(row)?),
            };
            self.push(item, &values[self.is_json.len()..], row)?;
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let lists: &ListArray = states[0].as_list();
        let keys: Option<&ListArray> = states.get(1).map(|keys| keys.as_list());
        for state in (0..lists.len()).filter(|state| lists.is_valid(*state)) {
            let items = lists.value(state);
            let keys = keys.map(|keys| keys.value(state));
            let keys = keys.as_ref().map_or(&[][..], |keys| keys.as_struct().columns());
            for (row, item) in items.as_string::<i32>().iter().enumerate() {
                self.push(item.unwrap_or_default().to_owned(), keys, row)?;
            }
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        if self.items.is_empty() {
            return Ok(ScalarValue::Utf8(None));
        }
        self.sort()?;
        let items = self.items.join(", ");
        Ok(ScalarValue::Utf8(Some(match self.kind {
            Kind::Array => format!("[{items}]"),
            Kind::Object => format!("{{ {items} }}"),
        })))
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let items: Vec<ScalarValue> =
            self.items.iter().map(|item| ScalarValue::Utf8(Some(item.clone()))).collect();
        let items = ScalarValue::List(ScalarValue::new_list_nullable(&items, &DataType::Utf8));
        let keys = (!self.key_fields.is_empty()).then(|| self.state_of_keys()).transpose()?;
        Ok([Some(items), keys].into_iter().flatten().collect())
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.bytes + self.items.capacity() * size_of::<String>()
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, RecordBatch, StringArray};
    use datafusion::datasource::MemTable;
    use datafusion::prelude::{SessionConfig, SessionContext};

    use super::*;

    #[tokio::test]
    async fn items_of_several_partitions_are_in_order() {
        let session = SessionContext::new_with_config(
            SessionConfig::new().with_target_partitions(4).with_batch_size(2),
        );
        all().into_iter().for_each(|function| session.register_udaf(function.as_ref().clone()));
        let batch = |of: i64| {
            let x: ArrayRef = Arc::new(Int64Array::from_iter_values((0..5).map(|row| row * 4 + of)));
            let t = (0..5).map(|row| if row == 1 { None } else { Some(format!("{}", (row * 7 + of) % 3)) });
            let t: ArrayRef = Arc::new(StringArray::from_iter(t));
            RecordBatch::try_from_iter_with_nullable([("x", x, true), ("t", t, true)]).unwrap()
        };
        let table = MemTable::try_new(batch(0).schema(), (0..4).map(|of| vec![batch(of)]).collect()).unwrap();
        session.register_table("rows", Arc::new(table)).unwrap();
        let ask = async |statement: &str| {
            let batches = session.sql(statement).await.unwrap().collect().await.unwrap();
            let texts = batches[0].columns().iter().map(|column| super::super::scalar::utf8(column).unwrap());
            texts.map(|texts| texts.value(0).to_owned()).collect::<Vec<_>>()
        };
        let list = |numbers: &mut dyn Iterator<Item = i64>| {
            format!("[{}]", numbers.map(|x| x.to_string()).collect::<Vec<_>>().join(", "))
        };
        // Two orders in one statement.
        let answer =
            ask("SELECT json_agg(x ORDER BY x DESC) AS d, json_agg(x ORDER BY x) AS a FROM rows").await;
        assert_eq!(answer, [list(&mut (0..20).rev()), list(&mut (0..20))]);
        let mut keys: Vec<(bool, i64, i64)> = Vec::new();
        for of in 0..4 {
            keys.extend(
                (0..5).map(|row| (row != 1, if row == 1 { 0 } else { (row * 7 + of) % 3 }, row * 4 + of)),
            );
        }
        keys.sort();
        let answer = ask("SELECT json_agg(x ORDER BY t NULLS FIRST, x) AS a FROM rows").await;
        assert_eq!(answer, [list(&mut keys.iter().map(|key| key.2))]);
        let answer = ask(
            "SELECT json_agg(DISTINCT x % 3 ORDER BY x % 3 DESC) AS a, json_agg(x ORDER BY x) FILTER (WHERE x < 3) AS b FROM rows",
        )
        .await;
        assert_eq!(answer, ["[2, 1, 0]", "[0, 1, 2]"]);
        let answer = ask("SELECT json_object_agg(x, x ORDER BY x DESC) AS a FROM rows WHERE x > 16").await;
        assert_eq!(answer, [r#"{ "19" : 19, "18" : 18, "17" : 17 }"#]);
        let answer = ask("SELECT json_agg(s ORDER BY s) AS a FROM \
            (SELECT json_agg(x ORDER BY x) AS s FROM rows WHERE x < 6 GROUP BY x % 2) g")
        .await;
        assert_eq!(answer, ["[[0, 2, 4], [1, 3, 5]]"]);
        let answer = ask("SELECT json_agg(s ORDER BY n)::text AS a FROM (SELECT x AS n, \
            json_agg(x) OVER (ORDER BY x) AS s FROM rows WHERE x < 3) g")
        .await;
        assert_eq!(answer, ["[[0], [0, 1], [0, 1, 2]]"]);
    }
}
