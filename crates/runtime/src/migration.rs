//! Keeps moving processes between cgroups fast while containers start.
//!
//! The kernel guards every such move with one lock of the whole machine that is cheap for those who fork and dear for those who
//! move: the first move after a pause waits for an RCU grace period (8 to 16 ms where this was measured), those that follow
//! within some milliseconds take microseconds. A start has several moves, just so far apart that each would wait. So while any
//! start is under way, a thread moves this process to where it is already, again and again. Where it cannot, starts are only
//! slower.

use crate::cgroup::{Cgroups, write};
use parking_lot::{Condvar, Mutex};
use std::{path::Path, sync::Arc, time::Duration};

/// Well below the time after which the kernel lets the lock cool down.
const PAUSE: Duration = Duration::from_millis(4);

/// The machine's readiness to move processes.
#[derive(Clone)]
pub struct Migrations {
    cgroups: Cgroups,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Starts that are under way.
    starts: usize,
    /// Whether a thread is at work.
    warming: bool,
}

/// A start that is under way.
pub struct Start(Arc<Mutex<State>>);

impl Drop for Start {
    fn drop(&mut self) {
        self.0.lock().starts -= 1;
    }
}

impl Migrations {
    /// On a machine with these cgroups.
    pub fn new(cgroups: Cgroups) -> Self {
        Self { cgroups, state: Arc::default() }
    }

    /// Moves are fast from soon after now until the last start is dropped.
    pub fn begin(&self) -> Start {
        let mut state = self.state.lock();
        state.starts += 1;
        if !state.warming {
            let (cgroups, warmed) = (self.cgroups.clone(), self.state.clone());
            let thread = std::thread::Builder::new().name("cgroup-warmth".into());
            let work = move || warm(|| cgroups.own_procs(), &warmed);
            state.warming = thread.spawn(work).is_ok();
        }
        drop(state);
        Start(self.state.clone())
    }
}

/// Moves this process into its own group until no start is under way, or it cannot.
fn warm<P: AsRef<Path>>(own: impl Fn() -> Option<P>, state: &Mutex<State>) {
    loop {
        let moved = own().is_some_and(|own| write(own.as_ref(), "0").is_ok());
        let mut state = state.lock();
        // Nobody tells: this only waits, without holding the lock.
        Condvar::new().wait_for(&mut state, PAUSE);
        if state.starts == 0 || !moved {
            state.warming = false;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn eventually(what: impl Fn() -> bool) -> bool {
        (0..2000).any(|_| {
            std::thread::park_timeout(Duration::from_millis(1));
            what()
        })
    }

    #[test]
    fn processes_are_moved_until_the_last_start_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("cgroup.procs");
        fs::write(&file, "").unwrap();
        let state = Arc::new(Mutex::new(State { starts: 2, warming: true }));
        let (own, warmed) = (file.clone(), state.clone());
        let thread = std::thread::spawn(move || warm(|| Some(&own), &warmed));
        let written = || fs::read_to_string(&file).is_ok_and(|text| text == "0");
        assert!(eventually(written));
        drop(Start(state.clone()));
        fs::write(&file, "").unwrap();
        assert!(eventually(written), "one start is left");
        drop(Start(state.clone()));
        thread.join().unwrap();
        assert!(!state.lock().warming);
    }

    #[test]
    fn where_it_cannot_it_does_not_go_on() {
        let state = Mutex::new(State { starts: 1, warming: true });
        warm(|| Some("/nowhere/cgroup.procs"), &state);
        assert!(!state.lock().warming);
    }
}
