//! Damaged PTX and hostile launches give errors or hazards: no panic, no hang, no unbounded memory.
//!
//! Each test mutates the PTX of the other tests, parses it and launches what parses. In the ordinary test run this
//! takes a few seconds; `PROPTEST_CASES=100000 cargo test -p ptx-emu --release --test fuzz` goes on for longer.

mod common;

use common::ptx;
use proptest::prelude::*;
use ptx_emu::{Architecture, Completion, Launch, Limits, Memory, Module, Numerics, Options, Schedule, TensorCore};

fn corpus() -> Vec<String> {
    let mut all = Vec::new();
    let root = format!("{}/tests/ptx", env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![std::path::PathBuf::from(root)];
    while let Some(folder) = folders.pop() {
        let mut entries: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "ptx") {
                all.push(std::fs::read_to_string(path).unwrap());
            }
        }
    }
    // The template with a bit of everything.
    let body = "ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%r5, %r6}, [%r7]; mov.u32 %r7, 0; \
        mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%r0, %r0, %r0, %r0}, {%r1, %r2, %r3, %r4}, {%r1, %r2}, {%r1, %r1, %r1, %r1}; \
        redux.sync.min.s32 %r0, %r1, -1; bfe.s32 %r0, %r1, %r2, %r3; cvt.rzi.sat.s8.f32 %r0, %r1; atom.global.cas.b64 %d0, [%d12], %d1, %d2; \
        shfl.sync.idx.b32 %r0|%p0, %r1, %r2, %r3, %r4; barrier.sync %r1, %r2; fma.rn.relu.bf16x2 %r0, %r1, %r2, %r3; div.s64 %d0, %d1, %d2;";
    all.push(ptx("instructions/template.ptx").replace("INSTRUCTION", body));
    all
}

/// One change to a text.
#[derive(Debug, Clone)]
enum Damage {
    Truncate(prop::sample::Index),
    Delete(prop::sample::Index, usize),
    Replace(prop::sample::Index, u8),
    Number(prop::sample::Index, u64),
    SwapLines(prop::sample::Index, prop::sample::Index),
    SwapWords(prop::sample::Index, prop::sample::Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    use prop::sample::Index;
    let number = prop_oneof![
        any::<u64>(),
        Just(0),
        Just(u64::MAX),
        Just(1 << 31),
        Just(u64::from(u32::MAX)),
        (0u32..64).prop_map(|k| 1u64 << k),
    ];
    prop_oneof![
        1 => any::<Index>().prop_map(Damage::Truncate),
        3 => (any::<Index>(), 1usize..20).prop_map(|(at, n)| Damage::Delete(at, n)),
        3 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Replace(at, byte)),
        4 => (any::<Index>(), number).prop_map(|(at, n)| Damage::Number(at, n)),
        2 => (any::<Index>(), any::<Index>()).prop_map(|(a, b)| Damage::SwapLines(a, b)),
        6 => (any::<Index>(), any::<Index>()).prop_map(|(a, b)| Damage::SwapWords(a, b)),
    ]
}

/// Start and end of runs of bytes of some kind.
fn runs(text: &[u8], kind: impl Fn(u8) -> bool) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let start = at;
        while at < text.len() && kind(text[at]) {
            at += 1;
        }
        if at > start {
            found.push((start, at));
        }
        at += 1;
    }
    found
}

fn swap(text: &mut Vec<u8>, pieces: &[(usize, usize)], a: prop::sample::Index, b: prop::sample::Index) {
    let (a, b) = (pieces[a.index(pieces.len())], pieces[b.index(pieces.len())]);
    let (first, second) = if a.0 <= b.0 { (a, b) } else { (b, a) };
    if first.1 <= second.0 {
        let (x, y) = (text[first.0..first.1].to_vec(), text[second.0..second.1].to_vec());
        text.splice(second.0..second.1, x);
        text.splice(first.0..first.1, y);
    }
}

fn apply(text: &mut Vec<u8>, change: &Damage) {
    if text.is_empty() {
        return;
    }
    match change {
        Damage::Truncate(at) => text.truncate(at.index(text.len())),
        Damage::Delete(at, count) => {
            let start = at.index(text.len());
            let end = (start + count).min(text.len());
            text.drain(start..end);
        }
        Damage::Replace(at, byte) => {
            let at = at.index(text.len());
            text[at] = *byte;
        }
        Damage::Number(at, value) => {
            let numbers = runs(text, |b| b.is_ascii_digit());
            if !numbers.is_empty() {
                let (start, end) = numbers[at.index(numbers.len())];
                text.splice(start..end, value.to_string().into_bytes());
            }
        }
        Damage::SwapLines(a, b) => {
            let lines = runs(text, |b| b != b'\n');
            if !lines.is_empty() {
                swap(text, &lines, *a, *b);
            }
        }
        Damage::SwapWords(a, b) => {
            let words = runs(text, |b| b.is_ascii_alphanumeric() || matches!(b, b'%' | b'_'));
            if !words.is_empty() {
                swap(text, &words, *a, *b);
            }
        }
    }
}

/// Options with tight limits.
fn options(seed: u64) -> Options {
    let mut limits = Limits::default();
    limits.block_instructions = 3_000;
    limits.blocks = 8;
    limits.block_state_bytes = 16 << 20;
    Options::new(Architecture::Sm80)
        .limits(limits)
        .seed(seed)
        .threads(1)
        .schedule([Schedule::InOrder, Schedule::Reverse, Schedule::Random, Schedule::Diverged][seed as usize % 4])
        .completion([Completion::Latest, Completion::Earliest, Completion::Random][seed as usize % 3])
        .numerics(if seed & 16 == 0 { Numerics::Rounded } else { Numerics::Perturbed })
        .tensor_core(if seed & 32 == 0 { TensorCore::Sequential } else { TensorCore::Aligned })
}

/// Launches every kernel of a module; the outcome does not matter.
fn launch_all(module: &Module, grid: [u32; 3], block: [u32; 3], dynamic_shared_bytes: u32, seed: u64) -> usize {
    let memory = Memory::with_limit(4 << 20);
    let address = memory.allocate(1 << 14, 256).unwrap();
    memory.write(address, &[3; 1 << 13]).unwrap();
    let mut hazards = 0;
    for kernel in module.kernels() {
        let params: Vec<Vec<u8>> = kernel
            .parameters()
            .iter()
            .map(|p| address.to_le_bytes().iter().cycle().take(p.bytes).copied().collect())
            .collect();
        let params: Vec<&[u8]> = params.iter().map(Vec::as_slice).collect();
        let launch = Launch { kernel, grid, block, dynamic_shared_bytes, params: &params };
        if let Ok(report) = ptx_emu::run(&launch, &memory, &options(seed)) {
            // Reports must be printable too.
            hazards += report.hazards.iter().map(|h| h.to_string().len()).sum::<usize>();
        }
    }
    hazards
}

/// Cases per test.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1500)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_modules(which in any::<prop::sample::Index>(), changes in prop::collection::vec(damage(), 1..6), seed: u64) {
        let corpus = corpus();
        let mut text = which.get(&corpus).clone().into_bytes();
        changes.iter().for_each(|change| apply(&mut text, change));
        if let Ok(module) = Module::parse(&String::from_utf8_lossy(&text)) {
            launch_all(&module, [2, 1, 1], [64, 1, 1], 64, seed);
        }
    }

    #[test]
    fn hostile_launches(
        which in any::<prop::sample::Index>(),
        grid in prop::array::uniform3(prop_oneof![0u32..4, any::<u32>()]),
        block in prop::array::uniform3(prop_oneof![0u32..70, any::<u32>()]),
        shared in prop_oneof![0u32..200_000, any::<u32>()],
        seed: u64,
    ) {
        let corpus = corpus();
        let module = Module::parse(which.get(&corpus).as_str()).ok();
        if let Some(module) = module {
            launch_all(&module, grid, block, shared, seed);
        }
    }

    #[test]
    fn hostile_parameters(bytes in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..4), seed: u64) {
        let text = ptx("hazard/out_of_bounds.ptx");
        let module = Module::parse(&text).unwrap();
        let memory = Memory::with_limit(1 << 20);
        memory.allocate(1000, 16).unwrap();
        for kernel in module.kernels() {
            let params: Vec<&[u8]> = bytes.iter().map(Vec::as_slice).collect();
            let launch = Launch { kernel, grid: [1; 3], block: [33, 1, 1], dynamic_shared_bytes: 0, params: &params };
            let outcome = ptx_emu::run(&launch, &memory, &options(seed));
            prop_assert_eq!(outcome.is_ok(), bytes.len() == 1 && bytes[0].len() == 8);
        }
    }

    #[test]
    fn noise(text in "\\PC{0,200}") {
        let _ = Module::parse(&text);
        let _ = Module::parse(&format!(".version 7.8\n.target sm_80\n.address_size 64\n.visible .entry k() {{\n{text}\n}}"));
    }
}
