//! Where a walk through an object is, as a chain on the stack: nothing is allocated until somebody has to be told.

use orlop_api::field_path::cut;

/// One step of the way, linked to the one before it.
#[derive(Clone, Copy)]
pub(crate) struct Trail<'a> {
    parent: Option<&'a Trail<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Key(&'a str),
    Index(usize),
}

impl<'a> Trail<'a> {
    /// The beginning.
    pub(crate) const ROOT: Trail<'static> = Trail { parent: None, step: Step::Root };

    /// One field further.
    pub(crate) fn key<'b>(&'b self, key: &'b str) -> Trail<'b>
    where
        'a: 'b,
    {
        Trail { parent: Some(self), step: Step::Key(key) }
    }

    /// One list entry further.
    pub(crate) fn index(&'a self, index: usize) -> Trail<'a> {
        Trail { parent: Some(self), step: Step::Index(index) }
    }

    /// `spec.containers[0].image`.
    pub(crate) fn path(&self) -> String {
        self.render(true)
    }

    /// `spec.containers.image`: as Go's decoder names a field.
    pub(crate) fn fields(&self) -> String {
        self.render(false)
    }

    fn render(&self, indices: bool) -> String {
        let mut steps = Vec::new();
        let mut at = Some(self);
        while let Some(trail) = at {
            steps.push(trail.step);
            at = trail.parent;
        }
        let mut out = String::new();
        for step in steps.into_iter().rev() {
            match step {
                Step::Root => {}
                Step::Key(key) => {
                    if !out.is_empty() {
                        out.push('.');
                    }
                    out.push_str(key);
                }
                Step::Index(i) if indices => out.push_str(&format!("[{i}]")),
                Step::Index(_) => {}
            }
            let length = out.len();
            cut(&mut out);
            if out.len() != length {
                break;
            }
        }
        out
    }
}
