//! What a client asks for: the text is split into statements, and each is told by its first words.
//!
//! Queries go on to the engine's own parser, after the short forms that it does not know were written out ([`short`]). Everything that
//! sets or shows something of the session is read here ([`session`]), and everything that would change something is refused.

mod complexity;
mod copy;
mod cursor;
mod session;
mod short;
mod table_ref;
mod tokens;
mod transaction;
mod within;

pub use copy::{Copy, CopyFormat, Force, TextFormat};
pub use cursor::{Declare, Fetch};
pub use session::Setting;

use kafscale_storage::scan::Range;

use crate::error::SqlError;
use tokens::Tokens;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    Query(QueryText),
    Explain {
        query: QueryText,
        /// Also runs it, and tells what that took.
        analyze: bool,
    },
    Copy(Copy),
    Declare(Declare),
    Fetch(Fetch),
    /// One cursor, or all.
    Close(Option<String>),
    Set(Setting),
    Show(String),
    ResetAll,
    Begin,
    /// `chain`: another transaction begins at once.
    Commit {
        chain: bool,
    },
    Rollback {
        chain: bool,
    },
    Savepoint(String),
    Release(String),
    RollbackTo(String),
    /// One prepared statement is forgotten, or all.
    Deallocate(Option<String>),
    /// The session is as at its beginning.
    DiscardAll,
    /// Is done already, since there is nothing to be done: the tag that answers it.
    Nothing(&'static str),
}

impl Statement {
    /// Whether it goes on until its client ends it.
    pub fn is_endless(&self) -> bool {
        match self {
            Statement::Query(query) | Statement::Copy(Copy { query, .. }) => query.follow.is_some(),
            _ => false,
        }
    }
}

/// A query in words that the engine knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueryText {
    pub sql: String,
    /// As its client wrote it.
    pub asked: String,
    /// It may read as much as it takes.
    pub scan_full: bool,
    /// It gives what is written from now on, and does not end.
    pub follow: Option<Follow>,
    /// It names tables that are not of the server itself.
    pub reads_topics: bool,
    /// It describes a topic, which has to be there.
    pub describes: Option<String>,
    /// What EXPLAIN says of the short forms in it.
    pub notes: Vec<String>,
}

/// Where rows begin that are followed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Follow {
    /// Behind these ranges; `None`: behind what there is.
    pub from: Option<Vec<Range>>,
    /// A query for the rows that are given before.
    pub first: Option<String>,
}

/// The statements of a text, in order. Empty ones are left out.
pub fn parse_all(text: &str) -> Result<Vec<Statement>, SqlError> {
    Tokens::of(text)?.split().into_iter().map(|tokens| parse(&tokens)).collect()
}

/// Whether a text that is being typed ends with a statement's semicolon.
pub fn is_whole(text: &str) -> bool {
    Tokens::of(text).is_ok_and(|tokens| tokens.ends_with_semicolon())
}

fn parse(tokens: &Tokens) -> Result<Statement, SqlError> {
    let words = tokens.words();
    let word = |at: usize| words.get(at).map_or("", String::as_str);
    Ok(match word(0) {
        "SELECT" | "WITH" | "VALUES" | "TABLE" | "(" => Statement::Query(query(tokens)?),
        "EXPLAIN" => explain(tokens)?,
        "DESCRIBE" | "DESC" => Statement::Query(describe(tokens)?),
        "SHOW" => match (word(1), word(2)) {
            ("TOPICS" | "TABLES", "") => Statement::Query(plain(SHOW_TOPICS, tokens)),
            ("PARTITIONS", "FROM") => Statement::Query(show_partitions(tokens)?),
            _ => Statement::Show(session::shown(tokens)?),
        },
        "SET" => session::set(tokens)?,
        "RESET" => session::reset(tokens)?,
        "BEGIN" | "START" => Statement::Begin,
        "COMMIT" | "END" | "ROLLBACK" | "ABORT" | "SAVEPOINT" | "RELEASE" => transaction::parse(tokens)?,
        "DISCARD" | "DEALLOCATE" => transaction::forget(tokens)?,
        "COPY" => copy::copy(tokens)?,
        "DECLARE" => cursor::declare(tokens)?,
        "FETCH" | "MOVE" => cursor::fetch(tokens)?,
        "CLOSE" => cursor::close(tokens)?,
        "UNLISTEN" => Statement::Nothing("UNLISTEN"),
        "PREPARE" | "EXECUTE" | "LISTEN" | "LOCK" => {
            return Err(SqlError::Unsupported(format!("{} is not supported", word(0))));
        }
        first if WRITES.contains(&first) => return Err(SqlError::ReadOnly(format!("{first} is refused"))),
        first => return Err(SqlError::Syntax(format!("syntax error at or near \"{first}\""))),
    })
}

/// First words of statements that PostgreSQL knows and that change something or reach the server's files.
const WRITES: [&str; 27] = [
    "INSERT",
    "UPDATE",
    "DELETE",
    "MERGE",
    "TRUNCATE",
    "CREATE",
    "DROP",
    "ALTER",
    "GRANT",
    "REVOKE",
    "COMMENT",
    "VACUUM",
    "ANALYZE",
    "REINDEX",
    "CLUSTER",
    "REFRESH",
    "NOTIFY",
    "LOAD",
    "CALL",
    "DO",
    "IMPORT",
    "SECURITY",
    "CHECKPOINT",
    "REASSIGN",
    "INSTALL",
    "ATTACH",
    "EXPORT",
];

const SHOW_TOPICS: &str =
    "SELECT name, partitions, format, columns_are, cleanup_policy, bytes FROM kafscale.topics ORDER BY name";

fn query(asked: &Tokens) -> Result<QueryText, SqlError> {
    let tokens = &without_table(asked)?;
    complexity::check(tokens)?;
    let reads_topics = table_ref::names_topics(tokens);
    Ok(QueryText { asked: asked.text(), reads_topics, ..short::write_out(tokens)? })
}

/// `TABLE orders` is `SELECT * FROM orders`.
fn without_table(tokens: &Tokens) -> Result<Tokens, SqlError> {
    let mut tokens = tokens.clone();
    if let Some(first) = tokens.significant().first().copied()
        && tokens.is(first, "TABLE")
    {
        tokens.all.splice(first..=first, Tokens::of("SELECT * FROM")?.all);
    }
    Ok(tokens)
}

/// A query of our own, for a statement that is none.
fn plain(sql: &str, asked: &Tokens) -> QueryText {
    QueryText { sql: sql.to_owned(), asked: asked.text(), ..QueryText::default() }
}

fn describe(tokens: &Tokens) -> Result<QueryText, SqlError> {
    let topic = tokens.name_after(1)?;
    let quoted = topic.replace('\'', "''");
    let sql = format!(
        "SELECT column_name, data_type, columns_are FROM kafscale.columns WHERE topic = '{quoted}' ORDER BY ordinal"
    );
    Ok(QueryText { describes: Some(topic), ..plain(&sql, tokens) })
}

fn show_partitions(tokens: &Tokens) -> Result<QueryText, SqlError> {
    let topic = tokens.name_after(3)?;
    let quoted = topic.replace('\'', "''");
    let sql = format!("SELECT * FROM kafscale.partitions WHERE topic = '{quoted}' ORDER BY partition");
    Ok(QueryText { describes: Some(topic), ..plain(&sql, tokens) })
}

/// `EXPLAIN [ANALYZE] [VERBOSE] query` and `EXPLAIN (option, …) query`.
fn explain(tokens: &Tokens) -> Result<Statement, SqlError> {
    let words = tokens.words();
    let mut analyze = false;
    let mut at = 1;
    if words.get(1).is_some_and(|word| word == "(") && words.get(2).is_some_and(|word| word != "SELECT") {
        let end = words.iter().position(|word| word == ")").unwrap_or(words.len());
        let option = |name: &str| words[2..end].iter().position(|word| word == name).map(|found| found + 2);
        let is_off =
            |at: usize| words.get(at + 1).is_some_and(|word| matches!(word.as_str(), "FALSE" | "OFF"));
        analyze = option("ANALYZE").is_some_and(|at| !is_off(at));
        at = end + 1;
    }
    while let Some(option @ ("ANALYZE" | "VERBOSE")) = words.get(at).map(String::as_str) {
        analyze |= option == "ANALYZE";
        at += 1;
    }
    let rest = tokens.behind_words(at);
    match parse(&rest)? {
        Statement::Query(query) if analyze && query.follow.is_some() => {
            let why = "EXPLAIN ANALYZE runs a query to its end, and one with FOLLOW has none";
            Err(SqlError::Unsupported(why.to_owned()))
        }
        Statement::Query(query) => Ok(Statement::Explain { query, analyze }),
        _ => Err(SqlError::Unsupported("EXPLAIN is for queries".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Statement {
        let mut all = parse_all(text).unwrap();
        assert_eq!(all.len(), 1, "{text}");
        all.remove(0)
    }

    #[test]
    fn a_text_is_split_at_semicolons_only() {
        let all = parse_all(";SELECT ';' -- x;\n; /* ; */ ;BEGIN;").unwrap();
        let sql = "SELECT ';' -- x;\n".to_owned();
        let query = QueryText { asked: sql.clone(), sql, ..QueryText::default() };
        assert_eq!(all, [Statement::Query(query), Statement::Begin]);
        assert_eq!(parse_all(" ; ").unwrap(), []);
    }

    #[test]
    fn what_changes_something_is_refused_by_name() {
        for text in
            ["INSERT INTO t VALUES (1)", "create table t (a int)", "COPY t TO '/tmp/x'", "drop table t"]
        {
            assert_eq!(parse_all(text).unwrap_err().code(), "25006", "{text}");
        }
        assert_eq!(parse_all("PREPARE x AS SELECT 1").unwrap_err().code(), "0A000");
        assert_eq!(parse_all("hello").unwrap_err().code(), "42601");
        assert_eq!(parse_all("SELECT 'x").unwrap_err().code(), "42601");
    }

    #[test]
    fn explain_takes_both_forms_of_options() {
        let explained = |text: &str| match one(text) {
            Statement::Explain { query, analyze } => (query.sql, analyze),
            other => panic!("{other:?}"),
        };
        for (text, analyze) in [
            ("EXPLAIN SELECT 1", false),
            ("explain analyze verbose SELECT 1", true),
            ("EXPLAIN (ANALYZE, FORMAT TEXT) SELECT 1", true),
            ("EXPLAIN (ANALYZE OFF) SELECT 1", false),
        ] {
            assert_eq!(explained(text), ("SELECT 1".to_owned(), analyze), "{text}");
        }
        assert!(parse_all("EXPLAIN INSERT INTO t VALUES (1)").is_err());
    }

    #[test]
    fn a_table_by_itself_is_a_query() {
        let Statement::Query(query) = one("TABLE orders TAIL 2") else { panic!("no query") };
        assert!(query.sql.starts_with("SELECT * FROM (SELECT * FROM \"orders@tail:2\""), "{}", query.sql);
        assert_eq!(query.asked, "TABLE orders TAIL 2");
        assert!(query.reads_topics);
    }

    #[test]
    fn show_and_describe_are_queries() {
        for text in ["SHOW TOPICS", "show partitions from orders", "DESCRIBE \"a b\"", "desc orders"] {
            assert!(matches!(one(text), Statement::Query(_)), "{text}");
        }
        assert_eq!(one("SHOW server_version"), Statement::Show("server_version".into()));
    }
}
