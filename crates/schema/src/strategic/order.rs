//! Where the entries of a merged list stand: those of the patch in the order of the patch, those that only the
//! server has where they stood, as far as both can be had.

use serde_json::Value;
use std::collections::HashMap;

/// By what two entries are the same: the value of a key, or the entry itself.
#[derive(Clone, Copy)]
pub(super) struct Identity<'a> {
    /// The merge key, for lists of objects.
    pub(super) key: Option<&'a str>,
}

impl Identity<'_> {
    /// What stands for an entry; entries without the key have none.
    pub(super) fn of(self, item: &Value) -> Option<String> {
        match self.key {
            Some(key) => item.get(key).map(Value::to_string),
            None => Some(item.to_string()),
        }
    }

    /// Where each entry of a list stands.
    pub(super) fn places(self, list: &[Value]) -> HashMap<String, usize> {
        let mut places = HashMap::with_capacity(list.len());
        for (at, item) in list.iter().enumerate() {
            if let Some(id) = self.of(item) {
                places.entry(id).or_insert(at);
            }
        }
        places
    }
}

/// An entry, where the patch wants it, where it stands now.
struct Placed {
    item: Value,
    wanted: Option<usize>,
    live: Option<usize>,
}

/// `merged` in order: entries named in `wanted` as they stand there, the others as they stand in `live`.
pub(super) fn reorder(
    identity: Identity<'_>,
    merged: Vec<Value>,
    wanted: &[Value],
    live: &[Value],
) -> Vec<Value> {
    let (wanted, live) = (identity.places(wanted), identity.places(live));
    let placed = merged.into_iter().map(|item| {
        let id = identity.of(&item);
        let place = |places: &HashMap<String, usize>| places.get(id.as_deref()?).copied();
        Placed { wanted: place(&wanted), live: place(&live), item }
    });
    let (mut named, mut others): (Vec<_>, Vec<_>) = placed.partition(|p| p.wanted.is_some());
    named.sort_by_key(|p| p.wanted);
    others.sort_by_key(|p| p.live.unwrap_or(usize::MAX));

    let mut out = Vec::with_capacity(named.len() + others.len());
    let mut named = named.into_iter().peekable();
    let mut others = others.into_iter().peekable();
    loop {
        let other_first = match (named.peek(), others.peek()) {
            (None, None) => return out,
            (None, Some(_)) => true,
            (Some(_), None) => false,
            (Some(n), Some(o)) => matches!((o.live, n.live), (Some(o), Some(n)) if o < n),
        };
        let next = if other_first { others.next() } else { named.next() };
        out.extend(next.map(|p| p.item));
    }
}
