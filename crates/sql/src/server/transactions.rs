//! What a transaction block does to the settings of a session: they go back when it is rolled back,
//! to its beginning or to a savepoint, and those of SET LOCAL end with it.

use std::sync::Arc;

use super::session::{REPORTED, Session, Values};
use crate::error::SqlError;

/// Of one block. Each keeps the settings as they were.
const SAVEPOINTS_MAX: usize = 1_000;

/// A transaction block that was begun.
#[derive(Debug)]
pub struct Block {
    before: Point,
    savepoints: Vec<(String, Point)>,
}

/// What is gone back to.
#[derive(Debug, Clone)]
struct Point {
    values: Arc<Values>,
    /// Cursors that were declared before.
    cursors: u64,
}

/// A setting whose value the client must be told.
pub type Told = (&'static str, String);

fn state(code: &'static str, message: String) -> SqlError {
    SqlError::State { code, message }
}

fn only_in_blocks(command: &str) -> SqlError {
    state("25P01", format!("{command} can only be used in transaction blocks"))
}

impl Session {
    fn point(&self, cursors: u64) -> Point {
        Point { values: Arc::clone(&self.values), cursors }
    }

    pub fn is_in_block(&self) -> bool {
        self.block.is_some()
    }

    pub fn begin_block(&mut self, cursors: u64) {
        self.block = Some(Block { before: self.point(cursors), savepoints: Vec::new() });
    }

    /// Gives what changes with it, and how many cursors there were before the block.
    pub fn end_block(&mut self, commits: bool) -> (Vec<Told>, u64) {
        let Some(block) = self.block.take() else { return (Vec::new(), 0) };
        let before = self.reported();
        match commits {
            true if self.values.local.is_empty() => {}
            true => Arc::make_mut(&mut self.values).local.clear(),
            false => self.values = block.before.values,
        }
        (self.changed(&before), block.before.cursors)
    }

    pub fn savepoint(&mut self, name: &str, cursors: u64) -> Result<(), SqlError> {
        let point = self.point(cursors);
        let block = self.block.as_mut().ok_or_else(|| only_in_blocks("SAVEPOINT"))?;
        if block.savepoints.len() >= SAVEPOINTS_MAX {
            return Err(state("54000", format!("there are {SAVEPOINTS_MAX} savepoints already")));
        }
        block.savepoints.push((name.to_owned(), point));
        Ok(())
    }

    /// The block, and the place of its newest savepoint of this name.
    fn found(&mut self, name: &str, command: &str) -> Result<(&mut Block, usize), SqlError> {
        let block = self.block.as_mut().ok_or_else(|| only_in_blocks(command))?;
        let place = block.savepoints.iter().rposition(|(known, _)| known == name);
        let missing = || state("3B001", format!("savepoint \"{name}\" does not exist"));
        Ok((block, place.ok_or_else(missing)?))
    }

    /// Forgets a savepoint, and those behind it.
    pub fn release(&mut self, name: &str) -> Result<(), SqlError> {
        let (block, place) = self.found(name, "RELEASE SAVEPOINT")?;
        block.savepoints.truncate(place);
        Ok(())
    }

    /// Goes back to a savepoint, which stays. Gives what [`Session::end_block`] does.
    pub fn roll_back_to(&mut self, name: &str) -> Result<(Vec<Told>, u64), SqlError> {
        let before = self.reported();
        let (block, place) = self.found(name, "ROLLBACK TO SAVEPOINT")?;
        block.savepoints.truncate(place + 1);
        let point = block.savepoints[place].1.clone();
        self.values = point.values;
        Ok((self.changed(&before), point.cursors))
    }

    fn reported(&self) -> Vec<Told> {
        REPORTED.iter().map(|name| (*name, self.show(name).unwrap_or_default())).collect()
    }

    /// All settings as they were at the beginning of the session.
    pub fn reset_all(&mut self) -> Vec<Told> {
        let before = self.reported();
        self.values = Arc::clone(&self.initial);
        self.changed(&before)
    }

    fn changed(&self, before: &[Told]) -> Vec<Told> {
        self.reported().into_iter().filter(|told| !before.contains(told)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statement::Setting;

    fn set(session: &mut Session, local: bool, value: &str) {
        let setting = Setting { name: "application_name".into(), value: Some(value.into()), local };
        session.set(&setting).unwrap();
    }

    fn name(session: &Session) -> String {
        session.show("application_name").unwrap()
    }

    #[test]
    fn settings_go_back_with_their_block() {
        let mut session = Session::default();
        set(&mut session, false, "before");
        session.begin_block(3);
        set(&mut session, false, "within");
        assert_eq!(session.end_block(false), (vec![("application_name", "before".to_owned())], 3));
        session.begin_block(0);
        set(&mut session, false, "kept");
        set(&mut session, true, "local");
        assert_eq!(name(&session), "local");
        session.end_block(true);
        assert_eq!(name(&session), "kept");
        // Outside of a block, SET LOCAL does nothing.
        set(&mut session, true, "nowhere");
        assert_eq!(name(&session), "kept");
    }

    #[test]
    fn savepoints_are_gone_back_to_and_released() {
        let mut session = Session::default();
        assert_eq!(session.savepoint("a", 0).unwrap_err().code(), "25P01");
        session.begin_block(0);
        set(&mut session, false, "0");
        session.savepoint("a", 1).unwrap();
        set(&mut session, true, "1");
        session.savepoint("b", 2).unwrap();
        session.savepoint("a", 3).unwrap();
        set(&mut session, false, "2");
        assert_eq!(session.roll_back_to("a").unwrap().1, 3);
        assert_eq!(name(&session), "1");
        session.release("a").unwrap();
        assert_eq!(session.roll_back_to("a").unwrap().1, 1);
        assert_eq!(name(&session), "0");
        assert_eq!(session.release("b").unwrap_err().code(), "3B001");
        for _ in 1..SAVEPOINTS_MAX {
            session.savepoint("c", 0).unwrap();
        }
        assert_eq!(session.savepoint("c", 0).unwrap_err().code(), "54000");
    }
}
