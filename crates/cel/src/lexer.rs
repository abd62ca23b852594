//! Source text into tokens. Positions count characters, as messages do.

/// A token.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token {
    Ident(String),
    /// A name in backticks: only ever a field.
    Quoted(String),
    Int(i64),
    /// The magnitude of the least 64-bit number, which is a number only behind a minus.
    IntMin,
    Uint(u64),
    Double(f64),
    String(String),
    Bytes(Vec<u8>),
    /// An operator or a bracket.
    Sign(&'static str),
    End,
}

/// What is no token.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LexError {
    pub at: usize,
    pub message: String,
}

const SIGNS: [&str; 27] = [
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "+", "-", "*", "/", "%", "!", "?", ":", ".", ",", "(", ")",
    "[", "]", "{", "}", "=", "&", "|",
];

struct Lexer<'a> {
    text: &'a [char],
    at: usize,
}

/// All tokens with where each starts; the last is [`Token::End`].
pub(crate) fn lex(source: &str) -> Result<Vec<(usize, Token)>, LexError> {
    let text: Vec<char> = source.chars().collect();
    let mut lexer = Lexer { text: &text, at: 0 };
    let mut out = Vec::new();
    loop {
        lexer.blank();
        let at = lexer.at;
        let token = lexer.next()?;
        let end = token == Token::End;
        out.push((at, token));
        if end {
            return Ok(out);
        }
    }
}

impl Lexer<'_> {
    fn peek(&self, ahead: usize) -> char {
        self.text.get(self.at + ahead).copied().unwrap_or('\0')
    }

    fn error<T>(&self, at: usize, message: impl Into<String>) -> Result<T, LexError> {
        Err(LexError { at, message: message.into() })
    }

    fn blank(&mut self) {
        loop {
            while matches!(self.peek(0), ' ' | '\t' | '\n' | '\r' | '\x0c') {
                self.at += 1;
            }
            if self.peek(0) != '/' || self.peek(1) != '/' {
                return;
            }
            while self.at < self.text.len() && self.peek(0) != '\n' {
                self.at += 1;
            }
        }
    }

    fn next(&mut self) -> Result<Token, LexError> {
        if self.at >= self.text.len() {
            return Ok(Token::End);
        }
        let start = self.at;
        let c = self.peek(0);
        if let Some(token) = self.string()? {
            return Ok(token);
        }
        if c == '_' || c.is_ascii_alphabetic() {
            while self.peek(0) == '_' || self.peek(0).is_ascii_alphanumeric() {
                self.at += 1;
            }
            return Ok(Token::Ident(self.text[start..self.at].iter().collect()));
        }
        if c == '`' {
            self.at += 1;
            while matches!(self.peek(0), '_' | '.' | '-' | '/' | ' ') || self.peek(0).is_ascii_alphanumeric()
            {
                self.at += 1;
            }
            if self.peek(0) != '`' || self.at == start + 1 {
                return self.error(start, "token recognition error at: '`'");
            }
            let name = self.text[start + 1..self.at].iter().collect();
            self.at += 1;
            return Ok(Token::Quoted(name));
        }
        if c.is_ascii_digit() || c == '.' && self.peek(1).is_ascii_digit() {
            return self.number();
        }
        for sign in SIGNS {
            if sign.chars().enumerate().all(|(i, s)| self.peek(i) == s) {
                if matches!(sign, "=" | "&" | "|") {
                    break;
                }
                self.at += sign.len();
                return Ok(Token::Sign(sign));
            }
        }
        self.error(start, format!("Syntax error: token recognition error at: '{c}'"))
    }

    fn number(&mut self) -> Result<Token, LexError> {
        let start = self.at;
        if self.peek(0) == '0' && matches!(self.peek(1), 'x' | 'X') && self.peek(2).is_ascii_hexdigit() {
            self.at += 2;
            let digits = self.digits(16);
            return self.whole(start, &digits, 16);
        }
        let mut text = self.digits(10);
        let mut double = false;
        if self.peek(0) == '.' && self.peek(1).is_ascii_digit() {
            double = true;
            self.at += 1;
            text.push('.');
            text.push_str(&self.digits(10));
        }
        if matches!(self.peek(0), 'e' | 'E') {
            let sign = usize::from(matches!(self.peek(1), '+' | '-'));
            if self.peek(1 + sign).is_ascii_digit() {
                double = true;
                text.push('e');
                if sign == 1 {
                    text.push(self.peek(1));
                }
                self.at += 1 + sign;
                text.push_str(&self.digits(10));
            }
        }
        if !double {
            return self.whole(start, &text, 10);
        }
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Token::Double(number)),
            _ => self.error(start, "invalid double literal"),
        }
    }

    fn digits(&mut self, radix: u32) -> String {
        let start = self.at;
        while self.peek(0).is_digit(radix) {
            self.at += 1;
        }
        self.text[start..self.at].iter().collect()
    }

    fn whole(&mut self, start: usize, digits: &str, radix: u32) -> Result<Token, LexError> {
        if matches!(self.peek(0), 'u' | 'U') {
            self.at += 1;
            return match u64::from_str_radix(digits, radix) {
                Ok(number) => Ok(Token::Uint(number)),
                Err(_) => self.error(start, "invalid uint literal"),
            };
        }
        match u64::from_str_radix(digits, radix) {
            Ok(number) if number == 1 << 63 => Ok(Token::IntMin),
            Ok(number) if number < 1 << 63 => Ok(Token::Int(number as i64)),
            _ => self.error(start, "invalid int literal"),
        }
    }

    /// A string, if one starts here: with `r`, `b` or both before the quotes, which may be three.
    fn string(&mut self) -> Result<Option<Token>, LexError> {
        let start = self.at;
        let (mut raw, mut bytes, mut prefix) = (false, false, 0);
        loop {
            match self.peek(prefix) {
                'r' | 'R' if !raw => raw = true,
                'b' | 'B' if !bytes => bytes = true,
                '"' | '\'' => break,
                _ => return Ok(None),
            }
            prefix += 1;
        }
        let quote = self.peek(prefix);
        let triple = self.peek(prefix + 1) == quote && self.peek(prefix + 2) == quote;
        let width = if triple { 3 } else { 1 };
        self.at += prefix + width;
        let mut out: Vec<u8> = Vec::new();
        loop {
            let closing = (0..width).all(|i| self.peek(i) == quote);
            if self.at >= self.text.len() || !triple && matches!(self.peek(0), '\n' | '\r') {
                let shown: String = self.text[start..self.at].iter().collect();
                return self.error(start, format!("Syntax error: token recognition error at: '{shown}'"));
            }
            if closing {
                self.at += width;
                break;
            }
            if self.peek(0) == '\\' && !raw {
                self.escape(bytes, &mut out)?;
            } else {
                let mut buffer = [0; 4];
                out.extend_from_slice(self.peek(0).encode_utf8(&mut buffer).as_bytes());
                self.at += 1;
            }
        }
        if bytes {
            return Ok(Some(Token::Bytes(out)));
        }
        match String::from_utf8(out) {
            Ok(text) => Ok(Some(Token::String(text))),
            Err(_) => self.error(start, "invalid string literal"),
        }
    }

    fn escape(&mut self, bytes: bool, out: &mut Vec<u8>) -> Result<(), LexError> {
        let start = self.at;
        let plain = match self.peek(1) {
            'a' => Some('\x07'),
            'b' => Some('\x08'),
            'f' => Some('\x0c'),
            'n' => Some('\n'),
            'r' => Some('\r'),
            't' => Some('\t'),
            'v' => Some('\x0b'),
            c @ ('\\' | '?' | '"' | '\'' | '`') => Some(c),
            _ => None,
        };
        if let Some(c) = plain {
            self.at += 2;
            out.push(c as u8);
            return Ok(());
        }
        let (skip, digits, radix) = match self.peek(1) {
            'x' | 'X' => (2, 2, 16),
            'u' if !bytes => (2, 4, 16),
            'U' if !bytes => (2, 8, 16),
            '0'..='3' => (1, 3, 8),
            _ => return self.error(start, "unable to unescape string"),
        };
        let text: String = (0..digits).map(|i| self.peek(skip + i)).collect();
        let code = u32::from_str_radix(&text, radix).ok().filter(|_| text.chars().all(|c| c.is_digit(radix)));
        let Some(code) = code else { return self.error(start, "unable to unescape string") };
        self.at += skip + digits;
        if bytes {
            out.push(code as u8);
        } else if let Some(c) = char::from_u32(code) {
            let mut buffer = [0; 4];
            out.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
        } else {
            return self.error(start, "unable to unescape string");
        }
        Ok(())
    }
}
