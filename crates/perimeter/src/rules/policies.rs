//! Policies in Cedar: which actions of whom are permitted on which collections, tables and columns.
//!
//! Invariant: what no policy permits is not permitted, and a forbid that cannot be evaluated
//! forbids. (Cedar itself skips it.)

use std::cell::OnceCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::sync::Arc;

use cedar_policy::{
    Authorizer, Context, Effect, Entities, Entity, EntityId, EntityTypeName, EntityUid, Policy, PolicyId,
    PolicySet, Request as CedarRequest, ResourceConstraint, RestrictedExpression, Schema, ValidationMode,
    ValidationWarning, Validator,
};
use miette::Diagnostic;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::cache::Cache;
use super::error::{Place, RulesError, Warning};
use super::guard::{Guard, Truth};
use super::losses::Ids;
use super::resource::{Names, Resource, expected_name};
use super::subject::{Subject, check_name};

/// What policies are written against.
pub const SCHEMA: &str = include_str!("schema.cedarschema");
/// Decisions that are remembered, in each of two generations.
const CACHED: usize = 8_192;
/// Policies that a decision names.
const MAX_NAMED: usize = 20;

/// Policies that were checked.
#[derive(Debug)]
pub(super) struct Policies {
    schema: Schema,
    all: Vec<Rule>,
    enforced: PolicySet,
    ids: HashMap<PolicyId, usize>,
    /// Columns that policies name: each is decided about by itself.
    columns: HashSet<String>,
    /// What stands in conditions.
    texts: HashSet<String>,
    /// Tags of principals that policies name.
    tags: BTreeSet<String>,
    by_time: bool,
    verdicts: Cache<Verdict>,
}

/// A policy.
#[derive(Debug)]
struct Rule {
    id: Arc<str>,
    place: Place,
    policy: Policy,
    guard: Guard,
    shadow: bool,
    tell: Option<String>,
}

/// What policies say of one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) decision: Permission,
    /// Those that decided.
    pub(super) policies: Vec<Arc<str>>,
    /// Forbids in shadow that would have decided.
    pub(super) shadow: Vec<Arc<str>>,
    /// Policies that could not be evaluated, and why.
    pub(super) errors: Vec<String>,
    /// What the policies have a caller told.
    pub(super) tell: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Permission {
    Permitted,
    /// By a policy.
    Forbidden,
    NotPermitted,
}

impl Policies {
    /// Reads the texts of files.
    pub(super) fn parse(
        files: &[(PathBuf, String)],
        warnings: &mut Vec<Warning>,
    ) -> Result<Policies, RulesError> {
        let (schema, _) = Schema::from_cedarschema_str(SCHEMA)
            .map_err(|source| RulesError::Schema { source: Box::new(source) })?;
        let mut all = Vec::new();
        for (path, text) in files {
            read_file(path, text, &mut all)?;
        }
        let mut ids = HashMap::new();
        for (index, rule) in all.iter().enumerate() {
            if ids.insert(rule.policy.id().clone(), index).is_some() {
                let why = format!("two policies have the id `{}`", rule.id);
                return Err(RulesError::Policy { place: rule.place.clone(), why });
            }
            check_names(&rule.place, &rule.policy)?;
            warn_of_equality(&rule.place, rule, warnings);
        }
        validate(&schema, &all, &ids, warnings)?;
        let mut found = Mentions::default();
        for rule in &all {
            found.add(&rule.place, &rule.policy)?;
        }
        let enforced = all.iter().filter(|rule| !rule.shadow).map(|rule| rule.policy.clone());
        let enforced = set_of(enforced)?;
        let Mentions { columns, tags, texts, by_time } = found;
        Ok(Policies {
            schema,
            all,
            enforced,
            ids,
            columns,
            texts,
            tags,
            by_time,
            verdicts: Cache::new(CACHED),
        })
    }

    /// Whether a text stands in a condition.
    pub(super) fn says(&self, text: &str) -> bool {
        self.texts.contains(text)
    }

    pub(super) fn forbids(&self) -> Ids {
        let mut ids = Ids::default();
        for rule in self.all.iter().filter(|rule| rule.policy.effect() == Effect::Forbid) {
            ids.add(rule.policy.annotation("id"));
        }
        ids
    }

    /// The columns that policies name, in the form of [`Names`].
    pub(super) fn columns(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(String::as_str)
    }

    /// Whether a policy names this column, in the form of [`Names`].
    pub(super) fn names_column(&self, name: &str) -> bool {
        self.columns.contains(name)
    }

    /// Names in policies, of the type and the name.
    pub(super) fn literals(&self) -> impl Iterator<Item = (&str, String, String)> {
        self.all.iter().flat_map(|rule| {
            let literals = rule.policy.entity_literals().into_iter();
            literals.map(|uid| (&*rule.id, uid.type_name().to_string(), uid.id().unescaped().to_owned()))
        })
    }

    /// Where a policy stands.
    pub(super) fn place(&self, id: &str) -> Option<&Place> {
        self.all.iter().find(|rule| &*rule.id == id).map(|rule| &rule.place)
    }

    /// The claims that policies name.
    pub(super) fn tags(&self) -> impl Iterator<Item = &str> {
        self.tags.iter().map(String::as_str)
    }

    /// Whom to decide about.
    pub(super) fn asker<'a>(&'a self, subject: &'a Subject) -> Asker<'a> {
        let class = subject.class(self.tags.iter(), self.by_time);
        Asker { policies: self, subject, class, concerned: OnceCell::new() }
    }

    fn evaluate(
        &self,
        subject: &Subject,
        concerned: &[&Rule],
        names: &Names,
        labels: &Labels<'_>,
    ) -> Verdict {
        match self.try_evaluate(subject, concerned, names, labels) {
            Ok(verdict) => verdict,
            Err(source) => Verdict {
                decision: Permission::Forbidden,
                errors: vec![source.to_string()],
                ..Verdict::NOTHING
            },
        }
    }

    fn try_evaluate(
        &self,
        subject: &Subject,
        concerned: &[&Rule],
        names: &Names,
        labels: &Labels<'_>,
    ) -> Result<Verdict, super::error::Source> {
        let (enforced, shadow) = of_resource(subject, concerned, names, labels);
        let asked = (subject, names, labels);
        let (permitted, mut decisive, failed) = self.ask(asked, &enforced)?;
        let failed_forbids: Vec<&Rule> = failed
            .iter()
            .map(|(rule, _)| *rule)
            .filter(|rule| rule.policy.effect() == Effect::Forbid)
            .collect();
        let decision = match permitted {
            true if failed_forbids.is_empty() => Permission::Permitted,
            true => {
                decisive = failed_forbids;
                Permission::Forbidden
            }
            false if decisive.is_empty() && failed_forbids.is_empty() => Permission::NotPermitted,
            false => {
                decisive.extend(failed_forbids);
                Permission::Forbidden
            }
        };
        let shadow = self.ask(asked, &shadow)?.1;
        let told = if permitted && decision == Permission::Permitted { &[][..] } else { &decisive[..] };
        let mut tell: Vec<String> = told.iter().filter_map(|rule| rule.tell.clone()).collect();
        tell.sort();
        tell.dedup();
        tell.truncate(MAX_NAMED);
        let errors = failed.into_iter().map(|(_, why)| why).take(MAX_NAMED).collect();
        Ok(Verdict { decision, policies: ids_of(&decisive), shadow: ids_of(&shadow), errors, tell })
    }

    /// Whether it is permitted, which policies decided, and which failed.
    fn ask<'r>(
        &'r self,
        (subject, names, labels): (&Subject, &Names, &Labels<'_>),
        rules: &[(&'r Rule, Truth)],
    ) -> Result<Asked<'r>, super::error::Source> {
        if rules.iter().all(|(_, truth)| *truth == Truth::True) {
            return Ok(settled(rules));
        }
        let entities = entities(subject, names, labels, &self.tags)?;
        let request = CedarRequest::new(
            uid(subject.kind.name(), &subject.name)?,
            uid("Action", subject.action.name())?,
            uid(names.own().0, names.own().1)?,
            context(subject)?,
            Some(&self.schema),
        )?;
        let is_shadow = rules.iter().any(|(rule, _)| rule.shadow);
        let chosen;
        let set = match !is_shadow && rules.len() * 2 > self.enforced.num_of_policies() {
            true => &self.enforced,
            false => {
                chosen = set_of(rules.iter().map(|(rule, _)| rule.policy.clone()))?;
                &chosen
            }
        };
        let response = Authorizer::new().is_authorized(&request, set, &entities);
        let rule = |id: &PolicyId| self.ids.get(id).map(|index| &self.all[*index]);
        let decisive = response.diagnostics().reason().filter_map(rule).collect();
        let failed = response.diagnostics().errors().filter_map(|error| {
            let cedar_policy::AuthorizationError::PolicyEvaluationError(failed) = error;
            Some((rule(failed.policy_id())?, error.to_string()))
        });
        Ok((response.decision() == cedar_policy::Decision::Allow, decisive, failed.collect()))
    }
}

/// Whether it is permitted, which policies decided, and which failed.
type Asked<'r> = (bool, Vec<&'r Rule>, Vec<(&'r Rule, String)>);

/// What Cedar would say of policies all of which apply.
fn settled<'r>(rules: &[(&'r Rule, Truth)]) -> Asked<'r> {
    let all = rules.iter().map(|(rule, _)| *rule);
    let (forbids, permits): (Vec<_>, Vec<_>) = all.partition(|rule| rule.policy.effect() == Effect::Forbid);
    match (forbids.is_empty(), permits.is_empty()) {
        (false, _) => (false, forbids, Vec::new()),
        (true, is_empty) => (!is_empty, permits, Vec::new()),
    }
}

/// Somebody who asks, about one resource or many.
#[derive(Debug)]
pub(super) struct Asker<'a> {
    policies: &'a Policies,
    pub(super) subject: &'a Subject,
    class: [u8; 32],
    /// Policies that may be about them, whatever the resource is. Looked for when something is not remembered.
    concerned: OnceCell<Vec<&'a Rule>>,
}

impl<'a> Asker<'a> {
    /// On a resource with labels: its own and those that it inherits.
    pub(super) fn decide(&self, resource: Resource<'_>, labels: &Labels<'_>) -> Arc<Verdict> {
        let names = resource.names();
        let mut key = Sha256::new();
        key.update(self.class);
        let mut add = |text: &str| {
            key.update((text.len() as u64).to_le_bytes());
            key.update(text);
        };
        add(names.own().0);
        add(names.own().1);
        for list in [labels.collection, labels.table, labels.column] {
            add(&list.len().to_string());
            list.iter().for_each(|label| add(label));
        }
        let work_out = || self.policies.evaluate(self.subject, self.concerned(), &names, labels);
        self.policies.verdicts.get(key.finalize().into(), work_out)
    }

    /// Whether a policy may permit them anything.
    pub(super) fn may_be_permitted(&self) -> bool {
        let permits = |rule: &&Rule| rule.policy.effect() == Effect::Permit;
        self.concerned().iter().any(permits)
    }

    fn concerned(&self) -> &[&'a Rule] {
        self.concerned.get_or_init(|| {
            let concerns = |rule: &&Rule| rule.guard.holds(self.subject, None) != Truth::False;
            self.policies.all.iter().filter(concerns).collect()
        })
    }
}

/// A rule, and what its guard says.
type Concerned<'r> = (&'r Rule, Truth);

/// Those that may be about a resource: enforced, and in shadow.
fn of_resource<'r>(
    subject: &Subject,
    concerned: &[&'r Rule],
    names: &Names,
    labels: &Labels<'_>,
) -> (Vec<Concerned<'r>>, Vec<Concerned<'r>>) {
    let known = concerned.iter().map(|rule| (*rule, rule.guard.holds(subject, Some((names, labels)))));
    known.filter(|(_, truth)| *truth != Truth::False).partition(|(rule, _)| !rule.shadow)
}

impl Verdict {
    /// No policy says anything.
    const NOTHING: Verdict = Verdict {
        decision: Permission::NotPermitted,
        policies: Vec::new(),
        shadow: Vec::new(),
        errors: Vec::new(),
        tell: Vec::new(),
    };
}

/// The labels of a resource and of what it is in.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Labels<'a> {
    pub(super) collection: &'a [String],
    pub(super) table: &'a [String],
    pub(super) column: &'a [String],
}

impl<'a> Labels<'a> {
    /// Those of the resource itself.
    pub(super) fn own(&self, kind: &str) -> &'a [String] {
        match kind {
            "Collection" => self.collection,
            "Table" => self.table,
            _ => self.column,
        }
    }
}

fn ids_of(rules: &[&Rule]) -> Vec<Arc<str>> {
    let mut ids: Vec<Arc<str>> = rules.iter().map(|rule| rule.id.clone()).collect();
    ids.sort();
    ids.truncate(MAX_NAMED);
    ids
}

fn uid(kind: &str, name: &str) -> Result<EntityUid, super::error::Source> {
    let kind = EntityTypeName::from_str(kind)?;
    Ok(EntityUid::from_type_name_and_id(kind, EntityId::new(name)))
}

fn entities(
    subject: &Subject,
    names: &Names,
    labels: &Labels<'_>,
    tags: &BTreeSet<String>,
) -> Result<Entities, super::error::Source> {
    let texts = |list: &[String]| {
        RestrictedExpression::new_set(list.iter().map(|text| RestrictedExpression::new_string(text.clone())))
    };
    let groups = subject.groups.iter().map(|group| uid("Group", group));
    let groups = groups.collect::<Result<HashSet<EntityUid>, _>>()?;
    let mut all: Vec<Entity> = groups.iter().cloned().map(Entity::with_uid).collect();
    let tags = subject.tags(tags.iter()).into_iter().map(|(name, values)| (name.to_owned(), texts(&values)));
    all.push(Entity::new_with_tags(uid(subject.kind.name(), &subject.name)?, [], groups, tags)?);
    let mut parent = None;
    for (kind, name, list) in [
        ("Collection", Some(&names.collection), labels.collection),
        ("Table", names.table.as_ref(), labels.table),
        ("Column", names.column.as_ref(), labels.column),
    ] {
        let Some(name) = name else { break };
        let own = uid(kind, name)?;
        let attributes = HashMap::from([("labels".to_owned(), texts(list))]);
        all.push(Entity::new(own.clone(), attributes, parent.replace(own).into_iter().collect())?);
    }
    Ok(Entities::from_entities(all, None)?)
}

fn context(subject: &Subject) -> Result<Context, super::error::Source> {
    let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
    let time = kafscale_core_time(subject.minute);
    let consent = RestrictedExpression::new_set(subject.consent.iter().map(|consent| text(consent)));
    let mut pairs = vec![
        ("purpose".to_owned(), text(&subject.purpose)),
        ("tool".to_owned(), text(&subject.tool)),
        ("time".to_owned(), RestrictedExpression::new_datetime(time)),
        ("consent".to_owned(), consent),
    ];
    let optional = [("agent", &subject.agent), ("on_behalf_of", &subject.on_behalf_of)];
    pairs.extend(
        optional.into_iter().filter_map(|(name, value)| Some((name.to_owned(), text(value.as_deref()?)))),
    );
    Ok(Context::from_pairs(pairs)?)
}

/// As Cedar reads it.
fn kafscale_core_time(minute: i64) -> String {
    let seconds = minute.saturating_mul(60);
    let time = chrono::DateTime::from_timestamp(seconds, 0).unwrap_or_default();
    time.format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn set_of(policies: impl IntoIterator<Item = Policy>) -> Result<PolicySet, RulesError> {
    PolicySet::from_policies(policies).map_err(|source| RulesError::Schema { source: Box::new(source) })
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

/// Where a diagnostic points to.
fn line_of_label(text: &str, diagnostic: &dyn Diagnostic) -> Option<usize> {
    Some(line_of(text, diagnostic.labels()?.next()?.offset()))
}

fn read_file(path: &Path, text: &str, all: &mut Vec<Rule>) -> Result<(), RulesError> {
    let place = |line| Place { path: path.to_owned(), line };
    let set = PolicySet::from_str(text)
        .map_err(|e| RulesError::Policy { place: place(line_of_label(text, &e)), why: chain(&e) })?;
    if set.templates().next().is_some() {
        let why = "a template, with ?principal or ?resource, has no effect here".to_owned();
        return Err(RulesError::Policy { place: place(None), why });
    }
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    for policy in set.policies() {
        let offset = policy.as_ref().loc().map(|loc| loc.span.offset());
        let line = offset.map(|offset| line_of(text, offset));
        let place = place(line);
        let wrong = |why: &str| RulesError::Policy { place: place.clone(), why: why.to_owned() };
        let id = policy.annotation("id").map_or_else(|| unnamed(&stem, line, all), str::to_owned);
        if check_name(&id).is_err() {
            return Err(wrong("@id is a short name"));
        }
        for (name, _) in policy.annotations() {
            if !["id", "tell", "shadow", "why"].contains(&name) {
                return Err(wrong("the annotations of a policy are @id, @tell, @shadow and @why"));
            }
        }
        let shadow = policy.annotation("shadow").is_some();
        if shadow && policy.effect() == Effect::Permit {
            return Err(wrong("only a forbid can be in shadow"));
        }
        let policy = policy.new_id(PolicyId::new(&id));
        let rule = Rule {
            id: id.into(),
            place: place.clone(),
            guard: Guard::of(&policy),
            shadow,
            tell: policy.annotation("tell").map(str::to_owned),
            policy,
        };
        all.push(rule);
    }
    Ok(())
}

/// The id of a policy that has none: its file and its line, where several are on one line with a
/// number.
fn unnamed(stem: &str, line: Option<usize>, all: &[Rule]) -> String {
    let line = line.unwrap_or_default();
    let mut id = format!("{stem}:{line}");
    let mut number = 1;
    while all.iter().rev().take_while(|rule| rule.place.line == Some(line)).any(|rule| *rule.id == *id) {
        number += 1;
        id = format!("{stem}:{line}.{number}");
    }
    id
}

/// An error and its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// Names that nothing can have.
fn check_names(place: &Place, policy: &Policy) -> Result<(), RulesError> {
    for literal in policy.entity_literals() {
        let (kind, name) = (literal.type_name().to_string(), literal.id().unescaped());
        let wrong = |why: String| Err(RulesError::Policy { place: place.clone(), why });
        if let Some(expected) = expected_name(&kind, name) {
            return wrong(format!("nothing is called {kind}::{name:?}; write {expected}"));
        }
        let is_of_caller = ["User", "Service", "Agent", "Group"].contains(&kind.as_str());
        if let Err(error) = check_name(name)
            && is_of_caller
        {
            return wrong(format!("nobody can be called {kind}::{name:?}: the name {error}"));
        }
    }
    Ok(())
}

/// `==` means the table alone, and none of its columns.
fn warn_of_equality(place: &Place, rule: &Rule, warnings: &mut Vec<Warning>) {
    let ResourceConstraint::Eq(uid) = rule.policy.resource_constraint() else { return };
    if rule.policy.effect() == Effect::Permit && uid.type_name().basename() != "Column" {
        let why =
            format!("the policy `{}` permits {uid} without its columns; write `resource in {uid}`", rule.id);
        warnings.push(Warning { place: place.clone(), why });
    }
}

fn validate(
    schema: &Schema,
    all: &[Rule],
    ids: &HashMap<PolicyId, usize>,
    warnings: &mut Vec<Warning>,
) -> Result<(), RulesError> {
    let set = set_of(all.iter().map(|rule| rule.policy.clone()))?;
    let place = |id: &PolicyId| ids.get(id).map(|index| all[*index].place.clone());
    let result = Validator::new(schema.clone()).validate(&set, ValidationMode::Strict);
    let errors = result.validation_errors().map(|error| (place(error.policy_id()), chain(error)));
    if let Some((Some(place), why)) = errors.min_by_key(|(place, _)| place.as_ref().map(sort_key)) {
        return Err(RulesError::Policy { place, why });
    }
    for warning in result.validation_warnings() {
        let (Some(place), why) = (place(warning.policy_id()), chain(warning)) else { continue };
        match warning {
            ValidationWarning::ImpossiblePolicy(_) => warnings.push(Warning { place, why }),
            // Texts that are not what they look like.
            _ => return Err(RulesError::Policy { place, why }),
        }
    }
    Ok(())
}

fn sort_key(place: &Place) -> (PathBuf, Option<usize>) {
    (place.path.clone(), place.line)
}

/// What decisions depend on, of all policies.
#[derive(Debug, Default)]
struct Mentions {
    columns: HashSet<String>,
    tags: BTreeSet<String>,
    texts: HashSet<String>,
    by_time: bool,
}

impl Mentions {
    fn add(&mut self, place: &Place, policy: &Policy) -> Result<(), RulesError> {
        let columns =
            policy.entity_literals().into_iter().filter(|uid| uid.type_name().basename() == "Column");
        self.columns.extend(columns.map(|uid| uid.id().unescaped().to_owned()));
        let json = policy.to_json();
        let json = json.map_err(|e| RulesError::Policy { place: place.clone(), why: e.to_string() })?;
        self.walk(place, &json)
    }

    fn walk(&mut self, place: &Place, value: &Value) -> Result<(), RulesError> {
        match value {
            Value::Array(list) => list.iter().try_for_each(|value| self.walk(place, value)),
            Value::Object(map) => {
                map.iter().try_for_each(|(name, value)| self.walk_named(place, name, value))
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
        }
    }

    fn walk_named(&mut self, place: &Place, name: &str, value: &Value) -> Result<(), RulesError> {
        let is_context = |value: &Value| value.get("Var").and_then(Value::as_str) == Some("context");
        match name {
            "hasTag" | "getTag" => match value.get("right").and_then(|right| right.get("Value")?.as_str()) {
                Some(tag) => {
                    self.tags.insert(tag.to_owned());
                }
                None => {
                    let why = format!("{name} takes the name of a claim as a text");
                    return Err(RulesError::Policy { place: place.clone(), why });
                }
            },
            // An attribute of the context is the time, or is not.
            "." | "has" if value.get("left").is_some_and(is_context) => {
                self.by_time |= value.get("attr").and_then(Value::as_str) == Some("time");
                return Ok(());
            }
            "Value" => self.texts.extend(value.as_str().map(str::to_owned)),
            "Var" if value.as_str() == Some("context") => self.by_time = true,
            _ => {}
        }
        self.walk(place, value)
    }
}

#[cfg(test)]
mod tests;
