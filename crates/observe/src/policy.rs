//! Who sees what: the policy file, which confines callers to topics and groups by their names.
//!
//! The file is TOML. Its rules are tried in order, and the first one that means a caller decides what the caller sees; whom no rule means
//! sees no topic and no group. A name is given in full, or with `*` at its end for all that begin so.
//!
//! ```toml
//! [[rule]]
//! name = "payments"
//! principals = ["payments-bot"]              # names of tokens, or oidc:SUB
//! topics = ["payments.*", "invoices"]
//! groups = ["payments-*"]
//!
//! [[rule]]
//! name = "operators"
//! claims = { groups = ["kafka-operators"] }  # of an access token: each of these has one of its values
//! topics = ["*"]
//! groups = ["*"]
//! ```
//!
//! Invariant: a file that is wrong in any part changes nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kafscale_agent::identity::Principal;
use kafscale_meta::files::read_small_text;
use serde::Deserialize;

use crate::view::sight::{Names, Sight};

const MAX_FILE_BYTES: u64 = 1 << 20;
/// Each rule may hold a copy of what it lets see.
const MAX_RULES: usize = 100;

/// What is wrong with a policy file.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    #[error("policy file {}: {error}", path.display())]
    Unreadable { path: PathBuf, error: std::io::Error },
    #[error("policy file {}: {error}", path.display())]
    Toml { path: PathBuf, error: toml::de::Error },
    #[error("policy file {}, rule {rule:?}: {why}", path.display())]
    Rule { path: PathBuf, rule: String, why: &'static str },
    #[error("policy file {} has {rules} rules; there may be 1 to {MAX_RULES}", path.display())]
    Rules { path: PathBuf, rules: usize },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    rule: Vec<RuleText>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleText {
    name: String,
    #[serde(default)]
    principals: Vec<String>,
    #[serde(default)]
    claims: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    everyone: bool,
    #[serde(default)]
    topics: Vec<String>,
    #[serde(default)]
    groups: Vec<String>,
}

/// A policy file that was read, and is right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyText {
    rules: Vec<RuleText>,
}

impl PolicyText {
    pub fn read(path: &Path) -> Result<Self, PolicyError> {
        let path = path.to_owned();
        let text = match read_small_text(&path, MAX_FILE_BYTES) {
            Ok(text) => text,
            Err(error) => return Err(PolicyError::Unreadable { path, error }),
        };
        let File { rule: rules } = match toml::from_str(&text) {
            Ok(file) => file,
            Err(error) => return Err(PolicyError::Toml { path, error }),
        };
        if rules.is_empty() || rules.len() > MAX_RULES {
            return Err(PolicyError::Rules { path, rules: rules.len() });
        }
        match rules.iter().find_map(|rule| Some((rule, rule.problem()?))) {
            Some((rule, why)) => Err(PolicyError::Rule { path, rule: rule.name.clone(), why }),
            None => Ok(Self { rules }),
        }
    }
}

impl RuleText {
    fn problem(&self) -> Option<&'static str> {
        let whom = [!self.principals.is_empty(), !self.claims.is_empty(), self.everyone];
        let mut names = self.topics.iter().chain(&self.groups);
        let within = |name: &String| name.trim_end_matches('*').contains('*') || name.ends_with("**");
        if self.name.trim().is_empty() || self.name.len() > 100 {
            Some("a rule has a name of 1 to 100 bytes")
        } else if whom.into_iter().filter(|given| *given).count() != 1 {
            Some("a rule says whom it means in one way: principals, claims, or everyone = true")
        } else if self.claims.values().any(Vec::is_empty) {
            Some("a claim needs the values that it may have")
        } else if names.clone().any(String::is_empty) {
            Some("a name must not be empty: \"*\" stands for all")
        } else if names.any(within) {
            Some("* stands at the end of a name, for all that begin so")
        } else {
            None
        }
    }

    fn means(&self, principal: &Principal) -> bool {
        let has = |(claim, values): (&String, &Vec<String>)| {
            principal.claim(claim).any(|value| values.iter().any(|wanted| wanted == value))
        };
        let by_claims = !self.claims.is_empty() && self.claims.iter().all(has);
        self.everyone || by_claims || self.principals.iter().any(|name| **name == *principal.name)
    }
}

/// The rules in force, each with what its callers see.
#[derive(Debug)]
pub struct Policies {
    text: PolicyText,
    /// In the order of the rules, and at the end whoever no rule means.
    sights: Vec<Arc<Sight>>,
}

impl Policies {
    /// Everybody sees everything.
    pub fn open() -> Self {
        Self { text: PolicyText::default(), sights: vec![Arc::new(Sight::open())] }
    }

    pub fn new(text: PolicyText) -> Self {
        let sight = |rule: &RuleText| {
            let (topics, groups) = (Names::new(&rule.topics), Names::new(&rule.groups));
            Arc::new(Sight::new(rule.name.as_str(), topics, groups))
        };
        let mut sights: Vec<_> = text.rules.iter().map(sight).collect();
        let nothing = || Names::new(&[]);
        sights.push(Arc::new(Sight::new("no rule", nothing(), nothing())));
        Self { text, sights }
    }

    pub fn are_of(&self, text: &PolicyText) -> bool {
        self.text == *text
    }

    /// What a caller sees.
    pub fn sight(&self, principal: &Principal) -> &Arc<Sight> {
        let rule = self.text.rules.iter().position(|rule| rule.means(principal));
        &self.sights[rule.unwrap_or(self.sights.len() - 1)]
    }

    pub fn sights(&self) -> &[Arc<Sight>] {
        &self.sights
    }
}

#[cfg(test)]
mod tests {
    use kafscale_agent::identity::Scope;
    use serde_json::{Value, json};

    use super::*;

    fn read(text: &str) -> Result<PolicyText, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.toml");
        std::fs::write(&path, text).unwrap();
        PolicyText::read(&path).map_err(|e| e.to_string())
    }

    const RULES: &str = r#"
        [[rule]]
        name = "bot"
        principals = ["payments-bot", "oidc:robot"]
        topics = ["payments.*", "invoices"]
        groups = ["payments-*"]

        [[rule]]
        name = "both claims"
        claims = { groups = ["ops", "sre"], "/realm_access/roles" = ["reader"] }
        topics = ["*"]
        groups = ["*"]
    "#;

    #[test]
    fn the_first_rule_that_means_a_caller_decides() {
        let policies = Policies::new(read(RULES).unwrap());
        let sight = |name: &str, claims: Value| {
            let Value::Object(claims) = claims else { panic!("claims are an object") };
            let principal = Principal::new(name, vec![Scope::Observe]).with(None, claims);
            let sight = policies.sight(&principal);
            (sight.rule.to_string(), sight.topics.sees("payments.eu"), sight.topics.sees("secret"))
        };
        let both = json!({"groups": ["x", "sre"], "realm_access": {"roles": ["reader"]}});
        assert_eq!(sight("payments-bot", json!({})), ("bot".into(), true, false));
        assert_eq!(sight("oidc:robot", both.clone()), ("bot".into(), true, false));
        assert_eq!(sight("oidc:a", both), ("both claims".into(), true, true));
        assert_eq!(sight("oidc:a", json!({"groups": ["sre"]})), ("no rule".into(), false, false));
        assert_eq!(sight("payments-bot2", json!({})), ("no rule".into(), false, false));
        assert_eq!(sight("local", json!({})), ("no rule".into(), false, false));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let rule = |more: &str| format!("[[rule]]\nname = \"r\"\n{more}");
        for (text, why) in [
            (String::new(), "has 0 rules"),
            ("[[rules]]".into(), "unknown field"),
            (rule(""), "whom it means"),
            (rule("everyone = true\nprincipals = [\"a\"]"), "whom it means"),
            (rule("claims = {}"), "whom it means"),
            (rule("claims = { groups = [] }"), "values"),
            (rule("everyone = true\ntopics = [\"\"]"), "must not be empty"),
            (rule("everyone = true\ntopics = [\"a*b\"]"), "at the end"),
            (rule("everyone = true\ngroups = [\"a**\"]"), "at the end"),
            (rule("everyone = true\ntopic = [\"a\"]"), "unknown field"),
            ("[[rule]]\nname = \"\"\neveryone = true".into(), "has a name"),
        ] {
            let error = read(&text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
        read(&rule("everyone = true")).unwrap();
    }
}
