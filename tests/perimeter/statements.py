"""What agents say: statements that try to get at what must not leave, and ordinary questions."""

import itertools

from hospital import DIAGNOSES, WARDS


def attacks(person):
    """Statements that try to get at names, numbers, addresses and days of birth, about one person or about all."""
    values = {"name": person["name"], "ssn": person["ssn"], "email": person["email"]}
    t = "clinic.patients"
    for c, v in values.items():
        part = v[:6]
        yield from [
            f"SELECT {c} FROM {t}", f"SELECT {c} AS harmless FROM {t}", f"SELECT p.{c} FROM {t} p", f"SELECT \"{c}\" FROM {t} ORDER BY {c}",
            f"SELECT x FROM (SELECT {c} AS x FROM {t}) q", f"WITH q AS (SELECT {c} AS x FROM {t}) SELECT x FROM q",
            f"SELECT upper({c}) FROM {t}", f"SELECT lower({c}) FROM {t}", f"SELECT reverse({c}) FROM {t}", f"SELECT md5({c}) FROM {t}",
            f"SELECT substr({c}, 1, 20) FROM {t}", f"SELECT concat({c}, '') FROM {t}", f"SELECT {c} || '!' FROM {t}", f"SELECT left({c}, 30) FROM {t}",
            f"SELECT CAST({c} AS bytea) FROM {t}", f"SELECT CAST({c} AS int) FROM {t}", f"SELECT {c}::date FROM {t}", f"SELECT 1 / ({c} = '{v}')::int FROM {t}",
            f"SELECT max({c}) FROM {t}", f"SELECT min({c}) FROM {t}", f"SELECT string_agg({c}, ',') FROM {t}", f"SELECT array_agg({c}) FROM {t}",
            f"SELECT first_value({c}) OVER (ORDER BY id) FROM {t}", f"SELECT lag({c}) OVER (ORDER BY id) FROM {t}", f"SELECT DISTINCT {c} FROM {t}",
            f"SELECT {c}, count(*) FROM {t} GROUP BY {c}", f"SELECT count(DISTINCT {c}), max({c}) FROM {t}", f"SELECT coalesce({c}, 'x') FROM {t}",
            f"SELECT CASE WHEN id > 0 THEN {c} END FROM {t}", f"SELECT nullif({c}, 'x') FROM {t}", f"SELECT (SELECT max({c}) FROM {t})",
            f"SELECT {c} FROM {t} UNION ALL SELECT 'x'", f"SELECT {c} FROM {t} INTERSECT SELECT {c} FROM {t}", f"SELECT {c} FROM {t} EXCEPT SELECT 'x'",
            f"SELECT a.{c} FROM {t} a JOIN {t} b ON a.id = b.id", f"SELECT a.{c} FROM {t} a LEFT JOIN papers.beds b ON a.ward = b.ward",
            f"SELECT * FROM {t} WHERE {c} = '{v}'", f"SELECT id FROM {t} WHERE {c} = '{v}'", f"SELECT id FROM {t} WHERE {c} LIKE '{part}%'",
            f"SELECT id FROM {t} WHERE {c} ILIKE '%{v[1:8]}%'", f"SELECT id FROM {t} WHERE {c} ~ '{part}'", f"SELECT id FROM {t} WHERE {c} IN ('{v}')",
            f"SELECT id FROM {t} WHERE {c} BETWEEN '{v}' AND '{v}'", f"SELECT id FROM {t} WHERE {c} > '{part}' AND {c} < '{part}~'",
            f"SELECT id FROM {t} WHERE strpos({c}, '{part}') > 0", f"SELECT id FROM {t} WHERE starts_with({c}, '{part}')",
            f"SELECT id FROM {t} WHERE length({c}) = {len(v)} AND {c} = '{v}'", f"SELECT count(*) FROM {t} WHERE {c} = '{v}'",
            f"SELECT sum(({c} = '{v}')::int) FROM {t}", f"SELECT count(*) FILTER (WHERE {c} = '{v}') FROM {t}",
            f"SELECT w.ward FROM papers.beds w WHERE EXISTS (SELECT 1 FROM {t} p WHERE p.ward = w.ward AND p.{c} = '{v}')",
            f"SELECT v.x FROM (VALUES ('{v}')) v(x) JOIN {t} p ON p.{c} = v.x", f"SELECT id FROM {t} WHERE {c} = (SELECT '{v}')",
            f"SELECT rank() OVER (ORDER BY {c}), id FROM {t} WHERE {c} <= '{v}'", f"SELECT id FROM {t} ORDER BY {c} = '{v}' DESC LIMIT 1",
            f"SELECT p FROM {t} p", f"SELECT row_to_json(p) FROM {t} p", f"SELECT to_json({c}) FROM {t}", f"SELECT ARRAY(SELECT {c} FROM {t})",
        ]
    yield from [
        f"SELECT * FROM {t}", f"SELECT p.* FROM {t} p", f"TABLE {t}", f"SELECT remark FROM {t}", f"SELECT concat(remark, '') FROM {t}",
        "SELECT * FROM papers.advice", "SELECT * FROM clinic.salaries", "SELECT max(salary) FROM clinic.salaries", "SELECT name FROM clinic.salaries s",
        "SELECT count(*) FROM clinic.salaries", "SELECT * FROM information_schema.columns", "SELECT * FROM pg_catalog.pg_class", "SELECT * FROM clinic.sqlite_master",
        "SELECT * FROM clinic.\"patients\"\"; --\"", "SELECT * FROM '/etc/passwd'", "SELECT * FROM read_parquet('x')", "SELECT pg_read_file('/etc/passwd')",
        "SELECT 1; SELECT * FROM clinic.patients", "COPY clinic.patients TO '/tmp/x'", "INSERT INTO clinic.patients SELECT * FROM clinic.patients",
        "CREATE TABLE x AS SELECT * FROM clinic.patients", "EXPLAIN ANALYZE SELECT * FROM clinic.patients", "SHOW ALL", "SET search_path = clinic",
        "SELECT * FROM papers.\"../clinic.db\"", "SELECT * FROM papers.\"../tokens\"", "SELECT * FROM handles.h_0", "SELECT * FROM generate_series(1, 3), clinic.patients",
        "/* SELECT */ SELECT ssn FROM clinic.patients -- x", "SELECT ssn FROM clinic.patients /* LIMIT 0 */", "SELECT \u0455sn FROM clinic.patients",
        f"SELECT born FROM {t} WHERE born LIKE '%-__-__' AND substr(born, 6) <> '01-01'",
    ]


def group_attacks(person):
    """Statements that try to get at single visits."""
    n, v = person["id"], "clinic.visits"
    secret = "99999.25"
    singles = [f"patient_id = {n}", f"patient_id IN ({n})", f"patient_id BETWEEN {n} AND {n}", "diagnosis = 'plague'", f"patient_id = {n} AND cost > 99999",
               f"patient_id > {n - 1} AND patient_id < {n + 1}", "cost = 99999.25", "diagnosis LIKE 'pla%'"]
    for single in singles:
        yield from [f"SELECT {f} FROM {v} WHERE {single}" for f in ["*", "cost", "count(*)", "sum(cost)", "avg(cost)", "max(cost)", "count(DISTINCT diagnosis)", "median(cost)"]]
        yield from [f"SELECT ward FROM papers.beds WHERE EXISTS (SELECT 1 FROM {v} WHERE {single})",
                    f"SELECT count(*) FROM papers.beds b WHERE b.ward IN (SELECT month FROM {v} WHERE {single})",
                    f"SELECT sum(CASE WHEN {single} THEN cost ELSE 0 END) FROM {v}", f"SELECT sum(cost) FILTER (WHERE {single}) FROM {v}",
                    f"SELECT max(CASE WHEN {single} THEN cost END) FROM {v}", f"SELECT sum(cost * ({single})::int) FROM {v}",
                    f"SELECT (SELECT sum(cost) FROM {v} WHERE {single}) FROM papers.beds", f"SELECT month, diagnosis, sum(cost) FROM {v} WHERE {single} GROUP BY 1, 2"]
    yield from [f"SELECT patient_id, {f} FROM {v} GROUP BY patient_id" for f in ["count(*)", "sum(cost)", "avg(cost)"]]
    yield from [f"SELECT diagnosis, max(cost) FROM {v} GROUP BY diagnosis", f"SELECT cost FROM {v} ORDER BY cost DESC LIMIT 1", f"SELECT DISTINCT cost FROM {v}",
                f"SELECT array_agg(cost) FROM {v}", f"SELECT sum(cost) FROM (SELECT cost FROM {v} ORDER BY cost DESC LIMIT 1) t", f"SELECT cost, count(*) FROM {v} GROUP BY cost",
                f"SELECT 1 / (cost - {secret}) FROM {v}", f"SELECT avg(1 / (cost - {secret})) FROM {v}", f"SELECT row_number() OVER (ORDER BY cost DESC), cost FROM {v}",
                f"SELECT p.id, sum(v.cost) FROM {v} v JOIN clinic.patients p ON p.id = v.patient_id GROUP BY p.id"]


def differences():
    """Statements of one principal, and how many values of the last answer may be there: the rest would make a difference of one person."""
    v = "clinic.visits"
    odd, even = "patient_id % 2 = 1 AND patient_id <> 7", "patient_id % 2 = 0"
    yield [f"SELECT sum(cost) FROM {v}", f"SELECT sum(cost) FROM {v} WHERE diagnosis <> 'plague'"], 0
    yield [f"SELECT sum(cost), sum(cost) FILTER (WHERE diagnosis <> 'plague') FROM {v}"], 1
    yield [f"SELECT sum(cost) FROM {v}", f"SELECT sum(cost + month) FROM {v} WHERE patient_id <> 7"], 0
    yield [f"SELECT count(*) FROM {v}", f"SELECT sum(month * 2 + 1) FROM {v} WHERE patient_id <> 7"], 0
    yield [f"SELECT count(*) FROM {v}", f"SELECT sum(CASE WHEN patient_id <> 7 THEN 1 ELSE 0 END) FROM {v}"], 0
    yield [f"SELECT count(*) FROM {v}", f"SELECT DISTINCT 1 FROM {v} WHERE diagnosis <> 'plague'"], 0
    yield [f"SELECT sum(cost), sum(cost) FILTER (WHERE {even}), sum(cost) FILTER (WHERE {odd}) FROM {v}"], 2
    for order in itertools.permutations([f"SELECT sum(cost) FROM {v}", f"SELECT sum(cost) FROM {v} WHERE {even}", f"SELECT avg(cost) FROM {v} WHERE {odd}"]):
        yield list(order), 0
    yield [f"SELECT count(*) FROM {v}", f"SELECT month, count(*) FROM {v} WHERE patient_id <> 7 GROUP BY month"], 0
    yield [f"SELECT month, count(*) FROM {v} GROUP BY month", f"SELECT month, diagnosis, count(*) FROM {v} WHERE diagnosis <> 'plague' AND patient_id <> 7 GROUP BY 1, 2"], 0
    yield [f"SELECT sum(cost) FROM {v}", f"SELECT patient_id = 7, month, sum(cost) FROM {v} GROUP BY 1, 2"], None


def oracles():
    """Statements that would tell whether a row is as it is asked for (`@` is patient 7, who has the plague, or 8, who has not)."""
    v, nine = "clinic.visits", "patient_id IN (1, 2, 3, 4, 5, 6, 9, 10, 11)"
    has = "patient_id = @ AND diagnosis = 'plague'"
    row = "id = 3994 + @"
    for result in ["1 ELSE 0", "'a' ELSE 'b'"]:
        for condition in [has, row]:
            yield from [f"SELECT {f} CASE WHEN {condition} THEN {result} END) FROM {v}" for f in ["count(DISTINCT", "approx_distinct("]]
    yield f"SELECT count(DISTINCT CASE WHEN patient_id = @ THEN diagnosis ELSE 'x' END) FROM {v}"
    for f in ["DISTINCT 1", "count(*)", "sum(cost)", "count(DISTINCT month)"]:
        yield f"SELECT {f} FROM {v} WHERE {nine} OR ({has} AND cost >= 99999)"
        yield f"SELECT {f} FROM {v} WHERE CASE WHEN patient_id = @ THEN diagnosis = 'plague' ELSE {nine} END"
    yield f"SELECT 1 FROM {v} WHERE {nine} OR ({has}) GROUP BY 1"
    yield f"SELECT CASE WHEN patient_id = @ THEN -id ELSE patient_id % 2 END, sum(cost) FROM {v} GROUP BY 1"
    for f in ["count(*)", "sum(v.cost)", "median(v.cost)", "avg(v.cost)"]:
        yield f"SELECT {f} FROM {v} v JOIN generate_series(1, 5000) w(n) ON w.n <= CASE WHEN v.patient_id = @ AND v.diagnosis = 'plague' THEN v.cost ELSE 1 END"
        yield f"SELECT {f} FROM {v} v JOIN (SELECT value AS n FROM generate_series(1, 1000)) w ON w.n = 1 OR (v.patient_id = @ AND v.diagnosis = 'plague')"
        yield f"SELECT {f} FROM {v} v JOIN (VALUES (@, 1), (@, 2), (@, 3)) w(p, n) ON v.patient_id = w.p OR w.n = 1"
        yield f"SELECT {f} FROM {v} v JOIN (VALUES (@, 1), (@, 2), (1, 3), (2, 3)) w(p, n) ON v.patient_id = w.p"
        yield f"SELECT {f} FROM {v} v JOIN (VALUES (@, 'plague'), (1, 'flu')) w(p, d) ON v.patient_id = w.p AND v.diagnosis = w.d"
    yield f"SELECT sum(v.cost), sum(v.cost * p.id) FROM {v} v JOIN clinic.patients p ON p.id = CASE WHEN v.patient_id = @ THEN 400 ELSE 1 END"
    yield f"SELECT count(*) FROM (SELECT cost FROM {v} UNION ALL SELECT cost FROM {v} WHERE {has}) t"
    for argument in ["floor(cost / 99999.25)", "round(cost, -5)", "CAST(cost / 99999.25 AS int)", "(cost + 1e17) - 1e17", "cost * 1e-320", "trunc(cost / 99999)", "ceil(cost - 99999)"]:
        yield f"SELECT sum({argument}) FROM {v} WHERE month <> @ + 3"
        yield f"SELECT avg({argument}) FROM {v} WHERE month <> @ + 3"
    yield f"SELECT count(*) FROM {v} WHERE {has} AND substr(diagnosis, 1, -1) = ''"


def failing():
    """Statements that would fail on the row of patient 7, and on none where it is about patient 8."""
    for condition in ["patient_id = @", "id = 3994 + @", "patient_id = @ AND diagnosis = 'plague'"]:
        for fails in ["substr(diagnosis, 1, CASE WHEN ? THEN -1 ELSE 1 END)", "split_part(diagnosis, 'a', CASE WHEN ? THEN 0 ELSE 1 END)",
                      "to_char(TIMESTAMP '2000-01-01', CASE WHEN ? THEN '%Q%!' ELSE 'YYYY' END)", "abs(CASE WHEN ? THEN -9223372036854775807 - 1 ELSE 1 END)",
                      "date_trunc(CASE WHEN ? THEN 'bogus' ELSE 'day' END, TIMESTAMP '2000-01-01')", "left(diagnosis, CASE WHEN ? THEN -9223372036854775807 - 1 ELSE 1 END)",
                      "date_trunc('year', CASE WHEN ? THEN TIMESTAMP '1677-09-22' ELSE TIMESTAMP '2000-01-01' END)", "(CASE WHEN ? THEN 'x' ELSE '1' END) + 1",
                      "date_bin(CASE WHEN ? THEN INTERVAL '0 days' ELSE INTERVAL '1 day' END, TIMESTAMP '2000-01-01')"]:
            yield f"SELECT count(*) FROM clinic.visits WHERE {fails.replace('?', condition)} IS NOT NULL"


def ordinary():
    """Statements whose answer is that of SQLite, with what SQLite is asked where that differs."""
    p = "clinic.patients"
    for w in range(1, WARDS + 1):
        for low, high in itertools.product((50, 55, 60, 65, 70, 75), (80, 90, 100, 109)):
            yield f"SELECT count(*), sum(weight) FROM {p} WHERE ward = {w} AND weight BETWEEN {low} AND {high}", None
        for n in range(0, 400, 20):
            yield f"SELECT id, ward, weight FROM {p} WHERE ward = {w} AND id > {n} ORDER BY id LIMIT 5", None
        for of in ("avg(weight)", "min(id)", "max(weight)", "count(DISTINCT weight)"):
            yield f"SELECT {of} FROM {p} WHERE ward <> {w}", None
    for n in range(1, 101):
        yield f"SELECT id, substr(ssn, 10) FROM {p} WHERE id = {n}", None
    yield f"SELECT substr(born, 1, 4), count(*) FROM {p} GROUP BY 1 ORDER BY 1", None
    yield f"SELECT ward, count(*) FROM {p} GROUP BY ward HAVING count(*) > 1 ORDER BY ward DESC", None
    yield f"SELECT a.id, b.id FROM {p} a JOIN {p} b ON b.id = a.id + 1 WHERE a.id < 30 ORDER BY 1", None
    yield f"SELECT DISTINCT ward FROM {p} ORDER BY 1", None
    yield "SELECT ward, beds FROM papers.beds ORDER BY ward", "SELECT ward, ward * 10 FROM patients GROUP BY ward ORDER BY ward"
    yield f"SELECT b.beds, count(*) FROM {p} JOIN papers.beds b ON b.ward = patients.ward GROUP BY 1 ORDER BY 1", "SELECT ward * 10, count(*) FROM patients GROUP BY ward ORDER BY 1"


def grouped():
    v = "clinic.visits"
    for n, d in enumerate(DIAGNOSES):
        yield n, f"SELECT count(*), sum(cost), avg(cost) FROM {v} WHERE diagnosis = '{d}'"
        yield n + 4, f"SELECT month, count(*), sum(cost) FROM {v} WHERE diagnosis = '{d}' GROUP BY month ORDER BY month"
    yield 8, f"SELECT diagnosis, count(*), avg(cost) FROM {v} WHERE diagnosis <> 'plague' GROUP BY diagnosis ORDER BY 1"
    yield 9, f"SELECT month, avg(cost * 2 + 1) FROM {v} GROUP BY month ORDER BY 1"
    yield 10, f"SELECT p.ward, count(*), sum(v.cost) FROM {v} v JOIN clinic.patients p ON p.id = v.patient_id GROUP BY p.ward ORDER BY 1"
    yield 11, f"SELECT diagnosis, month, count(*) FROM {v} WHERE diagnosis <> 'plague' GROUP BY 1, 2 ORDER BY 1, 2"
    # People are in both halves, and no row is.
    yield 12, f"SELECT count(*) FROM {v}"
    yield 12, f"SELECT CASE WHEN month <= 6 THEN 1 ELSE 2 END, count(*) FROM {v} GROUP BY 1 ORDER BY 1"
    yield 12, f"SELECT CASE WHEN cost > 500 THEN 'high' ELSE 'low' END, count(*), sum(cost) FROM {v} GROUP BY 1 ORDER BY 1"
    yield 12, f"SELECT month, count(*), avg(cost / 100.0), count(DISTINCT patient_id) FROM {v} GROUP BY month ORDER BY 1"
    yield 12, f"SELECT count(*) FILTER (WHERE month <= 6), sum(cost) FILTER (WHERE month > 6) FROM {v}"
    yield 12, f"SELECT count(*), sum(cost) FROM {v} WHERE month <= 9"
