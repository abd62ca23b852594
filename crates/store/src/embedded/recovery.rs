//! Opening a folder: the newest checkpoint, then the log after it, up to the last whole frame.
//!
//! An unfinished frame at the very end is what a crash leaves: it was never acknowledged and is ignored. Damage anywhere
//! else is an error, never a silent loss.

use super::{
    checkpoint,
    folder::{FILE_HEADER, Folder, LOG_MAGIC, SegmentInfo, decode_header, failed},
    frame::{self, ALIGN, Frame},
    log::{Log, Segment},
    state::{Retention, State},
};
use crate::{Commit, Error, Revision};
use std::{fs, path::Path, sync::Arc};

/// History is compacted after so many frames of a replay, lest it outgrow its limits in between.
const COMPACT_EVERY: usize = 256;

/// The state that the folder holds, and the log's end.
pub(crate) fn recover(folder: &Arc<Folder>, retention: &Retention, now: u64) -> Result<(State, Log), Error> {
    let mut state = match folder.checkpoint() {
        Some((revision, _)) => checkpoint::read(&folder.checkpoint_path(revision), revision)?,
        None => State::default(),
    };
    let segments = folder.segments();
    let mut active = None;
    let kept = state.newest();
    for (i, segment) in segments.iter().enumerate() {
        let next = segments.get(i + 1).map(|s| s.first);
        if next.is_some_and(|next| next.0 <= kept.0 + 1) {
            continue; // all of it is in the checkpoint
        }
        active = Some(Replay { state: &mut state, retention, now }.segment(folder, *segment, next)?);
    }
    settle(&mut state, retention, now)?;
    Ok((state, Log::new(folder.clone(), active)))
}

struct Replay<'a> {
    state: &'a mut State,
    retention: &'a Retention,
    now: u64,
}

impl Replay<'_> {
    /// Repeats what the segment holds before `next`, the first revision of the one after it.
    fn segment(
        mut self,
        folder: &Folder,
        info: SegmentInfo,
        next: Option<Revision>,
    ) -> Result<Segment, Error> {
        let path = folder.segment_path(info.first);
        let fail = failed("reading the log");
        let bytes = fs::read(&path).map_err(&fail)?;
        let salt = decode_header(&path, &bytes, LOG_MAGIC, info.first)?.salt;
        if info.first.0 > self.state.newest().0 + 1 {
            return Err(damaged(&path, self.state.newest(), "the log before it is missing"));
        }
        let mut at = FILE_HEADER;
        let mut frames = 0;
        while let Some((frame, used)) = bytes.get(at..).and_then(|rest| frame::decode(rest, salt)) {
            if next.is_some_and(|next| frame.first >= next) {
                break;
            }
            self.frame(&path, frame)?;
            at += used;
            frames += 1;
            if frames % COMPACT_EVERY == 0 {
                settle(self.state, self.retention, self.now)?;
            }
        }
        match next {
            Some(next) if self.state.newest().0 + 1 < next.0 => {
                return Err(damaged(&path, self.state.newest(), "a record in it is not readable"));
            }
            Some(_) => {}
            // Whatever follows the end of the log was never acknowledged, so nothing whole may follow it.
            None if any_frame(&bytes, at, salt, self.state.newest()) => {
                return Err(damaged(&path, self.state.newest(), "a record in it is not readable"));
            }
            None => {}
        }
        let file = fs::OpenOptions::new().read(true).write(true).open(&path).map_err(&fail)?;
        Ok(Segment { file, salt, bytes: bytes.len() as u64, tail: at as u64 })
    }

    fn frame(&mut self, path: &Path, frame: Frame) -> Result<(), Error> {
        let mut draft = self.state.draft();
        for (i, writes) in frame.writes.into_iter().enumerate() {
            let revision = Revision(frame.first.0 + i as u64);
            if revision <= draft.newest() {
                continue;
            }
            if draft.decide(&frame::replay(writes)) != Commit::Done(revision) {
                return Err(damaged(path, draft.newest(), "its revisions do not follow each other"));
            }
        }
        let batches = draft.into_batches();
        self.state.apply(&batches, frame.time);
        self.state.compact(frame.floor.min(self.state.newest()))
    }
}

/// Compacts history as the policy asks.
fn settle(state: &mut State, retention: &Retention, now: u64) -> Result<(), Error> {
    state.compact(state.floor_by(retention, now))?;
    state.forget(usize::MAX);
    Ok(())
}

/// Whether a whole frame of a revision after `newest` stands anywhere after the unreadable one at `at`.
fn any_frame(bytes: &[u8], at: usize, salt: u32, newest: Revision) -> bool {
    (at + ALIGN..bytes.len()).step_by(ALIGN).any(|at| {
        frame::decode(&bytes[at..], salt).is_some_and(|(f, _)| f.first > newest && !f.writes.is_empty())
    })
}

fn damaged(path: &Path, newest: Revision, what: &str) -> Error {
    Error::Corrupt { path: path.into(), what: format!("{what} (the last good revision is {newest})") }
}
