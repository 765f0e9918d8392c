//! Operands and instructions as written, before they are given a meaning.

use super::types::ScalarType;

/// Index into [`super::Kernel::registers`].
pub(crate) type RegisterId = u32;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Operand {
    Register(RegisterId),
    /// A special register such as `%tid.x`.
    Special(String),
    /// An integer literal, or the bits of a floating-point literal.
    Immediate(Literal),
    /// A variable, parameter or function name, with an optional byte offset.
    Symbol(String, i64),
    /// An instruction index.
    Label(u32),
    Vector(Vec<Operand>),
    Address(Box<Operand>, i64),
    /// The address of a tensor map, and coordinates of a box.
    Tensor(Box<Operand>, Vec<Operand>),
    /// `d|p`: a second destination.
    Pair(Box<Operand>, Box<Operand>),
    /// `_`: a destination that is not wanted.
    Sink,
    /// `!p`
    Negated(RegisterId),
    /// `(a, b)` of a call.
    List(Vec<Operand>),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Literal {
    Integer(i64),
    F32(u32),
    F64(u64),
}

impl Literal {
    /// The bits of the literal in a register of that type.
    pub fn bits(self, ty: ScalarType) -> u64 {
        match self {
            Literal::Integer(value) => value as u64,
            Literal::F32(bits) if ty == ScalarType::F64 => f64::from(f32::from_bits(bits)).to_bits(),
            Literal::F32(bits) => u64::from(bits),
            Literal::F64(bits) if ty == ScalarType::F32 => u64::from((f64::from_bits(bits) as f32).to_bits()),
            Literal::F64(bits) => bits,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Instruction {
    /// The predicate register and whether it is negated.
    pub guard: Option<(RegisterId, bool)>,
    /// Opcode with all modifiers.
    pub opcode: String,
    pub operands: Vec<Operand>,
    pub line: u32,
    /// Index of the `.loc` in force.
    pub loc: Option<u32>,
    /// The lexical scope, for labels and variables.
    pub scope: u32,
}

#[derive(Debug, Clone)]
pub(crate) struct Register {
    pub name: String,
    pub ty: ScalarType,
}
