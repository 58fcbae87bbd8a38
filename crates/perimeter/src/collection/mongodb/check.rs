//! What `kafscale perimeter check` says of a database: its version, whom the perimeter is there,
//! whether it could do more than read, and which declared columns are nowhere.

use std::sync::Arc;

use mongodb::bson::{Bson, Document};

use super::columns::{Columns, SAMPLE, sample};
use super::fields::{Fields, Found};
use super::server::{Failed, Server};

/// Actions with which something is changed.
const WRITING: [&str; 8] = [
    "insert",
    "update",
    "remove",
    "createCollection",
    "dropCollection",
    "dropDatabase",
    "createIndex",
    "grantRole",
];

pub async fn check(server: &Arc<Server>, comment: &str) -> Result<Vec<String>, Failed> {
    let (build, status) = server.status().await?;
    let version = build.get_str("version").unwrap_or("of some version");
    let tls = if server.is_encrypted() { "TLS, verified" } else { "no TLS" };
    let user = server.config.user.as_deref().unwrap_or("nobody");
    let mut lines = vec![format!("MongoDB {version}, {tls}, as {user}; only find is sent")];
    if server.config.user.is_none() {
        lines.push(
            "warning: there is no user, and the server lets anybody in; use one that can only read".into(),
        );
    }
    let more = writing(&status);
    if !more.is_empty() {
        let more = more.join(", ");
        lines.push(format!("warning: {user} could do more than read ({more}); use the role `read`"));
    }
    match server.config.tables.is_empty() {
        true => {
            let names = server.names(comment).await?.len();
            lines.push(format!("{names} collections, with columns of their first {SAMPLE} documents"));
        }
        false => {
            for (name, table) in &server.config.tables {
                let collection = table.collection.as_deref().unwrap_or(name);
                lines.push(of_table(server, name, collection, comment).await?);
            }
        }
    }
    Ok(lines)
}

/// What of all privileges writes.
fn writing(status: &Document) -> Vec<&'static str> {
    let of_user = status
        .get_document("authInfo")
        .and_then(|info| info.get_array("authenticatedUserPrivileges"))
        .map_or(&[][..], Vec::as_slice);
    let actions: Vec<&str> = of_user
        .iter()
        .filter_map(|privilege| privilege.as_document()?.get_array("actions").ok())
        .flatten()
        .filter_map(Bson::as_str)
        .collect();
    WRITING.into_iter().filter(|action| actions.contains(action)).collect()
}

async fn of_table(
    server: &Arc<Server>,
    name: &str,
    collection: &str,
    comment: &str,
) -> Result<String, Failed> {
    let Some(columns) = server.config.tables.get(name).and_then(Columns::declared) else {
        let columns = Columns::inferred(server, collection, comment).await?;
        let documents = columns.inferred_from.unwrap_or_default();
        return Ok(format!("{name}: {} columns, inferred from {documents} documents", columns.sql.len()));
    };
    let fields = Fields::new(&columns.paths.iter().collect::<Vec<_>>());
    let (mut documents, mut is_there) = (0, vec![false; columns.sql.len()]);
    sample(server, collection, comment, |document| {
        documents += 1;
        for (found, is_there) in fields.read(document).iter().zip(&mut is_there) {
            *is_there |= *found != Found::Nothing;
        }
    })
    .await?;
    let nowhere: Vec<&str> = columns
        .sql
        .iter()
        .zip(is_there)
        .filter_map(|(column, is_there)| (!is_there).then_some(column.name.as_str()))
        .collect();
    Ok(match (documents, nowhere.is_empty()) {
        (0, _) => format!("warning: {name}: there are no documents in {collection}"),
        (_, true) => format!("{name}: {} columns, all in the first {documents} documents", columns.sql.len()),
        (_, false) => format!("warning: {name}: in none of {documents} documents: {}", nowhere.join(", ")),
    })
}

#[cfg(test)]
mod tests {
    use mongodb::bson::doc;

    use super::*;

    #[test]
    fn privileges_say_what_more_there_is() {
        let of = |actions: &[&str]| {
            let privileges = [doc! { "resource": { "db": "shop" }, "actions": actions }];
            writing(&doc! { "authInfo": { "authenticatedUserPrivileges": privileges.to_vec() } })
        };
        assert!(of(&["find", "listCollections"]).is_empty());
        assert_eq!(of(&["find", "remove", "insert"]), ["insert", "remove"]);
        assert!(writing(&doc! {}).is_empty());
    }
}
