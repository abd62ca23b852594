//! Writes the tables of types as the bytes that the crate embeds.

use crate::arena::*;

/// The tables as bytes, for `Arena::decode`.
pub fn encode(arena: &Arena) -> Vec<u8> {
    let mut w = Writer(Vec::new());
    w.number(arena.pool.len() as u32);
    w.0.extend_from_slice(arena.pool.as_bytes());
    w.number(arena.ends.len() as u32);
    let mut before = 0;
    for end in &arena.ends {
        w.number(end - before);
        before = *end;
    }
    w.number(arena.keys.len() as u32);
    for tuple in &arena.keys {
        w.number(tuple.len() as u32);
        tuple.iter().for_each(|k| w.number(*k));
    }
    w.number(arena.nodes.len() as u32);
    arena.nodes.iter().for_each(|n| w.node(*n));
    w.number(arena.defs.len() as u32);
    for d in &arena.defs {
        [d.name, u32::from(d.open), d.start, d.len].into_iter().for_each(|n| w.number(n));
    }
    w.number(arena.fields.len() as u32);
    for f in &arena.fields {
        let rest = [f.merge_key.wrapping_add(1), f.default.wrapping_add(1), f.path];
        [f.name, f.node, f.flags].into_iter().chain(rest).for_each(|n| w.number(n));
    }
    w.number(arena.kinds.len() as u32);
    for k in &arena.kinds {
        [k.api_version, k.kind, k.node].into_iter().for_each(|n| w.number(n));
    }
    w.0
}

/// Numbers as LEB128.
struct Writer(Vec<u8>);

impl Writer {
    fn number(&mut self, mut n: u32) {
        while n >= 0x80 {
            self.0.push(n as u8 | 0x80);
            n >>= 7;
        }
        self.0.push(n as u8);
    }

    fn node(&mut self, node: Node) {
        let (tag, a, b) = match node {
            Node::Struct { def, atomic } => (u32::from(atomic), def, 0),
            Node::Map { value, atomic } => (2 + u32::from(atomic), value, 0),
            Node::List { item, kind: ListKind::Atomic } => (4, item, 0),
            Node::List { item, kind: ListKind::Set } => (5, item, 0),
            Node::List { item, kind: ListKind::Map(keys) } => (6, item, keys),
            Node::Either { object, item } => (7, object, item.wrapping_add(1)),
            Node::Any => (8, 0, 0),
            Node::Scalar(s) => (9, SCALARS.iter().position(|x| *x == s).unwrap_or(0) as u32, 0),
        };
        [tag, a, b].into_iter().for_each(|n| self.number(n));
    }
}
