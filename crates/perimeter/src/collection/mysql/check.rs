//! What `kafscale perimeter check` says of a database: its version, whom the perimeter is there,
//! and whether it could do more than read.

use std::sync::Arc;

use super::server::{Beginning, Failed, Server};

/// Privileges with which nothing is changed in a transaction that only reads.
const READING: [&str; 5] = ["USAGE", "SELECT", "EXECUTE", "SHOW VIEW", "SHOW DATABASES"];

pub async fn check(server: &Arc<Server>, role: Option<&str>) -> Result<Vec<String>, Failed> {
    let beginning = Beginning { role: role.map(str::to_owned), ..Beginning::default() };
    let mut link = server.begin(&beginning).await?;
    let identity = "SELECT CAST(VERSION() AS CHAR), CAST(CURRENT_USER() AS CHAR)";
    let rows: Vec<(String, String)> = link.rows(identity, vec![]).await?;
    let (version, user) = rows.into_iter().next().ok_or(Failed::Form)?;
    let name = if version.contains("MariaDB") { "MariaDB" } else { "MySQL" };
    let tls = if server.is_encrypted() { "TLS, verified" } else { "no TLS" };
    let as_role = role.map(|role| format!(" as {role}")).unwrap_or_default();
    let mut lines = vec![format!("{name} {version}, {tls}, as {user}{as_role}, transactions are read only")];
    let grants: Vec<String> = link.rows("SHOW GRANTS", vec![]).await?;
    let more: Vec<&str> = grants.iter().flat_map(|grant| privileges(grant)).collect();
    if !more.is_empty() {
        lines.push(format!(
            "warning: {user} could do more than read ({}); use an account that cannot",
            more.join(", ")
        ));
    }
    Ok(lines)
}

/// Those of `GRANT SELECT, INSERT (a, b) ON …` that do more than read. A line that grants a role
/// has none.
fn privileges(grant: &str) -> impl Iterator<Item = &str> {
    let list =
        grant.strip_prefix("GRANT ").and_then(|rest| rest.split_once(" ON ")).map_or("", |(list, _)| list);
    let mut depth = 0;
    let parts = list.split(move |c: char| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        c == ',' && depth == 0
    });
    let names = parts.map(|part| part.split('(').next().unwrap_or(part).trim());
    names.filter(|name| !name.is_empty() && !READING.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_say_what_more_there_is() {
        let of = |grant| privileges(grant).collect::<Vec<_>>();
        assert!(of("GRANT USAGE ON *.* TO `a`@`%`").is_empty());
        assert!(of("GRANT SELECT (`a`, `b`), SHOW VIEW ON `d`.* TO `a`@`%`").is_empty());
        assert!(of("GRANT `reader` TO `a`@`%`").is_empty());
        assert_eq!(of("GRANT SELECT, INSERT (`a`, `b`), FILE ON *.* TO `a`@`%`"), ["INSERT", "FILE"]);
        assert_eq!(of("GRANT ALL PRIVILEGES ON *.* TO `root`@`%` WITH GRANT OPTION"), ["ALL PRIVILEGES"]);
    }
}
