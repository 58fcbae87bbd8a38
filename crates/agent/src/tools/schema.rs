//! The JSON schemas of arguments and answers, derived from their types and made small: every client sends them to its
//! model, in every conversation.

use rmcp::model::JsonObject;
use rmcp::schemars::JsonSchema;
use rmcp::schemars::generate::SchemaSettings;
use serde_json::Value;

/// For arguments. An argument that may be left out is not also allowed to be null: strict clients refuse two types.
pub fn of_arguments<T: JsonSchema>() -> JsonObject {
    let mut schema = generate::<T>(SchemaSettings::draft2020_12());
    compact(&mut schema, &without_null);
    schema.entry("properties").or_insert_with(|| Value::Object(JsonObject::new()));
    schema
}

/// Takes null out of what a value may be.
fn without_null(schema: &mut JsonObject) {
    for key in ["type", "enum"] {
        if let Some(Value::Array(allowed)) = schema.get_mut(key) {
            allowed.retain(|value| !value.is_null() && value != "null");
        }
    }
    let Some(Value::Array(branches)) = schema.get_mut("anyOf") else { return };
    branches.retain(|branch| branch.get("type") != Some(&Value::from("null")));
    if let [Value::Object(only)] = branches.as_slice() {
        let only = only.clone();
        schema.remove("anyOf");
        schema.extend(only);
    }
}

/// For answers. A figure that may be unknown is a number or null. What shows in every answer is left out, since the list of tools has a
/// budget: which columns there are, of which types, and words about fields whose names say it.
pub fn of_answer<T: JsonSchema>() -> JsonObject {
    let mut schema = generate::<T>(SchemaSettings::draft2020_12().for_serialize());
    compact(&mut schema, &|schema| {
        for shown in ["minItems", "maxItems", "prefixItems"] {
            schema.remove(shown);
        }
        if schema.get("description").is_some_and(Value::is_string) {
            schema.remove("description");
        }
    });
    schema
}

fn generate<T: JsonSchema>(settings: SchemaSettings) -> JsonObject {
    let settings = settings.with(|s| {
        s.inline_subschemas = true;
        s.meta_schema = None;
    });
    match settings.into_generator().into_root_schema_for::<T>().to_value() {
        Value::Object(schema) => schema,
        other => unreachable!("a struct's schema is an object, not {other}"),
    }
}

/// Drops what says nothing that the rest does not say.
fn compact(schema: &mut JsonObject, narrow: &dyn Fn(&mut JsonObject)) {
    for key in ["title", "format", "default"] {
        if schema.get(key).is_some_and(|value| !value.is_object() || key == "default") {
            schema.remove(key);
        }
    }
    if schema.get("minimum").and_then(Value::as_f64) == Some(0.0) {
        schema.remove("minimum");
    }
    narrow(schema);
    if let Some(Value::Array(listed)) = schema.get("type")
        && let [only] = listed.as_slice()
    {
        let only = only.clone();
        schema.insert("type".to_owned(), only);
    }
    for (key, value) in schema.iter_mut() {
        match value {
            // Anything at all. Clients that map schemas onto other languages know this form and not `true`.
            Value::Bool(true) if key == "items" => *value = Value::Object(JsonObject::new()),
            // The keys below are names of properties and not words of the schema language.
            Value::Object(properties) if key == "properties" => {
                for property in properties.values_mut() {
                    match property {
                        Value::Bool(true) => *property = Value::Object(JsonObject::new()),
                        property => compact_value(property, narrow),
                    }
                }
            }
            Value::Object(_) | Value::Array(_) if key != "enum" && key != "required" && key != "type" => {
                compact_value(value, narrow);
            }
            _ => {}
        }
    }
}

fn compact_value(value: &mut Value, narrow: &dyn Fn(&mut JsonObject)) {
    match value {
        Value::Object(schema) => compact(schema, narrow),
        Value::Array(schemas) => schemas.iter_mut().for_each(|schema| compact_value(schema, narrow)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use rmcp::schemars;
    use serde::Serialize;

    use super::*;

    #[derive(Serialize, JsonSchema)]
    struct Answer {
        rows: Vec<Vec<Value>>,
        one: Value,
    }

    #[test]
    fn what_may_be_anything_is_a_schema_without_conditions() {
        let schema = Value::Object(of_answer::<Answer>());
        let properties = &schema["properties"];
        assert_eq!(
            (&properties["rows"]["items"]["items"], &properties["one"]),
            (&serde_json::json!({}), &serde_json::json!({}))
        );
    }
}
