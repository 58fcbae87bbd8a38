//! Finds other identifiers of the same subject, by tables that have one beside another.
//!
//! Invariant: nobody else becomes the subject. A link is followed back only from a value that stands beside one other: a value that
//! stands for none, or a number that two people share, is a gap until all that stand beside it are given.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use datafusion::error::{DataFusionError, Result};
use datafusion::prelude::SessionContext;
use futures_util::StreamExt as _;

use super::found::Gap;
use super::hashes::{each_form, is_identifier};
use super::search::{
    LONGEST_TO_OPEN, LONGEST_TO_READ, Opened, Search, Target, Targets, Unsearched, column, misfits, within,
};
use crate::rules::Link;
use crate::shape::TableName;

/// Of one label, by one link.
const IDENTIFIERS_MAX: usize = 100;
/// In each, what links lead to is followed further.
const ROUNDS_MAX: usize = 20;

/// Why a link is not followed, or not all of it.
#[derive(Debug, thiserror::Error)]
enum Unfollowed {
    #[error("the link was not followed: {0}")]
    Unsearched(#[from] Unsearched),
    #[error("the link was not followed: its column {0} has no label of the subject")]
    NoLabel(String),
    #[error("more than {IDENTIFIERS_MAX} identifiers are linked by it, and not all are looked for")]
    TooMany,
    #[error(
        "values of {to} stand beside other values of {from} than those that are looked for: give those that are the subject's, too"
    )]
    Shared { from: String, to: String },
}

/// What the rows of a link say of the subject.
#[derive(Debug, Default)]
struct Linked {
    /// Whether a row has an identifier that is known, and what stands beside it.
    is_from_there: bool,
    forward: BTreeSet<String>,
    /// By a value of `to` that is known.
    back: BTreeMap<String, Beside>,
}

/// What stands in `from` beside one value of `to`.
#[derive(Debug, Default)]
struct Beside {
    is_known: bool,
    /// Up to two.
    others: BTreeSet<Vec<String>>,
}

impl Search<'_> {
    /// Adds other identifiers of the same subject. What could not be followed is returned: identifiers behind it are not known.
    pub async fn follow_links(&self, targets: &mut Targets) -> Vec<Gap> {
        let count = |targets: &Targets| {
            (targets.len(), targets.values().map(|target| target.hashes.len()).sum::<usize>())
        };
        let mut gaps: Vec<Gap> = Vec::new();
        for _ in 0..ROUNDS_MAX {
            let (before, mut is_full) = (count(targets), false);
            gaps.clear();
            for link in &self.subject.links {
                (self.progress)(&format!("following {}", link.table));
                if let Err(why) = self.follow(link, targets).await {
                    is_full |= matches!(why, Unfollowed::TooMany);
                    gaps.push(Gap::new(&link.table, why));
                }
            }
            if is_full || count(targets) == before {
                return gaps;
            }
        }
        let why = format!("links lead on after {ROUNDS_MAX} of them: give the identifiers beyond");
        gaps.push(Gap::new("*", why));
        gaps
    }

    async fn follow(&self, link: &Link, targets: &mut Targets) -> std::result::Result<(), Unfollowed> {
        let (collection, table) = link.table.split_once('.').ok_or(Unsearched::Gone)?;
        let named = TableName::new(collection, table);
        let collection = self.collections.get(collection).ok_or(Unsearched::Gone)?;
        let Opened { source, identifying } = self.opened(collection.as_ref(), &named).await?;
        let label = |column: &str| {
            let found = identifying.iter().find(|(name, _)| name == column);
            let found = found.and_then(|(_, labels)| labels.first().cloned());
            found.ok_or_else(|| Unfollowed::NoLabel(column.to_owned()))
        };
        let (from, to) = (label(&link.from)?, label(&link.to)?);
        let frame = SessionContext::new().read_table(Arc::clone(&source.provider));
        let frame = frame.and_then(|frame| frame.select(vec![column(&link.from), column(&link.to)]));
        let frame = frame.map_err(Unsearched::from)?;
        let mut stream = within(LONGEST_TO_OPEN, frame.execute_stream()).await?;
        let mut linked = Linked::default();
        within(LONGEST_TO_READ, async {
            while let Some(batch) = stream.next().await {
                linked.take(&batch?, targets.get(&from), targets.get(&to))?;
            }
            Ok::<_, DataFusionError>(())
        })
        .await?;
        let misfit = misfits(&(source.provenance.0)(), &identifying).into_iter().next();
        let told = self.add_linked(linked, link, [&from, &to], targets);
        match misfit {
            Some((column, count)) => Err(Unsearched::Misfits { column, count }.into()),
            None => told,
        }
    }

    fn add_linked(
        &self,
        linked: Linked,
        link: &Link,
        [from, to]: [&str; 2],
        targets: &mut Targets,
    ) -> std::result::Result<(), Unfollowed> {
        let Linked { is_from_there, forward, back } = linked;
        if is_from_there {
            // Also where nothing stands beside it: the link says that there is none.
            self.entry(targets, to);
        }
        forward.iter().take(IDENTIFIERS_MAX).for_each(|value| self.add(targets, to, value));
        let mut is_shared = false;
        for Beside { is_known, others } in back.into_values() {
            match (is_known, others.len()) {
                (true, 0) => {}
                (false, 0 | 1) => {
                    self.entry(targets, from);
                    others.iter().flatten().for_each(|value| self.add(targets, from, value));
                }
                _ => is_shared = true,
            }
        }
        if is_shared {
            return Err(Unfollowed::Shared { from: link.from.clone(), to: link.to.clone() });
        }
        match forward.len() > IDENTIFIERS_MAX {
            true => Err(Unfollowed::TooMany),
            false => Ok(()),
        }
    }
}

impl Linked {
    /// Takes rows of both columns.
    fn take(&mut self, batch: &RecordBatch, from: Option<&Target>, to: Option<&Target>) -> Result<()> {
        let (all_from, all_to) = (forms(batch.column(0).as_ref())?, forms(batch.column(1).as_ref())?);
        for (of_from, of_to) in all_from.into_iter().zip(all_to) {
            let is_from = from.is_some_and(|target| of_from.iter().any(|form| target.has(form)));
            let known = |form: &&String| to.is_some_and(|target| target.has(form));
            let known_to: Vec<&String> = of_to.iter().filter(known).collect();
            let identifiers = |forms: &[String]| -> Vec<String> {
                forms.iter().filter(|form| is_identifier(form)).cloned().collect()
            };
            let new = identifiers(&of_to);
            self.is_from_there |= is_from;
            // Of a list, some may be known. What is one value is known in all of its forms.
            if is_from && (known_to.is_empty() || new.len() > 1) && self.forward.len() <= IDENTIFIERS_MAX {
                self.forward.extend(new.into_iter().filter(|form| !known_to.contains(&form)));
            }
            for form in known_to {
                let beside = self.back.entry(form.clone()).or_default();
                beside.is_known |= is_from;
                if !is_from && !of_from.is_empty() && beside.others.len() < 2 {
                    beside.others.insert(identifiers(&of_from));
                }
            }
        }
        Ok(())
    }
}

/// Of each row.
fn forms(values: &dyn Array) -> Result<Vec<Vec<String>>> {
    let mut all = vec![Vec::new(); values.len()];
    each_form(values, &mut |row, form| all[row].push(form.to_owned()))?;
    Ok(all)
}
