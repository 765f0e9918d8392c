//! A tiled matrix transpose with a planted race: the barrier between filling the tile and reading it is missing in
//! `transpose_racy`.
//!
//! ```text
//! cargo run -p ptx-emu --example transpose
//! ```

use ptx_emu::{Architecture, Launch, Memory, Module, Options};

const SIDE: u32 = 64;
const TILE: u32 = 32;

/// The kernel as `nvcc -ptx -lineinfo` would write it for a block of 32x8 threads, each of which moves four elements.
/// A row of the tile has 33 words, so that a column of it lies in 32 different banks.
fn ptx(name: &str, barrier: &str) -> String {
    let mut body = String::new();
    for step in 0..4 {
        body += &format!(
            "    .loc 1 8 5\n    ld.global.f32 %f1, [%rd3+{}];\n    st.shared.f32 [%r6+{}], %f1;\n",
            step * 8 * SIDE * 4,
            step * 8 * 33 * 4
        );
    }
    body += &format!("    .loc 1 9 3\n    {barrier}\n");
    for step in 0..4 {
        body += &format!(
            "    .loc 1 11 5\n    ld.shared.f32 %f1, [%r7+{}];\n    st.global.f32 [%rd5+{}], %f1;\n",
            step * 8 * 4,
            step * 8 * SIDE * 4
        );
    }
    format!(
        ".visible .entry {name}(.param .u64 input, .param .u64 output)\n{{\n    .reg .b32 %r<16>;\n    .reg .f32 %f<2>;\n    \
         .reg .b64 %rd<8>;\n    .shared .align 4 .b8 tile[{tile}];\n    .loc 1 4 3\n    \
         ld.param.u64 %rd1, [input];\n    ld.param.u64 %rd2, [output];\n    \
         mov.u32 %r1, %tid.x;\n    mov.u32 %r2, %tid.y;\n    mov.u32 %r3, %ctaid.x;\n    mov.u32 %r4, %ctaid.y;\n    \
         mov.u32 %r5, tile;\n    \
         mad.lo.s32 %r6, %r2, 132, %r5;\n    mad.lo.s32 %r6, %r1, 4, %r6;\n    \
         mad.lo.s32 %r7, %r1, 132, %r5;\n    mad.lo.s32 %r7, %r2, 4, %r7;\n    \
         mad.lo.s32 %r8, %r4, {TILE}, %r2;\n    mad.lo.s32 %r9, %r3, {TILE}, %r1;\n    mad.lo.s32 %r8, %r8, {SIDE}, %r9;\n    \
         mul.wide.s32 %rd3, %r8, 4;\n    add.s64 %rd3, %rd1, %rd3;\n    \
         mad.lo.s32 %r10, %r3, {TILE}, %r2;\n    mad.lo.s32 %r11, %r4, {TILE}, %r1;\n    \
         mad.lo.s32 %r10, %r10, {SIDE}, %r11;\n    mul.wide.s32 %rd5, %r10, 4;\n    add.s64 %rd5, %rd2, %rd5;\n\
         {body}    ret;\n}}\n",
        tile = 33 * TILE * 4,
    )
}

fn main() -> Result<(), ptx_emu::Error> {
    let text = format!(
        ".version 7.8\n.target sm_80\n.address_size 64\n{}{}.file 1 \"transpose.cu\"\n",
        ptx("transpose", "bar.sync 0;"),
        ptx("transpose_racy", "")
    );
    let module = Module::parse(&text)?;
    let memory = Memory::new();
    let bytes = u64::from(SIDE * SIDE * 4);
    let (input, output) = (memory.allocate(bytes, 256)?, memory.allocate(bytes, 256)?);
    let values: Vec<u8> = (0..SIDE * SIDE).flat_map(|k| (k as f32).to_le_bytes()).collect();
    memory.write(input, &values)?;

    for name in ["transpose", "transpose_racy"] {
        let launch = Launch {
            kernel: module.kernel(name)?,
            grid: [SIDE / TILE, SIDE / TILE, 1],
            block: [TILE, 8, 1],
            cluster: [1; 3],
            registers: 0,
            dynamic_shared_bytes: 0,
            params: &[&input.to_le_bytes(), &output.to_le_bytes()],
        };
        let report = ptx_emu::run(&launch, &memory, &Options::new(Architecture::Sm80))?;

        let mut result = vec![0; bytes as usize];
        memory.read(output, &mut result)?;
        let wrong = (0..SIDE * SIDE)
            .filter(|k| {
                let at = *k as usize * 4;
                let found = f32::from_le_bytes([result[at], result[at + 1], result[at + 2], result[at + 3]]);
                found != (k % SIDE * SIDE + k / SIDE) as f32
            })
            .count();
        let shared = report.counters.shared_total();
        println!("{name}: {wrong} wrong elements, {} hazards", report.hazards.len());
        println!("  {} warp instructions", report.counters.warp_instructions);
        println!("  {} shared-memory wavefronts, {} without bank conflicts", shared.actual, shared.ideal);
        for hazard in &report.hazards {
            println!("  {hazard}");
        }
    }
    Ok(())
}
