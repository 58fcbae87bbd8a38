//! Reading keys: a few hundred at a time, and of each only what the statement wants.
//!
//! A string, or a collection of elements, that is larger than the limits here is NULL and counted,
//! and is not fetched.

use std::borrow::Cow;
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use kafscale_sql::topic::cell::Cell;
use redis::Value;
use serde_json::{Map, Value as Json, json};

use super::keys::Keys;
use super::server::{Failed, Read, Server};
use crate::collection::rows::Rows;

/// Keys of one round.
const ROUND: usize = 256;
const VALUE_BYTES_MAX: i64 = 1 << 20;
const ELEMENTS_MAX: i64 = 1_000;

/// The columns of a table, in the order of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Wanted {
    Key,
    Type,
    Value,
    Ttl,
    Field(String),
}

/// What a round has put.
pub struct Kept {
    pub rows: usize,
    pub bytes: usize,
}

/// Where a scan stands.
pub struct Cursor {
    server: Arc<Server>,
    keys: Keys,
    /// Of SCAN; none before the first and after the last.
    position: Option<Vec<u8>>,
    is_begun: bool,
    /// SCAN may give a key twice.
    seen: HashSet<Vec<u8>>,
    waiting: VecDeque<Vec<u8>>,
}

impl Cursor {
    pub fn new(server: Arc<Server>, keys: Keys) -> Cursor {
        Cursor {
            server,
            keys,
            position: None,
            is_begun: false,
            seen: HashSet::new(),
            waiting: VecDeque::new(),
        }
    }

    /// Puts the rows of the next keys, `most` at most. None: there are no more.
    pub async fn round(
        &mut self,
        wanted: &[Wanted],
        most: usize,
        rows: &mut Rows,
    ) -> Result<Option<Kept>, Failed> {
        while self.waiting.is_empty() {
            if !self.find().await? {
                return Ok(None);
            }
        }
        let count = self.waiting.len().min(ROUND).min(most.max(1));
        let keys: Vec<Vec<u8>> = self.waiting.drain(..count).collect();
        let found = describe(&self.server, &keys).await?;
        let contents = contents(&self.server, &found, wanted).await?;
        let mut kept = Kept { rows: found.len(), bytes: keys.iter().map(Vec::len).sum() };
        for (key, content) in found.iter().zip(contents) {
            kept.bytes += content.bytes();
            put(rows, wanted, key, &content);
        }
        Ok(Some(kept))
    }

    /// False: there are no more.
    async fn find(&mut self) -> Result<bool, Failed> {
        if self.is_begun && self.position.is_none() {
            return Ok(false);
        }
        let prefix = match &self.keys {
            Keys::Named(names) => {
                self.waiting.extend(names.iter().map(|name| name.as_bytes().to_vec()));
                self.is_begun = true;
                return Ok(!names.is_empty());
            }
            Keys::Prefix(prefix) => prefix,
        };
        let mut scan = Read::Scan.cmd();
        scan.arg(self.position.as_deref().unwrap_or(b"0"));
        scan.arg("MATCH").arg(Keys::pattern(prefix)).arg("COUNT").arg(1_000);
        let answer = self.server.ask(vec![scan]).await?.pop();
        let Some(Value::Array(parts)) = answer else { return Err(failed_or_form(answer)) };
        let (Some(Value::BulkString(position)), Some(Value::Array(keys))) = (parts.first(), parts.get(1))
        else {
            return Err(Failed::Form);
        };
        self.is_begun = true;
        self.position = (position.as_slice() != b"0").then(|| position.clone());
        for key in keys {
            if let Value::BulkString(key) = key
                && self.seen.insert(key.clone())
            {
                self.waiting.push_back(key.clone());
            }
        }
        match self.seen.len() > self.server.config.keys_max() {
            true => Err(Failed::TooMany(self.server.config.keys_max())),
            false => Ok(true),
        }
    }
}

fn failed_or_form(answer: Option<Value>) -> Failed {
    match answer {
        Some(Value::ServerError(error)) => Failed::Driver(error.into()),
        _ => Failed::Form,
    }
}

/// A key that exists.
struct Found {
    key: Vec<u8>,
    kind: String,
    /// Milliseconds, or below zero where there is none.
    ttl: i64,
    /// Bytes or elements.
    size: i64,
}

async fn describe(server: &Server, keys: &[Vec<u8>]) -> Result<Vec<Found>, Failed> {
    let about = |key: &Vec<u8>| {
        [Read::Type, Read::Pttl].map(|read| {
            let mut cmd = read.cmd();
            cmd.arg(key);
            cmd
        })
    };
    let answers = server.ask(keys.iter().flat_map(about).collect()).await?;
    let mut found = Vec::new();
    for (key, answer) in keys.iter().zip(answers.chunks_exact(2)) {
        let kind = match &answer[0] {
            Value::SimpleString(kind) => kind.clone(),
            other => return Err(failed_or_form(Some(other.clone()))),
        };
        // It may have gone since it was found.
        if kind != "none" {
            found.push(Found { key: key.clone(), kind, ttl: int(&answer[1])?, size: 0 });
        }
    }
    let sized: Vec<_> = found
        .iter()
        .map(|found| {
            let read = match found.kind.as_str() {
                "string" => Read::StrLen,
                "hash" => Read::HLen,
                "list" => Read::LLen,
                "set" => Read::SCard,
                "zset" => Read::ZCard,
                _ => Read::Type,
            };
            let mut cmd = read.cmd();
            cmd.arg(&found.key);
            cmd
        })
        .collect();
    let sizes = if sized.is_empty() { Vec::new() } else { server.ask(sized).await? };
    for (found, size) in found.iter_mut().zip(sizes) {
        // Of what has no size, the value is not read.
        found.size = int(&size).unwrap_or(i64::MAX);
    }
    Ok(found)
}

fn int(value: &Value) -> Result<i64, Failed> {
    match value {
        Value::Int(value) => Ok(*value),
        other => Err(failed_or_form(Some(other.clone()))),
    }
}

/// What was read of a key.
#[derive(Default)]
struct Content {
    /// As text; none where it is too large.
    value: Option<String>,
    fields: Vec<Option<Vec<u8>>>,
}

impl Content {
    fn bytes(&self) -> usize {
        let fields = self.fields.iter().flatten().map(Vec::len).sum::<usize>();
        self.value.as_ref().map_or(0, String::len) + fields
    }
}

async fn contents(server: &Server, found: &[Found], wanted: &[Wanted]) -> Result<Vec<Content>, Failed> {
    let fields: Vec<&String> =
        wanted.iter().filter_map(|w| if let Wanted::Field(name) = w { Some(name) } else { None }).collect();
    let with_value = wanted.contains(&Wanted::Value);
    let (mut commands, mut asked) = (Vec::new(), Vec::new());
    for Found { key, kind, size, .. } in found {
        let value = with_value.then(|| value_of(kind, *size)).flatten().map(|(read, range)| {
            let mut cmd = read.cmd();
            cmd.arg(key);
            if let Some((first, last)) = range {
                cmd.arg(first).arg(last);
            }
            if matches!(read, Read::ZRange) {
                cmd.arg("WITHSCORES");
            }
            cmd
        });
        let of_hash = (kind == "hash" && !fields.is_empty()).then(|| {
            let mut cmd = Read::HMGet.cmd();
            cmd.arg(key).arg(&fields);
            cmd
        });
        asked.push((value.is_some(), of_hash.is_some()));
        commands.extend(value.into_iter().chain(of_hash));
    }
    let answers = if commands.is_empty() { Vec::new() } else { server.ask(commands).await? };
    let mut answers = answers.into_iter();
    let mut contents = Vec::new();
    for (Found { kind, .. }, (has_value, has_fields)) in found.iter().zip(asked) {
        let mut content = Content::default();
        if has_value {
            content.value = answers.next().and_then(|value| value_text(kind, value));
        }
        if has_fields && let Some(Value::Array(values)) = answers.next() {
            let bytes = |value| if let Value::BulkString(bytes) = value { Some(bytes) } else { None };
            content.fields = values.into_iter().map(bytes).collect();
        }
        contents.push(content);
    }
    Ok(contents)
}

/// The command for a whole value, and its range.
fn value_of(kind: &str, size: i64) -> Option<(Read, Option<(i64, i64)>)> {
    let is_small = size <= if kind == "string" { VALUE_BYTES_MAX } else { ELEMENTS_MAX };
    // It may have grown since: the ranges hold.
    Some(match kind {
        _ if !is_small => return None,
        "string" => (Read::GetRange, Some((0, VALUE_BYTES_MAX))),
        "hash" => (Read::HGetAll, None),
        "list" => (Read::LRange, Some((0, ELEMENTS_MAX))),
        "set" => (Read::SMembers, None),
        "zset" => (Read::ZRange, Some((0, ELEMENTS_MAX))),
        _ => return None,
    })
}

/// A string as it is, anything else as JSON: hashes and sorted sets as objects, sets in order.
fn value_text(kind: &str, value: Value) -> Option<String> {
    match (kind, value) {
        ("string", Value::BulkString(bytes)) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        ("list", Value::Array(values)) => Some(json!(texts(values)).to_string()),
        ("set", Value::Array(values)) => {
            let mut members = texts(values);
            members.sort();
            Some(json!(members).to_string())
        }
        ("hash" | "zset", Value::Array(values)) => {
            let mut texts = texts(values).into_iter();
            let mut object = Map::new();
            while let (Some(name), Some(value)) = (texts.next(), texts.next()) {
                let number = value.parse::<f64>().ok().filter(|_| kind == "zset");
                object.insert(name, number.map_or(Json::String(value), |number| json!(number)));
            }
            object.sort_keys();
            Some(Json::Object(object).to_string())
        }
        _ => None,
    }
}

fn texts(values: Vec<Value>) -> Vec<String> {
    let text = |value| match value {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        Value::SimpleString(text) => Some(text),
        _ => None,
    };
    values.into_iter().filter_map(text).collect()
}

fn put(rows: &mut Rows, wanted: &[Wanted], found: &Found, content: &Content) {
    let mut fields = content.fields.iter();
    for (at, column) in wanted.iter().enumerate() {
        let cell = match column {
            Wanted::Key => Cell::Text(String::from_utf8_lossy(&found.key)),
            Wanted::Type => Cell::Text(Cow::Borrowed(&found.kind)),
            Wanted::Value => content.value.as_deref().map_or(Cell::Misfit, |value| Cell::Text(value.into())),
            // Seconds, and a part of one counts.
            Wanted::Ttl => {
                if found.ttl < 0 {
                    Cell::Null
                } else {
                    Cell::Int((found.ttl + 999) / 1_000)
                }
            }
            Wanted::Field(..) => match fields.next() {
                Some(Some(bytes)) => Cell::Text(String::from_utf8_lossy(bytes)),
                Some(None) | None => Cell::Null,
            },
        };
        rows.put(at, &cell);
    }
    rows.end_row();
}
