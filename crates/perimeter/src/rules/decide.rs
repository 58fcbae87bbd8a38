//! A decision: policies say which columns there are, obligations what is made of them, and the
//! strictest holds.

use std::cmp::Ordering;
use std::sync::Arc;

use super::load::Rulebook;
use super::obligations::Obligation;
use super::policies::{Labels, Permission, Verdict};
use super::prepared::{Prepared, entity_column};
use super::resource::Resource;
use super::subject::Subject;
use super::words;
use super::{Action, ColumnInfo, Decision, Limits, Outcome, Reasons, Request, least, strictness};
use crate::shape::{ColumnShape, Counted, MinGroup, Shown, TableName, TableShape};
use crate::validate;

/// All that one decision rests on.
pub(super) struct Findings<'a> {
    pub(super) table: &'a TableName,
    pub(super) columns: &'a [ColumnInfo],
    pub(super) subject: &'a Subject,
    pub(super) prepared: &'a Prepared,
    pub(super) of_table: Arc<Verdict>,
    /// One for each class of columns.
    pub(super) of_classes: Vec<Arc<Verdict>>,
    pub(super) obligations: &'a [Obligation],
    /// Which of the obligations hold for who asks.
    pub(super) holds: Vec<bool>,
}

impl Rulebook {
    /// What a caller gets of a table with these columns.
    pub fn decide(&self, request: &Request<'_>, table: &TableName, columns: &[ColumnInfo]) -> Decision {
        let subject = match Subject::of(request) {
            Ok(subject) => subject,
            Err(error) => return deny_caller(error.to_string()),
        };
        if let Some(why) = self.unknown_purpose(&subject) {
            return deny_caller(why);
        }
        let prepared = self.prepared(table, columns);
        let asker = self.policies.asker(&subject);
        let labels =
            Labels { collection: &prepared.collection_labels, table: &prepared.table_labels, column: &[] };
        let of_table = asker.decide(Resource::Table(table), &labels);
        let classes = prepared.classes.iter();
        let of_classes = classes.map(|class| {
            let resource = Resource::Column(table, class.name.as_deref());
            asker.decide(resource, &Labels { column: &class.labels, ..labels })
        });
        let of_classes = of_classes.collect();
        let obligations = self.obligations.list.as_slice();
        let holds = obligations.iter().map(|obligation| obligation.holds_for(&subject)).collect();
        let (subject, prepared) = (&subject, &*prepared);
        let findings =
            Findings { table, columns, subject, prepared, of_table, of_classes, obligations, holds };
        combine(&findings)
    }

    fn unknown_purpose(&self, subject: &Subject) -> Option<String> {
        let known = &self.obligations.purposes;
        let is_known = known.is_empty() || known.contains(&subject.purpose);
        // To look around needs no purpose.
        let is_free = subject.action == Action::Describe && subject.purpose.is_empty();
        (!is_known && !is_free).then(|| format!("The purpose has to be one of: {}.", known.join(", ")))
    }
}

fn combine(findings: &Findings<'_>) -> Decision {
    let mut reasons = Reasons::default();
    words::of_verdicts(findings, &mut reasons);
    if findings.of_table.decision == Permission::Forbidden {
        return deny(findings, reasons);
    }
    let columns = findings.columns_shown(&mut reasons);
    let is_shown = |column: &ColumnShape| column.shown != Shown::Hidden;
    // A table without columns is there for whom the table itself is permitted.
    let is_permitted = columns.is_empty() && findings.of_table.decision == Permission::Permitted;
    if !is_permitted && !columns.iter().any(is_shown) {
        return deny(findings, reasons);
    }
    let Some((mut shape, budgets)) = findings.whole(&mut reasons) else {
        return deny(findings, reasons);
    };
    shape.columns = columns;
    words::of_shape(findings, &shape, &mut reasons);
    words::finish(&mut reasons);
    Decision { outcome: Outcome::Allow(shape), reasons, budgets }
}

impl Findings<'_> {
    fn columns_shown(&self, reasons: &mut Reasons) -> Vec<ColumnShape> {
        let prepared = self.prepared;
        let columns = self.columns.iter().zip(&prepared.columns);
        let columns = columns.map(|(column, known)| {
            let class = &prepared.classes[known.class];
            let verdict = &self.of_classes[known.class];
            let labels = class.labels.clone();
            let hidden = |rules| ColumnShape {
                name: column.name.clone(),
                labels: labels.clone(),
                shown: Shown::Hidden,
                rules,
            };
            if verdict.decision != Permission::Permitted {
                return hidden(verdict.policies.iter().map(ToString::to_string).collect());
            }
            if known.is_unknown {
                return hidden(vec!["closed".to_owned()]);
            }
            if known.is_held_back {
                reasons.for_auditor.push(words::of_held_back(&column.name));
                return hidden(vec!["raw".to_owned()]);
            }
            let (mut shown, mut rules): (Shown, Vec<String>) = (Shown::AsIs, Vec::new());
            for (index, made) in &known.owed {
                let obligation = &self.obligations[*index];
                if !self.holds[*index] {
                    continue;
                }
                if obligation.shadow {
                    reasons.shadow.push(format!(
                        "{}: {} {}",
                        obligation.id,
                        column.name,
                        strictness::describe(made)
                    ));
                    continue;
                }
                match strictness::compare(made, &shown) {
                    Ordering::Less => (shown, rules) = (made.clone(), vec![obligation.id.clone()]),
                    Ordering::Equal => rules.push(obligation.id.clone()),
                    Ordering::Greater => {}
                }
            }
            rules.sort();
            ColumnShape { name: column.name.clone(), labels, shown, rules }
        });
        columns.collect()
    }

    /// The obligations of the whole table. None: one of them cannot be carried out.
    fn whole(&self, reasons: &mut Reasons) -> Option<(TableShape, Limits)> {
        let mut shape = TableShape {
            table: self.table.clone(),
            columns: Vec::new(),
            row_filters: Vec::new(),
            min_group: None,
            counted: None,
            max_rows: None,
            max_bytes: None,
            patterns: Vec::new(),
        };
        let mut budgets = Limits::default();
        let mut is_possible = true;
        for index in &self.prepared.of_table {
            let obligation = &self.obligations[*index];
            if !self.holds[*index] {
                continue;
            }
            let impossible = self.prepared.impossible.iter().find(|(other, _)| other == index);
            if obligation.shadow {
                reasons.shadow.push(words::of_owed(obligation));
                continue;
            }
            reasons.rules.push(obligation.id.clone());
            if let Some((_, why)) = impossible {
                is_possible = false;
                reasons
                    .for_auditor
                    .push(format!("obligation {} cannot be carried out: {why}", obligation.id));
                continue;
            }
            let fits = add_group(&mut shape, obligation, self.columns)
                && add_counted(&mut shape, obligation, self.columns);
            if !fits {
                is_possible = false;
                let why = "two different entities of one table cannot be told apart in one answer";
                reasons
                    .for_auditor
                    .push(format!("obligation {} cannot be carried out: {why}", obligation.id));
            }
            reasons.for_auditor.push(words::of_owed(obligation));
            reasons.for_caller.extend(obligation.tell.iter().cloned());
            let owed = &obligation.owed;
            shape.row_filters.extend(owed.row_filter.as_ref().map(|filter| filter.fill(self.subject)));
            shape.max_rows = least(shape.max_rows, owed.max_rows);
            shape.max_bytes = least(shape.max_bytes, owed.max_bytes);
            shape.patterns.extend(owed.patterns.iter().cloned());
            if let Some(given) = &owed.budgets {
                budgets = budgets.strictest(Limits {
                    queries_per_day: given.queries_per_day,
                    rows_per_day: given.rows_per_day,
                    entities_per_day: given.entities_per_day,
                });
            }
        }
        shape.row_filters.sort();
        shape.row_filters.dedup();
        shape.patterns = validate::together(shape.patterns);
        is_possible.then_some((shape, budgets))
    }
}

/// False: the shape counts another entity already.
fn add_counted(shape: &mut TableShape, obligation: &Obligation, columns: &[ColumnInfo]) -> bool {
    let Some((entity, per_day)) = obligation.owed.counted() else { return true };
    let Some(entity) = entity_column(entity, columns) else { return false };
    let known = shape.counted.get_or_insert_with(|| Counted { entity: entity.to_owned(), per_day });
    known.per_day = known.per_day.min(per_day);
    known.entity == entity
}

/// False: the shape has groups of another entity already.
fn add_group(shape: &mut TableShape, obligation: &Obligation, columns: &[ColumnInfo]) -> bool {
    let Some((entity, size)) = &obligation.owed.min_group else { return true };
    let Some(entity) = entity_column(entity, columns) else { return false };
    let id = obligation.id.clone();
    match &mut shape.min_group {
        None => shape.min_group = Some(MinGroup { entity: entity.to_owned(), size: *size, rules: vec![id] }),
        Some(known) if known.entity != entity => return false,
        Some(known) => match size.cmp(&known.size) {
            Ordering::Greater => *known = MinGroup { size: *size, rules: vec![id], ..known.clone() },
            Ordering::Equal => {
                known.rules.push(id);
                known.rules.sort();
            }
            Ordering::Less => {}
        },
    }
    true
}

fn deny(findings: &Findings<'_>, mut reasons: Reasons) -> Decision {
    // Whatever an obligation tells belongs to an answer.
    reasons.for_caller = words::of_denial(findings);
    words::finish(&mut reasons);
    Decision { outcome: Outcome::Deny, reasons, budgets: Limits::default() }
}

/// The request itself is at fault: nothing of the rules is told.
fn deny_caller(why: String) -> Decision {
    let reasons = Reasons { for_caller: vec![why.clone()], for_auditor: vec![why], ..Reasons::default() };
    Decision { outcome: Outcome::Deny, reasons, budgets: Limits::default() }
}
