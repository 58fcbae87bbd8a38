//! Who asks, in the form in which rules decide: names that were checked, and claims as texts.
//!
//! Names are compared character by character. So that two names that look alike cannot be two
//! principals, a name of a principal has to be in the normal form NFKC, of one script (UTS 39), and
//! without characters that are not seen. A caller with another name is refused. A group of such a
//! name is as if it were not there: no rule can name it either.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use unicode_normalization::is_nfkc;
use unicode_security::{GeneralSecurityProfile as _, MixedScript as _};

use super::{Action, Request};

const MAX_NAME_CHARS: usize = 256;
/// A longer purpose is refused and not cut: what was cut could be what a rule looks for.
const MAX_PURPOSE_CHARS: usize = 200;
const MAX_GROUPS: usize = 1_000;
const MAX_CONSENTS: usize = 100;

/// The type of a principal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PrincipalKind {
    User,
    Service,
    Agent,
}

impl PrincipalKind {
    pub(super) fn name(self) -> &'static str {
        match self {
            PrincipalKind::User => "User",
            PrincipalKind::Service => "Service",
            PrincipalKind::Agent => "Agent",
        }
    }
}

/// Who asks.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    pub(super) kind: PrincipalKind,
    /// Without its type.
    pub(super) name: String,
    /// As it came, for rows that hold it.
    pub(super) principal: String,
    pub(super) groups: Vec<String>,
    pub(super) agent: Option<String>,
    pub(super) on_behalf_of: Option<String>,
    pub(super) purpose: String,
    pub(super) claims: Map<String, Value>,
    pub(super) tool: String,
    pub(super) consent: Vec<String>,
    pub(super) action: Action,
    /// Whole minutes since 1970.
    pub(super) minute: i64,
    /// Groups that are left out.
    pub(super) groups_left_out: usize,
}

/// Why a caller cannot be decided about. It is told to the caller.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SubjectError {
    #[error("the name of the {0} {1}")]
    Name(&'static str, NameError),
    #[error("the purpose has more than {MAX_PURPOSE_CHARS} characters")]
    LongPurpose,
    #[error("a {0} has characters that are not seen")]
    Unseen(&'static str),
    #[error("there are more than {MAX_GROUPS} groups")]
    Groups,
    #[error("there are more than {MAX_CONSENTS} consents")]
    Consents,
}

/// What is wrong with a name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    #[error("is empty")]
    Empty,
    #[error("has more than {MAX_NAME_CHARS} characters")]
    Long,
    #[error("has blanks at its ends")]
    Blanks,
    #[error("has characters that are not seen, or are not for names")]
    Unseen,
    #[error("is not in the normal form NFKC")]
    Form,
    #[error("has letters of several scripts")]
    Scripts,
}

/// Whether something that is named by a token may have this name.
pub(super) fn check_name(name: &str) -> Result<(), NameError> {
    let wrong = match name {
        "" => NameError::Empty,
        _ if name.chars().nth(MAX_NAME_CHARS).is_some() => NameError::Long,
        _ if name.trim() != name => NameError::Blanks,
        _ if !name.chars().all(is_of_names) => NameError::Unseen,
        _ if !is_nfkc(name) => NameError::Form,
        _ if !name.is_single_script() => NameError::Scripts,
        _ => return Ok(()),
    };
    Err(wrong)
}

fn is_of_names(c: char) -> bool {
    match c.is_ascii() {
        true => c == ' ' || c.is_ascii_graphic(),
        false => c.identifier_allowed(),
    }
}

/// What a program calls itself, which is not worth refusing a call.
fn agent_name(name: &str) -> String {
    let seen = |c: char| if is_of_names(c) { c } else { '?' };
    name.trim().chars().take(MAX_NAME_CHARS).map(seen).collect()
}

/// Runs of blanks are one blank.
fn free_text(text: &str, what: &'static str) -> Result<String, SubjectError> {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let unseen = |c: char| c.is_control() || (!c.is_ascii() && !c.is_alphanumeric() && is_format(c));
    match text.chars().any(unseen) {
        true => Err(SubjectError::Unseen(what)),
        false => Ok(text),
    }
}

/// A purpose as rules take it.
pub fn checked_purpose(text: &str) -> Result<String, SubjectError> {
    match text.chars().nth(MAX_PURPOSE_CHARS) {
        Some(_) => Err(SubjectError::LongPurpose),
        None => free_text(text, "purpose"),
    }
}

/// Characters that are not seen, and turn the order of others or split words: they hide what a
/// purpose says.
fn is_format(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

impl Subject {
    pub(super) fn of(request: &Request<'_>) -> Result<Subject, SubjectError> {
        let caller = request.caller;
        check_name(&caller.principal).map_err(|e| SubjectError::Name("principal", e))?;
        if let Some(person) = &caller.on_behalf_of {
            check_name(person).map_err(|e| SubjectError::Name("person it acts for", e))?;
        }
        let (kind, name) = split_kind(&caller.principal);
        check_name(name).map_err(|e| SubjectError::Name("principal", e))?;
        if caller.groups.len() > MAX_GROUPS {
            return Err(SubjectError::Groups);
        }
        if request.consent.len() > MAX_CONSENTS {
            return Err(SubjectError::Consents);
        }
        let mut groups: Vec<String> =
            caller.groups.iter().filter(|group| check_name(group).is_ok()).cloned().collect();
        let groups_left_out = caller.groups.len() - groups.len();
        groups.sort();
        groups.dedup();
        let consent = request.consent.iter().map(|text| free_text(text, "consent"));
        let mut consent = consent.collect::<Result<Vec<String>, _>>()?;
        consent.sort();
        consent.dedup();
        Ok(Subject {
            kind,
            name: name.to_owned(),
            principal: caller.principal.clone(),
            groups,
            agent: caller.agent.as_deref().map(agent_name).filter(|name| !name.is_empty()),
            on_behalf_of: caller.on_behalf_of.clone(),
            purpose: checked_purpose(&caller.purpose)?,
            claims: caller.claims.clone(),
            tool: agent_name(request.tool),
            consent,
            action: request.action,
            minute: request.time_ms.div_euclid(60_000),
            groups_left_out,
        })
    }

    /// The claims that policies name, as texts.
    pub(super) fn tags<'a>(
        &'a self,
        names: impl Iterator<Item = &'a String>,
    ) -> BTreeMap<&'a str, Vec<String>> {
        let given = names.filter_map(|name| Some((name.as_str(), texts(self.claims.get(name)?)?)));
        given.collect()
    }

    /// Whether the token has a claim that is a tag.
    pub(super) fn has_tag(&self, name: &str) -> bool {
        self.claims.get(name).and_then(texts).is_some()
    }

    /// What policies decide by, so that equal callers are decided about once.
    pub(super) fn class<'a>(&'a self, tags: impl Iterator<Item = &'a String>, by_time: bool) -> [u8; 32] {
        let mut hash = Sha256::new();
        let mut add = |text: &str| {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        };
        let mut list = |texts: &[&str]| {
            add(&texts.len().to_string());
            texts.iter().for_each(|text| add(text));
        };
        list(&[self.kind.name(), &self.name, &self.purpose, &self.tool, self.action.name()]);
        list(&self.agent.iter().map(String::as_str).collect::<Vec<_>>());
        list(&self.on_behalf_of.iter().map(String::as_str).collect::<Vec<_>>());
        list(&self.groups.iter().map(String::as_str).collect::<Vec<_>>());
        list(&self.consent.iter().map(String::as_str).collect::<Vec<_>>());
        for (name, values) in self.tags(tags) {
            list(&[name]);
            list(&values.iter().map(String::as_str).collect::<Vec<_>>());
        }
        let minute = if by_time { self.minute } else { 0 };
        list(&[&minute.to_string()]);
        hash.finalize().into()
    }
}

/// `Service:NAME` and `Agent:NAME`; whatever else is a user. Tokens of an issuer are called `oidc:…`, and names in a token
/// file have no colon, so that nobody chooses the type.
pub(super) fn split_kind(principal: &str) -> (PrincipalKind, &str) {
    let kinds = [PrincipalKind::Service, PrincipalKind::Agent, PrincipalKind::User];
    let typed = kinds.into_iter().find_map(|kind| {
        let name = principal.strip_prefix(kind.name())?.strip_prefix(':')?;
        Some((kind, name))
    });
    typed.unwrap_or((PrincipalKind::User, principal))
}

/// The texts of a claim: of a text, a number, a truth value, or a list of those. None: of anything
/// else.
fn texts(claim: &Value) -> Option<Vec<String>> {
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    match claim {
        Value::Array(list) => list.iter().map(text).collect(),
        one => Some(vec![text(one)?]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_only_look_like_others_are_refused() {
        for name in [
            "alice",
            "oidc:alice@clinic.example",
            "josé",
            "Ärzte",
            "аня",
            "山田さん",
            "CORP\\alice",
            "O'Neill",
        ] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for (name, expected) in [
            ("", NameError::Empty),
            (" alice", NameError::Blanks),
            ("al\u{200b}ice", NameError::Unseen),
            ("alice\0", NameError::Unseen),
            ("\u{202e}ecila", NameError::Unseen),
            ("ａlice", NameError::Unseen),
            // A decomposed é.
            ("jose\u{301}", NameError::Form),
            // A Cyrillic а.
            ("\u{430}lice", NameError::Scripts),
        ] {
            assert_eq!(check_name(name), Err(expected), "{name:?}");
        }
        assert_eq!(check_name(&"a".repeat(257)), Err(NameError::Long));
    }

    #[test]
    fn nobody_takes_a_type_by_its_name() {
        for (principal, kind, name) in [
            ("alice", PrincipalKind::User, "alice"),
            ("Service:etl", PrincipalKind::Service, "etl"),
            ("Agent:bot", PrincipalKind::Agent, "bot"),
            ("oidc:Service:etl", PrincipalKind::User, "oidc:Service:etl"),
            ("service:etl", PrincipalKind::User, "service:etl"),
            ("Services:etl", PrincipalKind::User, "Services:etl"),
        ] {
            assert_eq!(split_kind(principal), (kind, name));
        }
    }

    #[test]
    fn a_purpose_is_told_as_it_is_seen() {
        assert_eq!(free_text("  billing \n of  March ", "purpose"), Ok("billing of March".to_owned()));
        for hidden in ["mar\u{200b}keting", "a\u{202e}b", "a\u{e0041}b", "a\u{7}b"] {
            assert_eq!(free_text(hidden, "purpose"), Err(SubjectError::Unseen("purpose")), "{hidden:?}");
        }
        assert_eq!(checked_purpose(&"ä".repeat(200)), Ok("ä".repeat(200)));
        assert_eq!(checked_purpose(&"ä".repeat(201)), Err(SubjectError::LongPurpose));
        assert_eq!(free_text("Überweisung → Klinik", "purpose"), Ok("Überweisung → Klinik".to_owned()));
    }
}
