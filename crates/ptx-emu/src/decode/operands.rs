//! Operands to rows.

use super::layout::PARAMETER_WINDOW;
use super::special::{self, Special};
use super::{Decoder, Form};
use crate::Error;
use crate::module::{Class, Operand, ScalarType, Space};

/// The address operand of a memory instruction.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Address {
    /// Row of the base.
    pub row: u32,
    /// Whether the base is a long.
    pub long: bool,
    pub offset: i64,
}

impl Decoder<'_> {
    /// The row of a source operand of that type.
    pub fn source(&mut self, form: &Form<'_>, operand: &Operand, ty: ScalarType) -> Result<u32, Error> {
        match operand {
            Operand::Register(id) => {
                self.check_class(form, *id, ty)?;
                Ok(self.read_row(*id))
            }
            Operand::Immediate(literal) => {
                let bits = literal.bits(ty);
                Ok(match ty.class() {
                    Class::Word if ty.bytes() == 2 => self.word_constant(bits as u32 & 0xffff),
                    Class::Word => self.word_constant(bits as u32),
                    Class::Long => self.long_constant(bits),
                    Class::Predicate => self.predicate_constant(bits != 0),
                })
            }
            Operand::Special(name) => {
                let special = special::lookup(name)
                    .ok_or_else(|| form.unsupported(format!("special register `{name}` is not modelled")))?;
                self.special(special, ty.class())
                    .ok_or_else(|| form.unsupported(format!("special register `{name}` is not a {ty:?}")))
            }
            Operand::Symbol(name, offset) => {
                let value = self.symbol(form, name)?.wrapping_add(*offset as u64);
                match ty.class() {
                    Class::Word => Ok(self.word_constant(value as u32)),
                    Class::Long => Ok(self.long_constant(value)),
                    Class::Predicate => Err(form.unsupported("a symbol is not a predicate")),
                }
            }
            _ => Err(form.unsupported("an operand has the wrong shape")),
        }
    }

    fn check_class(&self, form: &Form<'_>, register: u32, ty: ScalarType) -> Result<(), Error> {
        let declared = &self.kernel.registers[register as usize];
        if declared.ty.class() == ty.class() {
            return Ok(());
        }
        let (name, has) = (&declared.name, declared.ty);
        Err(form.unsupported(format!("register `{name}` has type {has:?}, the instruction needs {ty:?}")))
    }

    fn special(&mut self, special: Special, class: Class) -> Option<u32> {
        let (rows, list) = match class {
            Class::Word => (&mut self.word_special_rows, &mut self.program.word_specials),
            Class::Long => (&mut self.long_special_rows, &mut self.program.long_specials),
            Class::Predicate => return None,
        };
        if let Some(row) = rows.get(&special) {
            return Some(*row);
        }
        let counter = if class == Class::Word { &mut self.program.word_rows } else { &mut self.program.long_rows };
        let row = *counter;
        *counter += 1;
        rows.insert(special, row);
        list.push((row, special));
        Some(row)
    }

    /// The row of a destination operand of that type.
    pub fn destination(&mut self, form: &Form<'_>, operand: &Operand, ty: ScalarType) -> Result<u32, Error> {
        match operand {
            Operand::Register(id) => {
                self.check_class(form, *id, ty)?;
                Ok(self.write_row(*id))
            }
            Operand::Sink => Ok(self.sink(ty.class())),
            _ => Err(form.unsupported("the destination must be a register")),
        }
    }

    /// A predicate source and whether it is negated.
    pub fn predicate(&mut self, form: &Form<'_>, operand: &Operand) -> Result<(u32, bool), Error> {
        match operand {
            Operand::Negated(id) => {
                if self.kernel.registers[*id as usize].ty != ScalarType::Pred {
                    return Err(form.unsupported("only a predicate can be negated"));
                }
                Ok((self.read_row(*id), true))
            }
            other => Ok((self.source(form, other, ScalarType::Pred)?, false)),
        }
    }

    /// The value of a name: an address in its own state space.
    fn symbol(&mut self, form: &Form<'_>, name: &str) -> Result<u64, Error> {
        let unknown = || Error::UnknownSymbol { line: form.instruction.line, name: name.to_owned() };
        if let Some(parameter) = self.kernel.parameters.iter().find(|p| p.name == name) {
            return Ok(PARAMETER_WINDOW + parameter.offset as u64);
        }
        let variable = self.kernel.variable(name, form.instruction.scope).ok_or_else(unknown)?;
        match variable.space {
            Space::Shared => self.program.shared.offset(variable).ok_or_else(unknown),
            Space::Local => self.program.local.offset(variable).ok_or_else(unknown),
            _ => self.bindings.variables.get(name).copied().ok_or_else(unknown),
        }
    }

    /// `[base+offset]`.
    pub fn address(&mut self, form: &Form<'_>, operand: &Operand) -> Result<Address, Error> {
        let Operand::Address(base, offset) = operand else {
            return Err(form.unsupported("an address in brackets is missing"));
        };
        match &**base {
            Operand::Register(id) => {
                let class = self.kernel.registers[*id as usize].ty.class();
                if class == Class::Predicate {
                    return Err(form.unsupported("a predicate is not an address"));
                }
                Ok(Address { row: self.read_row(*id), long: class == Class::Long, offset: *offset })
            }
            Operand::Symbol(name, more) => {
                let value = self.symbol(form, name)?.wrapping_add(*more as u64);
                let row = self.long_constant(value);
                Ok(Address { row, long: true, offset: *offset })
            }
            Operand::Immediate(literal) => {
                let row = self.long_constant(literal.bits(ScalarType::U64));
                Ok(Address { row, long: true, offset: *offset })
            }
            _ => Err(form.unsupported("an address must start with a register, a symbol or a constant")),
        }
    }

    /// The rows of a vector operand, or of a scalar as a vector of one.
    pub fn vector(
        &mut self,
        form: &Form<'_>,
        operand: &Operand,
        ty: ScalarType,
        destination: bool,
    ) -> Result<Box<[u32]>, Error> {
        let elements = match operand {
            Operand::Vector(elements) => elements.as_slice(),
            single => std::slice::from_ref(single),
        };
        elements
            .iter()
            .map(
                |element| {
                    if destination { self.destination(form, element, ty) } else { self.source(form, element, ty) }
                },
            )
            .collect()
    }

    /// Whether an operand, or the first element of a vector, is a register of 64 bits. Conversions,
    /// loads and stores accept registers that are wider than their type.
    pub fn is_long(&self, operand: &Operand) -> bool {
        match operand {
            Operand::Register(id) => self.kernel.registers[*id as usize].ty.class() == Class::Long,
            Operand::Vector(elements) => elements.first().is_some_and(|first| self.is_long(first)),
            _ => false,
        }
    }

    /// Whether an operand, or the first element of a vector, is a register of 16 bits.
    pub fn is_short(&self, operand: &Operand) -> bool {
        match operand {
            Operand::Register(id) => self.kernel.registers[*id as usize].ty.bytes() == 2,
            Operand::Vector(elements) => elements.first().is_some_and(|first| self.is_short(first)),
            _ => false,
        }
    }
}
