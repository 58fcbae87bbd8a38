//! The schema `pg_catalog`, as far as clients look into it: namespaces, tables, columns, types, and many tables that never have rows
//! here, since there are no indexes, constraints, triggers and the like.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{SchemaProvider, TableProvider};
use datafusion::error::Result;
use uuid::Uuid;

use super::functions::OWNER;
use super::types::{self, TYPES};
use crate::catalog::plain::{Asked, Cell, Nothing, PlainTable, Row, Rows};
use crate::catalog::relations::{Relation, Relations};
use crate::catalog::{DATABASE, KAFSCALE, PUBLIC};
use crate::error::SqlError;

const OWNER_OID: i32 = 10;
const DATABASE_OID: i32 = 5;
/// The schemas, with PostgreSQL's oids where it has them.
const NAMESPACES: [(&str, i32); 4] =
    [("pg_catalog", 11), (PUBLIC, 2200), (KAFSCALE, 13_000), ("information_schema", 13_001)];

/// Tables that have rows, and their columns.
const FILLED: [(&str, &str); 11] = [
    ("pg_am", "oid oid, amname text, amhandler oid, amtype text"),
    (
        "pg_attribute",
        "attrelid oid, attname text, atttypid oid, attstattarget int4, attlen int2, attnum int2, attndims int4, attcacheoff int4, \
         atttypmod int4, attbyval bool, attalign text, attstorage text, attcompression text, attnotnull bool, atthasdef bool, \
         atthasmissing bool, attidentity text, attgenerated text, attisdropped bool, attislocal bool, attinhcount int4, \
         attcollation oid, attacl text[], attoptions text[], attfdwoptions text[]",
    ),
    (
        "pg_class",
        "oid oid, relname text, relnamespace oid, reltype oid, reloftype oid, relowner oid, relam oid, relfilenode oid, \
         reltablespace oid, relpages int4, reltuples int8, relallvisible int4, reltoastrelid oid, relhasindex bool, relisshared bool, \
         relpersistence text, relkind text, relnatts int2, relchecks int2, relhasrules bool, relhastriggers bool, relhassubclass bool, \
         relrowsecurity bool, relforcerowsecurity bool, relispopulated bool, relreplident text, relispartition bool, relrewrite oid, \
         relacl text[], reloptions text[], relpartbound text",
    ),
    (
        "pg_database",
        "oid oid, datname text, datdba oid, encoding int4, datcollate text, datctype text, daticulocale text, datlocprovider text, datistemplate bool, datallowconn bool, \
         datconnlimit int4, dattablespace oid, datacl text[]",
    ),
    ("pg_namespace", "oid oid, nspname text, nspowner oid, nspacl text[]"),
    (
        "pg_proc",
        "oid oid, proname text, pronamespace oid, proowner oid, prolang oid, prokind text, proretset bool, pronargs int2, \
         prorettype oid, prosrc text, proargtypes int4[], proargnames text[]",
    ),
    (
        "pg_roles",
        "oid oid, rolname text, rolsuper bool, rolinherit bool, rolcreaterole bool, rolcreatedb bool, rolcanlogin bool, \
         rolreplication bool, rolconnlimit int4, rolvaliduntil timestamptz, rolbypassrls bool",
    ),
    (
        "pg_settings",
        "name text, setting text, unit text, category text, short_desc text, context text, vartype text, source text",
    ),
    (
        "pg_tables",
        "schemaname text, tablename text, tableowner text, tablespace text, hasindexes bool, hasrules bool, hastriggers bool, rowsecurity bool",
    ),
    (
        "pg_user",
        "usename text, usesysid oid, usecreatedb bool, usesuper bool, userepl bool, usebypassrls bool, passwd text, \
         valuntil timestamptz, useconfig text[]",
    ),
    (
        "pg_type",
        "oid oid, typname text, typnamespace oid, typowner oid, typlen int2, typbyval bool, typtype text, typcategory text, \
         typispreferred bool, typisdefined bool, typdelim text, typrelid oid, typelem oid, typarray oid, typinput text, typnotnull bool, \
         typbasetype oid, typtypmod int4, typndims int4, typcollation oid, typdefault text, typoutput text, typreceive text, typsend text, \
         typalign text, typstorage text, typacl text[]",
    ),
];

/// Tables that never have rows, and the columns of them that outer joins and the like look at.
const EMPTY: [(&str, &str); 57] = [
    ("pg_aggregate", "aggfnoid oid, aggkind text"),
    ("pg_attrdef", "oid oid, adrelid oid, adnum int2, adbin text"),
    ("pg_auth_members", "roleid oid, member oid, grantor oid, admin_option bool"),
    ("pg_cast", "oid oid, castsource oid, casttarget oid, castfunc oid"),
    (
        "pg_collation",
        "oid oid, collname text, collnamespace oid, collowner oid, collprovider text, collcollate text",
    ),
    (
        "pg_constraint",
        "oid oid, conname text, connamespace oid, contype text, condeferrable bool, condeferred bool, convalidated bool, conrelid oid, \
         contypid oid, conindid oid, conparentid oid, confrelid oid, confupdtype text, confdeltype text, confmatchtype text, \
         conislocal bool, coninhcount int4, connoinherit bool, conkey int2[], confkey int2[], conbin text",
    ),
    ("pg_conversion", "oid oid, conname text"),
    ("pg_db_role_setting", "setdatabase oid, setrole oid, setconfig text[]"),
    ("pg_default_acl", "oid oid, defaclrole oid, defaclnamespace oid, defaclobjtype text"),
    (
        "pg_depend",
        "classid oid, objid oid, objsubid int4, refclassid oid, refobjid oid, refobjsubid int4, deptype text",
    ),
    ("pg_description", "objoid oid, classoid oid, objsubid int4, description text"),
    ("pg_enum", "oid oid, enumtypid oid, enumsortorder int4, enumlabel text"),
    ("pg_event_trigger", "oid oid, evtname text"),
    ("pg_extension", "oid oid, extname text, extowner oid, extnamespace oid, extversion text"),
    ("pg_foreign_data_wrapper", "oid oid, fdwname text"),
    ("pg_foreign_server", "oid oid, srvname text, srvowner oid, srvfdw oid"),
    ("pg_foreign_table", "ftrelid oid, ftserver oid, ftoptions text[]"),
    (
        "pg_index",
        "indexrelid oid, indrelid oid, indnatts int2, indnkeyatts int2, indisunique bool, indisprimary bool, indisexclusion bool, \
         indimmediate bool, indisclustered bool, indisvalid bool, indisready bool, indislive bool, indisreplident bool, indkey int2[], \
         indcollation int4[], indclass int4[], indoption int2[], indexprs text, indpred text",
    ),
    ("pg_indexes", "schemaname text, tablename text, indexname text, tablespace text, indexdef text"),
    ("pg_inherits", "inhrelid oid, inhparent oid, inhseqno int4, inhdetachpending bool"),
    ("pg_language", "oid oid, lanname text"),
    ("pg_locks", "locktype text, database oid, relation oid, pid int4, mode text, granted bool"),
    (
        "pg_matviews",
        "schemaname text, matviewname text, matviewowner text, ispopulated bool, definition text",
    ),
    ("pg_opclass", "oid oid, opcname text, opcmethod oid"),
    ("pg_operator", "oid oid, oprname text, oprnamespace oid, oprleft oid, oprright oid, oprresult oid"),
    ("pg_partitioned_table", "partrelid oid, partstrat text, partnatts int2"),
    ("pg_policy", "oid oid, polname text, polrelid oid, polcmd text, polpermissive bool"),
    ("pg_prepared_statements", "name text, statement text"),
    ("pg_prepared_xacts", "gid text, database text"),
    ("pg_publication", "oid oid, pubname text, puballtables bool"),
    ("pg_publication_namespace", "oid oid, pnpubid oid, pnnspid oid"),
    ("pg_publication_rel", "oid oid, prpubid oid, prrelid oid, prqual text, prattrs int2[]"),
    ("pg_range", "rngtypid oid, rngsubtype oid, rngmultitypid oid"),
    ("pg_rewrite", "oid oid, rulename text, ev_class oid, ev_type text, ev_enabled text, is_instead bool"),
    (
        "pg_sequence",
        "seqrelid oid, seqtypid oid, seqstart int8, seqincrement int8, seqmax int8, seqmin int8, seqcache int8, seqcycle bool",
    ),
    ("pg_shdescription", "objoid oid, classoid oid, description text"),
    (
        "pg_stat_activity",
        "datid oid, datname text, pid int4, usename text, application_name text, state text, query text",
    ),
    (
        "pg_statistic_ext",
        "oid oid, stxrelid oid, stxname text, stxnamespace oid, stxkind text[], stxstattarget int4",
    ),
    (
        "pg_stat_user_tables",
        "relid oid, schemaname text, relname text, seq_scan int8, n_live_tup int8, n_dead_tup int8, last_analyze timestamptz",
    ),
    (
        "pg_stat_all_tables",
        "relid oid, schemaname text, relname text, seq_scan int8, n_live_tup int8, n_dead_tup int8, last_analyze timestamptz",
    ),
    ("pg_opfamily", "oid oid, opfname text, opfmethod oid, opfnamespace oid"),
    ("pg_amop", "oid oid, amopfamily oid, amopopr oid, amopmethod oid"),
    ("pg_seclabels", "objoid oid, objtype text, label text"),
    ("pg_sequences", "schemaname text, sequencename text, sequenceowner text"),
    ("pg_subscription", "oid oid, subname text, subowner oid"),
    ("pg_tablespace", "oid oid, spcname text, spcowner oid, spcacl text[], spcoptions text[]"),
    ("pg_timezone_names", "name text, abbrev text, is_dst bool"),
    ("pg_transform", "oid oid, trftype oid, trflang oid"),
    (
        "pg_amproc",
        "oid oid, amprocfamily oid, amproclefttype oid, amprocrighttype oid, amprocnum int2, amproc oid",
    ),
    ("pg_largeobject_metadata", "oid oid, lomowner oid, lomacl text[]"),
    (
        "pg_ts_parser",
        "oid oid, prsname text, prsnamespace oid, prsstart oid, prstoken oid, prsend oid, prsheadline oid, \
         prslextype oid",
    ),
    ("pg_ts_template", "oid oid, tmplname text, tmplnamespace oid, tmplinit oid, tmpllexize oid"),
    ("pg_ts_config", "oid oid, cfgname text, cfgnamespace oid"),
    ("pg_ts_dict", "oid oid, dictname text, dictnamespace oid"),
    ("pg_user_mappings", "umid oid, srvid oid, umuser oid, usename text"),
    (
        "pg_trigger",
        "oid oid, tgrelid oid, tgname text, tgfoid oid, tgtype int2, tgenabled text, tgisinternal bool, tgconstraint oid",
    ),
    ("pg_views", "schemaname text, viewname text, viewowner text, definition text"),
];

/// Whether a query that is about a table has no rows. `pg_proc` has the functions of types, for outer joins; they are of no
/// use to whoever lists functions, and clients leave out those of `pg_catalog`.
pub fn is_always_empty(table: &str) -> bool {
    table == "pg_proc" || EMPTY.iter().any(|(name, _)| *name == table)
}

/// The oid of a topic's table. Always the same for the same topic; that two topics share one is as good as impossible.
pub fn topic_oid(topic: Uuid) -> i32 {
    const FIRST_OF_USERS: u64 = 16_384;
    let range = u64::from(i32::MAX.unsigned_abs()) - FIRST_OF_USERS;
    let (high, low) = topic.as_u64_pair();
    i32::try_from(FIRST_OF_USERS + (high ^ low) % range).expect("it is within the range")
}

/// Oids of PostgreSQL's own tables that clients compare with (`'pg_class'::regclass`); of its headers.
const CATALOG_OIDS: [(&str, i32); 22] = [
    ("pg_am", 2601),
    ("pg_attrdef", 2604),
    ("pg_attribute", 1249),
    ("pg_class", 1259),
    ("pg_collation", 3456),
    ("pg_constraint", 2606),
    ("pg_database", 1262),
    ("pg_description", 2609),
    ("pg_enum", 3501),
    ("pg_event_trigger", 3466),
    ("pg_extension", 3079),
    ("pg_foreign_data_wrapper", 2328),
    ("pg_foreign_server", 1417),
    ("pg_index", 2610),
    ("pg_language", 2612),
    ("pg_namespace", 2615),
    ("pg_operator", 2617),
    ("pg_proc", 1255),
    ("pg_rewrite", 2618),
    ("pg_tablespace", 1213),
    ("pg_trigger", 2620),
    ("pg_type", 1247),
];
/// Of the others. No row has it.
const OTHER_OID: i32 = 12_999;
/// Of functions of types, one after the other.
const FIRST_FUNCTION_OID: i32 = 14_000;
/// The oid of `pg_catalog` itself.
pub const CATALOG_OID: i32 = 11;

/// Whether a table is one of `pg_catalog`.
pub fn is_of_catalog(table: &str) -> bool {
    FILLED.iter().chain(&EMPTY).any(|(name, _)| *name == table)
}

pub fn catalog_oid(table: &str) -> Option<i32> {
    let known = CATALOG_OIDS.iter().find(|(name, _)| *name == table).map(|(_, oid)| *oid);
    known.or_else(|| is_of_catalog(table).then_some(OTHER_OID))
}

pub fn namespace_oid(schema: &str) -> Option<i32> {
    NAMESPACES.iter().find(|(name, _)| *name == schema).map(|(_, oid)| *oid)
}

/// Whether a table is found without its schema.
pub fn is_on_path(schema: &str, table: &str) -> bool {
    match schema {
        "pg_catalog" => true,
        PUBLIC => catalog_oid(table).is_none(),
        _ => false,
    }
}

#[derive(Debug)]
pub struct PgCatalog {
    relations: Arc<Relations>,
}

impl PgCatalog {
    pub fn new(relations: Arc<Relations>) -> PgCatalog {
        PgCatalog { relations }
    }

    pub fn find(&self, name: &str) -> Option<Arc<dyn TableProvider>> {
        if let Some((_, columns)) = EMPTY.iter().find(|(table, _)| *table == name) {
            return Some(Arc::new(PlainTable::new(columns, Arc::new(Nothing))));
        }
        let (name, columns) = FILLED.iter().find(|(table, _)| *table == name)?;
        let rows = CatalogRows { name, relations: Arc::clone(&self.relations) };
        Some(Arc::new(PlainTable::new(columns, Arc::new(rows))))
    }
}

#[async_trait]
impl SchemaProvider for PgCatalog {
    fn table_names(&self) -> Vec<String> {
        FILLED.iter().chain(&EMPTY).map(|(name, _)| (*name).to_owned()).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        Ok(self.find(name))
    }

    fn table_exist(&self, name: &str) -> bool {
        is_of_catalog(name)
    }
}

#[derive(Debug)]
struct CatalogRows {
    name: &'static str,
    relations: Arc<Relations>,
}

#[async_trait]
impl Rows for CatalogRows {
    async fn rows(&self, asked: &Asked) -> std::result::Result<Vec<Row>, SqlError> {
        Ok(match self.name {
            "pg_am" => vec![vec![2.into(), "heap".into(), 0.into(), "t".into()]],
            "pg_attribute" => self.attributes(asked).await?,
            "pg_class" => {
                let all = self.relations.all().await?;
                all.iter().filter(|relation| asked.may_be("relname", &relation.name)).map(class).collect()
            }
            "pg_database" => vec![database()],
            "pg_namespace" => {
                let row = |(name, oid): &(&str, i32)| {
                    vec![(*oid).into(), (*name).into(), OWNER_OID.into(), Cell::Null]
                };
                NAMESPACES.iter().map(row).collect()
            }
            "pg_proc" => functions_of_types(),
            "pg_roles" => vec![role()],
            "pg_settings" => settings(),
            "pg_tables" => {
                let all = self.relations.all().await?;
                let row = |r: &Relation| {
                    let no: Cell = false.into();
                    let name: [Cell; 3] = [r.schema.into(), r.name.as_str().into(), OWNER.into()];
                    let rest = [Cell::Null, no.clone(), no.clone(), no.clone(), no];
                    name.into_iter().chain(rest).collect()
                };
                all.iter().map(row).collect()
            }
            "pg_type" => pg_types(),
            "pg_user" => {
                let no: Cell = false.into();
                let name: [Cell; 2] = [OWNER.into(), OWNER_OID.into()];
                vec![
                    name.into_iter()
                        .chain([no.clone(), no.clone(), no.clone(), no, Cell::Null, Cell::Null, Cell::Null])
                        .collect(),
                ]
            }
            other => unreachable!("pg_catalog.{other} is no table"),
        })
    }
}

impl CatalogRows {
    async fn attributes(&self, asked: &Asked) -> std::result::Result<Vec<Row>, SqlError> {
        let mut rows = Vec::new();
        let is_asked = |_: &str, oid: i32| asked.may_be("attrelid", &oid.to_string());
        for relation in self.relations.with_columns(is_asked).await? {
            for (at, (name, sql_name)) in relation.columns.iter().enumerate() {
                let pg_type = types::by_sql_name(sql_name).unwrap_or(&TYPES[7]);
                let number = i32::try_from(at + 1).unwrap_or(i32::MAX);
                let no: Cell = false.into();
                rows.push(vec![
                    relation.oid.into(),
                    name.as_str().into(),
                    pg_type.oid.into(),
                    (-1).into(),
                    Cell::Int(pg_type.size_bytes.into()),
                    number.into(),
                    0.into(),
                    (-1).into(),
                    (-1).into(),
                    (pg_type.size_bytes > 0).into(),
                    "i".into(),
                    "p".into(),
                    "".into(),
                    no.clone(),
                    no.clone(),
                    no.clone(),
                    "".into(),
                    "".into(),
                    no,
                    true.into(),
                    0.into(),
                    0.into(),
                    Cell::Null,
                    Cell::Null,
                    Cell::Null,
                ]);
            }
        }
        Ok(rows)
    }
}

fn class(relation: &Relation) -> Row {
    let (no, zero): (Cell, Cell) = (false.into(), 0.into());
    let namespace = NAMESPACES.iter().find(|(name, _)| *name == relation.schema).map(|(_, oid)| *oid);
    vec![
        relation.oid.into(),
        relation.name.as_str().into(),
        namespace.into(),
        zero.clone(),
        zero.clone(),
        OWNER_OID.into(),
        2.into(),
        zero.clone(),
        zero.clone(),
        zero.clone(),
        (-1).into(),
        zero.clone(),
        zero.clone(),
        no.clone(),
        no.clone(),
        "p".into(),
        "r".into(),
        Cell::Int(i64::try_from(relation.columns.len()).unwrap_or_default()),
        zero.clone(),
        no.clone(),
        no.clone(),
        no.clone(),
        no.clone(),
        no.clone(),
        true.into(),
        "n".into(),
        no,
        zero,
        Cell::Null,
        Cell::Null,
        Cell::Null,
    ]
}

fn database() -> Row {
    vec![
        DATABASE_OID.into(),
        DATABASE.into(),
        OWNER_OID.into(),
        6.into(),
        "C".into(),
        "C".into(),
        Cell::Null,
        "c".into(),
        false.into(),
        true.into(),
        (-1).into(),
        1663.into(),
        Cell::Null,
    ]
}

fn role() -> Row {
    let no: Cell = false.into();
    vec![
        OWNER_OID.into(),
        OWNER.into(),
        no.clone(),
        true.into(),
        no.clone(),
        no.clone(),
        true.into(),
        no.clone(),
        (-1).into(),
        Cell::Null,
        no,
    ]
}

fn settings() -> Vec<Row> {
    let row = |(name, value): (String, String)| {
        vec![
            name.into(),
            value.into(),
            Cell::Null,
            "KafScale".into(),
            "".into(),
            "user".into(),
            "string".into(),
            "default".into(),
        ]
    };
    crate::server::default_session().all().into_iter().map(row).collect()
}

fn pg_types() -> Vec<Row> {
    let mut rows = Vec::new();
    for pg_type in &TYPES {
        rows.push(type_row(
            pg_type.oid,
            pg_type.name,
            pg_type.size_bytes,
            pg_type.category,
            0,
            pg_type.array_oid,
        ));
        rows.push(type_row(pg_type.array_oid, &format!("_{}", pg_type.name), -1, "A", pg_type.oid, 0));
    }
    rows
}

/// The functions that rows of `pg_type` name. Clients tell arrays by theirs (Npgsql: `array_recv`).
fn functions_of_types() -> Vec<Row> {
    let is_function = |field: &&str| matches!(*field, "typinput" | "typoutput" | "typreceive" | "typsend");
    let (_, columns) = FILLED.iter().find(|(name, _)| *name == "pg_type").expect("it is there");
    let names = columns.split(',').map(|column| column.trim().split(' ').next().unwrap_or_default());
    let at: Vec<usize> = names.enumerate().filter(|(_, name)| is_function(name)).map(|(at, _)| at).collect();
    let mut functions: Vec<String> = Vec::new();
    for row in pg_types() {
        for at in &at {
            if let Cell::Text(name) = &row[*at]
                && !functions.contains(name)
            {
                functions.push(name.clone());
            }
        }
    }
    let row = |(number, name): (i32, String)| -> Row {
        let (none, no): (Cell, Cell) = (Cell::Null, false.into());
        let name: Cell = name.into();
        let before =
            [(FIRST_FUNCTION_OID + number).into(), name.clone(), CATALOG_OID.into(), OWNER_OID.into()];
        let rest = [12.into(), "f".into(), no, 1.into(), none.clone(), name, none.clone(), none];
        before.into_iter().chain(rest).collect()
    };
    (0..).zip(functions).map(row).collect()
}

fn type_row(oid: i32, name: &str, size_bytes: i16, category: &str, element: i32, array: i32) -> Row {
    let zero: Cell = 0.into();
    let function = |what: &str| -> Cell {
        match (element > 0, name) {
            (true, _) => format!("array_{what}").into(),
            (_, "date" | "time" | "timestamp" | "timestamptz" | "json" | "numeric" | "interval" | "uuid") => {
                format!("{name}_{what}").into()
            }
            (false, _) => format!("{name}{what}").into(),
        }
    };
    vec![
        oid.into(),
        name.into(),
        11.into(),
        OWNER_OID.into(),
        Cell::Int(size_bytes.into()),
        (size_bytes > 0).into(),
        "b".into(),
        category.into(),
        false.into(),
        true.into(),
        ",".into(),
        zero.clone(),
        element.into(),
        array.into(),
        function("in"),
        false.into(),
        zero.clone(),
        (-1).into(),
        zero.clone(),
        zero,
        Cell::Null,
        function("out"),
        function("recv"),
        function("send"),
        "i".into(),
        "p".into(),
        Cell::Null,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::plain::schema_of;

    /// Rows are lists of values in the order of the columns.
    #[test]
    fn rows_have_a_value_for_each_column() {
        let relation =
            Relation { schema: PUBLIC, name: "t".into(), oid: 1, columns: vec![("a".into(), "text")] };
        for (table, rows) in [
            ("pg_class", vec![class(&relation)]),
            ("pg_database", vec![database()]),
            ("pg_proc", functions_of_types()),
            ("pg_roles", vec![role()]),
            ("pg_settings", settings()),
            ("pg_type", pg_types()),
        ] {
            let (_, columns) = FILLED.iter().find(|(name, _)| *name == table).unwrap();
            let width = schema_of(columns).fields().len();
            assert!(rows.iter().all(|row| row.len() == width), "{table}: {width} columns");
        }
        assert!(EMPTY.iter().all(|(_, columns)| !schema_of(columns).fields().is_empty()));
    }

    #[test]
    fn topics_have_oids_of_user_tables() {
        for id in [Uuid::nil(), Uuid::max(), Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef)] {
            assert!(topic_oid(id) >= 16_384);
        }
    }
}
