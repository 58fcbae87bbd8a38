//! What `kafscale perimeter check` says of a database: its version, whom the perimeter is there,
//! and whether it could do more than read.

use std::sync::Arc;

use tokio_postgres::types::Type;

use super::query::Parameter;
use super::server::Server;
use super::session::{Beginning, Failed, Session};

const IDENTITY: &str = "
SELECT pg_catalog.current_setting('server_version'), current_user::text, r.rolsuper,
       r.rolcreaterole OR r.rolcreatedb OR r.rolreplication OR r.rolbypassrls,
       pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE'),
       pg_catalog.current_setting('transaction_read_only')
FROM pg_catalog.pg_roles r WHERE r.rolname = current_user";

/// A table that the role could write to, if it were not for the transaction.
const WRITABLE: &str = "
SELECT n.nspname::text || '.' || c.relname::text
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'f') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
  AND pg_catalog.has_table_privilege(c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE')
ORDER BY 1 LIMIT 3";

/// Roles that reach beyond the database.
const MEMBERSHIPS: &str = "
SELECT r.rolname::text FROM pg_catalog.pg_roles r
WHERE r.rolname = ANY ($1) AND pg_catalog.pg_has_role(r.oid, 'MEMBER')
ORDER BY 1";

const DANGEROUS: &str =
    "{pg_execute_server_program,pg_read_server_files,pg_write_all_data,pg_write_server_files}";

pub async fn check(server: &Arc<Server>, role: Option<&str>) -> Result<Vec<String>, Failed> {
    let beginning = Beginning { role: role.map(str::to_owned), ..Beginning::default() };
    let session = Session::begin(Arc::clone(server), &beginning).await?;
    let mut lines = Vec::new();
    for row in session.rows(IDENTITY, &[]).await? {
        let (version, user, read_only): (&str, &str, &str) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(5)?);
        let tls = if server.is_encrypted() { "TLS, verified" } else { "no TLS" };
        lines.push(format!("PostgreSQL {version}, {tls}, as {user}, transactions read only: {read_only}"));
        let warnings = [
            (2, "is a superuser, who may read files and run programs of the server"),
            (3, "may create roles or databases, replicate, or pass by row security"),
            (4, "may create schemas in the database"),
        ];
        for (at, warning) in warnings {
            if row.try_get(at)? {
                lines.push(format!("warning: {user} {warning}; use a role that can only read"));
            }
        }
    }
    let writable = session.rows(WRITABLE, &[]).await?;
    let names: Vec<&str> = writable.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    if !names.is_empty() {
        lines.push(format!("warning: the role could write to {} if a transaction let it", names.join(", ")));
    }
    let dangerous = Parameter { text: DANGEROUS.to_owned(), data_type: Type::TEXT_ARRAY };
    let member = session.rows(MEMBERSHIPS, &[dangerous]).await?;
    let roles: Vec<&str> = member.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    if !roles.is_empty() {
        lines.push(format!("warning: the role is a member of {}", roles.join(", ")));
    }
    Ok(lines)
}
