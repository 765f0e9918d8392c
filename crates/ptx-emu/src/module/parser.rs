//! Recursive-descent parser of the PTX that nvcc writes. It knows declarations and the shape of an
//! instruction; what an instruction means is the business of [`crate::instructions`].

mod body;

use std::collections::HashMap;
use std::sync::Arc;

use super::lexer::{Kind, Token, parse_error, tokenize};
use super::source::Loc;
use super::*;

/// Scopes and operands nest; more than this is no compiler's output.
const DEPTH_MAX: usize = 64;
/// No memory of a device is larger: keeps later arithmetic from overflowing.
const VARIABLE_BYTES_MAX: u64 = 1 << 40;

pub(super) fn parse(text: &str, id: u64) -> Result<Module, Error> {
    let mut parser = Parser {
        tokens: tokenize(text)?,
        at: 0,
        files: Files::default(),
        variables: Vec::new(),
        version: None,
        target: String::new(),
    };
    let mut bodies = Vec::new();
    while parser.peek().kind != Kind::End {
        parser.module_item(&mut bodies)?;
    }
    let version = parser.version.ok_or_else(|| parse_error(1, "there is no `.version` directive"))?;
    let scope = Arc::new(ModuleScope { id, files: parser.files, variables: parser.variables });
    let kernels = bodies.into_iter().map(|body| finish(body, &scope)).collect::<Result<Vec<_>, Error>>()?;
    Ok(Module { version, target: parser.target, kernels })
}

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
    files: Files,
    variables: Vec<Variable>,
    version: Option<(u32, u32)>,
    target: String,
}

/// A kernel whose labels are not resolved yet.
#[derive(Default)]
struct Body {
    name: String,
    line: u32,
    parameters: Vec<Parameter>,
    parameter_bytes: usize,
    required_threads: Option<[u32; 3]>,
    maximum_threads: Option<[u32; 3]>,
    required_cluster: Option<[u32; 3]>,
    registers: Vec<Register>,
    /// (scope, name) of registers already seen.
    register_ids: HashMap<(u32, String), RegisterId>,
    /// `%r<10>` declarations: (scope, prefix) to type and count.
    ranges: HashMap<(u32, String), (ScalarType, u64)>,
    variables: Vec<Variable>,
    scope_parents: Vec<u32>,
    labels: HashMap<(u32, String), u32>,
    tables: Vec<(String, u32, Vec<String>, u32)>,
    code: Vec<Instruction>,
    locations: Locations,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Token<'a> {
        self.tokens[self.at]
    }

    fn peek_is(&self, mark: u8) -> bool {
        self.peek().kind == Kind::Mark(mark)
    }

    fn next(&mut self) -> Token<'a> {
        let token = self.tokens[self.at];
        if token.kind != Kind::End {
            self.at += 1;
        }
        token
    }

    fn accept(&mut self, mark: u8) -> bool {
        let found = self.peek_is(mark);
        if found {
            self.next();
        }
        found
    }

    fn expect(&mut self, mark: u8) -> Result<(), Error> {
        let token = self.next();
        if token.kind == Kind::Mark(mark) {
            return Ok(());
        }
        Err(unexpected(token, &format!("`{}`", mark as char)))
    }

    fn word(&mut self, what: &str) -> Result<Token<'a>, Error> {
        let token = self.next();
        if token.kind == Kind::Word { Ok(token) } else { Err(unexpected(token, what)) }
    }

    fn unsigned(&mut self) -> Result<u64, Error> {
        let token = self.next();
        match number(token)? {
            Literal::Integer(value) if token.kind == Kind::Number => Ok(value as u64),
            _ => Err(unexpected(token, "a whole number")),
        }
    }

    fn unsigned32(&mut self) -> Result<u32, Error> {
        let line = self.peek().line;
        u32::try_from(self.unsigned()?).map_err(|_| parse_error(line, "the number does not fit 32 bits"))
    }

    fn signed(&mut self) -> Result<i64, Error> {
        let negative = self.accept(b'-');
        let token = self.next();
        match number(token)? {
            Literal::Integer(value) => Ok(if negative { value.wrapping_neg() } else { value }),
            _ => Err(unexpected(token, "a whole number")),
        }
    }

    /// Skips to the end of the line that holds the current token.
    fn skip_line(&mut self) {
        let line = self.peek().line;
        while self.peek().line == line && self.peek().kind != Kind::End {
            self.next();
        }
    }

    fn skip_braces(&mut self) -> Result<(), Error> {
        let opened = self.peek().line;
        self.expect(b'{')?;
        let mut depth = 1usize;
        while depth > 0 {
            match self.next().kind {
                Kind::Mark(b'{') => depth += 1,
                Kind::Mark(b'}') => depth -= 1,
                Kind::End => return Err(parse_error(opened, "`{` is not closed")),
                _ => {}
            }
        }
        Ok(())
    }

    fn module_item(&mut self, bodies: &mut Vec<Body>) -> Result<(), Error> {
        let token = self.peek();
        match (token.kind, token.text) {
            (Kind::Directive, ".version") => {
                self.next();
                let line = self.peek().line;
                let major = self.unsigned32()?;
                let minor = match self.next() {
                    Token { kind: Kind::Directive, text, .. } => text[1..].parse().ok(),
                    _ => None,
                };
                let minor = minor.ok_or_else(|| parse_error(line, "expected a version such as `7.8`"))?;
                self.version = Some((major, minor));
            }
            (Kind::Directive, ".target") => {
                self.next();
                self.target = self.word("a target")?.text.to_owned();
                self.skip_rest_of_list(token.line);
            }
            (Kind::Directive, ".address_size") => {
                self.next();
                if self.unsigned()? != 64 {
                    return Err(parse_error(token.line, "only `.address_size 64` is modelled"));
                }
            }
            (Kind::Directive, ".file") => self.file_directive()?,
            (Kind::Directive, ".section") => {
                self.next();
                self.next();
                self.skip_braces()?;
            }
            (Kind::Directive, ".loc" | ".pragma") => self.skip_line(),
            (Kind::Mark(b';'), _) => {
                self.next();
            }
            (Kind::Directive, _) => self.declaration(bodies)?,
            _ => return Err(unexpected(token, "a directive")),
        }
        Ok(())
    }

    fn skip_rest_of_list(&mut self, line: u32) {
        while self.peek().line == line && self.peek().kind != Kind::End {
            self.next();
        }
    }

    fn file_directive(&mut self) -> Result<(), Error> {
        let line = self.next().line;
        let index = self.unsigned32()?;
        let name = self.next();
        if name.kind != Kind::Text {
            return Err(unexpected(name, "a file name in quotes"));
        }
        self.files.entries.push((index, Arc::from(name.text)));
        self.skip_rest_of_list(line);
        Ok(())
    }

    /// A variable or a function, after any linking directives.
    fn declaration(&mut self, bodies: &mut Vec<Body>) -> Result<(), Error> {
        let mut is_extern = false;
        loop {
            let token = self.peek();
            match token.text {
                ".visible" | ".weak" | ".common" => {
                    self.next();
                }
                ".extern" => {
                    is_extern = true;
                    self.next();
                }
                ".entry" => {
                    let body = self.entry()?;
                    if let Some(body) = body {
                        bodies.push(body);
                    }
                    return Ok(());
                }
                ".func" => return self.skip_function(),
                ".global" | ".const" | ".shared" | ".local" => {
                    let found = self.variables_after_space(is_extern, 0)?;
                    self.variables.extend(found);
                    return Ok(());
                }
                _ => return Err(unexpected(token, "a declaration")),
            }
        }
    }

    /// A device function: its calls are refused where they are launched, so its body is not kept.
    fn skip_function(&mut self) -> Result<(), Error> {
        loop {
            match self.peek().kind {
                Kind::Mark(b'{') => return self.skip_braces(),
                Kind::Mark(b';') => {
                    self.next();
                    return Ok(());
                }
                Kind::End => return Err(unexpected(self.peek(), "a function body")),
                _ => {
                    self.next();
                }
            }
        }
    }

    /// `.shared .align 16 .b8 name[64] = {..}, other;`
    fn variables_after_space(&mut self, is_extern: bool, scope: u32) -> Result<Vec<Variable>, Error> {
        let space_token = self.next();
        let space = match space_token.text {
            ".global" => Space::Global,
            ".const" => Space::Const,
            ".shared" => Space::Shared,
            _ => Space::Local,
        };
        let mut alignment = None;
        let mut vector = 1u64;
        let ty = loop {
            let token = self.next();
            match token.text {
                ".align" => {
                    let value = self.unsigned()?;
                    if !value.is_power_of_two() || value > 1 << 20 {
                        return Err(parse_error(token.line, "an alignment is a power of two"));
                    }
                    alignment = Some(value);
                }
                ".v2" => vector = 2,
                ".v4" => vector = 4,
                text => match text.strip_prefix('.').and_then(ScalarType::parse) {
                    Some(ty) if ty != ScalarType::Pred && token.kind == Kind::Directive => break ty,
                    _ => return Err(unexpected(token, "a type")),
                },
            }
        };
        let mut found = Vec::new();
        loop {
            let name = self.word("a variable name")?;
            let mut elements = Some(vector);
            while self.accept(b'[') {
                if self.accept(b']') {
                    elements = None;
                    continue;
                }
                let count = self.unsigned()?;
                self.expect(b']')?;
                elements = elements
                    .and_then(|have| have.checked_mul(count))
                    .filter(|total| total.saturating_mul(8) <= VARIABLE_BYTES_MAX);
                if elements.is_none() {
                    return Err(parse_error(name.line, format!("`{}` is too large", name.text)));
                }
            }
            let mut initial = Vec::new();
            if self.accept(b'=') {
                self.initializer(ty, &mut initial, 0)?;
                if elements.is_none() {
                    elements = Some(initial.len() as u64);
                }
                if elements.is_some_and(|count| (initial.len() as u64) > count) {
                    return Err(parse_error(name.line, "the initialiser has too many elements"));
                }
            }
            found.push(Variable {
                name: name.text.to_owned(),
                space,
                ty,
                alignment: alignment.unwrap_or(u64::from(ty.bytes()) * vector),
                elements,
                is_extern,
                initial,
                scope,
                line: name.line,
            });
            if !self.accept(b',') {
                break;
            }
        }
        self.expect(b';')?;
        Ok(found)
    }

    fn initializer(&mut self, ty: ScalarType, out: &mut Vec<Initial>, depth: usize) -> Result<(), Error> {
        let token = self.peek();
        if depth > DEPTH_MAX {
            return Err(parse_error(token.line, "nested too deeply"));
        }
        match token.kind {
            Kind::Mark(b'{') => {
                self.next();
                while !self.accept(b'}') {
                    self.initializer(ty, out, depth + 1)?;
                    if !self.accept(b',') && !self.peek_is(b'}') {
                        return Err(unexpected(self.peek(), "`,` or `}`"));
                    }
                }
            }
            Kind::Word if token.text == "generic" => {
                self.next();
                self.expect(b'(')?;
                let name = self.word("a variable name")?.text.to_owned();
                self.expect(b')')?;
                let offset = if self.accept(b'+') { self.signed()? } else { 0 };
                out.push(Initial::Address(name, offset));
            }
            Kind::Word => {
                let name = self.next().text.to_owned();
                let offset = if self.accept(b'+') { self.signed()? } else { 0 };
                out.push(Initial::Address(name, offset));
            }
            _ => {
                let negative = self.accept(b'-');
                let literal = number(self.next())?;
                out.push(Initial::Bits(signed_literal(literal, negative).bits(ty)));
            }
        }
        Ok(())
    }

    fn entry(&mut self) -> Result<Option<Body>, Error> {
        self.next();
        let name = self.word("a kernel name")?;
        let mut body = Body { name: name.text.to_owned(), line: name.line, scope_parents: vec![0], ..Body::default() };
        if self.accept(b'(') {
            self.parameters(&mut body)?;
        }
        loop {
            let token = self.peek();
            match (token.kind, token.text) {
                (Kind::Mark(b'{'), _) => break,
                (Kind::Mark(b';'), _) => {
                    self.next();
                    return Ok(None);
                }
                (_, ".maxntid") => {
                    self.next();
                    body.maximum_threads = Some(self.dimensions()?);
                }
                (_, ".reqntid") => {
                    self.next();
                    body.required_threads = Some(self.dimensions()?);
                }
                (_, ".reqnctapercluster") => {
                    self.next();
                    body.required_cluster = Some(self.dimensions()?);
                }
                (_, ".explicitcluster") => {
                    self.next();
                }
                (_, ".minnctapersm" | ".maxnreg" | ".maxnctapersm" | ".maxclusterrank") => {
                    self.next();
                    self.unsigned()?;
                }
                (Kind::Directive, ".pragma" | ".noreturn") => {
                    self.next();
                    while self.peek().kind == Kind::Text {
                        self.next();
                        self.accept(b';');
                    }
                }
                (Kind::Directive, other) => {
                    return Err(parse_error(token.line, format!("kernel directive `{other}` is not modelled")));
                }
                _ => return Err(unexpected(token, "a kernel body")),
            }
        }
        body::parse(self, &mut body)?;
        Ok(Some(body))
    }

    fn dimensions(&mut self) -> Result<[u32; 3], Error> {
        let mut all = [1; 3];
        for (axis, value) in all.iter_mut().enumerate() {
            if axis > 0 && !self.accept(b',') {
                break;
            }
            *value = self.unsigned32()?;
        }
        Ok(all)
    }

    fn parameters(&mut self, body: &mut Body) -> Result<(), Error> {
        while !self.accept(b')') {
            let (mut ty, mut alignment) = (None, 1);
            let name = loop {
                let token = self.next();
                match (token.kind, token.text) {
                    (Kind::Directive, ".param" | ".ptr" | ".global" | ".shared" | ".const" | ".local") => {}
                    (Kind::Directive, ".align") => {
                        let value = self.unsigned()?;
                        if !value.is_power_of_two() || value > 4096 {
                            return Err(parse_error(token.line, "an alignment is a power of two"));
                        }
                        // `.ptr .align` describes what is pointed at; only `.align` before a type counts.
                        if ty.is_none() {
                            alignment = value as usize;
                        }
                    }
                    (Kind::Directive, text) => match ScalarType::parse(&text[1..]) {
                        Some(found) if found != ScalarType::Pred => ty = Some(found),
                        _ => return Err(unexpected(token, "a parameter type")),
                    },
                    (Kind::Word, _) => break token,
                    _ => return Err(unexpected(token, "a parameter")),
                }
            };
            let ty = ty.ok_or_else(|| unexpected(name, "a parameter type"))?;
            let mut bytes = ty.bytes() as usize;
            if self.accept(b'[') {
                let count = self.unsigned()?;
                self.expect(b']')?;
                if count > 1 << 16 {
                    return Err(parse_error(name.line, "a parameter is too large"));
                }
                bytes *= count as usize;
            }
            let alignment = alignment.max(ty.bytes() as usize);
            let offset = body.parameter_bytes.next_multiple_of(alignment);
            body.parameter_bytes = offset + bytes;
            if body.parameter_bytes > 1 << 16 {
                return Err(parse_error(name.line, "the parameters are too large"));
            }
            body.parameters.push(Parameter { name: name.text.to_owned(), offset, bytes, alignment });
            if !self.accept(b',') && !self.peek_is(b')') {
                return Err(unexpected(self.peek(), "`,` or `)`"));
            }
        }
        Ok(())
    }
}

fn unexpected(token: Token<'_>, wanted: &str) -> Error {
    let found = match token.kind {
        Kind::End => "the end of the text".to_owned(),
        _ => format!("`{}`", token.text),
    };
    parse_error(token.line, format!("expected {wanted}, found {found}"))
}

/// A literal without sign: decimal, `0x`, `0b`, octal, `0f`/`0d` with the bits of a float.
fn number(token: Token<'_>) -> Result<Literal, Error> {
    if token.kind != Kind::Number {
        return Err(unexpected(token, "a number"));
    }
    let text = token.text;
    let bad = || parse_error(token.line, format!("`{text}` is not a number"));
    let lower = text.to_ascii_lowercase();
    if let Some(digits) = lower.strip_prefix("0f") {
        return u32::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 8).map(Literal::F32).ok_or_else(bad);
    }
    if let Some(digits) = lower.strip_prefix("0d") {
        return u64::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 16).map(Literal::F64).ok_or_else(bad);
    }
    let whole = lower.strip_suffix('u').unwrap_or(&lower);
    let (digits, radix) = if let Some(hex) = whole.strip_prefix("0x") {
        (hex, 16)
    } else if let Some(binary) = whole.strip_prefix("0b") {
        (binary, 2)
    } else if whole.len() > 1 && whole.starts_with('0') {
        (&whole[1..], 8)
    } else {
        (whole, 10)
    };
    u64::from_str_radix(digits, radix).map(|value| Literal::Integer(value as i64)).map_err(|_| bad())
}

fn signed_literal(literal: Literal, negative: bool) -> Literal {
    match (literal, negative) {
        (literal, false) => literal,
        (Literal::Integer(value), true) => Literal::Integer(value.wrapping_neg()),
        (Literal::F32(bits), true) => Literal::F32(bits ^ 1 << 31),
        (Literal::F64(bits), true) => Literal::F64(bits ^ 1 << 63),
    }
}

/// Resolves the labels of a body.
fn finish(mut body: Body, scope: &Arc<ModuleScope>) -> Result<Kernel, Error> {
    let parents = &body.scope_parents;
    let labels = &body.labels;
    let find = |name: &str, mut at: u32| loop {
        if let Some(index) = labels.get(&(at, name.to_owned())) {
            return Some(*index);
        }
        if at == 0 {
            return None;
        }
        at = parents[at as usize];
    };
    for instruction in &mut body.code {
        let within = instruction.scope;
        for operand in &mut instruction.operands {
            if let Operand::Symbol(name, 0) = operand
                && let Some(index) = find(name, within)
            {
                *operand = Operand::Label(index);
            }
        }
    }
    let mut branch_targets = HashMap::new();
    for (name, within, targets, line) in &body.tables {
        let indices = targets
            .iter()
            .map(|t| find(t, *within).ok_or_else(|| Error::UnknownSymbol { line: *line, name: t.clone() }))
            .collect::<Result<Vec<_>, _>>()?;
        branch_targets.insert(name.clone(), indices);
    }
    Ok(Kernel {
        name: body.name,
        parameters: body.parameters,
        parameter_bytes: body.parameter_bytes,
        required_threads: body.required_threads,
        maximum_threads: body.maximum_threads,
        required_cluster: body.required_cluster,
        registers: body.registers,
        variables: body.variables,
        scope_parents: body.scope_parents,
        code: body.code,
        branch_targets,
        locations: body.locations,
        module: Arc::clone(scope),
        line: body.line,
    })
}
