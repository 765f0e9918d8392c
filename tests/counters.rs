//! What kernels do to memory, counted exactly on the emulator: no conflicts in shared memory, no global traffic beside
//! what the tiles need, and rescaling as rare as the inner loops count on.

#![cfg(feature = "emulator")]

mod common;
#[path = "../crates/budgets/src/problems.rs"]
mod problems;

use common::{skipped, upload, values};
use rayon::prelude::*;
use warpfold::emulator::{Counters, EmulatorBuilder, counters_of, last_counters};
use warpfold::variants::{Arch, Features, Operation, RowFeatures, Tile, VARIANTS, Variant};
use warpfold::{
    Attention, DType, Device, LaunchPlan, Mask, Norm, NormBackwardInputs, NormInputs, Qkv, Softmax,
    SoftmaxBackwardSpec, SoftmaxSpec, Tensor,
};

/// An A100, if this build has kernels.
fn emulator(test: &str) -> Option<Device> {
    match EmulatorBuilder::new(Arch::Sm80).build() {
        Ok(device) => Some(device),
        Err(error) => {
            skipped(test, error);
            None
        }
    }
}

/// A bank conflict costs a pass through shared memory, which the inner loops have none to spare of.
#[test]
fn no_kernel_has_bank_conflicts() {
    if emulator("no_kernel_has_bank_conflicts").is_none() {
        return;
    }
    let rows: Vec<&Variant> = VARIANTS.iter().collect();
    let complaints: Vec<String> = rows
        .into_par_iter()
        .flat_map_iter(|row| {
            let name = row.name();
            let run = problems::run(row).unwrap_or_else(|error| panic!("{name}: {error}"));
            let moves_tiles = matches!(row.tile, Tile::Attention { .. });
            assert!(!moves_tiles || run.counters.shared_total().ideal > 0, "{name} does not use shared memory");
            let excess = run.counters.shared.into_iter().filter(|(_, found)| found.actual > found.ideal);
            let problem = run.problem;
            excess.map(move |(access, found)| {
                format!("{name}, {problem}: {access:?} takes {} wavefronts instead of {}", found.actual, found.ideal)
            })
        })
        .collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// A problem of a plain forward kernel whose query and key tiles are all whole.
struct Whole {
    heads: usize,
    len_q: usize,
    len_kv: usize,
    is_causal: bool,
    /// The spread of q and k around 0.
    spread: f64,
}

impl Whole {
    /// Runs it; the blocks of the grid, and what they cost.
    fn run(&self, device: &Device, row: &Variant) -> (usize, Counters) {
        let Tile::Attention { head_dim, head_dim_v, .. } = row.tile else { panic!("{} has no tile", row.name()) };
        let tensor = |seed: u64, len: usize, columns: u32| {
            let shape = [1, self.heads, len, columns as usize];
            let values = values(seed, shape.iter().product(), 0.0, self.spread, row.dtype);
            upload(device, row.dtype, &values, &shape).expect("a small tensor")
        };
        let q = tensor(1, self.len_q, head_dim);
        let k = tensor(2, self.len_kv, head_dim);
        let v = tensor(3, self.len_kv, head_dim_v);
        let inputs = Qkv::new(&q, &k, &v);
        let attention = Attention::new().mask(if self.is_causal { Mask::causal() } else { Mask::none() });
        let plan = attention.plan(&inputs.spec(), &device.target()).expect("a valid problem");
        let launch = plan.launch().expect("emulators launch");
        assert_eq!(launch.variant.name(), row.name());
        attention.forward(&inputs).expect("a valid problem");
        (launch.grid[0] as usize, last_counters(device).expect("a kernel ran"))
    }
}

fn plain_rows() -> impl Iterator<Item = &'static Variant> {
    let is_plain = |row: &&Variant| matches!(row.tile, Tile::Attention { features: Features::Plain, .. });
    VARIANTS.iter().filter(|row| row.operation == Operation::AttentionForward).filter(is_plain)
}

/// Global sectors that are read and written, as often as instructions move them.
fn moved_sectors(counters: &Counters) -> [u64; 2] {
    let sectors_of = |is_wanted: fn(&str) -> bool| -> u64 {
        let wanted = counters.global.iter().filter(|(access, _)| is_wanted(&format!("{access:?}")));
        wanted.map(|(_, sectors)| sectors.actual).sum()
    };
    [sectors_of(|access| access != "Store"), sectors_of(|access| access == "Store")]
}

/// Bytes are counted as often as an instruction moves them: what caches save is not subtracted. So
///
/// ```text
/// read     Q once, and for each block of queries the K and V tiles that it walks: all of them, or with a causal mask
///          those up to the last key that its last query sees
/// written  output and lse once
/// ```
#[test]
fn the_plain_kernels_move_what_their_tiles_need() {
    let Some(device) = emulator("the_plain_kernels_move_what_their_tiles_need") else { return };
    let mut complaints = Vec::new();
    for row in plain_rows() {
        let Tile::Attention { head_dim, head_dim_v, block_q, block_kv, .. } = row.tile else { unreachable!() };
        let [head_dim, head_dim_v, block_q, block_kv] =
            [head_dim, head_dim_v, block_q, block_kv].map(|size| size as usize);
        let size_bytes = row.dtype.size_bytes();
        let whole = |len_q, len_kv, is_causal| Whole { heads: 2, len_q, len_kv, is_causal, spread: 1.0 };
        let cases = [
            whole(2 * block_q, 5 * block_kv, false),
            whole(3 * block_q, 3 * block_q, true),
            // The last query sees the last key: the first block walks some tiles more.
            whole(2 * block_q, 2 * block_q + 3 * block_kv, true),
        ];
        for case in cases {
            let Whole { heads, len_q, len_kv, is_causal, .. } = case;
            let (blocks, counters) = case.run(&device, row);
            let blocks_each = len_q / block_q;
            assert_eq!(blocks, heads * blocks_each);
            let tiles = |block: usize| match is_causal {
                true => ((block + 1) * block_q + len_kv - len_q).div_ceil(block_kv),
                false => len_kv / block_kv,
            };
            let tiles: usize = (0..blocks_each).map(tiles).sum();
            let sectors = |bytes: usize| (heads * bytes / 32) as u64;
            let read = sectors((len_q * head_dim + tiles * block_kv * (head_dim + head_dim_v)) * size_bytes);
            let written = sectors(len_q * (head_dim_v * size_bytes + size_of::<f32>()));

            let found = moved_sectors(&counters);
            for (what, found, needed) in [("read", found[0], read), ("written", found[1], written)] {
                if !(needed..=needed + needed / 50).contains(&found) {
                    let case = format!("{}, {len_q} queries, {len_kv} keys, causal {is_causal}", row.name());
                    complaints.push(format!("{case}: {found} sectors are {what} instead of {needed}"));
                }
            }
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// 16 rows of a warp take the base of their softmax from their first tile of keys. After that, scores as layers make
/// them hardly ever outgrow it, so that the code which moves it stays out of the way.
#[test]
fn rescaling_is_rare() {
    let Some(device) = emulator("rescaling_is_rare") else { return };
    for row in plain_rows() {
        let Tile::Attention { block_kv, .. } = row.tile else { unreachable!() };
        for (score_spread, percent_max) in [(1.0, 0), (2.0, 2), (4.0, 25)] {
            // The scores of independent q and k have the product of their spreads, after the scale.
            let case = Whole {
                heads: 1,
                len_q: 256,
                len_kv: 16 * block_kv as usize,
                is_causal: false,
                spread: f64::sqrt(score_spread),
            };
            let (_, counters) = case.run(&device, row);
            let first_tiles = (case.len_q / 16) as u64;
            let later_tiles = first_tiles * (case.len_kv as u64 / u64::from(block_kv) - 1);
            let rescaled = counters.instructions_like("pmevent") - first_tiles;
            assert!(
                rescaled * 100 <= later_tiles * percent_max,
                "{}: with scores of spread {score_spread}, {rescaled} of {later_tiles} tiles are rescaled",
                row.name()
            );
        }
    }
}

/// A row operation without options: softmax and norms as models call them, but for a weight and bias where wanted.
#[derive(Clone, Copy, Debug, PartialEq)]
enum RowCall {
    Softmax,
    SoftmaxBackward,
    Norm,
    /// With a residual, whose sum with x is written.
    AddNorm,
    NormBackward,
}

const ROW_CALLS: [RowCall; 5] =
    [RowCall::Softmax, RowCall::SoftmaxBackward, RowCall::Norm, RowCall::AddNorm, RowCall::NormBackward];

impl RowCall {
    /// Row tensors that are read and written.
    fn tensors(self) -> [u64; 2] {
        match self {
            RowCall::Softmax | RowCall::Norm => [1, 1],
            RowCall::SoftmaxBackward | RowCall::NormBackward => [2, 1],
            RowCall::AddNorm => [2, 2],
        }
    }

    fn operation(self) -> Operation {
        match self {
            RowCall::Softmax => Operation::SoftmaxForward,
            RowCall::SoftmaxBackward => Operation::SoftmaxBackward,
            RowCall::Norm | RowCall::AddNorm => Operation::NormForward,
            RowCall::NormBackward => Operation::NormBackward,
        }
    }

    /// Runs it on tensors without gaps; the kernel of the rows, its threads, and what it cost.
    fn run(
        self,
        device: &Device,
        dtype: DType,
        [rows, columns]: [usize; 2],
        has_weight: bool,
    ) -> (Vec<LaunchPlan>, Counters) {
        let tensor = |seed: u64, shape: &[usize]| {
            let values = values(seed, shape.iter().product(), 0.1, 1.0, dtype);
            upload(device, dtype, &values, shape).expect("a small tensor")
        };
        let (a, b) = (tensor(1, &[rows, columns]), tensor(2, &[rows, columns]));
        let vector = tensor(3, &[columns]);
        let target = device.target();
        let launches: Vec<LaunchPlan> = match self {
            RowCall::Softmax => {
                let plan = Softmax::new().plan(&SoftmaxSpec::new(a.view().spec()), &target).expect("a valid problem");
                Softmax::new().forward(&a).expect("a valid problem");
                plan.launches().into_iter().cloned().collect()
            }
            RowCall::SoftmaxBackward => {
                let spec = SoftmaxBackwardSpec::new(a.view().spec(), b.view().spec());
                let plan = Softmax::new().plan_backward(&spec, &target).expect("a valid problem");
                Softmax::new().backward(&a, &b).expect("a valid problem");
                plan.launches().into_iter().cloned().collect()
            }
            RowCall::Norm | RowCall::AddNorm => {
                let mut inputs = NormInputs::new(&a);
                if self == RowCall::AddNorm {
                    inputs = inputs.residual(&b);
                }
                if has_weight {
                    inputs = inputs.weight(&vector).bias(&vector);
                }
                let plan = Norm::layer().plan(&inputs.spec(), &target).expect("a valid problem");
                Norm::layer().forward(&inputs).expect("a valid problem");
                plan.launches().into_iter().cloned().collect()
            }
            RowCall::NormBackward => {
                let stats =
                    |value: f32| Tensor::from_slice(device, &vec![value; rows], [rows]).expect("a small tensor");
                let (mean, rstd) = (stats(0.1), stats(1.0));
                let mut inputs = NormBackwardInputs::new(&a, &b).mean(&mean).rstd(&rstd);
                if has_weight {
                    inputs = inputs.weight(&vector).bias(&vector);
                }
                let plan = Norm::layer().plan_backward(&inputs.spec(), &target).expect("a valid problem");
                Norm::layer().backward(&inputs).expect("a valid problem");
                plan.launches().into_iter().cloned().collect()
            }
        };
        let of_rows =
            launches.iter().find(|launch| launch.variant.operation == self.operation()).expect("a kernel ran");
        let counters = counters_of(device, &of_rows.variant.name()).expect("a kernel ran");
        (launches, counters)
    }
}

/// Every sector of every row tensor is read once and written once, in rows of each length class up to a block a row. What
/// comes on top is counted apart: a norm reads a row's first element once more, and backward its two statistics, one
/// sector each for every warp of the row.
#[test]
fn the_row_kernels_touch_every_sector_once() {
    let Some(device) = emulator("the_row_kernels_touch_every_sector_once") else { return };
    let mut complaints = Vec::new();
    let mut seen = Vec::new();
    for call in ROW_CALLS {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            for row in VARIANTS.iter().filter(|row| row.operation == call.operation() && row.dtype == dtype) {
                let Tile::Rows { features, .. } = row.tile else { continue };
                if features == RowFeatures::General {
                    continue;
                }
                let slot = 16 / dtype.size_bytes();
                let columns = row.columns_max().map_or(8192, |columns| columns as usize / slot * slot);
                let rows = 64;
                let (launches, counters) = call.run(&device, dtype, [rows, columns], false);
                assert_eq!(launches[0].variant, row, "{call:?} of {columns} columns");
                seen.push(row.name());
                let sectors = (rows * columns * dtype.size_bytes() / 32) as u64;
                let warps = u64::from(launches[0].block[0] / 32);
                let row_warps = if row.columns_max().is_some() { rows as u64 } else { rows as u64 * warps };
                let extra = match call {
                    RowCall::Softmax | RowCall::SoftmaxBackward => 0,
                    RowCall::Norm => row_warps,
                    RowCall::AddNorm | RowCall::NormBackward => 2 * row_warps,
                };
                let found = moved_sectors(&counters);
                let [read, written] = call.tensors().map(|tensors| tensors * sectors);
                if !(read..=read + extra).contains(&found[0]) || found[1] != written {
                    complaints.push(format!(
                        "{}, {call:?}, {columns} columns: {found:?} sectors are read and written instead of {:?}",
                        row.name(),
                        [read, written]
                    ));
                }
            }
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    assert!(seen.len() >= 5 * 3 * ROW_CALLS.len(), "only {seen:?} ran");
}

/// One column more than a power of two puts every row at another place of a 16-byte vector.
#[test]
fn a_column_more_is_no_cliff() {
    let Some(device) = emulator("a_column_more_is_no_cliff") else { return };
    let mut complaints = Vec::new();
    for call in ROW_CALLS {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let is_norm = !matches!(call, RowCall::Softmax | RowCall::SoftmaxBackward);
            for has_weight in [false, true].into_iter().take(1 + usize::from(is_norm)) {
                for (columns, percent) in [(1024, 25), (4096, 10), (8192, 10), (16_384, 10)] {
                    let per_byte = |columns: usize| {
                        let (_, counters) = call.run(&device, dtype, [8, columns], has_weight);
                        counters.warp_instructions as f64 / (8 * columns * dtype.size_bytes()) as f64
                    };
                    let more = 100.0 * (per_byte(columns + 1) / per_byte(columns) - 1.0);
                    if more > f64::from(percent) {
                        complaints.push(format!(
                            "{call:?}, {dtype}, weight {has_weight}: {more:.1} % more instructions a byte at {columns} + 1"
                        ));
                    }
                }
            }
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
