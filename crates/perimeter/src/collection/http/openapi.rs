//! Columns from a description of the API: OpenAPI 3.0 or 3.1 in JSON. A table that declares no columns
//! has those of the schema of the answer to its path, at its `rows`; and the parameters of its path are
//! its arguments.
//!
//! The file is the operator's, and is read when the configuration is.

use std::collections::BTreeMap;

use kafscale_core::sql_schema::{MAX_COLUMNS, SqlColumn, SqlType};
use serde_json::{Map, Value};

use super::config::HttpTable;

pub const MAX_BYTES: u64 = 32 << 20;
/// References within references, and schemas within `allOf`.
const DEPTH_MAX: usize = 32;

#[derive(Debug, thiserror::Error)]
pub enum OpenApiError {
    #[error("it is no JSON")]
    Syntax(#[from] serde_json::Error),
    #[error("it is no description of an API: `openapi` has to be 3.0 or 3.1")]
    Version,
    #[error("table {table}: it describes no GET of {path} with an answer in JSON")]
    NoAnswer { table: String, path: String },
    #[error(
        "table {table}: the answer's schema has no objects at `rows`, and so no columns; declare `columns`"
    )]
    NoColumns { table: String },
}

/// Adds columns and arguments to tables that declare no columns.
pub fn complete(tables: &mut BTreeMap<String, HttpTable>, text: &str) -> Result<(), OpenApiError> {
    let document: Value = serde_json::from_str(text)?;
    let version = document["openapi"].as_str().unwrap_or_default();
    if !["3.0", "3.1"].iter().any(|known| version.starts_with(known)) {
        return Err(OpenApiError::Version);
    }
    let api = Api(&document);
    for (name, table) in tables.iter_mut().filter(|(_, table)| table.columns.0.is_empty()) {
        let no_answer = || OpenApiError::NoAnswer { table: name.clone(), path: table.path.clone() };
        let (item, get) = api.get(&table.path).ok_or_else(no_answer)?;
        let answer = api.answer(get).ok_or_else(no_answer)?;
        let columns = api.columns(answer, &table.rows.to_string());
        if columns.is_empty() {
            return Err(OpenApiError::NoColumns { table: name.clone() });
        }
        for argument in api.arguments(&table.path, item, get) {
            if !table.arguments.0.iter().any(|known| known.name == argument.name) {
                table.arguments.0.push(argument);
            }
        }
        let is_argument =
            |column: &SqlColumn| table.arguments.0.iter().any(|known| known.name == column.name);
        table.columns.0 =
            columns.into_iter().filter(|column| !is_argument(column)).take(MAX_COLUMNS).collect();
    }
    Ok(())
}

struct Api<'d>(&'d Value);

impl<'d> Api<'d> {
    fn get(&self, path: &str) -> Option<(&'d Value, &'d Value)> {
        let item = self.resolved(self.0.get("paths")?.get(path)?, 0)?;
        Some((item, item.get("get")?))
    }

    fn answer(&self, get: &'d Value) -> Option<&'d Value> {
        let responses = get.get("responses")?;
        let response = ["200", "2XX", "default"].iter().find_map(|status| responses.get(*status))?;
        let content = self.resolved(response, 0)?.get("content")?.as_object()?;
        let is_json = |kind: &str| kind.starts_with("application/json") || kind.contains("+json");
        content.iter().find(|(kind, _)| is_json(kind))?.1.get("schema")
    }

    /// What a reference leads to, within the document.
    fn resolved(&self, value: &'d Value, depth: usize) -> Option<&'d Value> {
        match value.get("$ref").and_then(Value::as_str) {
            None => Some(value),
            Some(_) if depth > DEPTH_MAX => None,
            Some(reference) => self.resolved(self.0.pointer(reference.strip_prefix('#')?)?, depth + 1),
        }
    }

    /// The properties of an object, with those of all that it is composed of.
    fn properties(&self, schema: &'d Value, depth: usize, found: &mut Map<String, Value>) {
        let Some(schema) = self.resolved(schema, 0).filter(|_| depth < DEPTH_MAX) else { return };
        for part in schema.get("allOf").and_then(Value::as_array).into_iter().flatten() {
            self.properties(part, depth + 1, found);
        }
        for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            found.insert(name.clone(), self.resolved(property, 0).unwrap_or(&Value::Null).clone());
        }
    }

    fn columns(&self, answer: &'d Value, rows: &str) -> Vec<SqlColumn> {
        let mut schema = Some(answer);
        for step in rows.split('/').skip(1) {
            let step = step.replace("~1", "/").replace("~0", "~");
            schema = schema.and_then(|schema| self.resolved(schema, 0)?.get("properties")?.get(step));
        }
        let Some(schema) = schema.and_then(|schema| self.resolved(schema, 0)) else { return Vec::new() };
        let of_row = schema.get("items").unwrap_or(schema);
        let mut properties = Map::new();
        self.properties(of_row, 0, &mut properties);
        let column = |(name, schema): (String, Value)| SqlColumn { name, sql_type: sql_type(&schema) };
        properties.into_iter().map(column).collect()
    }

    /// The parameters of a path, in their order.
    fn arguments(&self, path: &str, item: &'d Value, get: &'d Value) -> Vec<SqlColumn> {
        let lists = [get, item].into_iter().filter_map(|of| of.get("parameters")?.as_array());
        let declared: Vec<&Value> = lists.flatten().filter_map(|one| self.resolved(one, 0)).collect();
        let names = path.split('/').filter_map(|step| step.strip_prefix('{')?.strip_suffix('}'));
        let argument = |name: &str| {
            let of_path = declared.iter().find(|one| one["in"] == "path" && one["name"] == name);
            let schema = of_path.and_then(|one| self.resolved(one.get("schema")?, 0));
            let sql_type = schema.map_or(SqlType::Text, sql_type);
            let told = [SqlType::Text, SqlType::Int4, SqlType::Int8, SqlType::Boolean, SqlType::Date];
            let sql_type = if told.contains(&sql_type) { sql_type } else { SqlType::Text };
            SqlColumn { name: name.to_owned(), sql_type }
        };
        names.map(argument).collect()
    }
}

fn sql_type(schema: &Value) -> SqlType {
    // Of 3.1: a list, with "null" in it.
    let kind = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null"),
        kind => kind.as_str(),
    };
    match (kind, schema["format"].as_str()) {
        (Some("boolean"), _) => SqlType::Boolean,
        (Some("integer"), _) => SqlType::Int8,
        (Some("number"), _) => SqlType::Float8,
        (Some("string"), Some("date")) => SqlType::Date,
        (Some("string"), Some("date-time")) => SqlType::Timestamp,
        (Some("string"), _) => SqlType::Text,
        _ => SqlType::Json,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn table(lines: &str) -> HttpTable {
        basic_toml::from_str(lines).unwrap()
    }

    fn completed(table: HttpTable, document: &Value) -> Result<HttpTable, String> {
        let mut tables = BTreeMap::from([("t".to_owned(), table)]);
        complete(&mut tables, &document.to_string()).map_err(|e| e.to_string())?;
        Ok(tables.remove("t").unwrap())
    }

    fn document() -> Value {
        json!({
            "openapi": "3.1.0",
            "paths": {"/owners/{owner}/pets": {
                "parameters": [{"name": "owner", "in": "path", "schema": {"type": "integer"}}],
                "get": {"responses": {"200": {"$ref": "#/components/responses/pets"}}},
            }},
            "components": {
                "responses": {"pets": {"content": {"application/json": {"schema": {
                    "type": "object", "properties": {"data": {"type": "array", "items": {"$ref": "#/components/schemas/pet"}}},
                }}}}},
                "schemas": {
                    "named": {"properties": {"name": {"type": ["string", "null"]}, "owner": {"type": "integer"}}},
                    "pet": {"allOf": [{"$ref": "#/components/schemas/named"}, {"$ref": "#/components/schemas/pet"}],
                        "properties": {"born": {"type": "string", "format": "date"}, "weight": {"type": "number"},
                            "tags": {"type": "array"}, "parent": {"$ref": "#/components/schemas/pet"}}},
                },
            },
        })
    }

    #[test]
    fn columns_are_those_of_the_answer() {
        let found =
            completed(table("path = \"/owners/{owner}/pets\"\nrows = \"/data\""), &document()).unwrap();
        let mut columns: Vec<(&str, SqlType)> =
            found.columns.0.iter().map(|column| (column.name.as_str(), column.sql_type)).collect();
        columns.sort_by_key(|(name, _)| *name);
        let expected = [
            ("born", SqlType::Date),
            ("name", SqlType::Text),
            ("parent", SqlType::Json),
            ("tags", SqlType::Json),
            ("weight", SqlType::Float8),
        ];
        assert_eq!(columns, expected);
        assert_eq!(found.arguments.0, [SqlColumn { name: "owner".into(), sql_type: SqlType::Int8 }]);
    }

    #[test]
    fn what_is_not_described_is_told() {
        let of = |lines: &str, document: &Value| completed(table(lines), document).map(|_| ()).unwrap_err();
        assert!(of("path = \"/cats\"", &document()).contains("no GET of /cats"));
        assert!(of("path = \"/owners/{owner}/pets\"", &json!({"swagger": "2.0"})).contains("3.0 or 3.1"));
        let none = of("path = \"/owners/{owner}/pets\"\nrows = \"/items\"", &document());
        assert!(none.contains("declare `columns`"), "{none}");
        let mut circle = document();
        circle["components"]["responses"]["pets"] = json!({"$ref": "#/components/responses/pets"});
        assert!(of("path = \"/owners/{owner}/pets\"", &circle).contains("no GET"));
        let declared = completed(table("path = \"/cats\"\ncolumns = \"id bigint\""), &document()).unwrap();
        assert_eq!(declared.columns.0.len(), 1, "what is declared stays");
    }
}
