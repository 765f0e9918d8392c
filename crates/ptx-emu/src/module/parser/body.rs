//! The statements of a kernel body.

use super::*;

/// Parses `{ ... }` into the body.
pub(super) fn parse(parser: &mut Parser<'_>, body: &mut Body) -> Result<(), Error> {
    let opened = parser.peek().line;
    parser.expect(b'{')?;
    let mut statements = Statements { parser, body, scopes: vec![0], loc: None };
    while !statements.scopes.is_empty() {
        if statements.parser.peek().kind == Kind::End {
            return Err(parse_error(opened, "the kernel body is not closed"));
        }
        statements.statement()?;
    }
    Ok(())
}

struct Statements<'p, 'a> {
    parser: &'p mut Parser<'a>,
    body: &'p mut Body,
    scopes: Vec<u32>,
    loc: Option<u32>,
}

impl<'a> Statements<'_, 'a> {
    fn scope(&self) -> u32 {
        self.scopes.last().copied().unwrap_or(0)
    }

    fn statement(&mut self) -> Result<(), Error> {
        let token = self.parser.peek();
        match token.kind {
            Kind::Mark(b'{') => {
                self.parser.next();
                if self.scopes.len() > DEPTH_MAX {
                    return Err(parse_error(token.line, "nested too deeply"));
                }
                self.body.scope_parents.push(self.scope());
                self.scopes.push((self.body.scope_parents.len() - 1) as u32);
            }
            Kind::Mark(b'}') => {
                self.parser.next();
                self.scopes.pop();
            }
            Kind::Mark(b';') => {
                self.parser.next();
            }
            Kind::Directive => self.directive()?,
            Kind::Word if self.parser.tokens[self.parser.at + 1].kind == Kind::Mark(b':') => self.label()?,
            Kind::Word | Kind::Mark(b'@') => self.instruction()?,
            _ => return Err(unexpected(token, "a statement")),
        }
        Ok(())
    }

    fn label(&mut self) -> Result<(), Error> {
        let name = self.parser.next();
        self.parser.expect(b':')?;
        if self.parser.peek().text == ".branchtargets" {
            self.parser.next();
            let mut targets = vec![self.parser.word("a label")?.text.to_owned()];
            while self.parser.accept(b',') {
                targets.push(self.parser.word("a label")?.text.to_owned());
            }
            self.parser.expect(b';')?;
            self.body.tables.push((name.text.to_owned(), self.scope(), targets, name.line));
            return Ok(());
        }
        let index = self.body.code.len() as u32;
        if self.body.labels.insert((self.scope(), name.text.to_owned()), index).is_some() {
            return Err(parse_error(name.line, format!("label `{}` is defined twice", name.text)));
        }
        Ok(())
    }

    fn directive(&mut self) -> Result<(), Error> {
        let token = self.parser.peek();
        match token.text {
            ".reg" => self.registers(),
            ".shared" | ".local" | ".global" | ".const" => {
                let scope = self.scope();
                let found = self.parser.variables_after_space(false, scope)?;
                self.body.variables.extend(found);
                Ok(())
            }
            ".extern" => {
                self.parser.next();
                let scope = self.scope();
                let found = self.parser.variables_after_space(true, scope)?;
                self.body.variables.extend(found);
                Ok(())
            }
            ".loc" => self.loc_directive(),
            ".pragma" => {
                self.parser.next();
                while !self.parser.accept(b';') {
                    if self.parser.next().kind == Kind::End {
                        return Err(parse_error(token.line, "`.pragma` is not ended by `;`"));
                    }
                }
                Ok(())
            }
            // The parameter space of a call; the call itself is refused by name when launched.
            ".param" => {
                while !self.parser.accept(b';') {
                    if self.parser.next().kind == Kind::End {
                        return Err(parse_error(token.line, "`.param` is not ended by `;`"));
                    }
                }
                Ok(())
            }
            other => Err(parse_error(token.line, format!("directive `{other}` is not modelled in a body"))),
        }
    }

    fn registers(&mut self) -> Result<(), Error> {
        self.parser.next();
        let token = self.parser.next();
        let ty = token
            .text
            .strip_prefix('.')
            .and_then(ScalarType::parse)
            .filter(|_| token.kind == Kind::Directive)
            .ok_or_else(|| unexpected(token, "a register type"))?;
        let scope = self.scope();
        loop {
            let name = self.parser.word("a register name")?;
            if self.parser.accept(b'<') {
                let count = self.parser.unsigned()?;
                self.parser.expect(b'>')?;
                self.body.ranges.insert((scope, name.text.to_owned()), (ty, count));
            } else {
                let id = self.body.registers.len() as RegisterId;
                self.body.registers.push(Register { name: name.text.to_owned(), ty });
                self.body.register_ids.insert((scope, name.text.to_owned()), id);
            }
            if !self.parser.accept(b',') {
                break;
            }
        }
        self.parser.expect(b';')
    }

    /// `.loc 1 22 3, function_name $L__info_string1, inlined_at 1 38 7`
    fn loc_directive(&mut self) -> Result<(), Error> {
        let line_of_text = self.parser.next().line;
        let file = self.parser.unsigned32()?;
        let line = self.parser.unsigned32()?;
        let column = self.parser.unsigned32()?;
        let mut inlined_at = None;
        while self.parser.peek().line == line_of_text {
            match self.parser.next() {
                Token { text: "inlined_at", .. } => {
                    inlined_at =
                        Some((self.parser.unsigned32()?, self.parser.unsigned32()?, self.parser.unsigned32()?));
                }
                Token { kind: Kind::End, .. } => break,
                _ => {}
            }
        }
        self.loc = Some(self.body.locations.push(Loc { file, line, column, inlined_at, parent: None }));
        Ok(())
    }

    fn instruction(&mut self) -> Result<(), Error> {
        let mut guard = None;
        if self.parser.accept(b'@') {
            let negated = self.parser.accept(b'!');
            let name = self.parser.word("a predicate")?;
            let id = self
                .register(name.text)
                .filter(|id| self.body.registers[*id as usize].ty == ScalarType::Pred)
                .ok_or_else(|| unexpected(name, "a predicate register"))?;
            guard = Some((id, negated));
        }
        let opcode = self.parser.word("an instruction")?;
        let mut operands = Vec::new();
        while !self.parser.accept(b';') {
            operands.push(self.operand(0)?);
            if !self.parser.accept(b',') && !self.parser.peek_is(b';') {
                return Err(unexpected(self.parser.peek(), "`,` or `;`"));
            }
        }
        self.body.code.push(Instruction {
            guard,
            opcode: opcode.text.to_owned(),
            operands,
            line: opcode.line,
            loc: self.loc,
            scope: self.scope(),
        });
        Ok(())
    }

    /// Finds a register by name through the enclosing scopes.
    fn register(&mut self, name: &str) -> Option<RegisterId> {
        let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let digits = &name[stem.len()..];
        let index = if digits.len() > 1 && digits.starts_with('0') { None } else { digits.parse::<u64>().ok() };
        for &scope in self.scopes.iter().rev() {
            if let Some(id) = self.body.register_ids.get(&(scope, name.to_owned())) {
                return Some(*id);
            }
            let Some(index) = index else { continue };
            if let Some((ty, count)) = self.body.ranges.get(&(scope, stem.to_owned()))
                && index < *count
            {
                let id = self.body.registers.len() as RegisterId;
                self.body.registers.push(Register { name: name.to_owned(), ty: *ty });
                self.body.register_ids.insert((scope, name.to_owned()), id);
                return Some(id);
            }
        }
        None
    }

    fn operand(&mut self, depth: usize) -> Result<Operand, Error> {
        let token = self.parser.peek();
        if depth > 4 {
            return Err(parse_error(token.line, "operands are nested too deeply"));
        }
        match token.kind {
            Kind::Mark(open @ (b'{' | b'(')) => {
                self.parser.next();
                let close = if open == b'{' { b'}' } else { b')' };
                let mut elements = Vec::new();
                while !self.parser.accept(close) {
                    elements.push(self.operand(depth + 1)?);
                    if !self.parser.accept(b',') && !self.parser.peek_is(close) {
                        return Err(unexpected(self.parser.peek(), "`,` or a closing bracket"));
                    }
                }
                Ok(if open == b'{' { Operand::Vector(elements) } else { Operand::List(elements) })
            }
            Kind::Mark(b'[') => {
                self.parser.next();
                let base = self.operand(depth + 1)?;
                let (base, mut offset) = match base {
                    Operand::Symbol(name, offset) => (Operand::Symbol(name, 0), offset),
                    other => (other, 0),
                };
                // `[%rd1+16]`, `[%rd1+-16]` and `[%rd1-16]`
                if self.parser.accept(b'+') || self.parser.peek_is(b'-') {
                    offset = self.parser.signed()?;
                }
                let address = Operand::Address(Box::new(base), offset);
                // `[map, {x, y}]`
                if self.parser.accept(b',') {
                    let Operand::Vector(coordinates) = self.operand(depth + 1)? else {
                        return Err(unexpected(self.parser.peek(), "coordinates in braces"));
                    };
                    self.parser.expect(b']')?;
                    return Ok(Operand::Tensor(Box::new(address), coordinates));
                }
                self.parser.expect(b']')?;
                Ok(address)
            }
            Kind::Mark(b'!') => {
                self.parser.next();
                let name = self.parser.word("a predicate")?;
                let id = self.register(name.text).ok_or_else(|| unexpected(name, "a predicate register"))?;
                Ok(Operand::Negated(id))
            }
            Kind::Mark(b'-') | Kind::Number => {
                let negative = self.parser.accept(b'-');
                Ok(Operand::Immediate(signed_literal(number(self.parser.next())?, negative)))
            }
            Kind::Word => {
                let first = self.named(token)?;
                if self.parser.accept(b'|') {
                    let second = self.parser.peek();
                    let second = self.named(second)?;
                    return Ok(Operand::Pair(Box::new(first), Box::new(second)));
                }
                Ok(first)
            }
            _ => Err(unexpected(token, "an operand")),
        }
    }

    fn named(&mut self, token: Token<'a>) -> Result<Operand, Error> {
        let token =
            if token.kind == Kind::Word { self.parser.next() } else { return Err(unexpected(token, "a name")) };
        if token.text == "_" {
            return Ok(Operand::Sink);
        }
        if let Some(id) = self.register(token.text) {
            return Ok(Operand::Register(id));
        }
        if token.text == "WARP_SZ" {
            return Ok(Operand::Immediate(Literal::Integer(32)));
        }
        if token.text.starts_with('%') {
            return Ok(Operand::Special(token.text.to_owned()));
        }
        let mut offset = 0;
        if self.parser.accept(b'+') {
            offset = self.parser.signed()?;
        }
        Ok(Operand::Symbol(token.text.to_owned(), offset))
    }
}
