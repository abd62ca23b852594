//! Tokens into a tree, by precedence; macros are expanded on the way. Depth is bounded, so no source overflows the stack.

use crate::{
    ast::{Bind, BindKind, Expr, FieldInit, Fold, FoldKind, Literal, Node},
    dotted,
    lexer::{LexError, Token, lex},
    library::signatures,
};

/// How deep an expression may nest.
const MAX_DEPTH: usize = 60;
/// How high its tree may be.
const MAX_HEIGHT: usize = 250;
/// How long its source may be, in characters.
const MAX_SOURCE: usize = 100_000;

/// Words that are no names.
pub(crate) const RESERVED: [&str; 16] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
];

/// Words of the language that are values or operators, so no names either.
pub(crate) const LITERALS: [&str; 4] = ["true", "false", "null", "in"];

type Result<T> = std::result::Result<T, LexError>;

struct Parser {
    tokens: Vec<(usize, Token)>,
    next: usize,
    depth: usize,
}

/// Parses an expression.
pub(crate) fn parse(source: &str) -> Result<Expr> {
    if source.chars().nth(MAX_SOURCE).is_some() {
        let message =
            format!("expression code point size exceeds limit: size: {}, limit {MAX_SOURCE}", source.len());
        return Err(LexError { at: 0, message });
    }
    let mut parser = Parser { tokens: lex(source)?, next: 0, depth: 0 };
    let expr = parser.expr()?;
    match parser.peek() {
        Token::End => Ok(expr),
        _ => parser.unexpected("<EOF>"),
    }
}

fn binary(level: usize, sign: &str) -> Option<&'static str> {
    Some(match (level, sign) {
        (0, "||") => "_||_",
        (1, "&&") => "_&&_",
        (2, "<") => "_<_",
        (2, "<=") => "_<=_",
        (2, ">") => "_>_",
        (2, ">=") => "_>=_",
        (2, "==") => "_==_",
        (2, "!=") => "_!=_",
        (2, "in") => "@in",
        (3, "+") => "_+_",
        (3, "-") => "_-_",
        (4, "*") => "_*_",
        (4, "/") => "_/_",
        (4, "%") => "_%_",
        _ => return None,
    })
}

const UNARY: usize = 5;

fn show(token: &Token) -> String {
    match token {
        Token::Ident(name) | Token::Quoted(name) => name.clone(),
        Token::Int(n) => n.to_string(),
        Token::IntMin => "9223372036854775808".to_string(),
        Token::Uint(n) => format!("{n}u"),
        Token::Double(n) => n.to_string(),
        Token::String(text) => format!("{text:?}"),
        Token::Bytes(_) => "bytes".to_string(),
        Token::Sign(sign) => (*sign).to_string(),
        Token::End => "<EOF>".to_string(),
    }
}

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.next].1
    }

    fn at(&self) -> usize {
        self.tokens[self.next].0
    }

    /// The next token; the end stays.
    fn take(&mut self) -> Token {
        let token = self.tokens[self.next].1.clone();
        if token != Token::End {
            self.next += 1;
        }
        token
    }

    fn is(&self, sign: &str) -> bool {
        matches!(self.peek(), Token::Sign(s) if *s == sign)
    }

    fn eat(&mut self, sign: &str) -> bool {
        let found = self.is(sign);
        if found {
            self.next += 1;
        }
        found
    }

    fn expect(&mut self, sign: &'static str) -> Result<()> {
        if self.eat(sign) { Ok(()) } else { self.unexpected(&format!("'{sign}'")) }
    }

    fn unexpected<T>(&self, expected: &str) -> Result<T> {
        let found = show(self.peek());
        let message = if expected.is_empty() || *self.peek() == Token::End && expected != "<EOF>" {
            format!(
                "Syntax error: mismatched input '{found}' expecting {{'[', '{{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}}"
            )
        } else if expected == "<EOF>" {
            format!("Syntax error: extraneous input '{found}' expecting <EOF>")
        } else {
            format!("Syntax error: mismatched input '{found}' expecting {expected}")
        };
        Err(LexError { at: self.at(), message })
    }

    fn deeper<T>(&mut self, f: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth >= MAX_DEPTH {
            let message = format!("expression recursion limit exceeded: {MAX_DEPTH}");
            return Err(LexError { at: self.at(), message });
        }
        self.depth += 1;
        let out = f(self);
        self.depth -= 1;
        out
    }

    /// Whether the tree may still grow above `expr`.
    fn bounded(&self, expr: &Expr) -> Result<()> {
        if expr.height < MAX_HEIGHT {
            return Ok(());
        }
        let message = format!("expression recursion limit exceeded: {MAX_HEIGHT}");
        Err(LexError { at: self.at(), message })
    }

    fn expr(&mut self) -> Result<Expr> {
        self.deeper(|p| {
            let condition = p.level(0)?;
            let at = p.at();
            if !p.eat("?") {
                return Ok(condition);
            }
            let then = p.level(0)?;
            p.expect(":")?;
            let otherwise = p.expr()?;
            Ok(call(at, "_?_:_", vec![condition, then, otherwise]))
        })
    }

    fn level(&mut self, level: usize) -> Result<Expr> {
        if level == UNARY {
            return self.unary();
        }
        let mut left = self.level(level + 1)?;
        loop {
            let function = match self.peek() {
                Token::Sign(sign) => binary(level, sign),
                Token::Ident(name) if name == "in" => binary(level, "in"),
                _ => None,
            };
            let Some(function) = function else { return Ok(left) };
            self.bounded(&left)?;
            let at = self.at();
            self.next += 1;
            let right = self.level(level + 1)?;
            left = call(at, function, vec![left, right]);
        }
    }

    fn unary(&mut self) -> Result<Expr> {
        let at = self.at();
        for (sign, function) in [("!", "!_"), ("-", "-_")] {
            let mut count = 0;
            while self.is(sign) {
                // A minus before a number belongs to the number.
                let number = matches!(
                    self.tokens.get(self.next + 1),
                    Some((_, Token::Int(_) | Token::IntMin | Token::Double(_)))
                );
                if sign == "-" && number {
                    break;
                }
                self.next += 1;
                count += 1;
            }
            if count > 0 {
                let operand = self.deeper(Self::unary)?;
                // Two of them undo each other.
                return Ok(if count % 2 == 0 { operand } else { call(at, function, vec![operand]) });
            }
        }
        self.member()
    }

    fn member(&mut self) -> Result<Expr> {
        let mut expr = self.primary()?;
        loop {
            self.bounded(&expr)?;
            let at = self.at();
            if self.eat(".") {
                let optional = self.eat("?");
                let field = match self.take() {
                    Token::Ident(name) if !LITERALS.contains(&name.as_str()) => name,
                    Token::Quoted(name) => {
                        expr = select(at, expr, name, optional);
                        continue;
                    }
                    _ => {
                        self.next -= usize::from(*self.peek() != Token::End);
                        return self.unexpected("IDENTIFIER");
                    }
                };
                if !optional && self.eat("(") {
                    let args = self.args(")")?;
                    // A call is where its parenthesis is, as in cel-go.
                    let place = at + 1 + field.chars().count();
                    expr = method(place, expr, field, args)?;
                } else {
                    expr = select(at, expr, field, optional);
                }
            } else if self.eat("[") {
                let function = if self.eat("?") { "_[?_]" } else { "_[_]" };
                let index = self.expr()?;
                self.expect("]")?;
                expr = call(at, function, vec![expr, index]);
            } else if self.is("{")
                && let Some(name) = dotted(&expr)
            {
                self.next += 1;
                let fields = self.fields()?;
                expr = Expr::new(at, Node::Message { name, fields });
            } else {
                return Ok(expr);
            }
        }
    }

    /// The fields of an object that is made, behind its opening brace.
    fn fields(&mut self) -> Result<Vec<FieldInit>> {
        let mut fields = Vec::new();
        while !self.eat("}") {
            let optional = self.eat("?");
            let name = match self.take() {
                Token::Ident(name) if !LITERALS.contains(&name.as_str()) => name,
                Token::Quoted(name) => name,
                _ => {
                    self.next -= usize::from(*self.peek() != Token::End);
                    return self.unexpected("IDENTIFIER");
                }
            };
            let at = self.at();
            self.expect(":")?;
            fields.push(FieldInit { name, at, value: self.expr()?, optional });
            if !self.eat(",") {
                self.expect("}")?;
                break;
            }
        }
        Ok(fields)
    }

    fn args(&mut self, close: &'static str) -> Result<Vec<Expr>> {
        let mut args = Vec::new();
        if self.eat(close) {
            return Ok(args);
        }
        loop {
            args.push(self.expr()?);
            if self.eat(close) {
                return Ok(args);
            }
            self.expect(",")?;
        }
    }

    fn primary(&mut self) -> Result<Expr> {
        let at = self.at();
        let literal = |literal| Ok(Expr::new(at, Node::Literal(literal)));
        match self.peek().clone() {
            Token::Sign("-") => {
                self.next += 1;
                match self.take() {
                    Token::Int(n) => literal(Literal::Int(-n)),
                    Token::IntMin => literal(Literal::Int(i64::MIN)),
                    Token::Double(n) => literal(Literal::Double(-n)),
                    _ => self.unexpected(""),
                }
            }
            Token::Sign("(") => {
                self.next += 1;
                let expr = self.expr()?;
                self.expect(")")?;
                Ok(expr)
            }
            Token::Sign("[") => {
                self.next += 1;
                let mut entries = Vec::new();
                while !self.eat("]") {
                    let optional = self.eat("?");
                    entries.push((self.expr()?, optional));
                    if !self.eat(",") {
                        self.expect("]")?;
                        break;
                    }
                }
                Ok(Expr::new(at, Node::List(entries)))
            }
            Token::Sign("{") => {
                self.next += 1;
                let mut entries = Vec::new();
                while !self.eat("}") {
                    let optional = self.eat("?");
                    let key = self.expr()?;
                    self.expect(":")?;
                    entries.push((key, self.expr()?, optional));
                    if !self.eat(",") {
                        self.expect("}")?;
                        break;
                    }
                }
                Ok(Expr::new(at, Node::Map(entries)))
            }
            Token::Sign(".") => {
                self.next += 1;
                self.name()
            }
            Token::Int(n) => {
                self.next += 1;
                literal(Literal::Int(n))
            }
            Token::IntMin => Err(LexError { at, message: "invalid int literal".to_string() }),
            Token::Uint(n) => {
                self.next += 1;
                literal(Literal::Uint(n))
            }
            Token::Double(n) => {
                self.next += 1;
                literal(Literal::Double(n))
            }
            Token::String(text) => {
                self.next += 1;
                literal(Literal::String(text))
            }
            Token::Bytes(bytes) => {
                self.next += 1;
                literal(Literal::Bytes(bytes))
            }
            Token::Ident(word) if matches!(word.as_str(), "true" | "false") => {
                self.next += 1;
                literal(Literal::Bool(word == "true"))
            }
            Token::Ident(word) if word == "null" => {
                self.next += 1;
                literal(Literal::Null)
            }
            Token::Ident(word) if word != "in" => self.name(),
            _ => self.unexpected(""),
        }
    }

    fn name(&mut self) -> Result<Expr> {
        let at = self.at();
        let Token::Ident(name) = self.peek().clone() else { return self.unexpected("IDENTIFIER") };
        self.next += 1;
        if RESERVED.contains(&name.as_str()) {
            return Err(LexError { at, message: format!("reserved identifier: {name}") });
        }
        let place = self.at();
        if !self.eat("(") {
            return Ok(Expr::new(at, Node::Ident(name)));
        }
        let mut args = self.args(")")?;
        if name == "has" {
            return match (args.len(), args.pop()) {
                (
                    1,
                    Some(Expr {
                        node: Node::Select { operand, field, test: false, optional: false }, ..
                    }),
                ) => Ok(Expr::new(place, Node::Select { operand, field, test: true, optional: false })),
                (1, Some(arg)) => {
                    Err(LexError { at: arg.at, message: "invalid argument to has() macro".to_string() })
                }
                (_, last) => {
                    args.extend(last);
                    Ok(call(place, &name, args))
                }
            };
        }
        Ok(call(place, &name, args))
    }
}

fn call(at: usize, function: &str, args: Vec<Expr>) -> Expr {
    Expr::new(at, Node::Call { function: function.to_string(), target: None, args })
}

fn select(at: usize, operand: Expr, field: String, optional: bool) -> Expr {
    Expr::new(at, Node::Select { operand: Box::new(operand), field, test: false, optional })
}

fn ident(expr: &Expr) -> Result<String> {
    match &expr.node {
        Node::Ident(name) => Ok(name.clone()),
        _ => Err(LexError { at: expr.at, message: "argument must be a simple name".to_string() }),
    }
}

/// `target.name(args)`: a macro, or a call.
fn method(at: usize, target: Expr, name: String, mut args: Vec<Expr>) -> Result<Expr> {
    let is_cel = matches!(&target.node, Node::Ident(n) if n == "cel");
    let fold_kind = match (name.as_str(), args.len()) {
        ("all", 2 | 3) => Some(FoldKind::All),
        ("exists", 2 | 3) => Some(FoldKind::Exists),
        ("exists_one", 2) | ("existsOne", 2 | 3) => Some(FoldKind::ExistsOne),
        ("map", 2 | 3) => Some(FoldKind::Map),
        ("filter", 2) => Some(FoldKind::Filter),
        ("transformList", 3 | 4) => Some(FoldKind::Map),
        ("transformMap", 3 | 4) => Some(FoldKind::TransformMap),
        _ => None,
    };
    if is_cel && name == "bind" && args.len() == 3 {
        let (Some(body), Some(init)) = (args.pop(), args.pop()) else { return Ok(target) };
        let bind = Bind { kind: BindKind::Value, var: ident(&args[0])?, init, body };
        return Ok(Expr::new(at, Node::Bind(Box::new(bind))));
    }
    if matches!(name.as_str(), "optMap" | "optFlatMap") && args.len() == 2 {
        let Some(body) = args.pop() else { return Ok(target) };
        let kind = if name == "optMap" { BindKind::OptMap } else { BindKind::OptFlatMap };
        let bind = Bind { kind, var: ident(&args[0])?, init: target, body };
        return Ok(Expr::new(at, Node::Bind(Box::new(bind))));
    }
    if let Some(kind) = fold_kind {
        let var = ident(&args[0])?;
        if var == "__result__" {
            return Err(LexError {
                at: args[0].at,
                message: "iteration variable overwrites accumulator variable".into(),
            });
        }
        let two = match name.as_str() {
            "transformList" | "transformMap" => true,
            "map" => false,
            _ => args.len() == 3,
        };
        let second = if two { Some(ident(&args[1])?) } else { None };
        let filtered =
            matches!((name.as_str(), args.len()), ("map", 3) | ("transformList" | "transformMap", 4));
        let Some(step) = args.pop() else { return Ok(target) };
        let filter = if filtered { args.pop() } else { None };
        let fold = Fold { kind, range: target, var, second, filter, step };
        return Ok(Expr::new(at, Node::Fold(Box::new(fold))));
    }
    if let Node::Ident(namespace) = &target.node
        && signatures::is_qualified(namespace, &name)
    {
        return Ok(call(at, &format!("{namespace}.{name}"), args));
    }
    Ok(Expr::new(at, Node::Call { function: name, target: Some(Box::new(target)), args }))
}
