//! Statements that ask for nothing but something of the session: its settings, its transaction, its
//! cursors and prepared statements.

use pgwire::api::results::Tag;
use pgwire::messages::response::TransactionStatus;
use pgwire::messages::startup::ParameterStatus;

use super::statements::Statements;
use super::transactions::Told;
use crate::error::SqlError;
use crate::statement::Statement;

/// What comes of a statement without rows.
pub struct Done {
    pub tag: Tag,
    /// Settings that the client must be told of.
    pub told: Vec<ParameterStatus>,
    /// A code and a text.
    pub warning: Option<(&'static str, &'static str)>,
    /// Another state of the transaction.
    pub status: Option<TransactionStatus>,
    /// A prepared statement that is forgotten, or all.
    pub forgotten: Option<Option<String>>,
}

impl Done {
    pub fn with(tag: Tag) -> Done {
        Done { tag, told: Vec::new(), warning: None, status: None, forgotten: None }
    }

    pub fn of(tag: &str) -> Done {
        Done::with(Tag::new(tag))
    }

    fn telling(mut self, told: impl IntoIterator<Item = Told>) -> Done {
        let status = |(name, value): Told| ParameterStatus::new(name.to_owned(), value);
        self.told.extend(told.into_iter().map(status));
        self
    }
}

impl Statements {
    /// Statements that ask for nothing but something of the session.
    pub(super) fn of_session(
        &self,
        statement: &Statement,
        status: TransactionStatus,
    ) -> Result<Done, SqlError> {
        let is_idle = matches!(status, TransactionStatus::Idle);
        let warned = |tag: &str, code, text| Done { warning: Some((code, text)), ..Done::of(tag) };
        match statement {
            Statement::Set(setting) => {
                let told = self.session.lock().set(setting)?;
                let done = match setting.local && is_idle {
                    true => warned("SET", "25P01", "SET LOCAL can only be used in transaction blocks"),
                    false => Done::of("SET"),
                };
                Ok(done.telling(told))
            }
            Statement::ResetAll => Ok(Done::of("RESET").telling(self.session.lock().reset_all())),
            Statement::Begin if !is_idle => {
                Ok(warned("BEGIN", "25001", "there is already a transaction in progress"))
            }
            Statement::Begin => {
                self.session.lock().begin_block(self.cursors.count());
                Ok(Done { status: Some(TransactionStatus::Transaction), ..Done::of("BEGIN") })
            }
            Statement::Commit { chain } => self.end_block("COMMIT", *chain, status),
            Statement::Rollback { chain } => self.end_block("ROLLBACK", *chain, status),
            Statement::Savepoint(name) => {
                self.session.lock().savepoint(name, self.cursors.count())?;
                Ok(Done::of("SAVEPOINT"))
            }
            Statement::Release(name) => {
                self.session.lock().release(name)?;
                Ok(Done::of("RELEASE"))
            }
            Statement::RollbackTo(name) => {
                let (told, cursors) = self.session.lock().roll_back_to(name)?;
                self.cursors.roll_back_to(cursors);
                let status = Some(TransactionStatus::Transaction);
                Ok(Done { status, ..Done::of("ROLLBACK") }.telling(told))
            }
            Statement::Close(name) => {
                self.cursors.close(name.as_deref())?;
                Ok(Done::of("CLOSE CURSOR"))
            }
            Statement::Deallocate(name) => {
                let tag = if name.is_some() { "DEALLOCATE" } else { "DEALLOCATE ALL" };
                Ok(Done { forgotten: Some(name.clone()), ..Done::of(tag) })
            }
            Statement::DiscardAll if !is_idle => {
                let message = "DISCARD ALL cannot run inside a transaction block".to_owned();
                Err(SqlError::State { code: "25001", message })
            }
            Statement::DiscardAll => {
                self.cursors.close(None)?;
                let told = self.session.lock().reset_all();
                Ok(Done { forgotten: Some(None), ..Done::of("DISCARD ALL") }.telling(told))
            }
            Statement::Nothing(tag) => Ok(Done::of(tag)),
            Statement::Query(_)
            | Statement::Explain { .. }
            | Statement::Copy(_)
            | Statement::Declare(_)
            | Statement::Fetch(_)
            | Statement::Show(_) => unreachable!("these have rows, or queries"),
        }
    }

    fn end_block(&self, command: &str, chain: bool, status: TransactionStatus) -> Result<Done, SqlError> {
        if matches!(status, TransactionStatus::Idle) {
            let none = Some(("25P01", "there is no transaction in progress"));
            let message = format!("{command} AND CHAIN can only be used in transaction blocks");
            return match chain {
                true => Err(SqlError::State { code: "25P01", message }),
                false => Ok(Done { warning: none, ..Done::of(command) }),
            };
        }
        // Of a transaction that failed, nothing is left to commit.
        let commits = command == "COMMIT" && matches!(status, TransactionStatus::Transaction);
        let mut session = self.session.lock();
        let (told, cursors) = session.end_block(commits);
        self.cursors.end_transaction();
        if !commits {
            self.cursors.roll_back_to(cursors);
        }
        let status = if chain { TransactionStatus::Transaction } else { TransactionStatus::Idle };
        if chain {
            session.begin_block(self.cursors.count());
        }
        let tag = if commits { "COMMIT" } else { "ROLLBACK" };
        Ok(Done { status: Some(status), ..Done::of(tag) }.telling(told))
    }
}
