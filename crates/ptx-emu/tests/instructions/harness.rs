//! Runs one instruction on many inputs.

use crate::common::{Bench, ptx};
use ptx_emu::{Architecture, Options};

/// The four inputs of a thread.
pub type Inputs = [u64; 4];

/// Which register holds the result.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Out {
    /// `%d0`
    Long,
    /// `%r0`
    Word,
    /// `%h0`
    Half,
    /// `%p0` in bit 0, `%p5` in bit 1
    Predicate,
}

/// splitmix64
pub fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// Values at which something changes, as integers of any width or as bits of floats.
const EDGES: [u64; 47] = [
    0,
    1,
    2,
    3,
    7,
    8,
    15,
    16,
    17,
    31,
    32,
    33,
    63,
    64,
    65,
    127,
    128,
    255,
    256,
    0x3c00,
    0x7bff,
    0x7c00,
    0x7fff,
    0x8000,
    0xfbff,
    0xffff,
    0x1_0000,
    0x007f_ffff,
    0x0080_0000,
    0x3f80_0000,
    0x4b00_0001,
    0x7f7f_ffff,
    0x7f80_0000,
    0x7fc0_0000,
    0x7fff_ffff,
    0x8000_0000,
    0x8000_0001,
    0xbf80_0000,
    0xff80_0000,
    0xffff_fffe,
    0xffff_ffff,
    0x1_0000_0000,
    0x3ff0_0000_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_0000_0000,
    0xffff_ffff_ffff_ffff,
];

/// All pairs of edges, and random bits.
pub fn any_inputs() -> Vec<Inputs> {
    let mut state = 1;
    let mut all = Vec::new();
    for a in EDGES {
        for b in EDGES {
            let c = EDGES[(random(&mut state) % 47) as usize];
            all.push([a, b, c, random(&mut state) >> (random(&mut state) % 64)]);
        }
    }
    while all.len() < 4096 {
        all.push(std::array::from_fn(|_| random(&mut state) >> (random(&mut state) % 64)));
    }
    all
}

/// Runs an instruction on the inputs, 128 threads to a block.
pub fn execute(instruction: &str, inputs: &[Inputs], options: Options) -> Vec<[u64; 4]> {
    let text = ptx("instructions/template.ptx").replace("INSTRUCTION", instruction);
    let bench = Bench::from_text(&text).threads(128).blocks(inputs.len() as u32 / 128).options(options);
    assert_eq!(inputs.len() % 128, 0);
    let split = |value: &u64| [*value as u32, (*value >> 32) as u32];
    let words: Vec<u32> = inputs.iter().flatten().flat_map(split).collect();
    let (input, output) = (bench.words(&words), bench.blank(inputs.len() as u64 * 32));
    let report = bench.run("run", &[input, output]);
    let unexpected = report.hazards.iter().find(|h| h.kind.name() != "division by zero");
    assert!(unexpected.is_none(), "{instruction}: {}", unexpected.unwrap());
    let found = bench.read_words(output, inputs.len() * 8);
    let long = |w: &[u32]| u64::from(w[0]) | u64::from(w[1]) << 32;
    found.chunks_exact(8).map(|w| std::array::from_fn(|k| long(&w[2 * k..]))).collect()
}

fn pick(results: &[u64; 4], out: Out) -> u64 {
    results[match out {
        Out::Long => 0,
        Out::Word => 1,
        Out::Half => 2,
        Out::Predicate => 3,
    }]
}

/// Compares an instruction with its model on the inputs for which the model has a result.
pub fn compare_on(instruction: &str, out: Out, inputs: &[Inputs], model: impl Fn(Inputs) -> Option<u64>) {
    let results = execute(instruction, inputs, Options::new(Architecture::Sm80));
    let mut compared = 0;
    for (input, result) in inputs.iter().zip(&results) {
        let Some(expected) = model(*input) else { continue };
        let found = pick(result, out);
        assert_eq!(found, expected, "{instruction} on {input:#x?}: {found:#x} instead of {expected:#x}");
        compared += 1;
    }
    assert!(compared > inputs.len() / 8, "{instruction}: the model knows only {compared} results");
}

/// Compares on edges and random bits.
pub fn compare(instruction: &str, out: Out, model: impl Fn(Inputs) -> u64) {
    compare_on(instruction, out, &any_inputs(), |inputs| Some(model(inputs)));
}

/// Compares an instruction of whole warps; the model sees 32 lanes at a time.
pub fn compare_warps(instruction: &str, out: Out, inputs: &[Inputs], model: impl Fn(&[Inputs]) -> Vec<u64>) {
    let results = execute(instruction, inputs, Options::new(Architecture::Sm80));
    for (warp, (input, result)) in inputs.chunks(32).zip(results.chunks(32)).enumerate() {
        let found: Vec<u64> = result.iter().map(|lane| pick(lane, out)).collect();
        assert_eq!(found, model(input), "{instruction}, warp {warp}: {input:x?}");
    }
}
