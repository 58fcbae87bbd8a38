//! Which entities an answer covers: all of whom anything is in it, and nobody else where that can be told.

use super::*;

impl Clinical {
    /// How many entities an answer covers, and its rows in some order.
    async fn covers(&self, sql: &str) -> Result<(usize, Vec<String>), QueryError> {
        let caller = Caller { principal: self.principal.clone(), ..Caller::default() };
        let planned = self.engine.plan(caller, Arc::new(self.given.clone()), sql, 1).await?;
        let rows = planned.run(AnswerLimits { rows: 20, bytes: 1 << 20 }).await?;
        assert_eq!(rows.schema.fields().len(), planned.labels.len(), "{sql}");
        let text = pretty_format_batches(&rows.batches).expect("rows").to_string();
        assert!(!text.contains("kafscale"), "{sql}: {text}");
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        Ok((planned.entities().len(), lines))
    }

    async fn count(&self, sql: &str) -> usize {
        self.covers(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}")).0
    }
}

fn counted(shown: Vec<(&'static str, Shown)>, per_day: u64) -> Given {
    Given { entities_per_day: Some(per_day), shown, ..Given::default() }
}

#[tokio::test]
async fn those_of_whom_something_is_in_an_answer_are_counted() {
    let clinic = Clinical::new(counted(vec![("id", Shown::AsIs)], 1_000));
    let plain = Clinical::new(Given::default());
    let (p, w) = ("clinic.patients", "clinic.wards");
    let mut wrong = Vec::new();
    for (sql, expected) in [
        (format!("SELECT name FROM {p} WHERE id < 5"), 5),
        (format!("SELECT name FROM {p} ORDER BY id LIMIT 7"), 7),
        // Those that are skipped too.
        (format!("SELECT name FROM {p} ORDER BY weight DESC LIMIT 3 OFFSET 2"), 5),
        // The answer has 20 of them.
        (format!("SELECT name FROM {p} ORDER BY id"), 20),
        (format!("SELECT count(*) FROM {p} WHERE ward = 4"), 3),
        (format!("SELECT count(*) FILTER (WHERE ward = 4), count(DISTINCT name) FROM {p} WHERE id < 9"), 9),
        (format!("SELECT ward, max(name) FROM {p} GROUP BY ward HAVING ward = 4"), 3),
        (format!("SELECT ward, count(*) FROM {p} GROUP BY ward ORDER BY ward DESC LIMIT 1"), 3),
        (format!("SELECT DISTINCT ward FROM {p} WHERE id IN (97, 98)"), 2),
        (format!("SELECT ward, count(*) FROM {p} WHERE id < 4 GROUP BY ROLLUP (ward)"), 4),
        (format!("SELECT w.title, p.name FROM {p} p JOIN {w} w USING (ward) WHERE w.title = 'locked'"), 3),
        (
            format!(
                "SELECT w.title, p.name FROM {w} w LEFT JOIN {p} p ON p.ward = w.ward AND p.id > 97 ORDER BY 1, 2"
            ),
            2,
        ),
        (format!("SELECT a.name, b.name FROM {p} a JOIN {p} b ON b.id = a.id + 1 WHERE a.id = 5"), 2),
        (
            format!(
                "WITH q AS (SELECT ward, count(*) AS c FROM {p} GROUP BY 1) SELECT c FROM q WHERE ward = 4"
            ),
            3,
        ),
        (format!("SELECT sum(c) FROM (SELECT ward, count(*) AS c FROM {p} WHERE id > 95 GROUP BY 1) q"), 4),
        (format!("SELECT title FROM {w}"), 0),
        (format!("SELECT name FROM {p} WHERE id = 1000"), 0),
        // All that go in, since rows of several are mixed.
        (format!("SELECT row_number() OVER (ORDER BY id) FROM {p} WHERE id < 4"), 4),
        (format!("SELECT title FROM {w} WHERE ward IN (SELECT ward FROM {p} WHERE id < 2)"), 2),
        (format!("SELECT title FROM {w} WHERE ward > (SELECT max(ward) FROM {p} WHERE id < 3)"), 3),
        (
            format!(
                "SELECT title FROM {w} w WHERE EXISTS (SELECT 1 FROM {p} p WHERE p.ward = w.ward AND p.id < 6)"
            ),
            6,
        ),
        (
            format!(
                "SELECT title FROM {w} WHERE NOT EXISTS (SELECT 1 FROM {p} WHERE patients.ward = wards.ward)"
            ),
            100,
        ),
        (format!("SELECT (SELECT max(name) FROM {p} p WHERE p.ward = w.ward AND p.id > 95) FROM {w} w"), 4),
        (format!("SELECT w.title FROM {w} w LEFT SEMI JOIN {p} p ON p.ward = w.ward AND p.id = 3"), 100),
        (format!("SELECT name FROM {p} WHERE id = 1 UNION ALL SELECT title FROM {w}"), 1),
        (format!("SELECT name FROM {p} WHERE id < 3 UNION SELECT name FROM {p} WHERE id < 4"), 4),
        (format!("SELECT name FROM {p} WHERE id < 9 EXCEPT SELECT name FROM {p} WHERE id < 8"), 9),
        (format!("SELECT DISTINCT ON (ward) ward, name FROM {p} WHERE id < 6 ORDER BY ward, id"), 6),
        (
            format!(
                "SELECT w.title, x.n FROM {w} w, LATERAL (SELECT count(*) AS n FROM {p} p WHERE p.ward = w.ward) x"
            ),
            100,
        ),
    ] {
        match (clinic.covers(&sql).await, plain.covers(&sql).await) {
            (Ok((found, rows)), Ok((_, of_plain))) if found == expected && rows == of_plain => {}
            (counted, plain) => wrong.push(format!("{sql}: {expected}, {counted:?}, {plain:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whichever of two answers comes, it must not tell of somebody who is not counted in either.
#[tokio::test]
async fn nobody_is_told_of_by_what_is_left_out() {
    let clinic = Clinical::new(counted(vec![("id", Shown::AsIs)], 1_000));
    let of = |at: &str| format!("clinic.patients WHERE id = 7 OR (id = 98 AND weight {at})");
    for (sql, is_there, is_not) in [
        ("SELECT id FROM @ ORDER BY id DESC LIMIT 1 OFFSET 1", 2, 1),
        ("SELECT id FROM @ ORDER BY id DESC OFFSET 1", 2, 1),
        ("SELECT 1 FROM (SELECT * FROM @) t HAVING count(*) < 2", 2, 1),
        ("SELECT n FROM (SELECT count(*) AS n FROM @) q WHERE n = 2", 2, 1),
        ("SELECT max(n) FROM (SELECT ward, count(*) AS n FROM @ GROUP BY ward ORDER BY n LIMIT 1) q", 2, 1),
        ("SELECT ward FROM (SELECT * FROM @) t GROUP BY ward ORDER BY count(*), ward LIMIT 1", 2, 1),
        ("SELECT v.x FROM (SELECT count(*) AS n FROM @) q JOIN (VALUES (1, 'a')) v(n, x) ON v.n = q.n", 2, 1),
        (
            "SELECT w.title FROM clinic.wards w LEFT JOIN (SELECT * FROM @) p ON p.ward = w.ward WHERE p.id IS NULL",
            2,
            1,
        ),
        (
            "SELECT count(*) FROM (SELECT n, count(*) AS m FROM (SELECT ward, count(*) AS n FROM @ GROUP BY 1) a GROUP BY n) b WHERE n = 3",
            2,
            1,
        ),
    ] {
        for (at, expected) in [("> 0", is_there), ("< 0", is_not)] {
            let sql = sql.replace('@', &of(at));
            assert_eq!(clinic.count(&sql).await, expected, "{sql}");
        }
    }
}

#[tokio::test]
async fn rows_that_are_counted_keep_their_order() {
    let clinic = Clinical::new(counted(Vec::new(), 1_000));
    let plain = Clinical::new(Given::default());
    for sql in [
        "SELECT name FROM clinic.patients ORDER BY weight DESC LIMIT 9 OFFSET 3",
        "SELECT name, id FROM clinic.patients ORDER BY id OFFSET 90",
        "SELECT ward, count(*) FROM clinic.patients GROUP BY ward ORDER BY count(*) DESC, ward LIMIT 2",
    ] {
        assert_eq!(clinic.ask(sql).await, plain.ask(sql).await, "{sql}");
    }
}

/// That there is one more row than are shown, or that one could not be computed, tells of its entity.
#[tokio::test]
async fn neither_a_limit_nor_an_error_tells_of_somebody_else() {
    let clinic = Clinical::new(counted(Vec::new(), 1_000));
    let planned = async |sql: &str| {
        let caller = Caller { principal: "ada".to_owned(), ..Caller::default() };
        clinic.engine.plan(caller, Arc::new(clinic.given.clone()), sql, 1).await.expect("a plan")
    };
    let mut cut = Vec::new();
    for at in ["> 0", "< 0"] {
        let sql =
            format!("SELECT id FROM clinic.patients WHERE id = 7 OR (id = 98 AND weight {at}) ORDER BY id");
        let planned = planned(&sql).await;
        let rows = planned.run(AnswerLimits { rows: 1, bytes: 1 << 20 }).await.expect("rows");
        cut.push((rows.rows, rows.cut_by, planned.entities().len()));
    }
    assert_eq!(cut, [(1, Some("rows"), 1); 2]);
    let large = planned("SELECT id, repeat('x', 100000) FROM clinic.patients WHERE id < 30").await;
    let rows = large.run(AnswerLimits { rows: 100, bytes: 1000 }).await.expect("rows");
    assert_eq!((rows.cut_by, large.entities().len()), (Some("bytes"), 30));
    let mut told = Vec::new();
    for value in ["1 / (id - 98)", "CAST(name AS int)"] {
        let planned = planned(&format!("SELECT {value} FROM clinic.patients WHERE id = 98")).await;
        let error = planned.run(AnswerLimits { rows: 1, bytes: 1 << 20 }).await.expect_err("it fails");
        assert!(planned.is_counted() && error.may_tell_of_rows(), "{error:?}");
        told.push(error.to_string());
    }
    assert_eq!(told[0], told[1]);
}

#[tokio::test]
async fn hidden_and_masked_entities_are_counted_and_no_more_than_the_limit_and_one() {
    for shown in [Shown::Hidden, Shown::Masked(Mask::Null)] {
        let clinic = Clinical::new(counted(vec![("id", shown)], 10));
        assert_eq!(clinic.count("SELECT name FROM clinic.patients WHERE ward = 4").await, 3);
        assert_eq!(clinic.count("SELECT name FROM clinic.patients").await, 11);
        assert_eq!(clinic.count("SELECT max(name) FROM clinic.patients GROUP BY ward").await, 11);
        let plan = clinic.explain("SELECT name FROM clinic.patients").await.unwrap();
        assert!(!plan.contains("kafscale"), "{plan}");
    }
}

#[tokio::test]
async fn groups_of_which_nobody_is_told_apart_are_not_counted() {
    let given = Given { min_group: Some(3), ..counted(Vec::new(), 10) };
    let clinic = Clinical::new(given);
    assert_eq!(clinic.count("SELECT ward, count(*) FROM clinic.patients GROUP BY 1").await, 0);
}
