//! What admission tells beside its verdict: warnings for whoever asked and annotations for the audit log. They belong to the
//! request that is being worked on, whatever becomes of it, and so travel with its task rather than with its result.

use parking_lot::Mutex;
use std::{future::Future, sync::Arc};

/// Warnings after this many bytes are dropped, as in Kubernetes, so that headers stay within what clients accept.
const WARNING_BYTES: usize = 4096;

/// What has been noted.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// Texts for `Warning` headers, each once.
    pub warnings: Vec<String>,
    /// Keys and values for the audit log.
    pub annotations: Vec<(String, String)>,
}

tokio::task_local! {
    static NOTES: Arc<Mutex<Notes>>;
}

/// Runs the work of one request; what it notes is returned with its result.
pub(crate) async fn collect<T>(work: impl Future<Output = T>) -> (T, Notes) {
    let notes = Arc::new(Mutex::new(Notes::default()));
    let result = NOTES.scope(notes.clone(), work).await;
    let notes = std::mem::take(&mut *notes.lock());
    (result, notes)
}

/// Tells whoever asked.
pub(crate) fn warn(text: impl Into<String>) {
    let text = text.into();
    let _ = NOTES.try_with(|notes| {
        let mut notes = notes.lock();
        let size: usize = notes.warnings.iter().map(String::len).sum();
        if !notes.warnings.contains(&text) && size + text.len() <= WARNING_BYTES {
            notes.warnings.push(text);
        }
    });
}

/// Tells the audit log.
pub(crate) fn annotate(key: impl Into<String>, value: impl Into<String>) {
    let (key, value) = (key.into(), value.into());
    let _ = NOTES.try_with(|notes| {
        let mut notes = notes.lock();
        // A write that is tried again is judged again; the first word stays.
        if !notes.annotations.iter().any(|(k, _)| *k == key) {
            notes.annotations.push((key, value));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_noted_belongs_to_the_request_that_is_worked_on() {
        let (result, notes) = collect(async {
            warn("old");
            warn("old");
            annotate("a", "1");
            annotate("a", "2");
            7
        })
        .await;
        assert_eq!((result, notes.warnings), (7, vec!["old".to_string()]));
        assert_eq!(notes.annotations, [("a".to_string(), "1".to_string())]);
        warn("nobody listens");
    }
}
