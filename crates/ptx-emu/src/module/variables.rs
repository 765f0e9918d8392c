//! Variable declarations: `.shared`, `.global`, `.const`, `.local`.

use super::types::{ScalarType, Space};

/// One element of an initialiser.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Initial {
    Bits(u64),
    /// The address of another variable plus an offset.
    Address(String, i64),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Variable {
    pub name: String,
    pub space: Space,
    pub ty: ScalarType,
    pub alignment: u64,
    /// Number of elements; `None` for `.extern x[]`, whose size comes with the launch.
    pub elements: Option<u64>,
    pub is_extern: bool,
    pub initial: Vec<Initial>,
    /// Lexical scope inside a kernel; 0 is the outermost.
    pub scope: u32,
    pub line: u32,
}

impl Variable {
    /// Size in bytes, `None` for an unsized array or on overflow.
    pub fn bytes(&self) -> Option<u64> {
        self.elements?.checked_mul(u64::from(self.ty.bytes()))
    }
}
