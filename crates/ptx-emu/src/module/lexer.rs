//! Tokens of PTX text. An opcode with all its modifiers is one token, so is a special register
//! such as `%tid.x`.

use crate::Error;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A name, an opcode with modifiers, a register.
    Word,
    /// A name that starts with a dot.
    Directive,
    /// A literal, without its sign.
    Number,
    /// Text in double quotes, without them.
    Text,
    /// One punctuation character.
    Mark(u8),
    End,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Token<'a> {
    pub kind: Kind,
    pub text: &'a str,
    pub line: u32,
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'%')
}

/// Splits the text into tokens; the last one is [`Kind::End`].
pub(crate) fn tokenize(source: &str) -> Result<Vec<Token<'_>>, Error> {
    let bytes = source.as_bytes();
    let mut tokens = Vec::with_capacity(source.len() / 5);
    let (mut at, mut line) = (0, 1u32);
    while at < bytes.len() {
        let start = at;
        let kind = match bytes[at] {
            b'\n' => {
                line += 1;
                at += 1;
                continue;
            }
            byte if byte.is_ascii_whitespace() => {
                at += 1;
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                while at < bytes.len() && bytes[at] != b'\n' {
                    at += 1;
                }
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                let opened = line;
                at += 2;
                while !bytes[at.min(bytes.len())..].starts_with(b"*/") {
                    if at >= bytes.len() {
                        return Err(parse_error(opened, "a comment is not closed"));
                    }
                    line += u32::from(bytes[at] == b'\n');
                    at += 1;
                }
                at += 2;
                continue;
            }
            b'"' => {
                at += 1;
                while at < bytes.len() && bytes[at] != b'"' && bytes[at] != b'\n' {
                    at += 1;
                }
                if bytes.get(at) != Some(&b'"') {
                    return Err(parse_error(line, "a string is not closed"));
                }
                at += 1;
                tokens.push(Token { kind: Kind::Text, text: &source[start + 1..at - 1], line });
                continue;
            }
            b'.' if bytes.get(at + 1).is_some_and(|next| is_name(*next)) => {
                // `.reg.b32` are two of them.
                at += 1;
                while at < bytes.len() && is_name(bytes[at]) {
                    at += 1;
                }
                Kind::Directive
            }
            byte if byte.is_ascii_digit() => {
                while at < bytes.len() && (bytes[at].is_ascii_alphanumeric()) {
                    at += 1;
                }
                Kind::Number
            }
            byte if is_name(byte) => {
                at = dotted_end(bytes, at);
                Kind::Word
            }
            byte if byte.is_ascii_graphic() => {
                at += 1;
                Kind::Mark(byte)
            }
            byte => return Err(parse_error(line, format!("unexpected byte {byte:#04x}"))),
        };
        tokens.push(Token { kind, text: &source[start..at], line });
    }
    tokens.push(Token { kind: Kind::End, text: "", line });
    Ok(tokens)
}

/// The end of a name that may go on with `.modifier` and `::qualifier`.
fn dotted_end(bytes: &[u8], mut at: usize) -> usize {
    at += 1;
    loop {
        while at < bytes.len() && is_name(bytes[at]) {
            at += 1;
        }
        let rest = &bytes[at..];
        let follows = |skip: usize| rest.get(skip).is_some_and(|next| is_name(*next));
        if rest.starts_with(b"::") && follows(2) {
            at += 2;
        } else if rest.starts_with(b".") && follows(1) {
            at += 1;
        } else {
            return at;
        }
    }
}

pub(crate) fn parse_error(line: u32, message: impl Into<String>) -> Error {
    Error::Parse { line, message: message.into() }
}
