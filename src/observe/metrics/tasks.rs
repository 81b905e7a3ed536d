//! How many tasks there are: each connection is one, and so is all work beside requests. A number that only grows is a leak that neither
//! threads nor descriptors show.

use std::cell::Cell;
use std::sync::{Mutex, PoisonError};

use tokio::runtime::{Handle, Id, RuntimeMetrics};

/// The runtimes of this process that have been seen.
static RUNTIMES: Mutex<Vec<(Id, RuntimeMetrics)>> = Mutex::new(Vec::new());

thread_local! {
    static IS_SEEN: Cell<bool> = const { Cell::new(false) };
}

/// Counts the tasks of the runtime that this thread belongs to.
pub(crate) fn count_tasks_here() {
    if IS_SEEN.replace(true) {
        return;
    }
    let Ok(handle) = Handle::try_current() else { return };
    let mut runtimes = RUNTIMES.lock().unwrap_or_else(PoisonError::into_inner);
    if runtimes.iter().all(|(id, _)| *id != handle.id()) {
        runtimes.push((handle.id(), handle.metrics()));
    }
}

/// How many there are now.
pub(super) fn alive() -> usize {
    let runtimes = RUNTIMES.lock().unwrap_or_else(PoisonError::into_inner);
    runtimes.iter().map(|(_, metrics)| metrics.num_alive_tasks()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tasks_are_counted_while_they_live() {
        count_tasks_here();
        count_tasks_here();
        let own = || {
            let runtimes = RUNTIMES.lock().unwrap();
            let mut own = runtimes.iter().filter(|(id, _)| *id == Handle::current().id());
            let counted = own.next().map(|(_, metrics)| metrics.num_alive_tasks());
            assert!(own.next().is_none(), "it is counted once");
            counted.unwrap()
        };
        let before = own();
        let task = tokio::spawn(std::future::pending::<()>());
        assert_eq!(own(), before + 1);
        assert!(alive() >= own());
        task.abort();
        let _ = task.await;
        assert_eq!(own(), before);
    }
}
