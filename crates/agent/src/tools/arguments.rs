//! Reads a tool's arguments, and says what is wrong with them in a way that lets an agent mend its call.

use rmcp::model::JsonObject;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::answer::ToolError;
use crate::answer::{names, suggest};

/// Longer arguments mean nothing here: the longest name has 32 KiB.
const MAX_STRING_BYTES: usize = 64 << 10;

/// The arguments as `T`, whose schema is `schema`.
pub fn read<T: DeserializeOwned>(mut arguments: JsonObject, schema: &JsonObject) -> Result<T, ToolError> {
    // Some clients send null for what they leave out.
    arguments.retain(|_, value| !value.is_null());
    let empty = JsonObject::new();
    let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
    for (name, value) in &arguments {
        let Some(property) = properties.get(name) else { return Err(unknown(name, properties)) };
        check(name, value, property)?;
    }
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
    for name in required.filter_map(Value::as_str) {
        if !arguments.contains_key(name) {
            return Err(ToolError::invalid(format!("{name} is missing{}", expected(name, properties))));
        }
    }
    serde_json::from_value(Value::Object(arguments))
        .map_err(|e| ToolError::invalid(format!("wrong arguments: {e}")))
}

fn unknown(name: &str, properties: &JsonObject) -> ToolError {
    let known: Vec<&str> = properties.keys().map(String::as_str).collect();
    let hint = suggest::did_you_mean(name, known.iter().copied());
    let takes = match known.as_slice() {
        [] => "this tool takes no arguments".to_owned(),
        some => format!("this tool takes {}", some.join(", ")),
    };
    ToolError::invalid(format!("unknown argument {:?}{hint} ({takes})", names::text(name, 100)))
}

fn expected(name: &str, properties: &JsonObject) -> String {
    let kind = properties.get(name).map(kind).unwrap_or_default();
    if kind.is_empty() { String::new() } else { format!(": give {kind}") }
}

/// A property's type in words.
fn kind(property: &Value) -> String {
    let range = |unit: &str, min: &str, max: &str| match (property.get(min), property.get(max)) {
        (Some(min), Some(max)) => format!(" of {min} to {max}{unit}"),
        (Some(min), None) => format!(" of at least {min}{unit}"),
        (None, Some(max)) => format!(" of at most {max}{unit}"),
        (None, None) => String::new(),
    };
    match property.get("type").and_then(Value::as_str) {
        Some("integer") => format!("a whole number{}", range("", "minimum", "maximum")),
        Some("boolean") => "true or false".to_owned(),
        Some("array") => {
            let of = property.get("items").map(|items| format!(" ({})", kind(items))).unwrap_or_default();
            format!("a list{}{of}", range(" items", "minItems", "maxItems"))
        }
        Some("string") => match property.get("enum").and_then(Value::as_array) {
            Some(allowed) => {
                let allowed: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
                format!("one of {}", allowed.join(", "))
            }
            None => "a string".to_owned(),
        },
        _ => String::new(),
    }
}

fn check(name: &str, value: &Value, property: &Value) -> Result<(), ToolError> {
    let fits = match (property.get("type").and_then(Value::as_str), value) {
        (Some("integer"), Value::Number(n)) => within(n.as_i64(), property, "minimum", "maximum"),
        (Some("boolean"), Value::Bool(_)) => true,
        (Some("string"), Value::String(text)) => {
            let allowed = property.get("enum").and_then(Value::as_array);
            text.len() <= MAX_STRING_BYTES && allowed.is_none_or(|allowed| allowed.contains(value))
        }
        (Some("array"), Value::Array(items)) => {
            if let Some(of) = property.get("items") {
                items.iter().try_for_each(|item| check(name, item, of))?;
            }
            within(i64::try_from(items.len()).ok(), property, "minItems", "maxItems")
        }
        _ => false,
    };
    if fits {
        return Ok(());
    }
    if let Value::String(text) = value
        && text.len() > MAX_STRING_BYTES
    {
        let bytes = text.len();
        return Err(ToolError::invalid(format!(
            "{name} has {bytes} bytes: give a string of at most {MAX_STRING_BYTES}"
        )));
    }
    let mut hint = String::new();
    if let (Some(allowed), Value::String(text)) = (property.get("enum").and_then(Value::as_array), value) {
        hint = suggest::did_you_mean(text, allowed.iter().filter_map(Value::as_str));
    }
    let given = names::text(&value.to_string(), 60);
    Err(ToolError::invalid(format!("{name} cannot be {given}{hint}: give {}", kind(property))))
}

fn within(number: Option<i64>, property: &Value, min: &str, max: &str) -> bool {
    let bound = |key| property.get(key).and_then(Value::as_f64).map(|bound| bound as i64);
    number.is_some_and(|n| bound(min).is_none_or(|min| n >= min) && bound(max).is_none_or(|max| n <= max))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use rmcp::schemars::JsonSchema;

    use super::super::schema;
    use super::*;

    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    #[schemars(crate = "rmcp::schemars")]
    #[expect(dead_code, reason = "only its schema and its reading matter here")]
    struct Args {
        #[schemars(length(min = 1, max = 2))]
        names: Vec<String>,
        #[schemars(range(min = 1, max = 200))]
        limit: Option<u32>,
        only_unhealthy: Option<bool>,
        sort: Option<Sort>,
    }

    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(rename_all = "snake_case")]
    #[schemars(crate = "rmcp::schemars")]
    enum Sort {
        Name,
        MaxLag,
    }

    fn read_json(arguments: Value) -> Result<Args, String> {
        let Value::Object(arguments) = arguments else { panic!("arguments are an object") };
        read::<Args>(arguments, &schema::of_arguments::<Args>()).map_err(|e| e.to_string())
    }

    #[test]
    fn what_is_wrong_is_said_with_what_is_right() {
        for (arguments, text) in [
            (json!({}), "names is missing: give a list of 1 to 2 items (a string)"),
            (json!({"names": []}), "names cannot be []: give a list of 1 to 2 items (a string)"),
            (
                json!({"names": "orders"}),
                "names cannot be \"orders\": give a list of 1 to 2 items (a string)",
            ),
            (json!({"names": [1]}), "names cannot be 1: give a string"),
            (json!({"names": ["a"], "limit": 0}), "limit cannot be 0: give a whole number of 1 to 200"),
            (json!({"names": ["a"], "limit": 1.5}), "limit cannot be 1.5: give a whole number of 1 to 200"),
            (json!({"names": ["a"], "limit": "5"}), "limit cannot be \"5\": give a whole number of 1 to 200"),
            (json!({"names": ["a"], "only_unhealthy": 1}), "only_unhealthy cannot be 1: give true or false"),
            (
                json!({"names": ["a"], "sort": "maxlag"}),
                "sort cannot be \"maxlag\": did you mean \"max_lag\"?: give one of name, max_lag",
            ),
            (
                json!({"names": ["a"], "limits": 5}),
                "unknown argument \"limits\": did you mean \"limit\"? (this tool takes limit, names, only_unhealthy, sort)",
            ),
        ] {
            assert_eq!(read_json(arguments.clone()).unwrap_err(), text, "{arguments}");
        }
    }

    #[test]
    fn what_is_too_long_is_said_to_be() {
        let told = read_json(json!({"names": ["x".repeat(MAX_STRING_BYTES + 1)]})).unwrap_err();
        assert_eq!(told, "names has 65537 bytes: give a string of at most 65536");
    }

    #[test]
    fn null_means_left_out() {
        let args = read_json(json!({"names": ["a"], "limit": null, "sort": "max_lag"})).unwrap();
        assert!(args.limit.is_none() && matches!(args.sort, Some(Sort::MaxLag)));
    }
}
