//! The tasks that a worker has, by their ids, and how many queries they may be of.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use uuid::Uuid;

use super::task::Task;
use super::wire::TaskId;
use crate::error::SqlError;

/// Of one query at one worker.
const TASKS_MAX: usize = 256;
/// How long the rows of a task may be asked for before its plan comes.
pub const PLAN_WAIT: Duration = Duration::from_secs(30);

/// See the file's comment.
pub struct Tasks {
    known: Mutex<HashMap<TaskId, Option<Arc<Task>>>>,
    /// A task has come.
    came: Notify,
    queries_max: usize,
}

impl Tasks {
    pub fn new(queries_max: usize) -> Tasks {
        Tasks { known: Mutex::default(), came: Notify::new(), queries_max }
    }

    /// Takes a place for a task, before its plan is looked at. Nobody waits for one: two workers that had one of two
    /// queries each would wait for ever.
    pub fn admit(self: &Arc<Tasks>, id: TaskId) -> Result<Place, SqlError> {
        let mut known = self.known.lock();
        let queries: HashSet<Uuid> = known.keys().map(|id| id.query).collect();
        if !queries.contains(&id.query) && queries.len() >= self.queries_max {
            let most = self.queries_max;
            return Err(SqlError::Busy(format!(
                "the worker runs as many queries as it may, {most} (--max-queries); ask again later"
            )));
        }
        let of_query = known.keys().filter(|known| known.query == id.query).count();
        if of_query >= TASKS_MAX || known.contains_key(&id) {
            return Err(SqlError::BadValue(
                "a task came to a worker twice, or more than it takes".to_owned(),
            ));
        }
        known.insert(id, None);
        Ok(Place { tasks: Arc::clone(self), id })
    }

    /// The task, once its plan has come.
    pub async fn get(&self, id: TaskId) -> Result<Arc<Task>, SqlError> {
        let come = async {
            loop {
                let came = self.came.notified();
                if let Some(Some(task)) = self.known.lock().get(&id) {
                    return Arc::clone(task);
                }
                came.await;
            }
        };
        tokio::time::timeout(PLAN_WAIT, come).await.map_err(|_| {
            let message = format!("no plan came for a task within {} seconds", PLAN_WAIT.as_secs());
            SqlError::Remote { code: "08006", message, hint: None }
        })
    }
}

/// Of a task. It ends with this.
pub struct Place {
    tasks: Arc<Tasks>,
    id: TaskId,
}

impl Place {
    pub fn fill(&self, task: Arc<Task>) {
        self.tasks.known.lock().insert(self.id, Some(task));
        self.tasks.came.notify_waiters();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let task = self.tasks.known.lock().remove(&self.id);
        if let Some(Some(task)) = task {
            task.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_queries_have_tasks_and_each_task_comes_once() {
        let tasks = Arc::new(Tasks::new(1));
        let id = |query: u128, task| TaskId { query: Uuid::from_u128(query), stage: 1, task };
        let (first, second) = (tasks.admit(id(1, 0)).unwrap(), tasks.admit(id(1, 1)).unwrap());
        let refused = |id| tasks.admit(id).err().map(|error| error.code());
        assert_eq!(refused(id(1, 0)), Some("22023"), "the same task again");
        assert_eq!(refused(id(2, 0)), Some("53400"), "another query");
        drop((first, second));
        assert_eq!(refused(id(2, 0)), None);
    }
}
