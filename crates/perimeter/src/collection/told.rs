//! What a source is told of the caller: its role there, variables of a session, and a comment at
//! the head of each statement, so that the source's own log says on whose behalf it was.
//!
//! Invariant: nothing of a caller ends the comment or is anything but letters, digits and `%._:@-`
//! in it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Deserialize;

use crate::caller::Caller;

/// What of a caller a source is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    Principal,
    /// Separated by commas.
    Groups,
    Agent,
    OnBehalfOf,
    Purpose,
}

impl Told {
    pub fn of(self, caller: &Caller) -> String {
        match self {
            Told::Principal => caller.principal.clone(),
            Told::Groups => caller.groups.join(","),
            Told::Agent => caller.agent.clone().unwrap_or_default(),
            Told::OnBehalfOf => caller.on_behalf_of.clone().unwrap_or_default(),
            Told::Purpose => caller.purpose.clone(),
        }
    }
}

/// The caller is not in the mapping of roles.
#[derive(Debug, thiserror::Error)]
#[error("the caller has no role in `roles`")]
pub struct NoRole;

/// The principal's own role, or else that of its first group that has one. None: there is no
/// mapping.
pub fn role_of(roles: &BTreeMap<String, String>, caller: &Caller) -> Result<Option<String>, NoRole> {
    if roles.is_empty() {
        return Ok(None);
    }
    let names = std::iter::once(&caller.principal).chain(&caller.groups);
    names.filter_map(|name| roles.get(name)).next().cloned().map(Some).ok_or(NoRole)
}

/// All roles that a statement may be made with.
pub fn roles(roles: &BTreeMap<String, String>) -> Vec<Option<String>> {
    match roles.is_empty() {
        true => vec![None],
        false => roles.values().cloned().map(Some).collect(),
    }
}

/// Of each part, escaped.
const PART_BYTES_MAX: usize = 256;

/// `/* kafscale principal=alice agent=claude purpose=… */`, and a space behind it.
pub fn comment(caller: &Caller) -> String {
    format!("/* {} */ ", named(caller))
}

/// `kafscale principal=alice agent=claude purpose=…`
pub fn named(caller: &Caller) -> String {
    let parts = [
        ("principal", Some(caller.principal.as_str())),
        ("agent", caller.agent.as_deref()),
        ("on_behalf_of", caller.on_behalf_of.as_deref()),
        ("purpose", Some(caller.purpose.as_str())),
    ];
    let mut named = String::from("kafscale");
    for (name, value) in parts {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            named.push_str(&format!(" {name}={}", escaped(value)));
        }
    }
    named
}

/// Percent-encoded, and cut.
pub fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        if escaped.len() + 3 > PART_BYTES_MAX {
            break;
        }
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b':' | b'@' | b'-' => {
                escaped.push(char::from(byte));
            }
            other => write!(escaped, "%{other:02X}").expect("a String takes all"),
        }
    }
    // Two of them begin a comment that lasts to the end of the line.
    escaped.replace("--", "%2D%2D")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(principal: &str, purpose: &str) -> String {
        comment(&Caller { principal: principal.into(), purpose: purpose.into(), ..Caller::default() })
    }

    #[test]
    fn a_caller_is_named() {
        assert_eq!(of("alice@example.org", ""), "/* kafscale principal=alice@example.org */ ");
        assert_eq!(
            of("alice", "care of ward 3"),
            "/* kafscale principal=alice purpose=care%20of%20ward%203 */ "
        );
    }

    #[test]
    fn a_mapping_of_roles_has_to_have_one() {
        let caller =
            Caller { principal: "alice".into(), groups: vec!["a".into(), "b".into()], ..Caller::default() };
        let of = |pairs: &[(&str, &str)]| {
            let roles = pairs.iter().map(|(name, role)| (name.to_string(), role.to_string())).collect();
            role_of(&roles, &caller).map_err(|_| ())
        };
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&[("b", "of_b"), ("alice", "hers")]), Ok(Some("hers".into())));
        assert_eq!(of(&[("b", "of_b"), ("a", "of_a")]), Ok(Some("of_a".into())));
        assert_eq!(of(&[("bob", "his")]), Err(()));
    }

    #[test]
    fn nothing_of_a_caller_ends_the_comment() {
        for text in [
            "*/ DROP TABLE t; /*",
            "a\n-- b",
            "\0",
            "' \" ` $$ \\",
            "!50000 x",
            "+ SET_VAR(x=1)",
            "＊／",
            "----",
        ] {
            let comment = of(text, text);
            let inner =
                comment.strip_prefix("/*").and_then(|rest| rest.strip_suffix("*/ ")).expect("the ends");
            assert!(!inner.contains(['*', '/', '\n', '\'', '"', '`', '\\', '!', '+', '\0']), "{comment}");
            assert!(!inner.contains("--") && inner.is_ascii(), "{comment}");
        }
        assert!(of(&"ä".repeat(10_000), &"-".repeat(10_000)).len() < 2_000);
    }
}
