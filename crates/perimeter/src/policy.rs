//! `kafscale perimeter policy`: rules tested by tables of cases, explained for one request, and compared by what an audit log has.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::time::SystemTime;

use kafscale_meta::files::read_small_text;
use kafscale_settings::failure::Failure;
use kafscale_settings::perimeter::{ExplainArgs, PerimeterFiles, PolicyCommand};

use crate::caller::Caller;
use crate::collection::find;
use crate::config::Config;
use crate::rules::cases::{self, table_of};
use crate::rules::{Action, Request, Rulebook, diff, explain};
use crate::rules_live::LiveRules;
use crate::run::{RuleFiles, config, print};
use crate::shape::TableName;

const MAX_CASES_BYTES: u64 = 16 << 20;

pub async fn run(files: &PerimeterFiles, command: &PolicyCommand) -> Result<(), Failure> {
    let config = config(files)?;
    let own = RuleFiles::of(files, &config);
    let book = load(own, config.base()).await?;
    match command {
        PolicyCommand::Test { file } => test(&book, file),
        PolicyCommand::Explain(args) => explain_one(&book, &config, args).await,
        PolicyCommand::Diff { new_policies, new_rules, audit_log } => {
            let new = RuleFiles { policies: new_policies.clone(), rules: new_rules.clone() };
            let new = load(new, config.base()).await?;
            let unreadable = |e| Failure::runtime(format!("{} cannot be read: {e}", audit_log.display()));
            let log = BufReader::new(File::open(audit_log).map_err(unreadable)?);
            print(&diff::diff(&book, &new, log).map_err(unreadable)?.text)
        }
    }
}

async fn load(files: RuleFiles, base: &Path) -> Result<Rulebook, Failure> {
    let book = LiveRules::read(files, base).await.map_err(|e| Failure::usage(e.to_string()))?;
    for warning in book.warnings() {
        eprintln!("warning: {warning}");
    }
    Ok(book)
}

fn test(book: &Rulebook, file: &Path) -> Result<(), Failure> {
    let unreadable = |e| Failure::usage(format!("{} cannot be read: {e}", file.display()));
    let text = read_small_text(file, MAX_CASES_BYTES).map_err(unreadable)?;
    let report = cases::run(book, file, &text).map_err(|e| Failure::usage(e.to_string()))?;
    print(&report.text)?;
    match report.failed {
        0 => Ok(()),
        failed => Err(Failure::runtime(format!("{failed} cases are decided otherwise"))),
    }
}

async fn explain_one(book: &Rulebook, config: &Config, args: &ExplainArgs) -> Result<(), Failure> {
    let table = table_of(&args.table).map_err(Failure::usage)?;
    let caller = Caller {
        principal: args.principal.clone(),
        groups: args.groups.clone(),
        purpose: args.purpose.clone(),
        ..Caller::default()
    };
    let collections = config.open().map_err(|e| Failure::usage(e.to_string()))?;
    let collection = collections.get(&table.collection);
    let collection =
        collection.ok_or_else(|| Failure::usage(format!("there is no collection {}", table.collection)))?;
    let source = find(collection.as_ref(), &table.table, &caller).await;
    let source = source.map_err(|e| Failure::runtime(e.to_string()))?;
    let source = source.ok_or_else(|| Failure::usage(format!("there is no table {table}")))?;
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now_ms = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
    let request = Request::new(&caller, Action::Query, now_ms);
    let table = TableName::new(table.collection, source.name);
    print(&explain::explain(book, &request, &table, &source.columns, args.column.as_deref()))
}
