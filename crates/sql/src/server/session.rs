//! The settings of a session: those that clients need, with the values that PostgreSQL would give.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use pgwire::api::{METADATA_APPLICATION_NAME, METADATA_CLIENT_ENCODING, METADATA_USER};
use pgwire::error::PgWireResult;

use super::SERVER_VERSION;
use super::statements::pg_error;
use super::transactions::{Block, Told};
use crate::error::SqlError;
use crate::statement::Setting;

/// Of a setting: each savepoint may keep all of them.
const VALUE_BYTES_MAX: usize = 1 << 10;

/// Settings whose values are told at the beginning, and when they change; by the names that clients look for.
pub const REPORTED: [&str; 13] = [
    "application_name",
    "client_encoding",
    "DateStyle",
    "default_transaction_read_only",
    "in_hot_standby",
    "integer_datetimes",
    "IntervalStyle",
    "is_superuser",
    "server_encoding",
    "server_version",
    "session_authorization",
    "standard_conforming_strings",
    "TimeZone",
];

/// Settings that can be set, with their defaults.
const SETTABLE: [(&str, &str); 23] = [
    ("application_name", ""),
    ("bytea_output", "hex"),
    ("client_encoding", "UTF8"),
    ("client_min_messages", "notice"),
    ("datestyle", "ISO, MDY"),
    ("default_transaction_isolation", "repeatable read"),
    ("default_transaction_read_only", "on"),
    ("enable_seqscan", "on"),
    ("extra_float_digits", "1"),
    ("geqo", "on"),
    ("idle_in_transaction_session_timeout", "0"),
    ("intervalstyle", "postgres"),
    ("jit", "off"),
    ("lock_timeout", "0"),
    ("row_security", "on"),
    ("search_path", "public"),
    ("session_characteristics", ""),
    ("standard_conforming_strings", "on"),
    ("statement_timeout", "0"),
    ("synchronize_seqscans", "on"),
    ("timezone", "UTC"),
    ("transaction_isolation", "repeatable read"),
    ("transaction_read_only", "on"),
];

/// Settings that can only be shown.
const FIXED: [(&str, &str); 18] = [
    ("block_size", "8192"),
    ("data_checksums", "on"),
    ("default_table_access_method", "heap"),
    ("default_tablespace", ""),
    ("default_with_oids", "off"),
    ("in_hot_standby", "off"),
    ("integer_datetimes", "on"),
    ("is_superuser", "off"),
    ("lc_collate", "C"),
    ("lc_ctype", "C"),
    ("max_identifier_length", "249"),
    ("max_index_keys", "32"),
    ("server_encoding", "UTF8"),
    ("server_version", SERVER_VERSION),
    ("server_version_num", "150008"),
    ("ssl", "off"),
    ("transaction_deferrable", "off"),
    ("wal_level", "replica"),
];

/// One client's settings.
#[derive(Debug, Default)]
pub struct Session {
    pub user: String,
    pub(super) values: Arc<Values>,
    /// What the client asked for when it connected, which RESET goes back to.
    pub(super) initial: Arc<Values>,
    /// Begun, and not ended.
    pub(super) block: Option<Block>,
}

/// What was set, by the names of settings.
#[derive(Debug, Clone, Default)]
pub struct Values {
    set: BTreeMap<String, String>,
    /// Until the transaction block ends; these count.
    pub(super) local: BTreeMap<String, String>,
}

impl Session {
    /// Takes over what a client has asked for when it connected.
    pub fn begin(&mut self, asked: &HashMap<String, String>) -> PgWireResult<()> {
        self.user = asked.get(METADATA_USER).cloned().unwrap_or_default();
        let parameters = asked.iter().map(|(name, value)| (name.clone(), value.clone()));
        let options = asked.get("options").map(|options| options_of(options)).unwrap_or_default();
        for (name, value) in parameters.chain(options) {
            let known = [METADATA_APPLICATION_NAME, METADATA_CLIENT_ENCODING].contains(&name.as_str())
                || SETTABLE.iter().any(|(settable, _)| *settable == name.to_lowercase());
            if known {
                let setting = Setting { name: name.to_lowercase(), value: Some(value), local: false };
                self.set(&setting).map_err(|e| pg_error(&e))?;
            }
        }
        self.initial = Arc::clone(&self.values);
        Ok(())
    }

    /// The name and the value to tell the client of, where it must be told.
    pub fn set(&mut self, setting: &Setting) -> Result<Option<Told>, SqlError> {
        let Setting { name, value, local } = setting;
        if !SETTABLE.iter().any(|(settable, _)| settable == name) {
            return Err(match FIXED.iter().any(|(fixed, _)| fixed == name) {
                true => SqlError::BadValue(format!("parameter \"{name}\" cannot be changed")),
                false => SqlError::BadValue(format!("unrecognized configuration parameter \"{name}\"")),
            });
        }
        let value = value.clone().or_else(|| self.initial.set.get(name).cloned());
        let value = value.map(|value| checked(name, value)).transpose()?;
        if *local && !self.is_in_block() {
            return Ok(None);
        }
        let default = || SETTABLE.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value);
        let values = Arc::make_mut(&mut self.values);
        values.local.remove(name);
        match value {
            Some(value) if *local => values.local.insert(name.clone(), value),
            None if *local => values.local.insert(name.clone(), default().to_owned()),
            Some(value) => values.set.insert(name.clone(), value),
            None => values.set.remove(name),
        };
        let reported = REPORTED.iter().find(|reported| reported.eq_ignore_ascii_case(name));
        Ok(reported.map(|reported| (*reported, self.show(name).unwrap_or_default())))
    }

    pub fn show(&self, name: &str) -> Option<String> {
        let name = name.to_lowercase();
        if name == "session_authorization" {
            return Some(self.user.clone());
        }
        let default = || SETTABLE.iter().chain(&FIXED).find(|(known, _)| *known == name);
        let set = self.values.local.get(&name).or_else(|| self.values.set.get(&name));
        set.cloned().or_else(|| default().map(|(_, value)| (*value).to_owned()))
    }

    /// All settings with their values.
    pub fn all(&self) -> Vec<(String, String)> {
        let mut names: Vec<&str> = SETTABLE.iter().chain(&FIXED).map(|(name, _)| *name).collect();
        names.sort_unstable();
        names.into_iter().map(|name| (name.to_owned(), self.show(name).unwrap_or_default())).collect()
    }

    /// Whether the client wants to hear of what is no error.
    pub fn wants_notices(&self) -> bool {
        let level = self.show("client_min_messages").unwrap_or_default();
        !matches!(level.as_str(), "warning" | "error" | "fatal" | "panic")
    }

    /// The shorter one of the client's limit and the server's.
    pub fn timeout(&self, server: Option<Duration>) -> Option<Duration> {
        let own = self.show("statement_timeout").and_then(|text| milliseconds(&text));
        let own = own.filter(|ms| *ms > 0).map(Duration::from_millis);
        match (own, server) {
            (Some(own), Some(server)) => Some(own.min(server)),
            (one, other) => one.or(other),
        }
    }
}

/// A value that means what the client thinks it does, or an error.
fn checked(name: &str, value: String) -> Result<String, SqlError> {
    if value.len() > VALUE_BYTES_MAX {
        return Err(SqlError::BadValue(format!("a value of {name} has at most {VALUE_BYTES_MAX} bytes")));
    }
    let refused = |why: &str| Err(SqlError::BadValue(format!("{name} cannot be \"{value}\": {why}")));
    match name {
        "client_encoding" => {
            let plain = value.to_uppercase().replace(['-', '_', '\''], "");
            match plain.as_str() {
                "UTF8" | "UNICODE" | "SQLASCII" => Ok("UTF8".to_owned()),
                _ => refused("only UTF8 is spoken here"),
            }
        }
        "datestyle" if !value.to_uppercase().contains("ISO") => refused("only ISO is"),
        "standard_conforming_strings" if value != "on" => refused("it is always on"),
        "statement_timeout" if milliseconds(&value).is_none() => refused("it is no time"),
        _ => Ok(value),
    }
}

/// A time as PostgreSQL takes it: milliseconds, or with a unit.
fn milliseconds(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = match unit.trim() {
        "" | "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(scale)
}

/// Settings in the parameter `options`: `-c name=value -c name=value`.
fn options_of(options: &str) -> Vec<(String, String)> {
    let mut words = options.split_whitespace();
    let mut found = Vec::new();
    while let Some(word) = words.next() {
        let setting = match word.strip_prefix("-c") {
            Some("") => words.next(),
            Some(rest) => Some(rest),
            None => word.strip_prefix("--"),
        };
        if let Some((name, value)) = setting.and_then(|setting| setting.split_once('=')) {
            found.push((name.replace('-', "_"), value.to_owned()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(session: &mut Session, name: &str, value: Option<&str>) -> Result<(), String> {
        let setting = Setting { name: name.to_owned(), value: value.map(str::to_owned), local: false };
        session.set(&setting).map(drop).map_err(|e| e.to_string())
    }

    #[test]
    fn what_was_asked_for_at_the_beginning_is_the_default() {
        let mut session = Session::default();
        let asked = [("user", "ana"), ("TimeZone", "Europe/Berlin"), ("options", "-c statement_timeout=5s")];
        session.begin(&asked.map(|(a, b)| (a.to_owned(), b.to_owned())).into()).unwrap();
        assert_eq!(session.show("timezone"), Some("Europe/Berlin".into()));
        assert_eq!(session.show("session_authorization"), Some("ana".into()));
        assert_eq!(session.timeout(None), Some(Duration::from_secs(5)));
        assert_eq!(session.timeout(Some(Duration::from_secs(1))), Some(Duration::from_secs(1)));
        set(&mut session, "timezone", Some("UTC")).unwrap();
        set(&mut session, "timezone", None).unwrap();
        assert_eq!(session.show("TimeZone"), Some("Europe/Berlin".into()));
    }

    #[test]
    fn only_what_is_known_can_be_set() {
        let mut session = Session::default();
        for (name, value) in [
            ("client_encoding", "LATIN1"),
            ("datestyle", "German"),
            ("server_version", "9"),
            ("no_such", "1"),
            ("statement_timeout", "soon"),
            ("standard_conforming_strings", "off"),
        ] {
            assert!(set(&mut session, name, Some(value)).is_err(), "{name}");
        }
        for (name, value) in
            [("client_encoding", "utf-8"), ("datestyle", "ISO, DMY"), ("extra_float_digits", "3")]
        {
            set(&mut session, name, Some(value)).unwrap();
        }
        assert!(REPORTED.iter().all(|name| session.show(name).is_some()));
        assert!(session.wants_notices());
        set(&mut session, "client_min_messages", Some("warning")).unwrap();
        assert!(!session.wants_notices());
    }
}
