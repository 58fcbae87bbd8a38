//! NUL, which ends texts of the protocol and stands in none of PostgreSQL's. A record may have it in
//! a text (`"a\u0000b"`); what goes to a client has U+FFFD there, as for what is no UTF-8.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{
    Array as _, ArrayRef, AsArray as _, ListArray, StringArray, StringViewArray, StructArray,
};
use arrow::datatypes::DataType;

/// A text without it.
pub fn shown(text: &str) -> Cow<'_, str> {
    match text.contains('\0') {
        true => Cow::Owned(text.replace('\0', "\u{fffd}")),
        false => Cow::Borrowed(text),
    }
}

/// A column without it, at any depth.
pub fn without(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Utf8 => {
            let texts = column.as_string::<i32>();
            let has_it = texts.value_data().contains(&0);
            if !has_it {
                Arc::clone(column)
            } else {
                Arc::new(texts.iter().map(replaced).collect::<StringArray>())
            }
        }
        DataType::Utf8View => {
            let texts = column.as_string_view();
            let has_it = texts.iter().flatten().any(|text| text.as_bytes().contains(&0));
            if !has_it {
                Arc::clone(column)
            } else {
                Arc::new(texts.iter().map(replaced).collect::<StringViewArray>())
            }
        }
        DataType::LargeUtf8 => {
            let texts = column.as_string::<i64>();
            let has_it = texts.value_data().contains(&0);
            let made = || texts.iter().map(replaced).collect::<arrow::array::LargeStringArray>();
            if !has_it { Arc::clone(column) } else { Arc::new(made()) }
        }
        DataType::List(item) => {
            let list = column.as_list::<i32>();
            let (offsets, nulls) = (list.offsets().clone(), list.nulls().cloned());
            Arc::new(ListArray::new(Arc::clone(item), offsets, without(list.values()), nulls))
        }
        DataType::Struct(fields) if !fields.is_empty() => {
            let parts = column.as_struct();
            let columns = parts.columns().iter().map(without).collect();
            Arc::new(StructArray::new(fields.clone(), columns, parts.nulls().cloned()))
        }
        _ => Arc::clone(column),
    }
}

fn replaced(text: Option<&str>) -> Option<Cow<'_, str>> {
    text.map(shown)
}

#[cfg(test)]
mod tests {
    use arrow::array::{ListBuilder, StringBuilder};

    use super::*;

    #[test]
    fn texts_are_without_it_at_any_depth() {
        let texts: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec![Some("a\0b"), None, Some("c")])),
            Arc::new(StringViewArray::from(vec![Some("a\0b"), None, Some("c")])),
        ];
        for column in texts {
            let column = arrow::compute::cast(&without(&column), &DataType::Utf8).unwrap();
            let seen: Vec<_> = column.as_string::<i32>().iter().collect();
            assert_eq!(seen, [Some("a\u{fffd}b"), None, Some("c")]);
        }
        let mut lists = ListBuilder::new(StringBuilder::new());
        lists.values().append_value("\0");
        lists.append(true);
        let list: ArrayRef = Arc::new(lists.finish());
        let seen = without(&list);
        assert_eq!(seen.as_list::<i32>().values().as_string::<i32>().value(0), "\u{fffd}");
    }
}
