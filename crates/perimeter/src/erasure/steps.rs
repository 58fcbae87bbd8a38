//! What erases a subject where it was found: the owner of the source does it, since the perimeter only reads.
//!
//! Invariant: no value is in it. Each kind of identifier has a parameter of its own, which is called as its label is.

use super::found::{Place, Records};
use crate::collection::Keeping;

pub fn what_erases(place: &Place) -> String {
    let table = &place.table.table;
    let equal = |quote: char| {
        let columns = &mut place.columns.iter();
        let columns =
            columns.map(|(column, label)| format!("{} = {}", quoted(column, quote), parameter(label)));
        columns.collect::<Vec<_>>().join(" OR ")
    };
    match place.kind.as_str() {
        // Tables of other schemas than the first have it before them.
        "postgres" => {
            let parts: Vec<String> = table.splitn(2, '.').map(|part| quoted(part, '"')).collect();
            format!("DELETE FROM {} WHERE {}", parts.join("."), equal('"'))
        }
        "sqlite" => format!("DELETE FROM {} WHERE {}", quoted(table, '"'), equal('"')),
        "mysql" => format!("DELETE FROM {} WHERE {}", quoted(table, '`'), equal('`')),
        "mongodb" => {
            let fields = place.columns.iter();
            let fields = fields.map(|(column, label)| format!("{{ {column:?}: {} }}", parameter(label)));
            let fields: Vec<_> = fields.collect();
            format!("db.getCollection({table:?}).deleteMany({{ $or: [{}] }})", fields.join(", "))
        }
        "redis" => "DEL of the keys that SCAN finds with the subject in these columns".to_owned(),
        "etcd" => {
            "etcdctl del of the keys with the subject in these columns, and a compaction of the history"
                .to_owned()
        }
        "files" => match &place.file {
            Some(file) => {
                format!("write {file} anew without these rows, or delete it; and its versions and snapshots")
            }
            None => "write the files that `erasure find` names anew without these rows, or delete them; and \
                     their versions and snapshots"
                .to_owned(),
        },
        "topics" => of_topic(table, place.records, place.keeping),
        _ => "ask the owner of the client system to erase it there".to_owned(),
    }
}

/// As `:subject_mrn` of the label `subject.mrn`. Pseudonyms, and other forms of the identifier, are further values of it.
fn parameter(label: &str) -> String {
    let word = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    format!(":{}", label.chars().map(word).collect::<String>())
}

fn of_topic(topic: &str, records: Option<Records>, keeping: Option<Keeping>) -> String {
    let (partition, before) =
        records.map_or((0, 0), |records| (records.partition, records.last.saturating_add(1)));
    let delete = format!(
        "kafka-delete-records with {{\"partitions\":[{{\"topic\":{topic:?},\"partition\":{partition},\"offset\":{before}}}],\"version\":1}}, which deletes all that is before it, too"
    );
    let tombstone =
        "a tombstone (the record's key without a value) for each of its keys, and the next compaction";
    match keeping {
        Some(Keeping { compacts: true, retention_ms: None }) => format!("{tombstone}; or {delete}"),
        Some(Keeping { compacts: true, .. }) => {
            format!("retention, in time; sooner: {tombstone}; or {delete}")
        }
        Some(Keeping { retention_ms: Some(_), .. }) => format!("retention, in time; sooner: {delete}"),
        _ => format!("{delete}; or set retention.ms on the topic: its end is then known"),
    }
}

fn quoted(name: &str, quote: char) -> String {
    format!("{quote}{}{quote}", name.replace(quote, &format!("{quote}{quote}")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::shape::TableName;

    fn place(kind: &str, table: &str, columns: &[(&str, &str)]) -> Place {
        let owned = |(column, label): &(&str, &str)| ((*column).to_owned(), (*label).to_owned());
        Place {
            table: TableName::new("c", table),
            kind: kind.to_owned(),
            file: None,
            files: None,
            records: None,
            columns: columns.iter().map(owned).collect::<BTreeMap<_, _>>(),
            rows: 1,
            keeping: None,
            until: None,
        }
    }

    #[test]
    fn a_statement_has_a_parameter_for_each_kind_of_identifier_and_no_value() {
        let columns = [("id", "subject.patient"), ("MRN", "subject.mrn")];
        assert_eq!(
            what_erases(&place("sqlite", "odd\"name", &columns)),
            "DELETE FROM \"odd\"\"name\" WHERE \"MRN\" = :subject_mrn OR \"id\" = :subject_patient"
        );
        let other_schema = what_erases(&place("postgres", "crm.people", &columns[..1]));
        assert_eq!(other_schema, "DELETE FROM \"crm\".\"people\" WHERE \"id\" = :subject_patient");
        assert_eq!(
            what_erases(&place("mongodb", "people", &columns)),
            "db.getCollection(\"people\").deleteMany({ $or: [{ \"MRN\": :subject_mrn }, { \"id\": :subject_patient }] })"
        );
    }

    #[test]
    fn a_topic_says_how_its_records_end() {
        let of = |compacts, retention_ms| {
            what_erases(&Place {
                records: Some(Records { partition: 2, first: 3, last: 41 }),
                keeping: Some(Keeping { compacts, retention_ms }),
                ..place("topics", "alarms", &[])
            })
        };
        assert!(of(true, None).starts_with("a tombstone"));
        assert!(of(true, Some(1)).starts_with("retention") && of(true, Some(1)).contains("tombstone"));
        assert!(of(false, Some(1)).starts_with("retention") && !of(false, Some(1)).contains("tombstone"));
        assert!(of(false, None).contains("\"partition\":2,\"offset\":42"));
    }
}
