"""What Grafana's data source for PostgreSQL, Metabase and Npgsql ask, as their sources have it: versions, schemas, tables, columns, privileges,
types, and queries over time; and what Power BI asks through Npgsql, as its traffic has it."""

import psycopg
from rows import check

IN_SEARCH_PATH = """quote_ident(table_schema) IN (
          SELECT
            CASE WHEN trim(s[i]) = '"$user"' THEN user ELSE trim(s[i]) END
          FROM
            generate_series(
              array_lower(string_to_array(current_setting('search_path'),','),1),
              array_upper(string_to_array(current_setting('search_path'),','),1)
            ) as i,
            string_to_array(current_setting('search_path'),',') s
          )"""

GRAFANA = {
    "version": "SELECT current_setting('server_version_num')::int/100",
    "timescale": "SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'",
    "schemas": "SELECT DISTINCT quote_ident(table_schema) AS schema FROM information_schema.tables WHERE table_schema NOT IN "
    "('information_schema', 'pg_catalog', '_timescaledb_cache', '_timescaledb_catalog', '_timescaledb_internal', '_timescaledb_config', "
    "'timescaledb_information', 'timescaledb_experimental')",
    "tables": f"""SELECT CASE WHEN {IN_SEARCH_PATH}
          THEN quote_ident(table_name)
          ELSE quote_ident(table_schema) || '.' || quote_ident(table_name)
        END AS "table"
        FROM information_schema.tables
        WHERE quote_ident(table_schema) NOT IN ('information_schema', 'pg_catalog', '_timescaledb_cache', '_timescaledb_catalog',
          '_timescaledb_internal', '_timescaledb_config', 'timescaledb_information', 'timescaledb_experimental')
        ORDER BY CASE WHEN {IN_SEARCH_PATH} THEN 0 ELSE 1 END, 1""",
    "columns": f"""SELECT quote_ident(column_name) AS "column", data_type AS "type"
        FROM information_schema.columns
        WHERE
          CASE WHEN array_length(parse_ident('orders'),1) = 2
            THEN quote_ident(table_schema) = (parse_ident('orders'))[1] AND quote_ident(table_name) = (parse_ident('orders'))[2]
            ELSE quote_ident(table_name) = 'orders' AND {IN_SEARCH_PATH}
          END""",
}

METABASE = {
    "tables": """SELECT n.nspname AS "schema", c.relname AS "name",
        CASE c.relkind WHEN 'r' THEN 'TABLE' WHEN 'p' THEN 'PARTITIONED TABLE' WHEN 'v' THEN 'VIEW' WHEN 'f' THEN 'FOREIGN TABLE'
          WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE NULL END AS "type",
        d.description AS "description", NULLIF(stat.n_live_tup, 0) AS "estimated_row_count"
        FROM pg_catalog.pg_class AS c
        INNER JOIN pg_catalog.pg_namespace AS n ON c.relnamespace = n.oid
        LEFT JOIN pg_catalog.pg_description AS d ON c.oid = d.objoid AND d.objsubid = 0 AND d.classoid = 'pg_class'::regclass
        LEFT JOIN pg_stat_user_tables AS stat ON n.nspname = stat.schemaname AND c.relname = stat.relname
        WHERE c.relnamespace = n.oid AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
          AND c.relkind IN ('r', 'p', 'v', 'f', 'm') AND n.nspname IN ('public')
        ORDER BY "type" ASC, "schema" ASC, "name" ASC""",
    "columns": """SELECT c.column_name AS name,
        CASE WHEN c.udt_schema IN ('public', 'pg_catalog') THEN FORMAT('%s', c.udt_name) ELSE FORMAT('"%s"."%s"', c.udt_schema, c.udt_name) END
          AS "database-type",
        c.ordinal_position - 1 AS "database-position", c.table_schema AS "table-schema", c.table_name AS "table-name",
        pk.column_name IS NOT NULL AS "pk?",
        COL_DESCRIPTION(CAST(CAST(FORMAT('%I.%I', CAST(c.table_schema AS TEXT), CAST(c.table_name AS TEXT)) AS REGCLASS) AS OID), c.ordinal_position)
          AS "field-comment",
        ((column_default IS NULL OR LOWER(column_default) = 'null') AND is_nullable = 'NO' AND NOT is_identity = 'YES') AS "database-required",
        ((column_default IS NOT NULL AND column_default LIKE '%nextval(%') OR is_identity = 'YES') AS "database-is-auto-increment"
        FROM information_schema.columns AS c
        LEFT JOIN (SELECT tc.table_schema, tc.table_name, kc.column_name FROM information_schema.table_constraints AS tc
          INNER JOIN information_schema.key_column_usage AS kc ON tc.constraint_name = kc.constraint_name
            AND tc.table_schema = kc.table_schema AND tc.table_name = kc.table_name
          WHERE tc.constraint_type = 'PRIMARY KEY') AS pk
        ON c.table_schema = pk.table_schema AND c.table_name = pk.table_name AND c.column_name = pk.column_name
        WHERE c.table_schema !~ '^information_schema|catalog_history|pg_' AND c.table_schema IN ('public')
        ORDER BY "table-schema" ASC, "table-name" ASC, "database-position" ASC""",
    "foreign-keys": """SELECT fk_ns.nspname AS "fk-table-schema", fk_table.relname AS "fk-table-name", fk_column.attname AS "fk-column-name",
        pk_ns.nspname AS "pk-table-schema", pk_table.relname AS "pk-table-name", pk_column.attname AS "pk-column-name"
        FROM pg_constraint AS c INNER JOIN pg_class AS fk_table ON c.conrelid = fk_table.oid
        INNER JOIN pg_namespace AS fk_ns ON c.connamespace = fk_ns.oid
        INNER JOIN pg_attribute AS fk_column ON c.conrelid = fk_column.attrelid
        INNER JOIN pg_class AS pk_table ON c.confrelid = pk_table.oid
        INNER JOIN pg_namespace AS pk_ns ON pk_table.relnamespace = pk_ns.oid
        INNER JOIN pg_attribute AS pk_column ON c.confrelid = pk_column.attrelid
        WHERE fk_ns.nspname !~ '^information_schema|catalog_history|pg_' AND c.contype = 'f'::char
          AND fk_column.attnum = ANY(c.conkey) AND pk_column.attnum = ANY(c.confkey)
        ORDER BY "fk-table-schema", "fk-table-name" """,
    "privileges": """with table_privileges as (
         select NULL as role, t.schemaname as schema, t.objectname as table,
           pg_catalog.has_any_column_privilege(current_user, '"' || replace(t.schemaname, '"', '""') || '"' || '.' || '"' || replace(t.objectname, '"', '""') || '"', 'update') as update,
           pg_catalog.has_any_column_privilege(current_user, '"' || replace(t.schemaname, '"', '""') || '"' || '.' || '"' || replace(t.objectname, '"', '""') || '"', 'select') as select,
           pg_catalog.has_any_column_privilege(current_user, '"' || replace(t.schemaname, '"', '""') || '"' || '.' || '"' || replace(t.objectname, '"', '""') || '"', 'insert') as insert,
           pg_catalog.has_table_privilege(current_user, '"' || replace(t.schemaname, '"', '""') || '"' || '.' || '"' || replace(t.objectname, '"', '""') || '"', 'delete') as delete
         from (
           select schemaname, tablename as objectname from pg_catalog.pg_tables
           union
           select schemaname, viewname as objectname from pg_views
           union
           select schemaname, matviewname as objectname from pg_matviews
         ) t
         where t.schemaname !~ '^pg_' and t.schemaname <> 'information_schema'
           and pg_catalog.has_schema_privilege(current_user, t.schemaname, 'usage')
       )
       select t.* from table_privileges t where (t.select = true) or (t.update = true)""",
    "enums": """SELECT nspname, typname FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
        WHERE t.oid IN (SELECT DISTINCT enumtypid FROM pg_enum e)""",
    "timezone": "SHOW timezone",
    "schemas": "SELECT nspname AS TABLE_SCHEM, current_database() AS TABLE_CATALOG FROM pg_catalog.pg_namespace WHERE nspname <> 'pg_toast' "
    "AND (nspname !~ '^pg_temp_' OR nspname = (pg_catalog.current_schemas(true))[1]) ORDER BY TABLE_SCHEM",
}

# What each .NET client sends before anything else, in one message.
NPGSQL = [
    "SELECT version()",
    """SELECT ns.nspname, t.oid, t.typname, t.typtype, t.typnotnull, t.elemtypoid
        FROM (
            SELECT
                typ.oid, typ.typnamespace, typ.typname, typ.typtype, typ.typrelid, typ.typnotnull, typ.relkind,
                elemtyp.oid AS elemtypoid, elemtyp.typname AS elemtypname, elemcls.relkind AS elemrelkind,
                CASE WHEN elemproc.proname='array_recv' THEN 'a' ELSE elemtyp.typtype END AS elemtyptype
            FROM (
                SELECT typ.oid, typnamespace, typname, typrelid, typnotnull, relkind, typelem AS elemoid,
                    CASE WHEN proc.proname='array_recv' THEN 'a' ELSE typ.typtype END AS typtype,
                    CASE
                        WHEN proc.proname='array_recv' THEN typ.typelem
                        WHEN typ.typtype='r' THEN rngsubtype
                        WHEN typ.typtype='m' THEN (SELECT rngtypid FROM pg_range WHERE rngmultitypid = typ.oid)
                        WHEN typ.typtype='d' THEN typ.typbasetype
                    END AS elemtypoid
                FROM pg_type AS typ
                LEFT JOIN pg_class AS cls ON (cls.oid = typ.typrelid)
                LEFT JOIN pg_proc AS proc ON proc.oid = typ.typreceive
                LEFT JOIN pg_range ON (pg_range.rngtypid = typ.oid)
            ) AS typ
            LEFT JOIN pg_type AS elemtyp ON elemtyp.oid = typ.elemtypoid
            LEFT JOIN pg_class AS elemcls ON (elemcls.oid = elemtyp.typrelid)
            LEFT JOIN pg_proc AS elemproc ON elemproc.oid = elemtyp.typreceive
        ) AS t
        JOIN pg_namespace AS ns ON (ns.oid = typnamespace)
        WHERE
            typtype IN ('b', 'r', 'm', 'e', 'd') OR
            (typtype = 'c' AND relkind='c') OR
            (typtype = 'p' AND typname IN ('record', 'void', 'unknown')) OR
            (typtype = 'a' AND (
                elemtyptype IN ('b', 'r', 'm', 'e', 'd') OR
                (elemtyptype = 'p' AND elemtypname IN ('record', 'void')) OR
                (elemtyptype = 'c' AND elemrelkind='c')
            ))
        ORDER BY CASE
               WHEN typtype IN ('b', 'e', 'p') THEN 0
               WHEN typtype = 'c' THEN 1
               WHEN typtype = 'r' THEN 2
               WHEN typtype = 'm' THEN 3
               WHEN typtype = 'd' AND elemtyptype <> 'a' THEN 4
               WHEN typtype = 'a' THEN 5
               WHEN typtype = 'd' AND elemtyptype = 'a' THEN 6
        END""",
    """SELECT typ.oid, att.attname, att.atttypid
        FROM pg_type AS typ
        JOIN pg_namespace AS ns ON (ns.oid = typ.typnamespace)
        JOIN pg_class AS cls ON (cls.oid = typ.typrelid)
        JOIN pg_attribute AS att ON (att.attrelid = typ.typrelid)
        WHERE (typ.typtype = 'c' AND cls.relkind='c') AND attnum > 0 AND NOT attisdropped
        ORDER BY typ.oid, att.attnum""",
    """SELECT pg_type.oid, enumlabel
        FROM pg_enum
        JOIN pg_type ON pg_type.oid=enumtypid
        ORDER BY oid, enumsortorder""",
]

POWER_BI = {
    "character-set": "select character_set_name from INFORMATION_SCHEMA.character_sets",
    "tables": "select TABLE_SCHEMA, TABLE_NAME, TABLE_TYPE from INFORMATION_SCHEMA.tables "
    "where TABLE_SCHEMA not in ('information_schema', 'pg_catalog') order by TABLE_SCHEMA, TABLE_NAME",
    "columns": "select COLUMN_NAME, ORDINAL_POSITION, IS_NULLABLE, case when (data_type like '%unsigned%') then DATA_TYPE || ' unsigned' else DATA_TYPE end as DATA_TYPE "
    "from INFORMATION_SCHEMA.columns where TABLE_SCHEMA = 'public' and TABLE_NAME = 'orders' order by TABLE_SCHEMA, TABLE_NAME, ORDINAL_POSITION",
    "foreign-keys": """select pkcol.COLUMN_NAME as PK_COLUMN_NAME, fkcol.TABLE_SCHEMA AS FK_TABLE_SCHEMA, fkcol.TABLE_NAME AS FK_TABLE_NAME,
        fkcol.COLUMN_NAME as FK_COLUMN_NAME, fkcol.ORDINAL_POSITION as ORDINAL,
        fkcon.CONSTRAINT_SCHEMA || '_' || fkcol.TABLE_NAME || '_' || 'orders' || '_' || fkcon.CONSTRAINT_NAME as FK_NAME
        from (select distinct constraint_catalog, constraint_schema, unique_constraint_schema, constraint_name, unique_constraint_name
          from INFORMATION_SCHEMA.REFERENTIAL_CONSTRAINTS) fkcon
        inner join INFORMATION_SCHEMA.KEY_COLUMN_USAGE fkcol on fkcon.CONSTRAINT_SCHEMA = fkcol.CONSTRAINT_SCHEMA
          and fkcon.CONSTRAINT_NAME = fkcol.CONSTRAINT_NAME
        inner join INFORMATION_SCHEMA.KEY_COLUMN_USAGE pkcol on fkcon.UNIQUE_CONSTRAINT_SCHEMA = pkcol.CONSTRAINT_SCHEMA
          and fkcon.UNIQUE_CONSTRAINT_NAME = pkcol.CONSTRAINT_NAME
        where pkcol.TABLE_SCHEMA = 'public' and pkcol.TABLE_NAME = 'orders' and pkcol.ORDINAL_POSITION = fkcol.ORDINAL_POSITION
        order by FK_NAME, fkcol.ORDINAL_POSITION""",
}


def all(step, sql):
    with psycopg.connect(sql.dsn(), autocommit=True) as connection:
        asked = {}
        for tool, queries in (("grafana", GRAFANA), ("metabase", METABASE)):
            for name, query in queries.items():
                with step(f"{tool}:{name}"):
                    asked[tool, name] = connection.execute(query.encode()).fetchall()
        with step("grafana:what-it-sees"):
            check(asked["grafana", "version"] == [(1500,)], asked["grafana", "version"])
            check(("public",) in asked["grafana", "schemas"], asked["grafana", "schemas"])
            check(("amount", "double precision") in asked["grafana", "columns"], asked["grafana", "columns"])
            tables = [row[0] for row in asked["grafana", "tables"]]
            check(tables.index("orders") < tables.index("kafscale.topics") and "public.orders" not in tables, tables)
        with step("metabase:what-it-sees"):
            check("orders" in [row[1] for row in asked["metabase", "tables"]], asked["metabase", "tables"])
            check(("amount", "float8") in [row[:2] for row in asked["metabase", "columns"]], asked["metabase", "columns"][:5])
            check("orders" in [row[2] for row in asked["metabase", "privileges"]], asked["metabase", "privileges"])
        with step("npgsql:types"):
            cursor = connection.execute("; ".join(NPGSQL).encode())
            answers = [cursor.fetchall()]
            while cursor.nextset():
                answers.append(cursor.fetchall())
            types = {name: (kind, element) for _, _, name, kind, _, element in answers[1]}
            check(types["text"][0] == "b" and types["_text"] == ("a", 25), types)
            check(len(types) == len(answers[1]) >= 42 and answers[2:] == [[], []], answers)
        for name, query in POWER_BI.items():
            with step(f"power-bi:{name}"):
                asked["power-bi", name] = connection.execute(query.encode()).fetchall()
        with step("power-bi:what-it-sees"):
            check(asked["power-bi", "character-set"] == [("UTF8",)], asked["power-bi", "character-set"])
            check(("public", "orders", "BASE TABLE") in asked["power-bi", "tables"], asked["power-bi", "tables"])
            check("amount" in [row[0] for row in asked["power-bi", "columns"]], asked["power-bi", "columns"])
        with step("grafana:time-groups"):
            # $__timeGroupAlias(_ts, '5m'), $__timeFilter(_ts), as Grafana's macros write them out.
            rows = connection.execute(
                "SELECT floor(extract(epoch from _ts)/300)*300 AS \"time\", customer AS metric, avg(amount) AS value FROM orders "
                "WHERE _ts BETWEEN '2023-11-14T22:00:00Z' AND '2023-11-14T23:00:00Z' GROUP BY 1, 2 ORDER BY 1, 2"
            ).fetchall()
            check(rows and rows[0][0] % 300 == 0 and rows[0][1] == "c0", rows[:3])
            rows = connection.execute(
                "SELECT _ts AS \"time\", amount FROM orders WHERE extract(epoch from _ts) >= 1700000000 AND extract(epoch from _ts) <= 1700000010 ORDER BY 1"
            ).fetchall()
            check(len(rows) == 11, rows)
        with step("metabase:questions"):
            rows = connection.execute(
                'SELECT DATE_TRUNC(\'minute\', "public"."orders"."_ts") AS "_ts", COUNT(*) AS "count", SUM("public"."orders"."amount") AS "sum" '
                'FROM "public"."orders" WHERE ("public"."orders"."customer" = \'c1\') '
                'GROUP BY DATE_TRUNC(\'minute\', "public"."orders"."_ts") ORDER BY DATE_TRUNC(\'minute\', "public"."orders"."_ts") ASC'
            ).fetchall()
            check(sum(row[1] for row in rows) == len(range(1, 3_000, 7)), rows[:3])
            rows = connection.execute(
                'SELECT "source"."customer" AS "customer", "source"."count" AS "count" FROM (SELECT "public"."orders"."customer" AS "customer", COUNT(*) AS "count" '
                'FROM "public"."orders" GROUP BY "public"."orders"."customer" ORDER BY "public"."orders"."customer" ASC) AS "source" '
                'WHERE "source"."count" > 428 LIMIT 1048575'
            ).fetchall()
            check(len(rows) == 4, rows)
