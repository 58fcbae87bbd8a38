//! Committed offsets: for each group and partition a register that says what was committed last.

use kafka_protocol::ResponseError;

use super::index::{Commit, CommittedRead, Index, Register};
use super::{Rule, Violation};

pub fn check(index: &Index, found: &mut Vec<Violation>) {
    for ((group, at), register) in &index.registers {
        for read in &register.reads {
            if let Some((rule, why)) = wrong(register, read) {
                let begun = read.begun.as_millis();
                let what = format!("{group} on {at}: {} was read at {begun} ms, {why}", read.offset);
                found.push(Violation { rule, what });
                break;
            }
        }
    }
}

fn succeeded(commit: &Commit) -> bool {
    matches!(commit.ended, Some((_, 0)))
}

/// Whether a commit surely was not done. With other codes the coordinator may not have known.
fn refused(commit: &Commit) -> bool {
    let code = commit.ended.and_then(|(_, code)| ResponseError::try_from_code(code));
    matches!(
        code,
        Some(
            ResponseError::IllegalGeneration
                | ResponseError::UnknownMemberId
                | ResponseError::RebalanceInProgress
                | ResponseError::FencedInstanceId
        )
    )
}

fn wrong(register: &Register, read: &CommittedRead) -> Option<(Rule, String)> {
    let before =
        |commit: &&Commit| succeeded(commit) && commit.ended.is_some_and(|(ended, _)| ended < read.begun);
    if read.offset < 0 {
        let lost = register.commits.iter().find(before)?;
        let why = format!("although {} was committed", lost.offset);
        return Some((Rule::CommittedOffsetMovedBack, why));
    }
    let mut candidates = register
        .commits
        .iter()
        .filter(|commit| commit.offset == read.offset && commit.begun <= read.ended && !refused(commit))
        .peekable();
    if candidates.peek().is_none() {
        return Some((Rule::CommittedOffsetFromNowhere, "which nobody committed".into()));
    }
    let superseded_by = |candidate: &Commit| {
        let (ended, _) = candidate.ended.filter(|_| succeeded(candidate))?;
        register.commits.iter().filter(before).find(|later| later.begun > ended)
    };
    let mut later = None;
    for candidate in candidates {
        later = Some(superseded_by(candidate)?);
    }
    let later = later?;
    let why = format!("although {} was committed after it", later.offset);
    Some((Rule::CommittedOffsetMovedBack, why))
}
