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
    /// Hopper's own (tensor maps, wgmma, setmaxnreg): compute capability 9.0, and no later one.
    Sm90a,
}

impl Arch {
    /// All of them.
    pub const ALL: [Arch; 2] = [Arch::Sm80, Arch::Sm90a];

    /// nvcc's name of the virtual architecture.
    pub const fn virtual_name(self) -> &'static str {
        match self {
            Arch::Sm80 => "compute_80",
            Arch::Sm90a => "compute_90a",
        }
    }

    /// The name of the real architecture, as in file names and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Arch::Sm80 => "sm_80",
            Arch::Sm90a => "sm_90a",
        }
    }

    /// Whether a GPU of this compute capability runs the code.
    pub const fn runs_on(self, major: u32, minor: u32) -> bool {
        match self {
            Arch::Sm80 => major >= 8,
            Arch::Sm90a => major == 9 && minor == 0,
        }
    }

    /// The lowest PTX version that the code needs, so that drivers from CUDA 12.0 on take the PTX.
    pub const fn ptx_version(self) -> &'static str {
        match self {
            Arch::Sm80 => "7.8",
            Arch::Sm90a => "8.0",
        }
    }
}

/// The mathematical operation that a kernel computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// Fused attention, forward.
    AttentionForward,
    /// Fused attention, backward: what each row's gradient has in common, `sum out d_out - d_lse`.
    AttentionDelta,
    /// Fused attention, backward: the gradients of k and v.
    AttentionBackwardKeyValue,
    /// Fused attention, backward: the gradient of q.
    AttentionBackwardQuery,
    /// Fused attention, backward: the gradient of the bias.
    AttentionBackwardBias,
    /// Fused attention, backward: the gradient of the sinks.
    AttentionBackwardSinks,
    /// Merges partial results of attention.
    AttentionMerge,
    /// Softmax and log-softmax over the last axis, forward.
    SoftmaxForward,
    /// Softmax and log-softmax over the last axis, backward.
    SoftmaxBackward,
    /// Layer norm and RMS norm over the last axis, forward.
    NormForward,
    /// Layer norm and RMS norm over the last axis, backward.
    NormBackward,
    /// Layer norm and RMS norm over the last axis, backward: adds up the parts of the gradients of weight and bias.
    NormWeightGradients,
}

impl Operation {
    /// The name used in kernel names and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Operation::AttentionForward => "attention_forward",
            Operation::AttentionDelta => "attention_delta",
            Operation::AttentionBackwardKeyValue => "attention_backward_key_value",
            Operation::AttentionBackwardQuery => "attention_backward_query",
            Operation::AttentionBackwardBias => "attention_backward_bias",
            Operation::AttentionBackwardSinks => "attention_backward_sinks",
            Operation::AttentionMerge => "attention_merge",
            Operation::SoftmaxForward => "softmax_forward",
            Operation::SoftmaxBackward => "softmax_backward",
            Operation::NormForward => "norm_forward",
            Operation::NormBackward => "norm_backward",
            Operation::NormWeightGradients => "norm_weight_gradients",
        }
    }
}

/// What an attention image accepts beyond the common contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Features {
    /// 16-byte aligned rows; causal bounds, windows, lengths, sinks. The image without a branch to spare. Rows have exactly
    /// the tile's head_dim, but where the copy engine pads shorter ones (sm_90a).
    Plain,
    /// Everything: also softcap, ALiBi, bias, boolean masks, dropout, a prefix, rows of any alignment and any smaller
    /// head_dim.
    General,
}

/// Which rows a kernel of softmax or a norm takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RowFeatures {
    /// As [`RowFeatures::Plain`], and every row begins and ends on a 16-byte boundary.
    Whole,
    /// Tensors of one type that all lie alike: wherever one crosses a 16-byte boundary, all do. No options but those that
    /// cost nothing.
    Plain,
    /// Everything: masks and biases of softmax, dropout, tensors of several types, of any alignment.
    General,
}

/// The shape of a kernel's work, by family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tile {
    /// A block owns `block_q` query rows of one head and walks the keys in tiles of `block_kv`.
    Attention {
        /// Size of a query's and a key's vector.
        head_dim: u32,
        /// Size of a value's vector.
        head_dim_v: u32,
        /// Query rows of a block.
        block_q: u32,
        /// Keys of a tile.
        block_kv: u32,
        /// Warps of a block.
        warps: u32,
        /// Which problems the image accepts.
        features: Features,
    },
    /// A block takes one piece of work after the other. One warpgroup of it copies tiles by tensor maps, the others compute.
    AttentionHopper {
        /// Size of a query's and a key's vector, at most.
        head_dim: u32,
        /// Size of a value's vector, at most.
        head_dim_v: u32,
        /// Query rows of a piece of work, or of a tile where a piece of work is keys.
        block_q: u32,
        /// Keys of a tile, or of a piece of work.
        block_kv: u32,
        /// Tiles of keys and as many of values, or of queries and of gradients, that shared memory holds.
        stages: u32,
        /// Warpgroups that compute.
        consumers: u32,
        /// Whether the warpgroups take turns at issuing their products.
        ping_pong: bool,
        /// Which problems the image accepts.
        features: Features,
    },
    /// A warp a row, whatever the row's length.
    WarpRows {
        /// Warps of a block.
        warps: u32,
    },
    /// Each row is held by `threads_per_row` threads in `vectors` 16-byte registers each. Several rows share a block of
    /// fixed size; a block of one row has as many threads as the row needs, `threads_per_row` at most, and longer rows
    /// are shared by several blocks.
    Rows {
        /// Threads that share one row.
        threads_per_row: u32,
        /// Rows of a block.
        rows_per_block: u32,
        /// 16-byte vectors that each thread keeps in registers.
        vectors: u32,
        /// Which rows it takes.
        features: RowFeatures,
    },
    /// A block adds up the parts of 32 neighbouring columns.
    Columns {
        /// Warps of a block.
        warps: u32,
    },
}

/// What the compiled code may cost; a test holds every image to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Registers of a thread, at most.
    pub registers: u32,
    /// The main loop in the code for the architecture that the source is written for, where it is held to anything.
    pub main_loop: Option<LoopBudget>,
    /// The same of the loop that takes the most, which is that of masked tiles.
    pub masked_loop: Option<LoopBudget>,
}

/// What an iteration of a loop may cost a warp. The main loop is, of the innermost loops with tensor work, the one that needs the
/// fewest instructions for it; the masked loop the one that needs the most. A scheduler has one warp of each warpgroup, so where several compute, the ratio is the same.
/// `cargo xtask budgets` shows the figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LoopBudget {
    /// Instructions, at most.
    pub instructions: u32,
    /// Issue slots for 100 cycles of the tensor cores (the A100's for sm_80, the H100's for sm_90a), at most.
    pub issue_percent: u32,
    /// Cycles of the busiest unit besides tensor cores and scheduler for 100 cycles of the tensor cores, at most.
    pub other_unit_percent: u32,
}

impl LoopBudget {
    /// Instructions, issue percent, other unit percent.
    const fn new([instructions, issue_percent, other_unit_percent]: [u32; 3]) -> LoopBudget {
        LoopBudget { instructions, issue_percent, other_unit_percent }
    }
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
        match (self.arch, self.operation) {
            (Arch::Sm90a, Operation::AttentionForward) => return "attention_forward_sm90.cu",
            (Arch::Sm90a, Operation::AttentionBackwardKeyValue) => return "attention_backward_key_value_sm90.cu",
            (Arch::Sm90a, Operation::AttentionBackwardQuery) => return "attention_backward_query_sm90.cu",
            _ => {}
        }
        match self.operation {
            Operation::AttentionForward => "attention_forward_sm80.cu",
            Operation::AttentionDelta => "attention_delta.cu",
            Operation::AttentionBackwardKeyValue => "attention_backward_key_value_sm80.cu",
            Operation::AttentionBackwardQuery => "attention_backward_query_sm80.cu",
            Operation::AttentionBackwardBias => "attention_backward_bias_sm80.cu",
            Operation::AttentionBackwardSinks => "attention_backward_sinks.cu",
            Operation::AttentionMerge => "attention_merge.cu",
            Operation::SoftmaxForward => "softmax_forward.cu",
            Operation::SoftmaxBackward => "softmax_backward.cu",
            Operation::NormForward => "norm_forward.cu",
            Operation::NormBackward => "norm_backward.cu",
            Operation::NormWeightGradients => "norm_weight_gradients.cu",
        }
    }

    /// Whether [`VARIANTS`] has this kernel, under whatever budget.
    fn is_in_table(&self) -> bool {
        let same = |row: &Variant| {
            row.operation == self.operation && row.arch == self.arch && row.dtype == self.dtype && row.tile == self.tile
        };
        VARIANTS.iter().any(same)
    }

    /// The name of the kernel's entry, unique in the table. A candidate for the table says all of its tile.
    pub fn name(&self) -> String {
        let stem = format!("{}_{}_{}", self.operation.name(), self.arch.name().replace('_', ""), self.dtype);
        match self.tile {
            Tile::Attention { head_dim, head_dim_v, features, .. }
            | Tile::AttentionHopper { head_dim, head_dim_v, features, .. } => {
                let dims = match head_dim == head_dim_v {
                    true => format!("d{head_dim}"),
                    false => format!("d{head_dim}v{head_dim_v}"),
                };
                let suffix = match features {
                    Features::Plain => "plain",
                    Features::General => "general",
                };
                let short = format!("{stem}_{dims}_{suffix}");
                match self.tile {
                    Tile::AttentionHopper { block_q, block_kv, stages, consumers, ping_pong, .. }
                        if !self.is_in_table() =>
                    {
                        let turns = if ping_pong { "_turns" } else { "" };
                        format!("{short}_q{block_q}_k{block_kv}_s{stages}_w{consumers}{turns}")
                    }
                    _ => short,
                }
            }
            Tile::WarpRows { .. } | Tile::Columns { .. } => stem,
            Tile::Rows { threads_per_row, rows_per_block, features, .. } => {
                let threads = if rows_per_block == 1 { "block" } else { "lanes" };
                let suffix = match features {
                    RowFeatures::Whole => "whole",
                    RowFeatures::Plain => "plain",
                    RowFeatures::General => "general",
                };
                format!("{stem}_{threads}{threads_per_row}_{suffix}")
            }
        }
    }

    /// The macros that the source is compiled with.
    pub fn defines(&self) -> Vec<(&'static str, String)> {
        let element = match self.dtype {
            DType::F32 => "float",
            DType::F16 => "__half",
            DType::BF16 => "__nv_bfloat16",
            DType::I32 => "int",
            DType::U8 => "unsigned char",
        };
        let mut defines = vec![("WARPFOLD_ENTRY", self.name()), ("WARPFOLD_ELEMENT", element.to_string())];
        match self.tile {
            Tile::Attention { head_dim, head_dim_v, block_q, block_kv, warps, features } => {
                defines.push(("WARPFOLD_HEAD_DIM", head_dim.to_string()));
                defines.push(("WARPFOLD_HEAD_DIM_V", head_dim_v.to_string()));
                defines.push(("WARPFOLD_BLOCK_Q", block_q.to_string()));
                defines.push(("WARPFOLD_BLOCK_KV", block_kv.to_string()));
                defines.push(("WARPFOLD_WARPS", warps.to_string()));
                defines.push(("WARPFOLD_GENERAL", u32::from(features == Features::General).to_string()));
            }
            Tile::AttentionHopper {
                head_dim,
                head_dim_v,
                block_q,
                block_kv,
                stages,
                consumers,
                ping_pong,
                features,
            } => {
                defines.push(("WARPFOLD_HEAD_DIM", head_dim.to_string()));
                defines.push(("WARPFOLD_HEAD_DIM_V", head_dim_v.to_string()));
                defines.push(("WARPFOLD_BLOCK_Q", block_q.to_string()));
                defines.push(("WARPFOLD_BLOCK_KV", block_kv.to_string()));
                defines.push(("WARPFOLD_STAGES", stages.to_string()));
                defines.push(("WARPFOLD_CONSUMERS", consumers.to_string()));
                defines.push(("WARPFOLD_PING_PONG", u32::from(ping_pong).to_string()));
                defines.push(("WARPFOLD_GENERAL", u32::from(features == Features::General).to_string()));
            }
            Tile::WarpRows { warps } | Tile::Columns { warps } => {
                defines.push(("WARPFOLD_WARPS", warps.to_string()));
            }
            Tile::Rows { threads_per_row, rows_per_block, vectors, features } => {
                defines.push(("WARPFOLD_THREADS_PER_ROW", threads_per_row.to_string()));
                defines.push(("WARPFOLD_ROWS_PER_BLOCK", rows_per_block.to_string()));
                defines.push(("WARPFOLD_VECTORS", vectors.to_string()));
                defines.push(("WARPFOLD_FEATURES", (features as u32).to_string()));
                // As many blocks as the budget of registers lets a multiprocessor hold, and so no more registers than that.
                let blocks = REGISTERS_PER_SM / (self.budget.registers * self.threads());
                defines.push(("WARPFOLD_BLOCKS_PER_SM", blocks.to_string()));
            }
        }
        defines
    }

    /// Threads of a block, at most.
    pub const fn threads(&self) -> u32 {
        match self.tile {
            Tile::Attention { warps, .. } | Tile::WarpRows { warps } | Tile::Columns { warps } => warps * 32,
            // One more copies.
            Tile::AttentionHopper { consumers, .. } => hopper_threads(consumers),
            Tile::Rows { threads_per_row, rows_per_block, .. } => threads_per_row * rows_per_block,
        }
    }

    /// Dynamic shared memory of a block in bytes; the kernels assert the same arithmetic.
    pub const fn shared_bytes(&self) -> u32 {
        match self.tile {
            Tile::Attention { head_dim, head_dim_v, block_q, block_kv, features, .. } => {
                let size_bytes = self.dtype.size_bytes() as u32;
                let both_dims = head_dim + head_dim_v;
                match self.operation {
                    // One tile of Q, which the output is staged in, one of K, one of V.
                    Operation::AttentionForward => {
                        let q_dim = if head_dim > head_dim_v { head_dim } else { head_dim_v };
                        let state_bytes = if matches!(features, Features::General) { BLOCK_STATE_BYTES } else { 0 };
                        (block_q * q_dim + block_kv * both_dims) * size_bytes + state_bytes
                    }
                    // One tile each of Q, dO, K and V, and two numbers a query where these are streamed.
                    Operation::AttentionBackwardKeyValue => {
                        let stat_bytes = block_q * 2 * size_of::<f32>() as u32;
                        (block_q + block_kv) * both_dims * size_bytes + stat_bytes + BLOCK_STATE_BYTES
                    }
                    Operation::AttentionBackwardQuery => {
                        (block_q + block_kv) * both_dims * size_bytes + BLOCK_STATE_BYTES
                    }
                    _ => (block_q + block_kv) * both_dims * size_bytes,
                }
            }
            Tile::AttentionHopper { head_dim, head_dim_v, block_q, block_kv, stages, .. } => {
                // The copy engine writes columns of 64 elements, so that rows are whole ones.
                let (d, dv) = (head_dim.next_multiple_of(64), head_dim_v.next_multiple_of(64));
                let size_bytes = self.dtype.size_bytes() as u32;
                // What a block owns, what it walks in rings of two kinds of tile, and its results, which take the place of what
                // it owns where there is no room. Of the second kind of tile, one has to do where there is none for more.
                let (owned, walked, results) = match self.operation {
                    Operation::AttentionBackwardKeyValue => {
                        (block_kv * (d + dv), [block_q * d, block_q * dv], block_kv * (d + dv))
                    }
                    Operation::AttentionBackwardQuery => {
                        (block_q * (d + dv), [block_kv * d, block_kv * dv], block_q * d)
                    }
                    _ => (block_q * d, [block_kv * d, block_kv * dv], block_q * dv),
                };
                // Two warpgroups that share 64 keys hand f32 weights to each other, two tiles at a time.
                let exchanged = match self.operation {
                    Operation::AttentionBackwardKeyValue if block_kv == 64 => 2 * block_kv * block_q * 4,
                    _ => 0,
                };
                let state = match self.operation {
                    // Two numbers of each query in a tile, and the rest.
                    Operation::AttentionBackwardKeyValue => (8 * stages * block_q + 512).next_multiple_of(1024),
                    _ => HOPPER_STATE_BYTES,
                };
                let one_each = (owned + walked[0] + walked[1]) * size_bytes + exchanged + state;
                let first_only = one_each + (stages - 1) * walked[0] * size_bytes;
                let both = first_only + (stages - 1) * walked[1] * size_bytes;
                let without_results = if both <= HOPPER_SHARED_BYTES_MAX { both } else { first_only };
                let with_results = without_results + results * size_bytes;
                if with_results <= HOPPER_SHARED_BYTES_MAX { with_results } else { without_results }
            }
            Tile::WarpRows { .. } | Tile::Columns { .. } | Tile::Rows { .. } => 0,
        }
    }

    /// The longest row that the kernel takes, in elements, whatever the row's alignment; `None` is unbounded.
    pub const fn columns_max(&self) -> Option<u64> {
        match self.tile {
            Tile::Rows { threads_per_row, vectors, rows_per_block, .. } if rows_per_block > 1 => {
                // What lies outside of whole 16-byte vectors is extra, and less than a vector at either end. So every row
                // with less than one vector more has whole vectors for the threads at most.
                let per_vector = 16 / self.dtype.size_bytes() as u64;
                Some((threads_per_row as u64 * vectors as u64 + 1) * per_vector - 1)
            }
            _ => None,
        }
    }
}

/// Registers of a multiprocessor, of every GPU since Ampere.
pub(crate) const REGISTERS_PER_SM: u32 = 65536;

/// What a block works out once and keeps in shared memory, where its options need the registers.
const BLOCK_STATE_BYTES: u32 = 128;

/// The barriers of a block and what its warps know of their work, in whole periods of the swizzle, 1024 bytes.
const HOPPER_STATE_BYTES: u32 = 2048;

/// What a block may have on compute capability 9.0.
const HOPPER_SHARED_BYTES_MAX: u32 = 227 << 10;

const fn hopper_threads(consumers: u32) -> u32 {
    (consumers + 1) * 128
}

/// A kernel of an operation for sm_90a: head_dim, head_dim of v, query rows, keys, stages, warpgroups that compute.
const fn hopper(operation: Operation, dtype: DType, features: Features, tile: [u32; 6]) -> Variant {
    let [head_dim, head_dim_v, block_q, block_kv, stages, consumers] = tile;
    // What a block starts with: its warpgroups exchange registers among themselves (setmaxnreg), and a block fills the
    // multiprocessor.
    let registers = REGISTERS_PER_SM / hopper_threads(consumers) / 8 * 8;
    let [unmasked, masked] = hopper_loops(operation, features, [head_dim, head_dim_v]);
    Variant {
        operation,
        arch: Arch::Sm90a,
        dtype,
        tile: Tile::AttentionHopper {
            head_dim,
            head_dim_v,
            block_q,
            block_kv,
            stages,
            consumers,
            ping_pong: takes_turns(operation, features, head_dim),
            features,
        },
        budget: Budget { registers, main_loop: unmasked, masked_loop: masked },
    }
}

/// Whether warpgroups take turns: where that was measured to pay.
const fn takes_turns(operation: Operation, features: Features, head_dim: u32) -> bool {
    matches!((operation, features, head_dim), (Operation::AttentionForward, Features::Plain, 64 | 128))
}

/// The same tile with turns, or without.
const fn with_turns(mut tile: Tile, takes_turns: bool) -> Tile {
    if let Tile::AttentionHopper { ping_pong, .. } = &mut tile {
        *ping_pong = takes_turns;
    }
    tile
}

/// What the loops of a forward kernel for sm_90a may cost, unmasked (two tiles an iteration) and masked (one). As [`main_loop`],
/// figures of nvcc 13.0 and 1 %.
const fn hopper_loops(operation: Operation, features: Features, dims: [u32; 2]) -> [Option<LoopBudget>; 2] {
    let (unmasked, masked) = match (operation, features, dims) {
        (Operation::AttentionForward, Features::Plain, [64, 64]) => ([521, 82, 91], [439, 137, 112]),
        (Operation::AttentionForward, Features::Plain, [96, 96]) => ([642, 42, 68], [546, 72, 68]),
        (Operation::AttentionForward, Features::Plain, [128, 128]) => ([666, 33, 63], [558, 55, 67]),
        (Operation::AttentionForward, Features::Plain, [192, 128]) => ([606, 33, 72], [488, 51, 75]),
        (Operation::AttentionForward, Features::Plain, [192, 192]) => ([560, 30, 72], [457, 48, 75]),
        (Operation::AttentionForward, Features::Plain, [256, 256]) => ([539, 28, 77], [424, 42, 80]),
        _ => return [None, None],
    };
    [Some(LoopBudget::new(unmasked)), Some(LoopBudget::new(masked))]
}

/// An attention kernel: head_dim, head_dim of v, query rows, keys, warps.
const fn attention(operation: Operation, dtype: DType, features: Features, tile: [u32; 5]) -> Variant {
    let [head_dim, head_dim_v, block_q, block_kv, warps] = tile;
    Variant {
        operation,
        arch: Arch::Sm80,
        dtype,
        tile: Tile::Attention { head_dim, head_dim_v, block_q, block_kv, warps, features },
        budget: Budget { registers: 255, main_loop: main_loop(operation, features, head_dim), masked_loop: None },
    }
}

/// Figures of nvcc 13.0 and 1 % for another compiler. Short rows are bound by their exponentials.
const fn main_loop(operation: Operation, features: Features, head_dim: u32) -> Option<LoopBudget> {
    let (instructions, issue_percent, other_unit_percent) = match (operation, features, head_dim) {
        (Operation::AttentionForward, Features::Plain, 64) => (455, 45, 90),
        (Operation::AttentionForward, Features::Plain, 128) => (363, 36, 90),
        _ => return None,
    };
    Some(LoopBudget { instructions, issue_percent, other_unit_percent })
}

const fn warp_rows(operation: Operation, dtype: DType) -> Variant {
    Variant {
        operation,
        arch: Arch::Sm80,
        dtype,
        tile: Tile::WarpRows { warps: 4 },
        budget: Budget { registers: 128, main_loop: None, masked_loop: None },
    }
}

/// Bytes of each row tensor that a thread of the ladder holds, whatever the type. A row of any length keeps half of that
/// and more under way for each of its threads.
const ROW_BYTES_PER_THREAD: u32 = 64;

/// A kernel of the ladder.
const fn rows(
    operation: Operation,
    dtype: DType,
    features: RowFeatures,
    [threads_per_row, rows_per_block]: [u32; 2],
    registers: u32,
) -> Variant {
    Variant {
        operation,
        arch: Arch::Sm80,
        dtype,
        tile: Tile::Rows { threads_per_row, rows_per_block, vectors: ROW_BYTES_PER_THREAD / 16, features },
        budget: Budget { registers, main_loop: None, masked_loop: None },
    }
}

/// The attention kernels of a 16-bit type. Plain ones first: the first row that accepts a problem runs.
macro_rules! tensor_core_attention {
    ($dtype:ident) => {
        [
            // What fits 255 registers without spills beside an output of two row tiles a warp.
            attention(Operation::AttentionForward, DType::$dtype, Features::Plain, [32, 32, 128, 64, 4]),
            attention(Operation::AttentionForward, DType::$dtype, Features::Plain, [64, 64, 128, 64, 4]),
            attention(Operation::AttentionForward, DType::$dtype, Features::Plain, [96, 96, 128, 64, 4]),
            attention(Operation::AttentionForward, DType::$dtype, Features::Plain, [128, 128, 128, 32, 4]),
            // One row tile a warp: an output of 16 x 192 or more leaves no registers for a second one.
            attention(Operation::AttentionForward, DType::$dtype, Features::Plain, [192, 128, 128, 64, 8]),
            attention(Operation::AttentionForward, DType::$dtype, Features::Plain, [192, 192, 128, 64, 8]),
            attention(Operation::AttentionForward, DType::$dtype, Features::Plain, [256, 256, 128, 32, 8]),
            attention(Operation::AttentionForward, DType::$dtype, Features::General, [64, 64, 64, 64, 4]),
            attention(Operation::AttentionForward, DType::$dtype, Features::General, [128, 128, 64, 64, 4]),
            attention(Operation::AttentionForward, DType::$dtype, Features::General, [192, 192, 64, 64, 4]),
            attention(Operation::AttentionForward, DType::$dtype, Features::General, [256, 256, 64, 32, 4]),
            attention(Operation::AttentionBackwardKeyValue, DType::$dtype, Features::General, [64, 64, 64, 64, 4]),
            attention(Operation::AttentionBackwardKeyValue, DType::$dtype, Features::General, [128, 128, 32, 64, 4]),
            // Two warps share 16 keys, each with half of the columns of both gradients. Half of 192 columns is no whole swizzle
            // period, and a third costs as much as the padding.
            attention(Operation::AttentionBackwardKeyValue, DType::$dtype, Features::General, [256, 256, 32, 64, 8]),
            attention(Operation::AttentionBackwardQuery, DType::$dtype, Features::General, [64, 64, 64, 64, 4]),
            attention(Operation::AttentionBackwardQuery, DType::$dtype, Features::General, [128, 128, 64, 64, 4]),
            attention(Operation::AttentionBackwardQuery, DType::$dtype, Features::General, [192, 192, 64, 32, 4]),
            attention(Operation::AttentionBackwardQuery, DType::$dtype, Features::General, [256, 256, 64, 32, 4]),
            attention(Operation::AttentionBackwardBias, DType::$dtype, Features::General, [128, 128, 64, 32, 4]),
            attention(Operation::AttentionBackwardBias, DType::$dtype, Features::General, [256, 256, 64, 32, 4]),
            warp_rows(Operation::AttentionDelta, DType::$dtype),
            warp_rows(Operation::AttentionMerge, DType::$dtype),
        ]
    };
}

/// The forward kernels for sm_90a. Plain ones first, each from the smallest tile on: the first one that is large enough
/// runs, and the copy engine pads shorter rows with zeros. Columns: head_dim, head_dim of v, query rows, keys, stages,
/// warpgroups that compute.
const HOPPER_FORWARD: [(Features, [u32; 6]); 10] = [
    // An output of 64 columns leaves registers for a third warpgroup, whose products hide the others' exponentials.
    (Features::Plain, [64, 64, 192, 80, 4, 3]),
    (Features::Plain, [96, 96, 128, 128, 2, 2]),
    (Features::Plain, [128, 128, 128, 128, 2, 2]),
    // As many keys as 227 KB hold twice beside Q, and beside the output where that leaves enough of them.
    (Features::Plain, [192, 128, 128, 96, 2, 2]),
    (Features::Plain, [192, 192, 128, 80, 2, 2]),
    (Features::Plain, [256, 256, 128, 64, 2, 2]),
    // What leaves registers for the options.
    (Features::General, [64, 64, 128, 64, 4, 2]),
    (Features::General, [128, 128, 128, 64, 4, 2]),
    (Features::General, [192, 192, 128, 64, 2, 2]),
    (Features::General, [256, 256, 128, 48, 2, 2]),
];

/// The backward kernels for sm_90a that own keys, in the same order.
const HOPPER_BACKWARD_KEY_VALUE: [(Features, [u32; 6]); 10] = [
    // As many queries as the registers hold beside both results: the more, the less of K and V is read again.
    (Features::Plain, [64, 64, 96, 128, 3, 2]),
    (Features::Plain, [96, 96, 80, 128, 2, 2]),
    (Features::Plain, [128, 128, 64, 128, 2, 2]),
    // Both results of 64 keys do not fit a warpgroup's registers: two share the keys.
    (Features::Plain, [192, 128, 64, 64, 2, 2]),
    (Features::Plain, [192, 192, 64, 64, 2, 2]),
    (Features::Plain, [256, 256, 64, 64, 2, 2]),
    (Features::General, [64, 64, 64, 128, 2, 2]),
    (Features::General, [128, 128, 64, 128, 2, 2]),
    (Features::General, [192, 192, 64, 64, 2, 2]),
    (Features::General, [256, 256, 64, 64, 2, 2]),
];

/// The backward kernels for sm_90a that own queries, in the same order.
const HOPPER_BACKWARD_QUERY: [(Features, [u32; 6]); 10] = [
    (Features::Plain, [64, 64, 128, 128, 3, 2]),
    (Features::Plain, [96, 96, 128, 128, 2, 2]),
    (Features::Plain, [128, 128, 128, 128, 2, 2]),
    // As many keys as 227 KB hold twice beside Q and the gradient of the output.
    (Features::Plain, [192, 128, 128, 80, 2, 2]),
    (Features::Plain, [192, 192, 128, 80, 2, 2]),
    (Features::Plain, [256, 256, 128, 64, 2, 2]),
    (Features::General, [64, 64, 128, 128, 2, 2]),
    (Features::General, [128, 128, 128, 128, 2, 2]),
    (Features::General, [192, 192, 128, 80, 2, 2]),
    (Features::General, [256, 256, 128, 64, 2, 2]),
];

const fn hopper_rows<const COUNT: usize>(
    operation: Operation,
    dtype: DType,
    tiles: &[(Features, [u32; 6]); COUNT],
) -> [Variant; COUNT] {
    let mut rows = [hopper(operation, dtype, tiles[0].0, tiles[0].1); COUNT];
    let mut index = 1;
    while index < COUNT {
        rows[index] = hopper(operation, dtype, tiles[index].0, tiles[index].1);
        index += 1;
    }
    rows
}

/// These stand before all others: a GPU that runs them takes them first.
const HOPPER_ATTENTION: [[Variant; HOPPER_FORWARD.len()]; 2] = [
    hopper_rows(Operation::AttentionForward, DType::F16, &HOPPER_FORWARD),
    hopper_rows(Operation::AttentionForward, DType::BF16, &HOPPER_FORWARD),
];
const HOPPER_QUERY: [[Variant; HOPPER_BACKWARD_QUERY.len()]; 2] = [
    hopper_rows(Operation::AttentionBackwardQuery, DType::F16, &HOPPER_BACKWARD_QUERY),
    hopper_rows(Operation::AttentionBackwardQuery, DType::BF16, &HOPPER_BACKWARD_QUERY),
];
const HOPPER_KEY_VALUE: [[Variant; HOPPER_BACKWARD_KEY_VALUE.len()]; 2] = [
    hopper_rows(Operation::AttentionBackwardKeyValue, DType::F16, &HOPPER_BACKWARD_KEY_VALUE),
    hopper_rows(Operation::AttentionBackwardKeyValue, DType::BF16, &HOPPER_BACKWARD_KEY_VALUE),
];

/// The attention kernels of f32, which has no tensor cores of its precision.
const F32_ATTENTION: [Variant; 15] = [
    attention(Operation::AttentionForward, DType::F32, Features::General, [64, 64, 64, 32, 4]),
    attention(Operation::AttentionForward, DType::F32, Features::General, [128, 128, 64, 32, 4]),
    attention(Operation::AttentionForward, DType::F32, Features::General, [256, 256, 64, 16, 4]),
    attention(Operation::AttentionBackwardKeyValue, DType::F32, Features::General, [64, 64, 32, 64, 4]),
    attention(Operation::AttentionBackwardKeyValue, DType::F32, Features::General, [128, 128, 16, 64, 4]),
    attention(Operation::AttentionBackwardKeyValue, DType::F32, Features::General, [256, 256, 16, 32, 4]),
    attention(Operation::AttentionBackwardQuery, DType::F32, Features::General, [64, 64, 64, 32, 4]),
    attention(Operation::AttentionBackwardQuery, DType::F32, Features::General, [128, 128, 64, 32, 4]),
    attention(Operation::AttentionBackwardQuery, DType::F32, Features::General, [256, 256, 32, 16, 2]),
    attention(Operation::AttentionBackwardBias, DType::F32, Features::General, [64, 64, 64, 32, 4]),
    attention(Operation::AttentionBackwardBias, DType::F32, Features::General, [128, 128, 64, 32, 4]),
    attention(Operation::AttentionBackwardBias, DType::F32, Features::General, [256, 256, 32, 16, 2]),
    warp_rows(Operation::AttentionDelta, DType::F32),
    warp_rows(Operation::AttentionMerge, DType::F32),
    warp_rows(Operation::AttentionBackwardSinks, DType::F32),
];

/// The row-length ladder of an operation and type, shortest rows first: threads of a row and rows of a block. The last entries
/// are a block a row, of up to so many threads.
const fn ladder(operation: Operation, dtype: DType) -> [Variant; 8] {
    // Backward, a norm keeps two row tensors and two f32 sums a column in registers.
    let is_sum = matches!(operation, Operation::NormBackward);
    let is_wide = is_sum && dtype.size_bytes() == 2;
    let (plain, plain_block) = if is_wide {
        (168, 384)
    } else if is_sum {
        (128, 512)
    } else {
        (64, 1024)
    };
    let (general, general_block, general_registers) = if is_sum { (255, 256, 255) } else { (96, 512, 128) };
    [
        rows(operation, dtype, RowFeatures::Whole, [4, 32], plain),
        rows(operation, dtype, RowFeatures::Plain, [8, 16], plain),
        rows(operation, dtype, RowFeatures::Plain, [16, 8], plain),
        rows(operation, dtype, RowFeatures::Plain, [32, 4], plain),
        rows(operation, dtype, RowFeatures::Plain, [plain_block, 1], plain),
        rows(operation, dtype, RowFeatures::General, [8, 16], general),
        rows(operation, dtype, RowFeatures::General, [32, 4], general),
        rows(operation, dtype, RowFeatures::General, [general_block, 1], general_registers),
    ]
}

const fn ladders(operation: Operation) -> [[Variant; 8]; 3] {
    [ladder(operation, DType::F32), ladder(operation, DType::F16), ladder(operation, DType::BF16)]
}

const F16_ATTENTION: [Variant; 22] = tensor_core_attention!(F16);
const BF16_ATTENTION: [Variant; 22] = tensor_core_attention!(BF16);

const ROWS: [[[Variant; 8]; 3]; 4] = [
    ladders(Operation::SoftmaxForward),
    ladders(Operation::SoftmaxBackward),
    ladders(Operation::NormForward),
    ladders(Operation::NormBackward),
];

/// Adds up f32 parts, into results of any type.
const SUMS: [Variant; 1] = [Variant {
    operation: Operation::NormWeightGradients,
    arch: Arch::Sm80,
    dtype: DType::F32,
    tile: Tile::Columns { warps: 8 },
    budget: Budget { registers: 64, main_loop: None, masked_loop: None },
}];

const TABLES: [&[Variant]; 8] = [
    HOPPER_ATTENTION.as_flattened(),
    HOPPER_KEY_VALUE.as_flattened(),
    HOPPER_QUERY.as_flattened(),
    &F16_ATTENTION,
    &BF16_ATTENTION,
    &F32_ATTENTION,
    ROWS.as_flattened().as_flattened(),
    &SUMS,
];

const VARIANT_COUNT: usize = {
    let (mut count, mut part) = (0, 0);
    while part < TABLES.len() {
        (count, part) = (count + TABLES[part].len(), part + 1);
    }
    count
};

/// The table: the first row that accepts a problem on a target is the one that runs.
pub static VARIANTS: [Variant; VARIANT_COUNT] = {
    let mut table = [SUMS[0]; VARIANT_COUNT];
    let (mut index, mut part) = (0, 0);
    while part < TABLES.len() {
        let mut row = 0;
        while row < TABLES[part].len() {
            table[index] = TABLES[part][row];
            (index, row) = (index + 1, row + 1);
        }
        part += 1;
    }
    table
};

/// Tiles to be measured against those of [`VARIANTS`], by columns as in the tables of Hopper's kernels, and whether warpgroups take
/// turns.
const SWEEP_TILES: [(Operation, [u32; 6], bool); 24] = {
    const FORWARD: Operation = Operation::AttentionForward;
    const KEY_VALUE: Operation = Operation::AttentionBackwardKeyValue;
    const QUERY: Operation = Operation::AttentionBackwardQuery;
    [
        (FORWARD, [64, 64, 192, 96, 2, 3], false),
        (FORWARD, [64, 64, 192, 80, 4, 3], false),
        (FORWARD, [64, 64, 192, 64, 4, 3], true),
        (FORWARD, [64, 64, 128, 128, 2, 2], true),
        (FORWARD, [96, 96, 128, 128, 2, 2], true),
        (FORWARD, [128, 128, 128, 128, 2, 2], false),
        (FORWARD, [128, 128, 128, 96, 2, 2], true),
        (FORWARD, [128, 128, 128, 96, 3, 2], true),
        (FORWARD, [128, 128, 192, 64, 3, 3], false),
        (FORWARD, [128, 128, 192, 64, 3, 3], true),
        (FORWARD, [192, 192, 128, 80, 2, 2], true),
        (FORWARD, [256, 256, 128, 64, 2, 2], true),
        (FORWARD, [256, 256, 128, 48, 3, 2], false),
        (KEY_VALUE, [64, 64, 96, 128, 2, 2], false),
        (KEY_VALUE, [64, 64, 80, 128, 3, 2], false),
        (KEY_VALUE, [64, 64, 64, 128, 4, 2], false),
        (KEY_VALUE, [128, 128, 64, 128, 3, 2], false),
        (KEY_VALUE, [128, 128, 48, 128, 2, 2], false),
        (QUERY, [64, 64, 128, 128, 2, 2], false),
        (QUERY, [64, 64, 128, 96, 4, 2], false),
        (QUERY, [128, 128, 128, 96, 2, 2], false),
        (QUERY, [128, 128, 128, 64, 3, 2], false),
        (QUERY, [128, 128, 128, 64, 4, 2], false),
        (QUERY, [256, 256, 128, 48, 2, 2], false),
    ]
};

static SWEEP: [Variant; SWEEP_TILES.len()] = {
    let mut rows = [hopper(SWEEP_TILES[0].0, DType::BF16, Features::Plain, SWEEP_TILES[0].1); SWEEP_TILES.len()];
    let mut number = 0;
    while number < SWEEP_TILES.len() {
        let (operation, tile, takes_turns) = SWEEP_TILES[number];
        let mut row = hopper(operation, DType::BF16, Features::Plain, tile);
        row.tile = with_turns(row.tile, takes_turns);
        row.budget.main_loop = None;
        row.budget.masked_loop = None;
        rows[number] = row;
        number += 1;
    }
    rows
};

/// Candidates for [`VARIANTS`]: kernels that no plan chooses by itself. They are compiled where `WARPFOLD_SWEEP` is set for the
/// build; `cargo xtask sweep` times them, and [`crate::AttentionPlan::with_kernel`] and [`crate::AttentionBackwardPlan::with_kernel`]
/// run one.
pub fn sweep() -> impl Iterator<Item = &'static Variant> {
    SWEEP.iter().filter(|row| !row.is_in_table())
}

/// The kernel of this name, in [`VARIANTS`] or among the candidates.
pub fn named(name: &str) -> Option<&'static Variant> {
    VARIANTS.iter().chain(sweep()).find(|row| row.name() == name)
}
