"""Expressions whose values a real PostgreSQL 15 and this server must write alike, and statements that both must refuse with one code."""

import psycopg
from fdw import postgresql
from rows import check

EXPRESSIONS = """
to_char('2026-03-02 15:04:05.678Z'::timestamptz, 'YYYY-MM-DD HH24:MI:SS.MS')
to_char('2026-03-02 15:04:05.678Z'::timestamptz, 'FMDDth FMMonth YYYY, HH12:MI AM')
to_char('2026-03-02'::date, 'Day, Dy, D, ID, DDD, WW, IW, IYYY, Q')
to_char(1234567.891, 'FM9,999,999.00')
to_char(-12, '999')
to_char(0.5, '0.99')
to_char(12, '00000')
date_trunc('hour', '2026-03-02 15:04:05.678Z'::timestamptz)
date_trunc('week', '2026-03-04 15:04:05.678Z'::timestamptz)
date_trunc('month', '2026-03-02'::timestamp)
date_bin('15 minutes', '2026-03-02 15:04:05Z'::timestamptz, '2001-01-01 00:00:00Z'::timestamptz)
extract(hour FROM '2026-03-02 15:04:05Z'::timestamptz)::int
extract(dow FROM '2026-03-02'::date)::int
extract(doy FROM '2026-03-02'::date)::int
extract(epoch FROM '2026-03-02 15:04:05Z'::timestamptz)::bigint
date_part('year', '2026-03-02'::date)
'2026-03-02'::date + 3
'2026-03-02'::date - '2026-02-01'::date
'2026-03-02 00:00:00'::timestamp + interval '1 month 2 days'
'2026-03-02 15:04:05Z'::timestamptz - interval '90 minutes'
to_timestamp(1700000000)
to_timestamp('2026-03-02 15:04:05', 'YYYY-MM-DD HH24:MI:SS')
to_date('02.03.2026', 'DD.MM.YYYY')
make_date(2026, 3, 2)
age('2026-03-02'::timestamp, '2025-01-31'::timestamp)
isfinite('2026-03-02'::date)
interval '1 day 02:03:04'
interval '90 minutes'
coalesce(NULL, 2, 3)
nullif(1, 1)
greatest(1, 3, 2)
least(1, 3, 2)
format('%s is %I and %L', 'a', 'B c', 'it''s')
quote_literal('it''s')
quote_nullable(NULL)
quote_ident('A b')
split_part('a,b,c', ',', 2)
split_part('a,b,c', ',', -1)
regexp_replace('foo bar', 'o', 'x', 'g')
regexp_replace('foo bar', '(o+)', '<\\1>')
regexp_match('foo123', '([a-z]+)([0-9]+)')
regexp_split_to_array('a, b,c', ',\\s*')
regexp_count('banana', 'a')
'foobar' ~ '^foo'
'foobar' ~* 'BAR$'
'foobar' !~ 'x'
'foobar' LIKE 'foo%'
'foobar' ILIKE 'FOO%'
'foobar' SIMILAR TO '(foo|bar)+'
substring('foobar' FROM 2 FOR 3)
substring('foobar', 3)
substr('foobar', 2, 3)
position('b' IN 'foobar')
strpos('foobar', 'b')
overlay('foobar' PLACING 'XX' FROM 2 FOR 3)
trim('  x ')
trim(both 'x' FROM 'xxaxx')
ltrim('xxa', 'x')
btrim('xax', 'x')
lpad('5', 3, '0')
rpad('5', 3, 'x')
repeat('ab', 3)
reverse('abc')
replace('abcabc', 'b', 'X')
translate('12345', '143', 'ax')
initcap('hello world')
upper('abc')
concat('a', NULL, 1)
concat_ws('-', 'a', NULL, 'b')
left('abcde', -2)
right('abcde', 2)
starts_with('foobar', 'foo')
ascii('A')
chr(65)
to_hex(255)
md5('abc')
encode(sha256('abc'::bytea), 'hex')
encode('\\x00ff'::bytea, 'base64')
decode('00ff', 'hex')
convert_from('\\x616263'::bytea, 'UTF8')
length('äbc')
char_length('äbc')
octet_length('äbc')
bit_length('abc')
length('\\x00ff'::bytea)
octet_length('\\x00ff'::bytea)
'a' || 'b' || 1
abs(-5)
ceil(1.2::float8)
ceiling(1.2::float8)
floor(-1.2::float8)
round(1.2345, 2)
trunc(1.99::float8)
sign(-2.5::float8)
mod(7, 3)
div(7, 2)
7 / 2
7 % 3
-7 / 2
power(2, 10)
sqrt(16)
exp(0)
ln(1)
log(100)
pi()
degrees(pi())
gcd(12, 18)
lcm(4, 6)
factorial(5)
width_bucket(5.35, 0.024, 10.06, 5)
width_bucket(-1, 0, 10, 5)
width_bucket(10, 0, 10, 5)
1.50::numeric(10, 2) * 2
12345.678::numeric(20, 3)
1e10::float8
0.1::float8 + 0.2::float8
'NaN'::float8
1.5::real
true AND NULL
NOT false
1 IS DISTINCT FROM NULL
5 BETWEEN 1 AND 10
5 IN (1, 2, 5)
CASE WHEN 1 > 2 THEN 'a' ELSE 'b' END
ARRAY[1, 2, 3]
ARRAY['a', NULL, 'b c', 'd"e']
(ARRAY[1, 2, 3])[2]
array_length(ARRAY[1, 2, 3], 1)
array_upper(ARRAY[1, 2, 3], 1)
array_lower(ARRAY[1, 2, 3], 1)
cardinality(ARRAY[1, 2])
array_to_string(ARRAY[1, 2, 3], ',')
string_to_array('a,b,c', ',')
array_append(ARRAY[1], 2)
array_cat(ARRAY[1], ARRAY[2])
array_position(ARRAY['a', 'b'], 'b')
array_remove(ARRAY[1, 2, 1], 1)
2 = ANY(ARRAY[1, 2])
ARRAY[1, 2] @> ARRAY[1]
ARRAY[1, 2] || 3
parse_ident('public."A b"')
json_array_length('[1, 2, 3]')
json_typeof('{"a": 1}')
'{"a": {"b": [1, "x"]}}'::json -> 'a' ->> 'b'
'{"a": {"b": [1, "x"]}}'::json #>> '{a,b,1}'
'{"a": {"b": [1, "x"]}}'::json #> '{a,b}'
'{"a": 1, "b": 2}'::jsonb @> '{"a": 1}'
'{"a": 1}'::jsonb ? 'a'
json_extract_path_text('{"a": {"b": 1}}', 'a', 'b')
json_build_object('a', 1, 'b', 'x', 'c', NULL, 'd', true)
json_build_array(1, 'x', NULL)
to_json('a"b'::text)
pg_typeof('x'::text)
(SELECT string_agg(x, ',' ORDER BY x) FROM (VALUES ('b'), ('a')) t(x))
(SELECT array_agg(x ORDER BY x) FROM (VALUES (2), (1)) t(x))
(SELECT count(DISTINCT x) FROM (VALUES (2), (1), (2)) t(x))
(SELECT count(*) FILTER (WHERE x > 1) FROM (VALUES (2), (1), (2)) t(x))
(SELECT bool_and(x) FROM (VALUES (true), (false)) t(x))
(SELECT every(x) FROM (VALUES (true), (true)) t(x))
(SELECT round(stddev(x)::numeric, 6) FROM (VALUES (1), (2), (4)) t(x))
(SELECT round(variance(x)::numeric, 6) FROM (VALUES (1), (2), (4)) t(x))
(SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY x) FROM (VALUES (1::float8), (2), (4)) t(x))
(SELECT json_agg(x) FROM (VALUES (1), (2)) t(x))
(SELECT sum(x) FROM generate_series(1, 10) t(x))
(SELECT max(r) FROM (SELECT row_number() OVER (ORDER BY x) AS r FROM generate_series(1, 5) t(x)) s)
(SELECT x FROM (VALUES (1)) t(x) WHERE x = 2)
(SELECT count(*) FROM (SELECT unnest(ARRAY[1, 2, 3])) t)
(SELECT count(*) FROM (SELECT json_array_elements('[1, 2, 3]')) t)
(SELECT count(*) FROM (SELECT 1 AS a, 1 AS a) t)
EXISTS (SELECT 1)
current_schema()
current_database() IS NOT NULL
'2026-01-01' < '2026-01-02'
'\\x00ff'::bytea
'a\\b'
E'a\\tb'
""".strip().splitlines()

# Whole numbers, which end where their types end.
WHOLE = """
9223372036854775807 + 1
-9223372036854775807 - 2
9223372036854775807 * 2
-(-9223372036854775807 - 1)
- (-9223372036854775807 - 1)::bigint
9223372036854775807 - 1 + 1
2147483647::int + 1::int
-2147483648::int
(-2147483647 - 1)::int - 1::int
65536::int * 65536::int
-((-2147483647 - 1)::int)
32767::smallint + 1::smallint
2147483647::int + 1::bigint
abs((-9223372036854775807 - 1)::bigint)
abs((-2147483647 - 1)::int)
(-9223372036854775807 - 1) / -1
(-9223372036854775807 - 1) % -1
((-2147483647 - 1)::int) / (-1)::int
-7 % 3
1 / 0
1 % 0
mod(1, 0)
div(1, 0)
1::numeric / 0
1::float8 / 0
3000000000::int
-3000000000::int
40000::smallint
9223372036854775807::int
'99999999999'::int
'99999999999999999999'::bigint
'-40000'::smallint
'12x'::int
1e10::float8::int
1e20::float8::bigint
1e10::numeric::int
32767.6::float8::smallint
'NaN'::float8::int
7::numeric / 2
100.50::numeric(10,2) / 7
(SELECT sum(x) FROM (VALUES (9223372036854775807), (1)) t(x))
(SELECT sum(x::int) FROM (VALUES (2147483647), (1)) t(x))
(SELECT sum(DISTINCT x) FROM (VALUES (9223372036854775807), (9223372036854775807), (1)) t(x))
(SELECT sum(x) FROM (VALUES (NULL::bigint)) t(x))
(SELECT pg_typeof(sum(x))::text FROM (VALUES (1::bigint)) t(x))
(SELECT pg_typeof(sum(x))::text FROM (VALUES (1::int)) t(x))
(SELECT pg_typeof(sum(x))::text FROM (VALUES (1::smallint)) t(x))
(SELECT pg_typeof(sum(CASE WHEN x > 1 THEN 1 ELSE 0 END))::text FROM (VALUES (1::bigint)) t(x))
(SELECT pg_typeof(sum(x))::text FROM (VALUES (1::float8)) t(x))
(SELECT sum(x) / count(*) FROM (VALUES (7::bigint), (8), (8)) t(x))
(SELECT sum(x::int) / count(*) FROM (VALUES (7), (8), (8)) t(x))
(SELECT max(s) FROM (SELECT sum(x) OVER (ORDER BY x) AS s FROM (VALUES (9223372036854775807), (1)) t(x)) w)
(SELECT row_number() OVER () - 2)
(SELECT pg_typeof(row_number() OVER () - 2)::text)
cardinality(ARRAY[1]) - cardinality(ARRAY[1, 2])
array_length(ARRAY[1], 1) - 2
'2026-03-02'::date + 2147483647
'2026-03-02'::date - '2026-03-03'::date
'2026-03-02'::timestamp + interval '2147483647 years'
1::bigint << 62
factorial(5)
gcd(12, 0)
lcm(9223372036854775807, 2)
""".strip().splitlines()

# Statements whose columns have names.
NAMES = (
    "SELECT count(*), max(1), 1 + 1, NULL, 'x'::text, 1::bigint, CASE WHEN true THEN 1 END, coalesce(1, 2), lower('A'), (SELECT max(1)), EXISTS (SELECT 1), "
    "ARRAY[1], current_date, extract(hour FROM now()), now()::date, true, date '2026-01-01'",
    "SELECT 1 AS a, 2 AS a, 3, 4",
    "SELECT * FROM (SELECT 1 AS a, 2 AS b) x, (SELECT 3 AS a) y",
)

REFUSED = (
    "SELEKT 1", "SELECT 1 FORM x y", "SELECT nosuch", "SELECT * FROM nosuch", "SELECT nosuch(1)", "SELECT 'x'::int", "SELECT 1 / 0", "SELECT 'x'::timestamp",
    "SELECT 'x'::boolean", "SELECT 'x'::double precision", "SELECT a FROM (SELECT 1 AS a) x, (SELECT 2 AS a) y", "SELECT a, count(*) FROM (SELECT 1 AS a, 2 AS b) x GROUP BY b",
    "SELECT (SELECT x FROM (VALUES (1), (2)) t(x))", "FETCH 1 FROM nosuch", "DECLARE c CURSOR FOR SELECT 1", "SELECT 99999999999::int",
    "SELECT 1 LIMIT -1", "SELECT x.a FROM (SELECT 1 AS b) x", "SELECT 1 FROM (SELECT 1) a, (SELECT 2) a",
)


def value(connection, expression):
    try:
        cursor = connection.cursor()
        row = cursor.execute(f"SELECT {expression}".encode()).pgresult
        made = row.get_value(0, 0)
        return made.decode() if made is not None else None
    except psycopg.Error as error:
        # Behind it may stand the line of the statement, which the engine does not know.
        return f"{error.sqlstate}: {error.diag.message_primary}"


def refusal(connection, statement):
    try:
        connection.execute(statement.encode())
    except psycopg.Error as error:
        return error.sqlstate
    return "no error"


def all(step, sql):
    with postgresql() as real, psycopg.connect(sql.dsn(), autocommit=True) as ours:
        real.execute("SET timezone = 'UTC'")
        for expression in EXPRESSIONS + WHOLE:
            expected = value(real, expression)
            with step(f"postgresql:{expression}"):
                made = value(ours, expression)
                check(made == expected, f"{made!r}, not {expected!r}")
        for statement in NAMES:
            with step(f"postgresql:names-in:{statement[:30]}"):
                made, expected = ([column.name for column in connection.execute(statement).description] for connection in (ours, real))
                check(made == expected, f"{made}, not {expected}")
        for statement in REFUSED:
            with step(f"postgresql:refuses:{statement}"):
                made, expected = refusal(ours, statement), refusal(real, statement)
                check(made == expected, f"{made}, not {expected}")
