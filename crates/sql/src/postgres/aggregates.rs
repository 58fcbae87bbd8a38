//! Aggregates of PostgreSQL that the engine does not have, or has by another name.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray as _, ListArray};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::functions_aggregate::bool_and_or::bool_and_udaf;
use datafusion::functions_aggregate::stddev::stddev_udaf;
use datafusion::functions_aggregate::variance::var_samp_udaf;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility};

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
        let items = Items { kind: self.kind, is_json, items: Vec::new(), bytes: 0 };
        Ok(Box::new(items))
    }

    fn state_fields(&self, _: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        Ok(vec![Arc::new(Field::new_list("items", Field::new_list_field(DataType::Utf8, true), true))])
    }
}

#[derive(Debug)]
struct Items {
    kind: Kind,
    is_json: Vec<bool>,
    items: Vec<String>,
    bytes: usize,
}

impl Items {
    fn push(&mut self, item: String) -> Result<()> {
        self.bytes += item.len() + 2;
        if self.bytes > MOST_BYTES {
            let message = format!("an aggregate of JSON may have {MOST_BYTES} bytes");
            return Err(crate::error::SqlError::State { code: "54000", message }.into());
        }
        self.items.push(item);
        Ok(())
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
            self.push(item)?;
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let lists: &ListArray = states[0].as_list();
        for items in lists.iter().flatten() {
            for item in items.as_string::<i32>().iter().flatten() {
                self.push(item.to_owned())?;
            }
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        if self.items.is_empty() {
            return Ok(ScalarValue::Utf8(None));
        }
        let items = self.items.join(", ");
        Ok(ScalarValue::Utf8(Some(match self.kind {
            Kind::Array => format!("[{items}]"),
            Kind::Object => format!("{{ {items} }}"),
        })))
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let items: Vec<ScalarValue> =
            self.items.iter().map(|item| ScalarValue::Utf8(Some(item.clone()))).collect();
        Ok(vec![ScalarValue::List(ScalarValue::new_list_nullable(&items, &DataType::Utf8))])
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.bytes + self.items.capacity() * size_of::<String>()
    }
}
