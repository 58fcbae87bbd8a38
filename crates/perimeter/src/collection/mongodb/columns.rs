//! Which columns a table has, and where they are in its documents: as they are declared, or as the
//! first documents suggest.

use std::sync::Arc;

use kafscale_core::sql_schema::SqlColumn;
use mongodb::bson::{RawBsonRef, RawDocument};

use super::config::MongoTable;
use super::fields::FieldPath;
use super::infer::Inference;
use super::server::{Failed, Question, Server};

/// Documents that columns are inferred from,
pub const SAMPLE: usize = 1_000;
/// as long as they have no more bytes than that.
const SAMPLE_BYTES: usize = 16 << 20;

#[derive(Debug)]
pub struct Columns {
    pub sql: Vec<SqlColumn>,
    pub paths: Vec<FieldPath>,
    /// From so many documents.
    pub inferred_from: Option<usize>,
}

impl Columns {
    /// Columns of which others are parts, with the names of those: `address` of `address.city`.
    pub fn holding(&self) -> Vec<(String, Vec<String>)> {
        let name = |at: usize| self.sql[at].name.clone();
        let parts = |at: usize| {
            let is_part = |other: &usize| *other != at && self.paths[at].contains(&self.paths[*other]);
            (0..self.paths.len()).filter(is_part).map(name).collect::<Vec<_>>()
        };
        let all = (0..self.paths.len()).map(|at| (name(at), parts(at)));
        all.filter(|(_, parts)| !parts.is_empty()).collect()
    }

    /// None: they are not declared.
    pub fn declared(table: &MongoTable) -> Option<Columns> {
        let sql = table.columns.0.clone();
        let path = |column: &SqlColumn| match table.fields.get(&column.name) {
            Some(field) => field.0.clone(),
            None => FieldPath::of_name(&column.name),
        };
        let paths = sql.iter().map(path).collect();
        (!sql.is_empty()).then_some(Columns { sql, paths, inferred_from: None })
    }

    pub async fn inferred(server: &Arc<Server>, collection: &str, comment: &str) -> Result<Columns, Failed> {
        let mut inference = Inference::default();
        sample(server, collection, comment, |document| inference.add(document)).await?;
        let inferred_from = Some(inference.documents);
        let sql = inference.columns();
        let paths = sql.iter().map(|column| FieldPath::of_name(&column.name)).collect();
        Ok(Columns { sql, paths, inferred_from })
    }
}

/// Looks at the first documents.
pub async fn sample(
    server: &Arc<Server>,
    collection: &str,
    comment: &str,
    mut look: impl FnMut(&RawDocument),
) -> Result<(), Failed> {
    let question = Question { limit: Some(SAMPLE), comment: comment.to_owned(), ..Question::default() };
    let mut answers = server.find(collection, question).await?;
    let mut bytes = 0;
    while bytes < SAMPLE_BYTES
        && let Some(answer) = answers.next().await?
    {
        bytes += answer.as_raw_document().as_bytes().len();
        for document in answer.doc_slices()? {
            let Ok(RawBsonRef::Document(document)) = document else { return Err(Failed::Form) };
            look(document);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use kafscale_core::sql_schema::SqlType;

    use super::*;

    #[test]
    fn a_column_holds_those_within_it() {
        let paths =
            ["_id", "address", "address.city", "addresses"].map(|path| FieldPath::parse(path).unwrap());
        let column = |name: &str| SqlColumn { name: name.to_owned(), sql_type: SqlType::Json };
        let sql = ["id", "address", "city", "others"].map(column).to_vec();
        let columns = Columns { sql, paths: paths.to_vec(), inferred_from: None };
        assert_eq!(columns.holding(), [("address".to_owned(), vec!["city".to_owned()])]);
    }
}
