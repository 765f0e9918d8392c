//! Damaged PTX and hostile launches give errors or hazards: no panic, no hang, no unbounded memory.
//!
//! Each test mutates the PTX of the other tests, parses it and launches what parses. In the ordinary test run this
//! takes a few seconds; `PROPTEST_CASES=100000 cargo test -p ptx-emu --release --test fuzz` goes on for longer.

mod common;

use common::ptx;
use proptest::prelude::*;
use ptx_emu::tensor_map::{Element, Swizzle, TensorMap};
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
    all.extend(HOPPER_BODIES.map(hopper));
    all
}

/// A kernel for sm_90a around a body.
fn hopper(body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_90a\n.address_size 64\n\
         .visible .entry k(.param .u64 in, .param .u64 out, .param .align 64 .b8 map[128]) {{\n\
         .reg .pred %p<4>; .reg .b16 %h<2>; .reg .b32 %r<80>; .reg .b64 %d<12>;\n\
         .shared .align 1024 .b8 data[8192]; .shared .align 8 .b8 bars[64];\n\
         ld.param.u64 %d0, [in]; ld.param.u64 %d1, [out]; mov.b64 %d2, map; cvta.param.u64 %d2, %d2;\n\
         mov.u32 %r0, %tid.x; mov.u32 %r1, data; mov.u32 %r2, bars; mov.u32 %r3, %cluster_ctarank; mov.u32 %r4, 0;\n\
         setp.eq.u32 %p0, %r0, 0; mov.u16 %h0, 3;\n\
         @%p0 mbarrier.init.shared::cta.b64 [%r2], 1;\n@%p0 fence.mbarrier_init.release.cluster;\n\
         barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;\n{body}\n\
         barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.aligned;\nret;\n}}"
    )
}

/// Every instruction of sm_90a in kernels that work, so that damage to them goes deep.
const HOPPER_BODIES: [&str; 3] = [
    "@%p0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2], 1152;\n\
     @%p0 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%d0], 128, [%r2];\n\
     @%p0 cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r1+1024], [%d2, {%r4, %r4}], [%r2];\n\
     { WAIT: mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r2], 0;\n@%p1 bra DONE;\nbra WAIT;\nDONE: }\n\
     st.shared.u32 [%r1+2048], %r0;\nfence.proxy.async.shared::cta;\nbar.sync 0;\n\
     @%p0 cp.async.bulk.global.shared::cta.bulk_group [%d1+2048], [%r1], 128;\n\
     @%p0 cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%d1+4096], [%r1], 128;\n\
     @%p0 cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%d2, {%r4, %r4}], [%r1+1024];\n\
     @%p0 cp.async.bulk.commit_group;\n@%p0 cp.async.bulk.wait_group.read 0;\n@%p0 cp.async.bulk.wait_group 0;\n",
    "mapa.shared::cluster.u32 %r10, %r1, 1; mapa.u64 %d3, %d0, 0; getctarank.shared::cluster.u32 %r11, %r10;\n\
     st.shared.u32 [%r1+512], 7; bar.sync 0; fence.proxy.async;\n\
     setp.eq.u32 %p2, %r3, 0; @!%p2 bra OUT;\n\
     @%p0 mbarrier.arrive.expect_tx.shared::cta.b64 %d4, [%r2], 144;\n\
     @%p0 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%r1], [%d0], 128, [%r2], %h0;\n\
     @%p0 cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%r1+1024], [%r1+512], 16, [%r2];\n\
     { WAIT: mbarrier.test_wait.parity.shared::cta.b64 %p1, [%r2], 0; @!%p1 bra WAIT; }\nOUT:\n\
     ld.shared::cluster.u32 %r12, [%r10+512]; atom.shared::cluster.add.u32 %r13, [%r10+512], 1;\n\
     mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r2], 1; mbarrier.inval.shared::cta.b64 [%r2];\n\
     elect.sync %r14|%p3, -1; griddepcontrol.wait; isspacep.shared::cluster %p1, %d0;\n",
    "st.shared.u32 [%r1], 0; mov.u32 %r20, 0; mov.u32 %r21, 0; mov.u32 %r22, 0; mov.u32 %r23, 0; mov.u64 %d5, 0x4000004000010000;\n\
     fence.proxy.async; bar.sync 0; setmaxnreg.dec.sync.aligned.u32 40; wgmma.fence.sync.aligned;\n\
     wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%r20, %r21, %r22, %r23}, %d5, %d5, 1, 1, 1, 0, 0;\n\
     wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;\n\
     stmatrix.sync.aligned.m8n8.x4.shared.b16 [%r1], {%r20, %r21, %r22, %r23}; mbarrier.arrive.shared::cta.b64 %d4, [%r2];\n",
];

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
    Options::new(if seed & 64 == 0 { Architecture::Sm80 } else { Architecture::Sm90a })
        .limits(limits)
        .seed(seed)
        .threads(1)
        .schedule(
            [
                Schedule::InOrder,
                Schedule::Reverse,
                Schedule::Random,
                Schedule::Diverged,
                Schedule::LowestStarved,
                Schedule::HighestStarved,
            ][(seed >> 8) as usize % 6],
        )
        .completion([Completion::Latest, Completion::Earliest, Completion::Random][seed as usize % 3])
        .numerics(if seed & 16 == 0 { Numerics::Rounded } else { Numerics::Perturbed })
        .tensor_core(if seed & 32 == 0 { TensorCore::Sequential } else { TensorCore::Aligned })
}

/// Grid, block and cluster.
type Shape = [[u32; 3]; 3];

/// Launches every kernel of a module; the outcome does not matter.
fn launch_all(module: &Module, [grid, block, cluster]: Shape, dynamic_shared_bytes: u32, seed: u64) -> usize {
    let memory = Memory::with_limit(4 << 20);
    let address = memory.allocate(1 << 14, 256).unwrap();
    memory.write(address, &[3; 1 << 13]).unwrap();
    let map = TensorMap {
        element: Element::F32,
        address,
        dims: vec![20, 9],
        strides_bytes: vec![128],
        box_dims: vec![32, 8],
        swizzle: Swizzle::Bytes128,
        fills_with_nan: seed & 1 == 0,
    };
    let mut map = map.encode().unwrap();
    if seed & 128 != 0 {
        map[(seed >> 16) as usize % 128] = (seed >> 24) as u8;
    }
    let mut hazards = 0;
    for kernel in module.kernels() {
        let params: Vec<Vec<u8>> = kernel
            .parameters()
            .iter()
            .map(|p| match p.bytes {
                128 => map.to_vec(),
                bytes => address.to_le_bytes().iter().cycle().take(bytes).copied().collect(),
            })
            .collect();
        let params: Vec<&[u8]> = params.iter().map(Vec::as_slice).collect();
        let registers = (seed >> 32) as u32 % 256;
        let launch = Launch { kernel, grid, block, cluster, registers, dynamic_shared_bytes, params: &params };
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

/// The seeds themselves must run, or damage to them would show nothing.
#[test]
fn hopper_seeds_run() {
    for (body, threads) in HOPPER_BODIES.iter().zip([64, 64, 128]) {
        let text = hopper(body);
        let module = Module::parse(&text).unwrap();
        let memory = Memory::new();
        let address = memory.allocate(1 << 14, 256).unwrap();
        memory.write(address, &[3; 1 << 14]).unwrap();
        let map = [0; 128];
        let params: [&[u8]; 3] = [&address.to_le_bytes(), &address.to_le_bytes(), &map];
        let launch = Launch {
            kernel: module.kernel("k").unwrap(),
            grid: [2, 1, 1],
            block: [threads, 1, 1],
            cluster: [2, 1, 1],
            registers: 128,
            dynamic_shared_bytes: 0,
            params: &params,
        };
        let mut limits = Limits::default();
        limits.block_instructions = 10_000;
        ptx_emu::run(&launch, &memory, &Options::new(Architecture::Sm90a).limits(limits)).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_modules(which in any::<prop::sample::Index>(), changes in prop::collection::vec(damage(), 1..6), seed: u64) {
        let corpus = corpus();
        let mut text = which.get(&corpus).clone().into_bytes();
        changes.iter().for_each(|change| apply(&mut text, change));
        if let Ok(module) = Module::parse(&String::from_utf8_lossy(&text)) {
            let cluster = [1 + (seed >> 40) as u32 % 2, 1, 1];
            let threads = if seed & 1 << 41 == 0 { 64 } else { 128 };
            launch_all(&module, [[2, 1, 1], [threads, 1, 1], cluster], 64, seed);
        }
    }

    #[test]
    fn hostile_launches(
        which in any::<prop::sample::Index>(),
        grid in prop::array::uniform3(prop_oneof![0u32..4, any::<u32>()]),
        block in prop::array::uniform3(prop_oneof![0u32..70, any::<u32>()]),
        cluster in prop::array::uniform3(prop_oneof![Just(1u32), 0u32..4, any::<u32>()]),
        shared in prop_oneof![0u32..200_000, any::<u32>()],
        seed: u64,
    ) {
        let corpus = corpus();
        let module = Module::parse(which.get(&corpus).as_str()).ok();
        if let Some(module) = module {
            launch_all(&module, [grid, block, cluster], shared, seed);
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
            let launch = Launch { kernel, grid: [1; 3], block: [33, 1, 1], cluster: [1; 3], registers: 0, dynamic_shared_bytes: 0, params: &params };
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
