//! The JSON schemas of arguments and answers, derived from their types and made small: every client sends them to its
//! model, in every conversation.

use rmcp::model::JsonObject;
use rmcp::schemars::JsonSchema;
use rmcp::schemars::generate::SchemaSettings;
use serde_json::Value;

/// For arguments. An argument that may be left out is not also allowed to be null: strict clients refuse two types.
pub fn of_arguments<T: JsonSchema>() -> JsonObject {
    let mut schema = generate::<T>(SchemaSettings::draft2020_12());
    compact(&mut schema, &|types| types.retain(|t| t != "null"));
    schema.entry("properties").or_insert_with(|| Value::Object(JsonObject::new()));
    schema
}

/// For answers. A figure that may be unknown is a number or null.
pub fn of_answer<T: JsonSchema>() -> JsonObject {
    let mut schema = generate::<T>(SchemaSettings::draft2020_12().for_serialize());
    compact(&mut schema, &|_| {});
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
fn compact(schema: &mut JsonObject, types: &dyn Fn(&mut Vec<Value>)) {
    for key in ["title", "format", "default"] {
        if schema.get(key).is_some_and(|value| !value.is_object() || key == "default") {
            schema.remove(key);
        }
    }
    if schema.get("minimum").and_then(Value::as_f64) == Some(0.0) {
        schema.remove("minimum");
    }
    if let Some(Value::Array(listed)) = schema.get_mut("type") {
        types(listed);
        if let [only] = listed.as_slice() {
            let only = only.clone();
            schema.insert("type".to_owned(), only);
        }
    }
    for (key, value) in schema.iter_mut() {
        match value {
            // The keys below are names of properties and not words of the schema language.
            Value::Object(properties) if key == "properties" => {
                for property in properties.values_mut() {
                    compact_value(property, types);
                }
            }
            Value::Object(_) | Value::Array(_) if key != "enum" && key != "required" && key != "type" => {
                compact_value(value, types);
            }
            _ => {}
        }
    }
}

fn compact_value(value: &mut Value, types: &dyn Fn(&mut Vec<Value>)) {
    match value {
        Value::Object(schema) => compact(schema, types),
        Value::Array(schemas) => schemas.iter_mut().for_each(|schema| compact_value(schema, types)),
        _ => {}
    }
}
