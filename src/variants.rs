//! Every compiled kernel, one row each. build.rs compiles exactly this table, the plans choose from it,
//! and a test runs every row: there is no second list.
//!
//! build.rs reads this file (and `dtype.rs`) as its own modules, so nothing here may depend on the rest of
//! the crate.

use crate::dtype::DType;

/// The instruction set that a kernel's source is written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Arch {
    /// Ampere's instructions (cp.async, ldmatrix, mma.sync), which every later GPU runs too.
    Sm80,
}

impl Arch {
    /// nvcc's name of the virtual architecture.
    pub const fn virtual_name(self) -> &'static str {
        match self {
            Arch::Sm80 => "compute_80",
        }
    }

    /// The name of the real architecture, as in file names and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Arch::Sm80 => "sm_80",
        }
    }

    /// The lowest PTX version that the code needs, so that drivers from CUDA 12.0 on take the PTX.
    pub const fn ptx_version(self) -> &'static str {
        match self {
            Arch::Sm80 => "7.8",
        }
    }
}

/// The mathematical operation that a kernel computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// Fused attention, forward.
    AttentionForward,
    /// Softmax over the last axis, forward.
    SoftmaxForward,
    /// Layer norm over the last axis, forward.
    LayerNormForward,
}

impl Operation {
    /// The name used in kernel names and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Operation::AttentionForward => "attention_forward",
            Operation::SoftmaxForward => "softmax_forward",
            Operation::LayerNormForward => "layer_norm_forward",
        }
    }
}

/// What an attention image accepts beyond the common contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Features {
    /// 16-byte aligned rows; causal bounds and key lengths. The image without a branch to spare.
    Plain,
    /// Everything: also rows of any alignment, moved element by element.
    General,
}

/// The shape of a kernel's work, by family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tile {
    /// A block owns `block_q` query rows of one head and walks the keys in tiles of `block_kv`.
    Attention {
        /// Size of a query's and a key's vector.
        head_dim: u32,
        /// Query rows of a block.
        block_q: u32,
        /// Keys of a tile.
        block_kv: u32,
        /// Warps of a block.
        warps: u32,
        /// Which problems the image accepts.
        features: Features,
    },
    /// Each row is held by `threads_per_row` threads in `vectors` 16-byte registers each; zero vectors
    /// means that the row is streamed and its length is not bounded.
    Rows {
        /// Threads that share one row.
        threads_per_row: u32,
        /// Rows of a block.
        rows_per_block: u32,
        /// 16-byte vectors that each thread keeps in registers, or 0 to stream the row.
        vectors: u32,
    },
}

/// What the compiled code may cost; a test holds every image to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Registers of a thread, at most.
    pub registers: u32,
}

/// One compiled kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// What it computes.
    pub operation: Operation,
    /// The instruction set it is written for.
    pub arch: Arch,
    /// Its element type.
    pub dtype: DType,
    /// Its tile.
    pub tile: Tile,
    /// What its machine code may cost.
    pub budget: Budget,
}

impl Variant {
    /// The `.cu` file below `kernels/`.
    pub const fn source(&self) -> &'static str {
        match self.operation {
            Operation::AttentionForward => "attention_forward_sm80.cu",
            Operation::SoftmaxForward => "softmax.cu",
            Operation::LayerNormForward => "layer_norm.cu",
        }
    }

    /// The name of the kernel's entry, unique in the table.
    pub fn name(&self) -> String {
        let stem = format!("{}_{}_{}", self.operation.name(), self.arch.name().replace('_', ""), self.dtype);
        match self.tile {
            Tile::Attention { head_dim, features, .. } => {
                let suffix = match features {
                    Features::Plain => "plain",
                    Features::General => "general",
                };
                format!("{stem}_d{head_dim}_{suffix}")
            }
            Tile::Rows { threads_per_row, vectors: 0, .. } => format!("{stem}_t{threads_per_row}_stream"),
            Tile::Rows { threads_per_row, vectors, .. } => format!("{stem}_t{threads_per_row}_v{vectors}"),
        }
    }

    /// The macros that the source is compiled with.
    pub fn defines(&self) -> Vec<(&'static str, String)> {
        let element = match self.dtype {
            DType::F32 => "float",
            DType::F16 => "__half",
            DType::BF16 => "__nv_bfloat16",
            DType::I32 => "int",
        };
        let mut defines = vec![("WARPFOLD_ENTRY", self.name()), ("WARPFOLD_ELEMENT", element.to_string())];
        match self.tile {
            Tile::Attention { head_dim, block_q, block_kv, warps, features } => {
                defines.push(("WARPFOLD_HEAD_DIM", head_dim.to_string()));
                defines.push(("WARPFOLD_BLOCK_Q", block_q.to_string()));
                defines.push(("WARPFOLD_BLOCK_KV", block_kv.to_string()));
                defines.push(("WARPFOLD_WARPS", warps.to_string()));
                defines.push(("WARPFOLD_GENERAL", u32::from(features == Features::General).to_string()));
            }
            Tile::Rows { threads_per_row, rows_per_block, vectors } => {
                defines.push(("WARPFOLD_THREADS_PER_ROW", threads_per_row.to_string()));
                defines.push(("WARPFOLD_ROWS_PER_BLOCK", rows_per_block.to_string()));
                defines.push(("WARPFOLD_VECTORS", vectors.to_string()));
            }
        }
        defines
    }

    /// Threads of a block.
    pub const fn threads(&self) -> u32 {
        match self.tile {
            Tile::Attention { warps, .. } => warps * 32,
            Tile::Rows { threads_per_row, rows_per_block, .. } => threads_per_row * rows_per_block,
        }
    }

    /// Dynamic shared memory of a block in bytes; the kernels assert the same arithmetic.
    pub const fn shared_bytes(&self) -> u32 {
        match self.tile {
            // One tile of Q, one of K, one of V.
            Tile::Attention { head_dim, block_q, block_kv, .. } => {
                (block_q + 2 * block_kv) * head_dim * self.dtype.size_bytes() as u32
            }
            Tile::Rows { .. } => 0,
        }
    }

    /// The longest row that the kernel takes, in elements, whatever the row's alignment; `None` is unbounded.
    pub const fn columns_max(&self) -> Option<u64> {
        match self.tile {
            Tile::Attention { .. } | Tile::Rows { vectors: 0, .. } => None,
            Tile::Rows { threads_per_row, vectors, .. } => {
                let per_vector = 16 / self.dtype.size_bytes() as u64;
                // A row that does not start on a 16-byte boundary needs one vector slot more.
                Some((threads_per_row as u64 * vectors as u64 - 1) * per_vector)
            }
        }
    }
}

const fn attention(dtype: DType, head_dim: u32, features: Features) -> Variant {
    Variant {
        operation: Operation::AttentionForward,
        arch: Arch::Sm80,
        dtype,
        // 48 keys a tile is what fits 255 registers without spills beside an output of 32 x 96 or more a warp.
        tile: Tile::Attention {
            head_dim,
            block_q: 128,
            block_kv: if head_dim >= 96 { 48 } else { 64 },
            warps: 4,
            features,
        },
        budget: Budget { registers: 255 },
    }
}

const fn rows(operation: Operation, dtype: DType, threads_per_row: u32, rows_per_block: u32, vectors: u32) -> Variant {
    Variant {
        operation,
        arch: Arch::Sm80,
        dtype,
        tile: Tile::Rows { threads_per_row, rows_per_block, vectors },
        budget: Budget { registers: 128 },
    }
}

macro_rules! attention_rows {
    ($($dtype:ident, $head_dim:literal;)*) => {
        [$(
            attention(DType::$dtype, $head_dim, Features::Plain),
            attention(DType::$dtype, $head_dim, Features::General),
        )*]
    };
}

/// The row-length ladder of the row operations, shortest first.
macro_rules! ladder {
    ($($operation:ident, $dtype:ident;)*) => {
        [$(
            rows(Operation::$operation, DType::$dtype, 32, 4, 1),
            rows(Operation::$operation, DType::$dtype, 32, 4, 4),
            rows(Operation::$operation, DType::$dtype, 256, 1, 4),
            rows(Operation::$operation, DType::$dtype, 512, 1, 0),
        )*]
    };
}

const ATTENTION: [Variant; 16] = attention_rows! {
    F16, 32; F16, 64; F16, 96; F16, 128;
    BF16, 32; BF16, 64; BF16, 96; BF16, 128;
};

const ROWS: [Variant; 24] = ladder! {
    SoftmaxForward, F32; SoftmaxForward, F16; SoftmaxForward, BF16;
    LayerNormForward, F32; LayerNormForward, F16; LayerNormForward, BF16;
};

/// The table: the first row that accepts a problem on a target is the one that runs.
pub static VARIANTS: [Variant; ATTENTION.len() + ROWS.len()] = {
    let mut table = [ATTENTION[0]; ATTENTION.len() + ROWS.len()];
    let mut index = 0;
    while index < table.len() {
        table[index] = if index < ATTENTION.len() { ATTENTION[index] } else { ROWS[index - ATTENTION.len()] };
        index += 1;
    }
    table
};
