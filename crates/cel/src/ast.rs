//! An expression as a tree. Macros are nodes of their own, so that the checker and the evaluator need no hidden
//! accumulators. Says nothing about meaning.

/// A node and where it starts in the source, counted in characters.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Expr {
    pub at: usize,
    /// Nodes on the longest way down.
    pub height: usize,
    pub node: Node,
}

impl Expr {
    /// A node at a place.
    pub(crate) fn new(at: usize, node: Node) -> Self {
        let below = |list: &mut dyn Iterator<Item = &Expr>| list.map(|e| e.height).max().unwrap_or(0);
        let height = 1 + match &node {
            Node::Literal(_) | Node::Ident(_) => 0,
            Node::Select { operand, .. } => operand.height,
            Node::Call { target, args, .. } => below(&mut target.iter().map(|t| &**t).chain(args)),
            Node::List(entries) => below(&mut entries.iter().map(|e| &e.0)),
            Node::Map(entries) => below(&mut entries.iter().flat_map(|e| [&e.0, &e.1])),
            Node::Message { fields, .. } => below(&mut fields.iter().map(|f| &f.value)),
            Node::Fold(f) => below(&mut [&f.range, &f.step].into_iter().chain(&f.filter)),
            Node::Bind(b) => b.init.height.max(b.body.height),
        };
        Self { at, height, node }
    }
}

/// A value written out.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(String),
    Bytes(Vec<u8>),
}

/// What a node is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Node {
    Literal(Literal),
    Ident(String),
    /// `operand.field`; with `test`, `has(operand.field)`; with `optional`, `operand.?field`.
    Select {
        operand: Box<Expr>,
        field: String,
        test: bool,
        optional: bool,
    },
    /// `function(args)` or `target.function(args)`. Operators are calls too (`_+_`).
    Call {
        function: String,
        target: Option<Box<Expr>>,
        args: Vec<Expr>,
    },
    /// `[a, ?b]`.
    List(Vec<(Expr, bool)>),
    /// `{k: v, ?k: v}`.
    Map(Vec<(Expr, Expr, bool)>),
    /// `Name{field: v, ?field: v}`.
    Message {
        name: String,
        fields: Vec<FieldInit>,
    },
    /// `range.all(x, …)` and its like.
    Fold(Box<Fold>),
    /// `cel.bind(x, init, body)`, and `optMap`/`optFlatMap`, which bind what an optional holds.
    Bind(Box<Bind>),
}

/// A field of an object that is made.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FieldInit {
    pub name: String,
    /// Where its colon is.
    pub at: usize,
    pub value: Expr,
    pub optional: bool,
}

/// What a macro over a list or map makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FoldKind {
    All,
    Exists,
    ExistsOne,
    /// `map` (with or without a filter), `transformList`.
    Map,
    Filter,
    /// `transformMap`.
    TransformMap,
}

/// A macro over a list or map.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fold {
    pub kind: FoldKind,
    pub range: Expr,
    /// The variable: an entry, or a map's key. With a second one: the index or key.
    pub var: String,
    /// The second variable: the entry or the map's value.
    pub second: Option<String>,
    pub filter: Option<Expr>,
    pub step: Expr,
}

/// How a name is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BindKind {
    /// To a value.
    Value,
    /// To what an optional holds; the result is made optional.
    OptMap,
    /// To what an optional holds; the result is an optional already.
    OptFlatMap,
}

/// A local name.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bind {
    pub kind: BindKind,
    pub var: String,
    pub init: Expr,
    pub body: Expr,
}
