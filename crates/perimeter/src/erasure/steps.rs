//! What erases a subject where it was found: the owner of the source does it, since the perimeter only reads.
//!
//! Invariant: no value is in it, so that it can stand in the register.

use crate::collection::Keeping;
use crate::shape::TableName;

/// `last` is the last record of the subject, with its partition.
pub fn what_erases(
    kind: &str,
    table: &TableName,
    part: Option<&str>,
    columns: &[String],
    last: Option<(i32, i64)>,
    keeping: Option<Keeping>,
) -> String {
    let equal = |quote: char| {
        let columns = columns.iter().map(|column| format!("{} = :subject", quoted(column, quote)));
        columns.collect::<Vec<_>>().join(" OR ")
    };
    let name = &table.table;
    match kind {
        "postgres" | "sqlite" => format!("DELETE FROM {} WHERE {}", quoted(name, '"'), equal('"')),
        "mysql" => format!("DELETE FROM {} WHERE {}", quoted(name, '`'), equal('`')),
        "mongodb" => {
            let fields = columns.iter().map(|column| format!("{{ {column:?}: :subject }}"));
            let fields: Vec<_> = fields.collect();
            format!("db.getCollection({name:?}).deleteMany({{ $or: [{}] }})", fields.join(", "))
        }
        "redis" => "DEL of the keys that SCAN finds with the subject in these columns".to_owned(),
        "etcd" => {
            "etcdctl del of the keys with the subject in these columns, and a compaction of the history"
                .to_owned()
        }
        "files" => match part {
            Some(file) => {
                format!("write {file} anew without these rows, or delete it; and its versions and snapshots")
            }
            None => "write the files anew without these rows".to_owned(),
        },
        "topics" => of_topic(name, last, keeping),
        _ => "ask the owner of the client system to erase it there".to_owned(),
    }
}

fn of_topic(topic: &str, last: Option<(i32, i64)>, keeping: Option<Keeping>) -> String {
    let (partition, before) =
        last.map_or((0, 0), |(partition, offset)| (partition, offset.saturating_add(1)));
    let delete = format!(
        "kafka-delete-records with {{\"partitions\":[{{\"topic\":{topic:?},\"partition\":{partition},\"offset\":{before}}}],\"version\":1}}, which deletes all that is before it, too"
    );
    match keeping {
        Some(Keeping { compacts: true, .. }) => format!(
            "a tombstone (the record's key without a value) for each of its keys, and the next compaction; or {delete}"
        ),
        Some(Keeping { retention_ms: Some(_), .. }) => format!("retention, in time; sooner: {delete}"),
        _ => format!("{delete}; or set retention.ms on the topic: its end is then known"),
    }
}

fn quoted(name: &str, quote: char) -> String {
    format!("{quote}{}{quote}", name.replace(quote, &format!("{quote}{quote}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_names_what_it_is_about_and_no_value() {
        let table = TableName::new("clinic", "odd\"name");
        let columns = ["id".to_owned(), "MRN".to_owned()];
        assert_eq!(
            what_erases("sqlite", &table, None, &columns, None, None),
            "DELETE FROM \"odd\"\"name\" WHERE \"id\" = :subject OR \"MRN\" = :subject"
        );
        let topic = TableName::new("events", "alarms");
        let of = |compacts, retention_ms| {
            let keeping = Some(Keeping { compacts, retention_ms });
            what_erases("topics", &topic, None, &columns, Some((2, 41)), keeping)
        };
        assert!(of(true, None).starts_with("a tombstone"));
        assert!(of(false, Some(1)).starts_with("retention"));
        assert!(of(false, None).contains("\"partition\":2,\"offset\":42"));
    }
}
