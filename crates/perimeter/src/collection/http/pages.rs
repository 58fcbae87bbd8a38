//! Pages of an answer, one after the other.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use reqwest::{StatusCode, Url};

use super::Table;
use super::config::Pages;
use crate::caller::Caller;
use crate::collection::declared::{Answers, Call, Taken};
use crate::collection::json_rows::{Pointer, at, checked};
use crate::collection::remote::Memory;
use crate::collection::web::{Failed, Question, Reply, Site};

/// A cursor or an address that is longer is none.
const NEXT_BYTES_MAX: usize = 8 << 10;

/// Where a scan stands.
pub struct Cursor {
    table: Arc<Table>,
    site: Arc<Site>,
    caller: Caller,
    taken: Arc<Taken>,
    calls: VecDeque<(Url, Call)>,
    now: Option<Now>,
    pages: usize,
}

/// The question that is being answered.
struct Now {
    first: Url,
    call: Call,
    /// The next page; none before the source has said that there is one.
    next: Option<Url>,
    /// Rows of the pages so far, and the number of the page.
    rows: usize,
    number: u64,
}

impl Cursor {
    pub fn new(table: Arc<Table>, site: Arc<Site>, caller: Caller, calls: Vec<(Url, Call)>) -> Cursor {
        let taken = Arc::default();
        Cursor { table, site, caller, taken, calls: calls.into(), now: None, pages: 0 }
    }

    pub fn counted(mut self, taken: Arc<Taken>) -> Cursor {
        self.taken = taken;
        self
    }

    /// The body of a page, and the next one in its headers. None: what the path names is not there.
    async fn ask(&self, url: &Url, memory: &Memory) -> Result<Option<(Vec<u8>, Option<String>)>, Failed> {
        self.taken.asked();
        let question = Question { url, accept: "application/json", headers: &[], body: None };
        let reply = self.site.ask(question, &self.caller).await?;
        match reply.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND | StatusCode::GONE if self.table.is_of_one_thing() => return Ok(None),
            StatusCode::NO_CONTENT => return Ok(Some((b"null".to_vec(), None))),
            status => return Err(Failed::Status(status)),
        }
        let link = next_link(&reply);
        Ok(Some((reply.body(memory).await?, link)))
    }

    /// The address of the page after this one.
    fn after(&self, now: &Now, url: &Url, body: &[u8], link: Option<String>) -> Result<Option<Url>, Failed> {
        let next = match &self.table.pages {
            None => None,
            Some(Pages::Cursor { at: pointer, parameter }) => {
                let cursor = text_at(body, pointer)?;
                cursor.map(|cursor| with_parameter(&now.first, parameter, &cursor))
            }
            Some(Pages::Link { at: pointer }) => {
                let address = match pointer {
                    Some(pointer) => text_at(body, pointer)?,
                    None => link,
                };
                // Relative to the page that says so.
                address.map(|address| url.join(&address).map_err(|_| Failed::Elsewhere)).transpose()?
            }
            // Known once the rows of this page are counted.
            Some(Pages::Offset { .. } | Pages::Number { .. }) => None,
        };
        match next {
            Some(next) if !self.site.has(&next) => Err(Failed::Elsewhere),
            Some(next) if next == *url => Err(Failed::Circle),
            next => Ok(next),
        }
    }

    /// The page to ask for now; `rows` is how many the one before had.
    fn goes_on(&self, now: &mut Now, rows: usize) -> Option<Url> {
        now.rows += rows;
        now.number += 1;
        match &self.table.pages {
            Some(Pages::Offset { parameter }) if rows > 0 => {
                Some(with_parameter(&now.first, parameter, &now.rows.to_string()))
            }
            Some(Pages::Number { parameter, first }) if rows > 0 => {
                Some(with_parameter(&now.first, parameter, &(first + now.number).to_string()))
            }
            Some(Pages::Offset { .. } | Pages::Number { .. }) => None,
            Some(Pages::Cursor { .. } | Pages::Link { .. }) | None => now.next.take(),
        }
    }

    fn begin(&mut self) -> Option<(Now, Url)> {
        let (first, call) = self.calls.pop_front()?;
        let url = match &self.table.pages {
            Some(Pages::Offset { parameter }) => with_parameter(&first, parameter, "0"),
            Some(Pages::Number { parameter, first: number }) => {
                with_parameter(&first, parameter, &number.to_string())
            }
            Some(Pages::Cursor { .. } | Pages::Link { .. }) | None => first.clone(),
        };
        Some((Now { first, call, next: None, rows: 0, number: 0 }, url))
    }
}

#[async_trait]
impl Answers for Cursor {
    async fn next(&mut self, rows: usize, memory: &Memory) -> Result<Option<(Vec<u8>, Call)>, Failed> {
        loop {
            let continued = self.now.take().and_then(|mut now| {
                let url = self.goes_on(&mut now, rows)?;
                Some((now, url))
            });
            let Some((mut now, url)) = continued.or_else(|| self.begin()) else { return Ok(None) };
            self.pages += 1;
            if self.pages > self.table.max_pages {
                return Err(Failed::TooManyPages(self.table.max_pages));
            }
            // What is not there has no rows and no more pages.
            let Some((body, link)) = self.ask(&url, memory).await? else { continue };
            now.next = self.after(&now, &url, &body, link)?;
            let call = now.call.clone();
            self.now = Some(now);
            return Ok(Some((body, call)));
        }
    }
}

/// The url with a parameter set, wherever it stands already.
fn with_parameter(url: &Url, name: &str, value: &str) -> Url {
    let mut with = url.clone();
    let others: Vec<(String, String)> = url
        .query_pairs()
        .filter(|(other, _)| other != name)
        .map(|(n, v)| (n.into_owned(), v.into_owned()))
        .collect();
    with.query_pairs_mut().clear().extend_pairs(others).append_pair(name, value);
    with
}

/// A text or a number; none where it is null, empty, false, or not there.
fn text_at(body: &[u8], pointer: &Pointer) -> Result<Option<String>, Failed> {
    let raw = at(checked(body)?, pointer).unwrap_or("null");
    if raw.len() > NEXT_BYTES_MAX {
        return Err(Failed::Form("what leads to the next page is too long"));
    }
    match serde_json::from_str(raw) {
        Ok(serde_json::Value::String(text)) => Ok(Some(text).filter(|text| !text.is_empty())),
        Ok(serde_json::Value::Number(number)) => Ok(Some(number.to_string())),
        Ok(serde_json::Value::Null | serde_json::Value::Bool(false)) => Ok(None),
        _ => Err(Failed::Form("what leads to the next page is neither a text nor a number")),
    }
}

/// The target of `rel="next"` (RFC 8288).
fn next_link(reply: &Reply) -> Option<String> {
    reply.headers("link").find_map(next_of)
}

fn next_of(header: &str) -> Option<String> {
    let mut rest = header.get(..NEXT_BYTES_MAX).unwrap_or(header);
    while let Some((_, behind)) = rest.split_once('<') {
        let (target, behind) = behind.split_once('>')?;
        let (parameters, after) = match behind.find('<') {
            Some(at) => behind.split_at(at),
            None => (behind, ""),
        };
        let is_next = parameters.split([';', ',']).any(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or_default();
            let value = value.trim().trim_matches('"');
            name.trim().eq_ignore_ascii_case("rel")
                && value.split(' ').any(|rel| rel.eq_ignore_ascii_case("next"))
        });
        if is_next {
            return Some(target.to_owned());
        }
        rest = after;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_read_as_rfc_8288_has_them() {
        for (header, expected) in [
            ("<https://a/b?page=2>; rel=\"next\"", Some("https://a/b?page=2")),
            ("<a?p=0>; rel=prev, <a?p=2>; title=\"x\"; rel=\"last next\"", Some("a?p=2")),
            ("<a>; rel=\"prev\"", None),
            ("<a; rel=\"next\"", None),
            ("next", None),
            ("", None),
        ] {
            assert_eq!(next_of(header).as_deref(), expected, "{header}");
        }
    }

    #[test]
    fn a_parameter_is_set_and_not_added() {
        let url: Url = "http://localhost/a?b=1&page=1&c=%26".parse().unwrap();
        assert_eq!(with_parameter(&url, "page", "a&b").as_str(), "http://localhost/a?b=1&c=%26&page=a%26b");
    }

    #[test]
    fn what_leads_to_the_next_page_is_a_text_or_a_number() {
        let pointer: Pointer = serde_json::from_str("\"/n\"").unwrap();
        let of = |body: &str| text_at(body.as_bytes(), &pointer);
        assert_eq!(of(r#"{"n":"x"}"#).unwrap().as_deref(), Some("x"));
        assert_eq!(of(r#"{"n":7}"#).unwrap().as_deref(), Some("7"));
        for end in ["{}", r#"{"n":null}"#, r#"{"n":""}"#, r#"{"n":false}"#] {
            assert_eq!(of(end).unwrap(), None, "{end}");
        }
        assert!(of(r#"{"n":{}}"#).is_err() && of(&format!(r#"{{"n":"{}"}}"#, "x".repeat(9_000))).is_err());
    }
}
