//! Warp instructions per second on one thread, with all checks and without, on a tile loop with the instruction mix of
//! an attention kernel: asynchronous copies, ldmatrix, mma, exponentials, address arithmetic.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ptx_emu::{Architecture, Checks, Launch, Memory, Module, Options};

/// Tiles that each block walks.
const TILES: u32 = 64;
const BLOCKS: u32 = 4;
/// 128 threads copy 16 bytes each, four times: 64 rows of 64 halves.
const TILE_BYTES: u32 = 8192;

/// One warp owns 16 rows; a tile of 64 rows is loaded, multiplied, exponentiated and multiplied again.
fn kernel() -> String {
    let mut body = String::new();
    for step in 0..4 {
        body += &format!("cp.async.cg.shared.global [%r5+{}], [%d3+{}], 16;\n", step * 2048, step * 2048);
    }
    body += "cp.async.commit_group;\ncp.async.wait_group 0;\nbar.sync 0;\n";
    for k in 0..16 {
        body += &format!(
            "add.s32 %r8, %r7, {};\nxor.b32 %r9, %r8, {};\nshl.b32 %r10, %r9, 1;\nsub.s32 %r8, %r10, %r9;\n\
             ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r20, %r21, %r22, %r23}}, [%r8];\n",
            (k % 4) * 2048,
            (k % 4) * 32
        );
        for half in 0..2 {
            body += &format!(
                "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {{%f{0}, %f{1}, %f{2}, %f{3}}}, {{%r30, %r31, %r32, %r33}}, \
                 {{%r{4}, %r{5}}}, {{%f{0}, %f{1}, %f{2}, %f{3}}};\n",
                4 * half,
                4 * half + 1,
                4 * half + 2,
                4 * half + 3,
                20 + 2 * half,
                21 + 2 * half
            );
        }
        body += &format!(
            "mul.f32 %f10, %f{0}, 0f3DCCCCCD;\nmax.f32 %f11, %f10, %f{1};\nsub.f32 %f12, %f10, %f11;\nex2.approx.ftz.f32 %f13, %f12;\n\
             add.f32 %f14, %f14, %f13;\ncvt.rn.f16x2.f32 %r24, %f13, %f12;\nselp.b32 %r25, %r24, %r20, %p1;\n",
            k % 8,
            (k + 1) % 8
        );
    }
    body += "bar.sync 0;\n";
    format!(
        ".version 7.8\n.target sm_80\n.address_size 64\n.shared .align 128 .b8 tile[{TILE_BYTES}];\n\
         .visible .entry k(.param .u64 in, .param .u64 out) {{\n\
         .reg .b32 %r<40>; .reg .f32 %f<20>; .reg .b64 %d<8>; .reg .pred %p<4>;\n\
         ld.param.u64 %d1, [in];\nld.param.u64 %d2, [out];\nmov.u32 %r1, %tid.x;\nmov.u32 %r2, tile;\nshl.b32 %r3, %r1, 4;\n\
         add.s32 %r5, %r2, %r3;\ncvt.u64.u32 %d4, %r3;\nadd.s64 %d3, %d1, %d4;\nand.b32 %r6, %r1, 15;\nshl.b32 %r7, %r6, 7;\n\
         and.b32 %r8, %r6, 7;\nshr.u32 %r9, %r1, 4;\nand.b32 %r9, %r9, 1;\nxor.b32 %r8, %r8, %r9;\nshl.b32 %r8, %r8, 4;\n\
         add.s32 %r7, %r7, %r8;\nadd.s32 %r7, %r7, %r2;\nsetp.lt.u32 %p1, %r1, 64;\nmov.u32 %r11, 0;\nmov.f32 %f14, 0f00000000;\n{zero}\
         LOOP:\n{body}add.s64 %d3, %d3, {TILE_BYTES};\nadd.s32 %r11, %r11, 1;\nsetp.lt.u32 %p2, %r11, {TILES};\n@%p2 bra LOOP;\n\
         mov.u32 %r12, %ctaid.x;\nmad.lo.u32 %r12, %r12, 128, %r1;\nmul.wide.u32 %d5, %r12, 4;\nadd.s64 %d5, %d2, %d5;\n\
         st.global.f32 [%d5], %f14;\nret;\n}}",
        zero = (0..8).map(|k| format!("mov.f32 %f{k}, 0f00000000;\n")).collect::<String>()
            + &(30..34).map(|k| format!("mov.b32 %r{k}, 0x3c003c00;\n")).collect::<String>(),
    )
}

fn throughput(criterion: &mut Criterion) {
    let module = Module::parse(&kernel()).expect("the kernel is well formed");
    let memory = Memory::new();
    let bytes = u64::from(TILES * TILE_BYTES);
    let input = memory.allocate(bytes, 256).expect("there is memory");
    let output = memory.allocate(u64::from(BLOCKS) * 512, 256).expect("there is memory");
    // Zeros: the sum of products is then known.
    memory.write(input, &vec![0; bytes as usize]).expect("the allocation is live");
    let params: [&[u8]; 2] = [&input.to_le_bytes(), &output.to_le_bytes()];
    let launch = Launch {
        kernel: module.kernel("k").expect("the kernel exists"),
        grid: [BLOCKS, 1, 1],
        block: [128, 1, 1],
        cluster: [1; 3],
        registers: 0,
        dynamic_shared_bytes: 0,
        params: &params,
    };
    let mut group = criterion.benchmark_group("one thread");
    for (name, checks) in [("all checks", Checks::ALL), ("no optional checks", Checks::NONE)] {
        let options = Options::new(Architecture::Sm80).threads(1).checks(checks);
        let report = ptx_emu::run(&launch, &memory, &options).expect("the kernel runs");
        assert!(report.hazards.is_empty(), "{}", report.hazards[0]);
        let shared = report.counters.shared_total();
        assert_eq!(shared.actual, shared.ideal, "the tile is swizzled");
        // Each of 16 steps of each tile adds 2^0.
        let mut word = [0; 4];
        memory.read(output, &mut word).expect("the allocation is live");
        assert_eq!(f32::from_le_bytes(word), (16 * TILES) as f32);
        group.throughput(Throughput::Elements(report.counters.warp_instructions));
        group.bench_function(name, |b| b.iter(|| ptx_emu::run(&launch, &memory, &options)));
    }
    group.finish();
}

criterion_group!(benches, throughput);
criterion_main!(benches);
