//! Checks a value against the part of JSON Schema that our schemas use, and fails on any keyword that it does not know.

use serde_json::Value;

pub fn check(value: &Value, schema: &Value, path: &str) {
    let schema = schema.as_object().unwrap_or_else(|| panic!("{path}: the schema is no object"));
    for (keyword, rule) in schema {
        match keyword.as_str() {
            "type" => {
                let allowed = rule.as_array().cloned().unwrap_or_else(|| vec![rule.clone()]);
                assert!(
                    allowed.iter().any(|t| is(value, t.as_str().unwrap())),
                    "{path}: {value} is not {rule}"
                );
            }
            "properties" => {
                for (name, property) in rule.as_object().unwrap() {
                    if let Some(value) = value.get(name) {
                        check(value, property, &format!("{path}.{name}"));
                    }
                }
                // Nothing is answered that is not told in the schema.
                for name in value.as_object().into_iter().flatten().map(|(name, _)| name) {
                    assert!(rule.get(name).is_some(), "{path}.{name} is not in the schema");
                }
            }
            "required" => {
                for name in rule.as_array().unwrap() {
                    assert!(value.get(name.as_str().unwrap()).is_some(), "{path}.{name} is missing");
                }
            }
            "items" => {
                let tuple = schema.get("prefixItems").and_then(Value::as_array).map_or(0, Vec::len);
                for (i, item) in value.as_array().into_iter().flatten().enumerate().skip(tuple) {
                    check(item, rule, &format!("{path}[{i}]"));
                }
            }
            "prefixItems" => {
                let items = value.as_array().into_iter().flatten();
                for (i, (item, rule)) in items.zip(rule.as_array().unwrap()).enumerate() {
                    check(item, rule, &format!("{path}[{i}]"));
                }
            }
            "minItems" => {
                assert!(value.as_array().is_none_or(|a| a.len() as u64 >= rule.as_u64().unwrap()), "{path}")
            }
            "maxItems" => {
                assert!(value.as_array().is_none_or(|a| a.len() as u64 <= rule.as_u64().unwrap()), "{path}")
            }
            "anyOf" => {
                let fits = |rule: &Value| is(value, rule["type"].as_str().unwrap_or("object"));
                let one = rule.as_array().unwrap().iter().find(|rule| fits(rule));
                check(value, one.unwrap_or_else(|| panic!("{path}: {value} fits none")), path);
            }
            "description" => {}
            other => panic!("{path}: the keyword {other} is not checked here"),
        }
    }
}

fn is(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other} is no type"),
    }
}
