//! What `rules.toml` means: labels of columns, and what is owed when they are read.
//!
//! Invariant: an obligation that is checked here can be carried out, or makes the decision a denial
//! where it meets a table on which it cannot.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::data_subject::{self, DataSubject};
use super::error::{Place, RulesError, Warning};
use super::file::{
    BudgetRule, Condition, LabelRule, MaskRule, ObligationRule, RulesFile, TableRule, explain_toml, lines_of,
};
use super::filter::Filter;
use super::glob::{Glob, fold};
use super::subject::{Subject, check_name};
use super::{Action, KeySource};
use crate::shape::{Mask, MaskKey, TableName};
use crate::validate::Pattern;

/// A key that is shorter can be guessed.
const MIN_KEY_BYTES: usize = 16;
const MAX_MIN_GROUP: u32 = 1_000_000;
/// Of a text, by a mask. What keeps more keeps most of what people write, and of the rest nothing.
const MAX_KEPT_CHARS: u32 = 16;

/// The label of what is known, and to which nothing is owed.
const PLAIN: &str = "plain";

/// Gives the bytes of a key, or says why not.
pub type ReadKey<'a> = &'a dyn Fn(&KeySource) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>>;

/// `rules.toml`, checked.
#[derive(Debug, Default)]
pub(super) struct Obligations {
    pub(super) purposes: Vec<String>,
    pub(super) tables: Vec<TableRule>,
    pub(super) labels: Vec<(Place, LabelRule)>,
    pub(super) list: Vec<Obligation>,
    pub(super) subjects: Vec<DataSubject>,
}

#[derive(Debug)]
pub(super) struct Obligation {
    pub(super) id: String,
    /// By whoever wrote it, and not by its place.
    pub(super) is_named: bool,
    pub(super) place: Place,
    pub(super) labels: Vec<Glob>,
    table: super::one_or_more::OneOrMore<Glob>,
    column: super::one_or_more::OneOrMore<Glob>,
    when: Vec<Condition>,
    unless: Vec<Condition>,
    pub(super) tell: Option<String>,
    pub(super) shadow: bool,
    pub(super) owed: Owed,
}

/// All that one obligation owes.
#[derive(Debug, Default)]
pub(super) struct Owed {
    pub(super) hide: bool,
    pub(super) mask: Option<Mask>,
    pub(super) row_filter: Option<Filter>,
    /// The entity, and the size.
    pub(super) min_group: Option<(String, u32)>,
    pub(super) max_rows: Option<u64>,
    pub(super) max_bytes: Option<u64>,
    pub(super) budgets: Option<BudgetRule>,
    /// Of the texts of an answer.
    pub(super) patterns: Vec<Arc<Pattern>>,
}

impl Owed {
    /// The column of entities that it counts, and how many of them.
    pub(super) fn counted(&self) -> Option<(&str, u64)> {
        let budgets = self.budgets.as_ref()?;
        Some((budgets.entity.as_deref()?, budgets.entities_per_day?))
    }

    pub(super) fn is_of_columns(&self) -> bool {
        self.hide || self.mask.is_some()
    }

    pub(super) fn is_of_table(&self) -> bool {
        self.row_filter.is_some()
            || self.min_group.is_some()
            || self.max_rows.is_some()
            || self.max_bytes.is_some()
            || self.budgets.is_some()
            || !self.patterns.is_empty()
    }
}

impl Obligations {
    /// Reads the text of the file at `path`.
    pub(super) fn parse(
        path: &Path,
        text: &str,
        read_key: ReadKey<'_>,
        warnings: &mut Vec<Warning>,
    ) -> Result<Obligations, RulesError> {
        let file: RulesFile = basic_toml::from_str(text).map_err(|source| {
            let (place, why) = explain_toml(path, text, &source);
            RulesError::Toml { place, why, source: Box::new(source) }
        })?;
        let place = |line: Option<usize>| Place { path: path.to_owned(), line };
        let keys = read_keys(&place(None), &file.keys, read_key)?;
        let label_lines = lines_of(text, "label", file.label.len());
        let labels: Vec<(Place, LabelRule)> = label_lines.into_iter().map(place).zip(file.label).collect();
        for (place, rule) in &labels {
            check_label(place, rule)?;
        }
        let mut list = Vec::new();
        let lines = lines_of(text, "obligation", file.obligation.len());
        for (index, (line, rule)) in lines.into_iter().zip(file.obligation).enumerate() {
            let obligation = compile(place(line), index, rule, &keys)?;
            warn_of_labels(&obligation, &labels, warnings);
            warn_of_conditions(&obligation, &file.purposes.0, warnings);
            list.push(obligation);
        }
        let mut ids: Vec<&str> = list.iter().map(|obligation| obligation.id.as_str()).collect();
        ids.sort_unstable();
        if let Some(twice) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(RulesError::Rule {
                place: place(None),
                why: format!("two obligations have the id `{}`", twice[0]),
            });
        }
        let lines = lines_of(text, "subject", file.subject.len()).into_iter().map(place);
        let subjects = data_subject::of_rules(lines.zip(file.subject), &keys)?;
        let is_of_subjects = |name: &String| subjects.iter().any(|subject| subject.key.name == *name);
        let of_masks = keys.iter().filter(|(name, _)| !is_of_subjects(name));
        warn_of_keys(&place(None), of_masks.map(|(name, _)| name), &list, warnings);
        Ok(Obligations { purposes: file.purposes.0, tables: file.table, labels, list, subjects })
    }

    /// Labels to which nothing is owed: neither an obligation nor, as `says` knows, a policy is about them.
    pub(super) fn warn_of_idle_labels(&self, says: impl Fn(&str) -> bool, warnings: &mut Vec<Warning>) {
        let owed = |label: &str| {
            let folded = fold(label);
            let mut globs = self.list.iter().flat_map(|obligation| &obligation.labels);
            let identifies =
                self.subjects.iter().any(|subject| subject.labels.contains(&data_subject::folded(label)));
            identifies || globs.any(|glob| glob.matches_any_case(&folded))
        };
        let mut told = std::collections::HashSet::new();
        for (place, rule) in &self.labels {
            for label in &rule.labels.0 {
                if label != PLAIN && !owed(label) && !says(label) && told.insert(label) {
                    let why = format!(
                        "the label `{label}` changes nothing: no obligation and no policy is about it; \
                         what is meant to be seen as it is has the label `{PLAIN}`"
                    );
                    warnings.push(Warning { place: place.clone(), why });
                }
            }
        }
    }

    /// Whether columns without a label are hidden.
    pub(super) fn is_closed(&self, table: &TableName) -> bool {
        let name = fold(&table.to_string());
        self.tables.iter().any(|rule| rule.closed && rule.name.all_or_any(&name))
    }
}

fn read_keys(
    place: &Place,
    sources: &BTreeMap<String, KeySource>,
    read_key: ReadKey<'_>,
) -> Result<BTreeMap<String, MaskKey>, RulesError> {
    let mut keys = BTreeMap::new();
    for (name, source) in sources {
        let given = [source.env.is_some(), source.file.is_some(), source.command.is_some()];
        if given.iter().filter(|given| **given).count() != 1 {
            let why = format!("the key `{name}` has to have one of env, file and command");
            return Err(RulesError::Rule { place: place.clone(), why });
        }
        let secret = read_key(source).map_err(|source| RulesError::Key {
            place: place.clone(),
            name: name.clone(),
            source,
        })?;
        if secret.len() < MIN_KEY_BYTES {
            let why = format!("the key `{name}` has fewer than {MIN_KEY_BYTES} bytes, and can be guessed");
            return Err(RulesError::Rule { place: place.clone(), why });
        }
        keys.insert(name.clone(), MaskKey { name: name.clone(), secret: Arc::from(secret) });
    }
    Ok(keys)
}

fn check_label(place: &Place, rule: &LabelRule) -> Result<(), RulesError> {
    let wrong = |why: &str| Err(RulesError::Rule { place: place.clone(), why: why.to_owned() });
    let (of_collection, of_table) = (!rule.collection.0.is_empty(), !rule.table.0.is_empty());
    if of_collection == of_table {
        return wrong("a label is given to a `collection` or to a `table`, one of them");
    }
    if of_collection && !rule.column.0.is_empty() {
        return wrong("a label of columns names their `table`, such as \"hospital.*\"");
    }
    let is_label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    match rule.labels.0.iter().find(|label| label.is_empty() || !label.chars().all(is_label)) {
        Some(_) => wrong("a label has lower-case letters, digits, `.`, `_` and `-`, such as \"pii.name\""),
        None => Ok(()),
    }
}

fn compile(
    place: Place,
    index: usize,
    rule: ObligationRule,
    keys: &BTreeMap<String, MaskKey>,
) -> Result<Obligation, RulesError> {
    let wrong = |why: String| RulesError::Rule { place: place.clone(), why };
    let is_named = rule.id.is_some();
    let id = rule.id.unwrap_or_else(|| format!("obligation{}", index + 1));
    if check_name(&id).is_err() {
        return Err(wrong("an id is a short name".to_owned()));
    }
    if rule.labels.0.is_empty() && rule.table.0.is_empty() {
        return Err(wrong(format!(
            "the obligation `{id}` names neither `labels` nor a `table`; \"*\" is every table"
        )));
    }
    for condition in rule.when.0.iter().chain(&rule.unless.0) {
        check_condition(condition).map_err(|why| wrong(format!("the obligation `{id}`: {why}")))?;
    }
    let row_filter = match rule.row_filter {
        Some(text) => {
            let filter = Filter::parse(&text);
            Some(filter.map_err(|source| RulesError::Filter {
                place: place.clone(),
                id: id.clone(),
                source,
            })?)
        }
        None => None,
    };
    let mask = rule.mask.map(|mask| compile_mask(mask, keys)).transpose();
    let mask = mask.map_err(|why| wrong(format!("the obligation `{id}`: {why}")))?;
    let min_group = rule.min_group.map(|rule| (rule.entity, rule.size));
    let (max_rows, max_bytes, mut budgets) = (rule.max_rows, rule.max_bytes, rule.budgets);
    if let (Some(budgets), Some((entity, _))) = (&mut budgets, &min_group)
        && budgets.entities_per_day.is_some()
    {
        budgets.entity.get_or_insert_with(|| entity.clone());
    }
    let patterns = rule.validate.map(Pattern::of_rule).transpose();
    let patterns =
        patterns.map_err(|why| wrong(format!("the obligation `{id}`: {why}")))?.unwrap_or_default();
    let owed = Owed { hide: rule.hide, mask, row_filter, min_group, max_rows, max_bytes, budgets, patterns };
    check_owed(&owed).map_err(|why| wrong(format!("the obligation `{id}` {why}")))?;
    if !rule.column.0.is_empty() && owed.is_of_table() {
        let why = "names a `column`, and owes something of the whole table: make two of it";
        return Err(wrong(format!("the obligation `{id}` {why}")));
    }
    let (labels, table, column) = (rule.labels.0, rule.table, rule.column);
    let (when, unless) = (rule.when.0, rule.unless.0);
    let (tell, shadow) = (rule.tell, rule.shadow);
    Ok(Obligation { id, is_named, place, labels, table, column, when, unless, tell, shadow, owed })
}

fn compile_mask(mask: MaskRule, keys: &BTreeMap<String, MaskKey>) -> Result<Mask, String> {
    let key = |name: String| {
        let found = keys.get(&name).cloned();
        found.ok_or_else(|| format!("there is no key `{name}`; write [keys.{name}]"))
    };
    Ok(match mask {
        MaskRule::Null => Mask::Null,
        MaskRule::Fixed(text) => Mask::Fixed(text),
        MaskRule::Hash(name) => Mask::Hash(key(name)?),
        MaskRule::Tokenise(name) => Mask::Tokenise(key(name)?),
        MaskRule::KeepLast(count) if count <= MAX_KEPT_CHARS => Mask::KeepLast(count),
        MaskRule::KeepLast(_) => return Err(format!("keep_last keeps at most {MAX_KEPT_CHARS} characters")),
        MaskRule::Date(part) => Mask::Date(part),
        MaskRule::Bucket(width) if width.is_finite() && width > 0.0 => Mask::Bucket(width),
        MaskRule::Bucket(_) => return Err("a bucket has a width above 0".to_owned()),
    })
}

fn check_owed(owed: &Owed) -> Result<(), &'static str> {
    let is_zero = |number: Option<u64>| number == Some(0);
    let budgets = owed.budgets.as_ref().map(|b| [b.queries_per_day, b.entities_per_day, b.rows_per_day]);
    match owed {
        _ if !owed.is_of_columns() && !owed.is_of_table() => Err("owes nothing"),
        Owed { hide: true, mask: Some(_), .. } => Err("hides and masks: choose one"),
        Owed { min_group: Some((entity, _)), .. } if entity.is_empty() => Err("has an empty entity"),
        Owed { min_group: Some((_, size)), .. } if !(2..=MAX_MIN_GROUP).contains(size) => {
            Err("has a group of another size than 2 to 1000000")
        }
        _ if is_zero(owed.max_rows) || is_zero(owed.max_bytes) => Err("lets nothing out: write a forbid"),
        _ if owed.budgets.as_ref().is_some_and(|b| b.entities_per_day.is_some() != b.entity.is_some()) => {
            Err("has a budget of entities without an `entity`, or an `entity` that nothing counts")
        }
        _ if budgets == Some([None; 3]) => Err("has budgets without a number"),
        _ if budgets.is_some_and(|numbers| numbers.iter().any(|number| is_zero(*number))) => {
            Err("has a budget of nothing: write a forbid")
        }
        _ => Ok(()),
    }
}

fn check_condition(condition: &Condition) -> Result<(), String> {
    if *condition == Condition::default() {
        return Err("an empty condition always holds".to_owned());
    }
    let known = |name: &String| Action::ALL.iter().any(|action| action.name() == name);
    match condition.actions.0.iter().find(|name| !known(name)) {
        Some(name) => Err(format!("`{name}` is no action")),
        None => Ok(()),
    }
}

/// Labels that nothing has.
fn warn_of_labels(obligation: &Obligation, labels: &[(Place, LabelRule)], warnings: &mut Vec<Warning>) {
    let known = || labels.iter().flat_map(|(_, rule)| &rule.labels.0);
    for glob in &obligation.labels {
        if !known().any(|label| glob.matches_any_case(&fold(label))) {
            let why = format!(
                "the obligation `{}` is of `{}`, which no [[label]] gives",
                obligation.id,
                glob.text()
            );
            warnings.push(Warning { place: obligation.place.clone(), why });
        }
    }
}

/// Conditions that callers can choose, and purposes that are not taken.
fn warn_of_conditions(obligation: &Obligation, purposes: &[String], warnings: &mut Vec<Warning>) {
    let mut warn = |why: String| {
        let why = format!("the obligation `{}` {why}", obligation.id);
        warnings.push(Warning { place: obligation.place.clone(), why });
    };
    for condition in &obligation.when {
        let chosen =
            !condition.agents.0.is_empty() || (purposes.is_empty() && !condition.purposes.0.is_empty());
        if chosen {
            warn(
                "holds only `when` the caller says so, by a purpose or the name of its agent: write `unless`"
                    .to_owned(),
            );
        }
    }
    let conditions = || obligation.when.iter().chain(&obligation.unless);
    for glob in conditions().flat_map(|condition| &condition.purposes.0).filter(|_| !purposes.is_empty()) {
        if !purposes.iter().any(|purpose| glob.matches_exactly(purpose)) {
            warn(format!("is of the purpose `{}`, which `purposes` does not have", glob.text()));
        }
    }
}

fn warn_of_keys<'a>(
    place: &Place,
    keys: impl Iterator<Item = &'a String>,
    list: &[Obligation],
    warnings: &mut Vec<Warning>,
) {
    for name in keys {
        let uses = |obligation: &Obligation| match &obligation.owed.mask {
            Some(Mask::Hash(key) | Mask::Tokenise(key)) => key.name == *name,
            _ => false,
        };
        if !list.iter().any(uses) {
            warnings.push(Warning { place: place.clone(), why: format!("no mask uses the key `{name}`") });
        }
    }
}

impl Obligation {
    /// The patterns of the tables that it is of. Without any: all of them.
    pub(super) fn tables(&self) -> &super::one_or_more::OneOrMore<Glob> {
        &self.table
    }

    /// The same of columns.
    pub(super) fn columns(&self) -> &super::one_or_more::OneOrMore<Glob> {
        &self.column
    }

    pub(super) fn is_of_table(&self, folded_table: &[char]) -> bool {
        self.table.all_or_any(folded_table)
    }

    /// Whether a column of a table that [`Obligation::is_of_table`] is meant.
    pub(super) fn is_of_column(&self, folded_column: &[char], labels: &[String]) -> bool {
        let has_label =
            || labels.iter().any(|label| self.labels.iter().any(|glob| glob.matches_any_case(&fold(label))));
        self.column.all_or_any(folded_column) && (self.labels.is_empty() || has_label())
    }

    /// Whether it holds for who asks.
    pub(super) fn holds_for(&self, subject: &Subject) -> bool {
        let any = |list: &[Condition]| list.iter().any(|condition| condition.holds_for(subject));
        (self.when.is_empty() || any(&self.when)) && !any(&self.unless)
    }
}

impl Condition {
    fn holds_for(&self, subject: &Subject) -> bool {
        let one = |globs: &[Glob], name: &str| globs.iter().any(|glob| glob.matches_exactly(name));
        let free = |globs: &super::one_or_more::OneOrMore<Glob>| globs.0.is_empty();
        let agent = |globs: &[Glob]| subject.agent.as_deref().is_some_and(|name| one(globs, name));
        (free(&self.groups) || subject.groups.iter().any(|group| one(&self.groups.0, group)))
            && (free(&self.principals) || one(&self.principals.0, &subject.principal))
            && (free(&self.purposes) || one(&self.purposes.0, &subject.purpose))
            && (free(&self.agents) || agent(&self.agents.0))
            && (self.actions.0.is_empty() || self.actions.0.iter().any(|name| name == subject.action.name()))
    }
}
