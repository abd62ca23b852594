//! The log's end: appends frames durably, and goes on in a new segment when one is full or has failed.
//!
//! A failed write or sync leaves unknown what is on disk, so its segment is given up: the next frame opens a new one, and
//! what the old one holds from that revision on no longer counts. Never reads; that is `recovery`.

use super::{
    folder::{FILE_HEADER, Folder},
    frame,
};
use crate::Revision;
use std::{fs::File, io, os::unix::fs::FileExt, sync::Arc};

/// Where the next frame goes.
#[derive(Debug)]
pub(crate) struct Log {
    folder: Arc<Folder>,
    active: Option<Segment>,
    #[cfg(test)]
    pub(crate) fail_next: Option<Failure>,
}

/// A segment that is written to.
#[derive(Debug)]
pub(crate) struct Segment {
    /// The open file.
    pub(crate) file: File,
    /// Of its checksums.
    pub(crate) salt: u32,
    /// Its size.
    pub(crate) bytes: u64,
    /// Where its last frame ends.
    pub(crate) tail: u64,
}

/// What a test lets fail.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Half the frame is written.
    Write,
    /// All is written, but not known to be durable.
    Sync,
}

impl Log {
    /// A log that goes on in `active`, or in a new segment.
    pub(crate) fn new(folder: Arc<Folder>, active: Option<Segment>) -> Self {
        Self {
            folder,
            active,
            #[cfg(test)]
            fail_next: None,
        }
    }

    /// Appends an encoded frame whose first revision is `first`; durable when this returns. After an error nothing of it is
    /// there, unless the process ends before the next append: then it may be there, whole.
    pub(crate) fn append(&mut self, frame: &mut [u8], first: Revision) -> io::Result<()> {
        let fits = |s: &Segment| s.tail + frame.len() as u64 <= s.bytes;
        let mut segment = match self.active.take().filter(fits) {
            Some(segment) => segment,
            None => {
                let (file, salt, bytes) = self.folder.new_segment(first, frame.len())?;
                Segment { file, salt, bytes, tail: FILE_HEADER as u64 }
            }
        };
        frame::seal(frame, segment.salt);
        let written = self.write(&segment, frame);
        if written.is_ok() {
            segment.tail += frame.len() as u64;
            self.active = Some(segment);
        } else {
            // Makes it less likely still that the refused frame comes back after a crash.
            let _ = segment.file.write_all_at(&[0; frame::HEADER], segment.tail);
            let _ = segment.file.sync_data();
        }
        written
    }

    fn write(&mut self, segment: &Segment, frame: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        if let Some(failure) = self.fail_next.take() {
            let part = if failure == Failure::Write { frame.len() / 2 } else { frame.len() };
            segment.file.write_all_at(&frame[..part], segment.tail)?;
            return Err(io::Error::from_raw_os_error(5));
        }
        segment.file.write_all_at(frame, segment.tail)?;
        segment.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Op, Txn,
        embedded::{
            recovery::recover,
            state::{Retention, State},
        },
    };
    use std::path::Path;

    /// Decides a put, appends it, and applies it if that worked.
    fn put(log: &mut Log, state: &mut State, value: &'static str) -> io::Result<()> {
        let mut draft = state.draft();
        draft.decide(&Txn { ops: vec![Op::Put("/k".into(), value.into())], ..Txn::default() });
        let batches = draft.into_batches();
        let first = Revision(state.newest().0 + 1);
        let mut buffer = Vec::new();
        frame::encode(&mut buffer, first, &batches, 0, Revision(0));
        log.append(&mut buffer, first)?;
        state.apply(&batches, 0);
        Ok(())
    }

    fn opened(path: &Path) -> (State, Log) {
        let folder = Folder::open(path, 4096).expect("opens");
        recover(&folder, &Retention::default(), 0).expect("recovers")
    }

    #[test]
    fn a_failed_append_leaves_nothing_and_the_next_one_goes_on() {
        for failure in [Failure::Write, Failure::Sync] {
            for good_before in [0, 1, 3] {
                let dir = tempfile::tempdir().expect("a folder");
                let (mut state, mut log) = opened(dir.path());
                for _ in 0..good_before {
                    put(&mut log, &mut state, "good").expect("put");
                }
                for _ in 0..3 {
                    log.fail_next = Some(failure);
                    put(&mut log, &mut state, "refused").expect_err("fails");
                    assert_eq!(state.newest(), Revision(good_before));
                }
                put(&mut log, &mut state, "after").expect("goes on");
                drop((state, log));
                for _ in 0..2 {
                    let (state, _log) = opened(dir.path());
                    assert_eq!(state.newest(), Revision(good_before + 1), "{failure:?}");
                    assert_eq!(state.get("/k").expect("there").value, "after");
                }
            }
        }
    }

    #[test]
    fn a_crash_after_a_failed_append_leaves_the_refused_frame_whole_or_not_at_all() {
        for failure in [Failure::Write, Failure::Sync] {
            let dir = tempfile::tempdir().expect("a folder");
            let (mut state, mut log) = opened(dir.path());
            put(&mut log, &mut state, "good").expect("put");
            log.fail_next = Some(failure);
            put(&mut log, &mut state, "refused").expect_err("fails");
            drop((state, log));
            let (mut state, mut log) = opened(dir.path());
            assert_eq!(state.get("/k").expect("there").value, "good");
            put(&mut log, &mut state, "after").expect("goes on");
            drop((state, log));
            assert_eq!(opened(dir.path()).0.get("/k").expect("there").value, "after");
        }
    }
}
