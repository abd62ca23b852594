//! A container from the agent's side: its record, and what is known of where in its life it is.

use crate::{
    ContainerState, ContainerStatus, Error,
    layout::{CONTAINER_RECORD, EXIT_RECORD, STARTED_RECORD, read_record, write_record},
    protocol::{ExitRecord, StartRequest, StartedRecord},
    records::ContainerRecord,
};
use parking_lot::Mutex;
use std::{path::PathBuf, time::Duration};
use tokio::sync::watch;

/// The exit code of a container that could not be started, as containerd has it.
const START_ERROR: i32 = 128;

/// Where in its life a container is, with what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Made, not started.
    Created,
    /// Its process runs.
    Running(StartedRecord),
    /// Its process has ended, or never could start.
    Exited(StartedRecord, ExitRecord),
}

/// A container that the runtime knows.
pub struct Container {
    /// Its folder.
    pub folder: PathBuf,
    record: Mutex<ContainerRecord>,
    phase: watch::Sender<Phase>,
    /// Held by whoever starts or removes it.
    pub gate: tokio::sync::Mutex<()>,
}

impl Container {
    /// A container in its first phase.
    pub fn new(folder: PathBuf, record: ContainerRecord) -> Self {
        Self {
            folder,
            record: Mutex::new(record),
            phase: watch::Sender::new(Phase::Created),
            gate: tokio::sync::Mutex::new(()),
        }
    }

    /// Its record.
    pub fn record(&self) -> ContainerRecord {
        self.record.lock().clone()
    }

    /// Its name.
    pub fn id(&self) -> String {
        self.record.lock().spec.id.clone()
    }

    /// Its sandbox's name.
    pub fn sandbox_id(&self) -> String {
        self.record.lock().spec.sandbox_id.clone()
    }

    /// Its cgroup.
    pub fn cgroup(&self) -> PathBuf {
        self.record.lock().cgroup.clone()
    }

    /// Changes its record, on disk first.
    pub fn change(&self, change: impl FnOnce(&mut ContainerRecord)) -> Result<(), Error> {
        let mut record = self.record.lock();
        let mut changed = record.clone();
        change(&mut changed);
        write_record(&self.folder.join(CONTAINER_RECORD), &changed)?;
        *record = changed;
        Ok(())
    }

    /// Where it is.
    pub fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }

    /// Whether its process runs.
    pub fn is_running(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Running(_))
    }

    /// Its process runs. What is known of its end is not undone.
    pub fn started(&self, record: StartedRecord) {
        self.phase.send_if_modified(|phase| {
            let first = *phase == Phase::Created;
            if first {
                *phase = Phase::Running(record);
            }
            first
        });
    }

    /// What its shim has written down when it started.
    pub fn started_record(&self) -> Option<StartedRecord> {
        read_record(&self.folder.join(STARTED_RECORD)).ok().flatten()
    }

    /// Reads how it ended, if its shim has written that down. Whether that is news.
    pub fn take_exit(&self) -> bool {
        match read_record::<ExitRecord>(&self.folder.join(EXIT_RECORD)) {
            Ok(Some(exit)) => self.exited(exit),
            Ok(None) => false,
            Err(e) => {
                tracing::warn!(container = %self.id(), "its exit cannot be read: {e}");
                false
            }
        }
    }

    fn exited(&self, exit: ExitRecord) -> bool {
        let started = self.started_record().unwrap_or_default();
        self.phase.send_if_modified(|phase| {
            let news = !matches!(phase, Phase::Exited(..));
            if news {
                *phase = Phase::Exited(started, exit);
            }
            news
        })
    }

    /// It could not be started.
    pub fn failed_to_start(&self, why: &str, now: i64) {
        self.end(ExitRecord {
            exit_code: START_ERROR,
            signal: 0,
            finished_at: now,
            reason: "StartError".into(),
            message: why.to_string(),
        });
    }

    /// It was killed, and nobody is left who saw it die. Whether that is news.
    pub fn lost(&self, now: i64) -> bool {
        self.end(ExitRecord {
            exit_code: 128 + libc::SIGKILL,
            signal: libc::SIGKILL,
            finished_at: now,
            reason: "Error".into(),
            message: "killed with its sandbox, whose shim is gone".into(),
        })
    }

    /// Ends it by our own word, unless the shim's is there.
    fn end(&self, exit: ExitRecord) -> bool {
        if self.take_exit() {
            return true;
        }
        if matches!(*self.phase.borrow(), Phase::Exited(..)) {
            return false;
        }
        if let Err(e) = write_record(&self.folder.join(EXIT_RECORD), &exit) {
            tracing::warn!(container = %self.id(), "its exit cannot be recorded: {e}");
        }
        self.exited(exit)
    }

    /// Waits for its end.
    pub async fn wait_exit(&self, limit: Duration) -> Option<ExitRecord> {
        let mut phase = self.phase.subscribe();
        let ended = phase.wait_for(|phase| matches!(phase, Phase::Exited(..)));
        match tokio::time::timeout(limit, ended).await {
            Ok(Ok(phase)) => match &*phase {
                Phase::Exited(_, exit) => Some(exit.clone()),
                _ => None,
            },
            _ => None,
        }
    }

    /// What its shim needs to start it.
    pub fn start_request(&self) -> StartRequest {
        let record = self.record.lock();
        StartRequest {
            id: record.spec.id.clone(),
            folder: self.folder.clone(),
            cgroup: record.cgroup.clone(),
            log_path: record.log_path.clone(),
            log_limits: record.log_limits,
            tty: record.spec.tty,
            stdin: record.spec.stdin,
            stdin_once: record.spec.stdin_once,
            own_pid_namespace: record.own_pid_namespace,
        }
    }

    /// For the agent.
    pub fn status(&self) -> ContainerStatus {
        let record = self.record.lock();
        let mut status = ContainerStatus {
            id: record.spec.id.clone(),
            sandbox_id: record.spec.sandbox_id.clone(),
            labels: record.spec.labels.clone(),
            image_id: record.spec.image_id.clone(),
            state: ContainerState::Created,
            created_at: record.created_at,
            started_at: 0,
            finished_at: 0,
            exit_code: 0,
            signal: 0,
            reason: String::new(),
            message: String::new(),
            pid: 0,
            log_path: record.log_path.clone(),
        };
        match &*self.phase.borrow() {
            Phase::Created => {}
            Phase::Running(started) => {
                status.state = ContainerState::Running;
                status.started_at = started.started_at;
                status.pid = started.pid;
            }
            Phase::Exited(started, exit) => {
                status.state = ContainerState::Exited;
                status.started_at = started.started_at;
                status.finished_at = exit.finished_at;
                status.exit_code = exit.exit_code;
                status.signal = exit.signal;
                status.reason = exit.reason.clone();
                status.message = exit.message.clone();
            }
        }
        status
    }
}
