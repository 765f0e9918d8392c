//! Scalar types and state spaces as PTX spells them.

/// A fundamental or packed PTX type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum ScalarType {
    Pred,
    B8,
    U8,
    S8,
    B16,
    U16,
    S16,
    F16,
    Bf16,
    B32,
    U32,
    S32,
    F32,
    F16x2,
    Bf16x2,
    Tf32,
    B64,
    U64,
    S64,
    F64,
}

/// The register file that holds a value of some type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// One bit per lane.
    Predicate,
    /// Up to 32 bits per lane.
    Word,
    /// 64 bits per lane.
    Long,
}

impl ScalarType {
    /// The type of that name, without its dot.
    pub fn parse(name: &str) -> Option<Self> {
        use ScalarType::*;
        Some(match name {
            "pred" => Pred,
            "b8" => B8,
            "u8" => U8,
            "s8" => S8,
            "b16" => B16,
            "u16" => U16,
            "s16" => S16,
            "f16" => F16,
            "bf16" => Bf16,
            "b32" => B32,
            "u32" => U32,
            "s32" => S32,
            "f32" => F32,
            "f16x2" => F16x2,
            "bf16x2" => Bf16x2,
            "tf32" => Tf32,
            "b64" => B64,
            "u64" => U64,
            "s64" => S64,
            "f64" => F64,
            _ => return None,
        })
    }

    /// Size in memory; a predicate has none.
    pub fn bytes(self) -> u32 {
        use ScalarType::*;
        match self {
            Pred => 0,
            B8 | U8 | S8 => 1,
            B16 | U16 | S16 | F16 | Bf16 => 2,
            B32 | U32 | S32 | F32 | F16x2 | Bf16x2 | Tf32 => 4,
            B64 | U64 | S64 | F64 => 8,
        }
    }

    /// Size in bits.
    pub fn bits(self) -> u32 {
        self.bytes() * 8
    }

    /// Whether the type is a two's-complement integer.
    pub fn is_signed(self) -> bool {
        use ScalarType::*;
        matches!(self, S8 | S16 | S32 | S64)
    }

    /// Whether values of this type are floating-point numbers.
    pub fn is_float(self) -> bool {
        use ScalarType::*;
        matches!(self, F16 | Bf16 | F32 | F16x2 | Bf16x2 | Tf32 | F64)
    }

    /// The register file for values of this type.
    pub fn class(self) -> Class {
        match self {
            ScalarType::Pred => Class::Predicate,
            other if other.bytes() == 8 => Class::Long,
            _ => Class::Word,
        }
    }
}

/// Where an address points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Space {
    /// Device memory.
    Global,
    /// The block's shared memory.
    Shared,
    /// A thread's private memory.
    Local,
    /// Constant variables of the module.
    Const,
    /// Kernel parameters.
    Param,
    /// Resolved at run time by address window.
    Generic,
}

impl std::fmt::Display for Space {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Space::Global => "global",
            Space::Shared => "shared",
            Space::Local => "local",
            Space::Const => "constant",
            Space::Param => "parameter",
            Space::Generic => "generic",
        })
    }
}
