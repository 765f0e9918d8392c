//! An instruction while it is being decoded: its modifiers are taken one by one, and what is left
//! over at the end is an error. So an unknown modifier is never ignored.

use std::cell::Cell;

use super::sections;
use crate::Error;
use crate::module::{Instruction, Operand, ScalarType};

pub(crate) struct Form<'a> {
    pub instruction: &'a Instruction,
    /// The opcode's first word.
    pub base: &'a str,
    modifiers: Vec<(&'a str, Cell<bool>)>,
}

impl<'a> Form<'a> {
    pub fn new(instruction: &'a Instruction) -> Self {
        let mut parts = instruction.opcode.split('.');
        let base = parts.next().unwrap_or("");
        Form { instruction, base, modifiers: parts.map(|text| (text, Cell::new(false))).collect() }
    }

    /// Takes the modifier if it is there.
    pub fn accept(&self, name: &str) -> bool {
        for (text, taken) in &self.modifiers {
            if *text == name && !taken.get() {
                taken.set(true);
                return true;
            }
        }
        false
    }

    /// Takes the first of these modifiers that is there.
    pub fn choose<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        choices.iter().find(|(name, _)| self.accept(name)).map(|(_, value)| *value)
    }

    /// The first modifier of the instruction that is one of these, taken or not.
    pub fn first_of(&self, names: &[&str]) -> Option<&'a str> {
        self.modifiers.iter().map(|(text, _)| *text).find(|text| names.contains(text))
    }

    /// Takes one of these modifiers, or refuses the instruction.
    pub fn require<T: Copy>(&self, what: &str, choices: &[(&str, T)]) -> Result<T, Error> {
        self.choose(choices).ok_or_else(|| {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            self.unsupported(format!("{what} must be one of .{}", names.join(", .")))
        })
    }

    /// Takes the next modifier that is a type.
    pub fn ty(&self) -> Result<ScalarType, Error> {
        for (text, taken) in &self.modifiers {
            if !taken.get()
                && let Some(ty) = ScalarType::parse(text)
            {
                taken.set(true);
                return Ok(ty);
            }
        }
        Err(self.unsupported("a type modifier is missing or unknown"))
    }

    /// The next modifier that is a type, left where it is.
    pub fn peek_ty(&self) -> Option<ScalarType> {
        self.modifiers.iter().filter(|(_, taken)| !taken.get()).find_map(|(text, _)| ScalarType::parse(text))
    }

    /// Takes modifiers that are only hints to caches.
    pub fn skip_cache_hints(&self) {
        for (text, taken) in &self.modifiers {
            let hint = matches!(*text, "ca" | "cg" | "cs" | "lu" | "cv" | "wb" | "wt" | "nc")
                || text.starts_with("L1::evict")
                || text.starts_with("L1::no_allocate")
                || text.starts_with("L2::evict")
                || matches!(*text, "L2::64B" | "L2::128B" | "L2::256B");
            if hint {
                taken.set(true);
            }
        }
    }

    /// Refuses what nobody has taken.
    pub fn finish(&self) -> Result<(), Error> {
        match self.modifiers.iter().find(|(_, taken)| !taken.get()) {
            Some((text, _)) => Err(self.unsupported(format!("modifier `.{text}` is unknown here"))),
            None => Ok(()),
        }
    }

    pub fn operands(&self) -> &'a [Operand] {
        &self.instruction.operands
    }

    /// Refuses the instruction unless it has that many operands.
    pub fn expect_operands(&self, counts: std::ops::RangeInclusive<usize>) -> Result<(), Error> {
        let have = self.operands().len();
        if counts.contains(&have) {
            return Ok(());
        }
        let (low, high) = (counts.start(), counts.end());
        Err(self.unsupported(if low == high {
            format!("it has {have} operands instead of {low}")
        } else {
            format!("it has {have} operands instead of {low} to {high}")
        }))
    }

    pub fn operand(&self, index: usize) -> Result<&'a Operand, Error> {
        self.operands().get(index).ok_or_else(|| self.unsupported(format!("operand {} is missing", index + 1)))
    }

    /// An integer literal, for operands that must be constants.
    pub fn constant(&self, index: usize) -> Result<i64, Error> {
        match self.operand(index)? {
            Operand::Immediate(crate::module::Literal::Integer(value)) => Ok(*value),
            _ => Err(self.unsupported(format!("operand {} must be an integer constant", index + 1))),
        }
    }

    pub fn unsupported(&self, reason: impl Into<String>) -> Error {
        Error::Unsupported {
            line: self.instruction.line,
            instruction: self.instruction.opcode.clone(),
            reason: reason.into(),
            section: sections::of(self.base, &self.instruction.opcode),
        }
    }
}
