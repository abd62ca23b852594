//! Reads label selectors of query strings (`a=b,c in (d,e),!f`) by the grammar of k8s.io/apimachinery
//! `labels.Parse`. Matches nothing itself.

use super::{Operator, Requirement, SelectorError};
use crate::{FieldError, name};

/// A word or sign of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Sign(&'static str),
    End,
}

impl<'a> Token<'a> {
    fn text(self) -> &'a str {
        match self {
            Self::Word(word) => word,
            Self::Sign(sign) => sign,
            Self::End => "",
        }
    }
}

/// Longer signs first: `!=` is not `!`.
const SIGNS: [&str; 9] = ["!=", "==", "=", "!", "(", ")", ",", ">", "<"];

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn split(&self) -> (Token<'a>, &'a str) {
        let rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
        if let Some(sign) = SIGNS.into_iter().find(|sign| rest.starts_with(sign)) {
            return (Token::Sign(sign), &rest[sign.len()..]);
        }
        let end = rest.find(|c| " \t\r\n=!(),><".contains(c)).unwrap_or(rest.len());
        if end == 0 { (Token::End, "") } else { (Token::Word(&rest[..end]), &rest[end..]) }
    }

    fn peek(&self) -> Token<'a> {
        self.split().0
    }

    fn next(&mut self) -> Token<'a> {
        let (token, rest) = self.split();
        self.rest = rest;
        token
    }
}

fn found(token: Token<'_>, expected: &str) -> SelectorError {
    SelectorError(format!("found '{}', expected: {expected}", token.text()))
}

/// All requirements of the text, in its order.
pub(super) fn parse(text: &str) -> Result<Vec<Requirement>, SelectorError> {
    let mut reader = Reader { rest: text };
    let mut requirements = Vec::new();
    loop {
        match reader.peek() {
            Token::End => return Ok(requirements),
            Token::Word(_) | Token::Sign("!") => {
                let one = requirement(&mut reader)
                    .map_err(|e| SelectorError(format!("unable to parse requirement: {e}")))?;
                requirements.push(one);
            }
            other => return Err(found(other, "!, identifier, or 'end of string'")),
        }
        match reader.next() {
            Token::End => return Ok(requirements),
            Token::Sign(",") => match reader.peek() {
                Token::Word(_) | Token::Sign("!") => {}
                other => return Err(found(other, "identifier after ','")),
            },
            other => return Err(found(other, "',' or 'end of string'")),
        }
    }
}

fn requirement(reader: &mut Reader<'_>) -> Result<Requirement, SelectorError> {
    let negated = reader.peek() == Token::Sign("!");
    if negated {
        reader.next();
    }
    let Token::Word(key) = reader.peek() else { return Err(found(reader.peek(), "identifier")) };
    reader.next();
    if let Some(message) = name::qualified_name(key).into_iter().next() {
        // Kubernetes prints the path of a selector that belongs to no field so.
        return Err(SelectorError(FieldError::invalid("<nil>", key, message).to_string()));
    }
    if negated {
        return Requirement::new(key, Operator::DoesNotExist, &[]);
    }
    if matches!(reader.peek(), Token::End | Token::Sign(",")) {
        return Requirement::new(key, Operator::Exists, &[]);
    }
    let operator = match reader.next() {
        Token::Word("in") => Operator::In,
        Token::Word("notin") => Operator::NotIn,
        Token::Sign("=") => Operator::Equals,
        Token::Sign("==") => Operator::DoubleEquals,
        Token::Sign("!=") => Operator::NotEquals,
        Token::Sign(">") => Operator::GreaterThan,
        Token::Sign("<") => Operator::LessThan,
        other => return Err(found(other, "in, notin, =, ==, !=, gt, lt")),
    };
    let values = match operator {
        Operator::In | Operator::NotIn => listed_values(reader)?,
        _ => vec![exact_value(reader)?],
    };
    Requirement::new(key, operator, &values)
}

/// The value after `=`; a missing one is empty.
fn exact_value<'a>(reader: &mut Reader<'a>) -> Result<&'a str, SelectorError> {
    match reader.peek() {
        Token::End | Token::Sign(",") => Ok(""),
        Token::Word(word) => {
            reader.next();
            Ok(word)
        }
        other => Err(found(other, "identifier")),
    }
}

/// `(a,b)`; what is missing beside a comma is empty.
fn listed_values<'a>(reader: &mut Reader<'a>) -> Result<Vec<&'a str>, SelectorError> {
    let open = reader.next();
    if open != Token::Sign("(") {
        return Err(SelectorError(format!("found '{}' expected: '('", open.text())));
    }
    if reader.peek() == Token::Sign(")") {
        reader.next();
        return Ok(Vec::new());
    }
    let mut values = Vec::new();
    loop {
        values.push(match reader.peek() {
            Token::Word(word) => {
                reader.next();
                word
            }
            Token::Sign("," | ")") => "",
            other if values.is_empty() => return Err(found(other, "',', ')' or identifier")),
            other => return Err(found(other, "',', or identifier")),
        });
        match reader.next() {
            Token::Sign(",") => {}
            Token::Sign(")") => return Ok(values),
            other => return Err(found(other, "',' or ')'")),
        }
    }
}
