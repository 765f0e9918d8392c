//! Loops that do nothing but multiply, as PTX: what the arithmetic units of a GPU reach where cuBLAS is missing. Every operand is
//! one, so that each accumulator ends at a number that is known; real operands draw more power and may lower the clocks.

use std::fmt::Write as _;

use warpfold::DType;

/// The entry's name, whatever is in the loop. Parameters: f32 results (one a thread), rounds, and the ones as 32 bits.
pub const ENTRY: &str = "products";

/// Threads of a block: two warpgroups.
pub const THREADS: u32 = 256;

const WARPS: u64 = THREADS as u64 / 32;

/// The instruction that a loop is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// `mma.sync.m16n8k16`, from compute capability 8.0 on.
    Mma,
    /// `wgmma.mma_async.m64n256k16`, of compute capability 9.0 alone, from shared memory.
    Wgmma,
    /// `fma.rn.f32`.
    Fma,
}

/// A loop, ready to be loaded.
#[derive(Clone, Debug)]
pub struct Loop {
    pub instruction: Instruction,
    pub text: String,
    /// The bits of its operands: as many ones as fit.
    pub ones: u32,
    /// Blocks that keep a multiprocessor busy.
    pub blocks_per_sm: u32,
    /// Operations of a block in one round.
    pub flops: u64,
    /// What a thread's result grows by in one round.
    pub growth: f64,
}

/// The loop for products of such elements on a GPU of that compute capability.
pub fn of_dtype(dtype: DType, capability: (u32, u32)) -> Loop {
    match (dtype, capability) {
        (DType::BF16 | DType::F16, (9, 0)) => wgmma(dtype),
        (DType::BF16 | DType::F16, _) => mma(dtype),
        _ => fma(),
    }
}

fn ones(dtype: DType) -> u32 {
    match dtype {
        DType::BF16 => 0x3f80_3f80,
        DType::F16 => 0x3c00_3c00,
        _ => 0x3f80_0000,
    }
}

/// `{%c0, %c1, ...}`
fn braced(letter: char, numbers: std::ops::Range<usize>) -> String {
    let names: Vec<String> = numbers.map(|number| format!("%{letter}{number}")).collect();
    format!("{{{}}}", names.join(", "))
}

/// The kernel around a body: accumulators start at 0, their sum is the thread's result, and what is computed is so used.
fn kernel(head: &str, num_accumulators: usize, setup: &str, body: &str) -> String {
    let mut text = format!(
        "{head}.address_size 64\n\
         .visible .entry {ENTRY}(.param .u64 results, .param .u32 rounds, .param .u32 ones) {{\n\
         .reg .pred %p;\n.reg .b32 %a<4>, %rounds, %round, %thread, %t<4>;\n.reg .b64 %rd<4>, %d<2>;\n\
         .reg .f32 %c<{num_accumulators}>;\n\
         ld.param.u64 %rd0, [results];\nld.param.u32 %rounds, [rounds];\nld.param.u32 %a0, [ones];\n\
         mov.b32 %a1, %a0;\nmov.b32 %a2, %a0;\nmov.b32 %a3, %a0;\nmov.u32 %thread, %tid.x;\n"
    );
    for number in 0..num_accumulators {
        let _ = writeln!(text, "mov.f32 %c{number}, 0f00000000;");
    }
    let _ = write!(
        text,
        "{setup}mov.u32 %round, 0;\nLOOP:\n{body}add.u32 %round, %round, 1;\nsetp.lt.u32 %p, %round, %rounds;\n@%p bra LOOP;\n"
    );
    for number in 1..num_accumulators {
        let _ = writeln!(text, "add.f32 %c0, %c0, %c{number};");
    }
    text += "mov.u32 %t0, %ctaid.x;\nmov.u32 %t1, %ntid.x;\nmad.lo.u32 %t0, %t0, %t1, %thread;\n\
             mul.wide.u32 %rd1, %t0, 4;\ncvta.to.global.u64 %rd0, %rd0;\nadd.u64 %rd0, %rd0, %rd1;\n\
             st.global.f32 [%rd0], %c0;\nret;\n}\n";
    text
}

/// Eight independent accumulators a warp hide the latency, two blocks a multiprocessor what is left of it.
fn mma(dtype: DType) -> Loop {
    const TILES: usize = 8;
    let mut body = String::new();
    for tile in 0..TILES {
        let c = braced('c', 4 * tile..4 * tile + 4);
        let _ = writeln!(
            body,
            "mma.sync.aligned.m16n8k16.row.col.f32.{dtype}.{dtype}.f32 {c}, {{%a0, %a1, %a2, %a3}}, {{%a0, %a1}}, {c};"
        );
    }
    Loop {
        instruction: Instruction::Mma,
        text: kernel(".version 7.8\n.target sm_80\n", 4 * TILES, "", &body),
        ones: ones(dtype),
        blocks_per_sm: 2,
        flops: WARPS * TILES as u64 * 2 * 16 * 8 * 16,
        growth: 16.0 * 4.0 * TILES as f64,
    }
}

/// Two warpgroups, whose products follow one another without a wait between: the tensor cores are always asked for more. Operands
/// are 64 and 256 rows of 16 elements, without a swizzle: tiles of 8 rows by 16 bytes, the two of a row 128 bytes apart, the next
/// 8 rows 256 bytes further.
fn wgmma(dtype: DType) -> Loop {
    const PRODUCTS: usize = 16;
    const OPERAND_BYTES: [u32; 2] = [64 * 32, 256 * 32];
    const ACCUMULATORS: usize = 128;
    let setup = format!(
        ".shared .align 1024 .b8 operands[{}];\n\
         mov.u32 %t0, operands;\nshl.b32 %t1, %thread, 2;\nadd.u32 %t1, %t1, %t0;\nadd.u32 %t2, %t0, {};\n\
         FILL:\nst.shared.b32 [%t1], %a0;\nadd.u32 %t1, %t1, {};\nsetp.lt.u32 %p, %t1, %t2;\n@%p bra FILL;\n\
         fence.proxy.async;\nbar.sync 0;\n\
         shr.u32 %t1, %t0, 4;\nand.b32 %t1, %t1, 0x3fff;\nor.b32 %t1, %t1, {};\nadd.u32 %t2, %t1, {};\nmov.u32 %t3, {};\n\
         mov.b64 %d0, {{%t1, %t3}};\nmov.b64 %d1, {{%t2, %t3}};\n",
        OPERAND_BYTES[0] + OPERAND_BYTES[1],
        OPERAND_BYTES[0] + OPERAND_BYTES[1],
        4 * THREADS,
        (128 >> 4) << 16,
        OPERAND_BYTES[0] >> 4,
        256 >> 4,
    );
    let c = braced('c', 0..ACCUMULATORS);
    let product =
        format!("wgmma.mma_async.sync.aligned.m64n256k16.f32.{dtype}.{dtype} {c}, %d0, %d1, 1, 1, 1, 0, 0;\n");
    let body = format!(
        "wgmma.fence.sync.aligned;\n{}wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n",
        product.repeat(PRODUCTS)
    );
    Loop {
        instruction: Instruction::Wgmma,
        text: kernel(".version 8.0\n.target sm_90a\n", ACCUMULATORS, &setup, &body),
        ones: ones(dtype),
        blocks_per_sm: 1,
        flops: u64::from(THREADS) / 128 * PRODUCTS as u64 * 2 * 64 * 256 * 16,
        growth: 16.0 * PRODUCTS as f64 * ACCUMULATORS as f64,
    }
}

/// Sixteen independent sums a thread.
fn fma() -> Loop {
    const SUMS: usize = 16;
    const REPETITIONS: usize = 8;
    let mut body = String::new();
    for number in (0..SUMS * REPETITIONS).map(|number| number % SUMS) {
        let _ = writeln!(body, "fma.rn.f32 %c{number}, %x, %x, %c{number};");
    }
    Loop {
        instruction: Instruction::Fma,
        text: kernel(".version 7.8\n.target sm_80\n", SUMS, ".reg .f32 %x;\nmov.b32 %x, %a0;\n", &body),
        ones: ones(DType::F32),
        blocks_per_sm: 4,
        flops: u64::from(THREADS) * (SUMS * REPETITIONS) as u64 * 2,
        growth: (SUMS * REPETITIONS) as f64,
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::process::Command;

    use super::*;
    use ptx_emu::{Architecture, Launch, Memory, Module, Options};

    fn all() -> Vec<(DType, (u32, u32), Loop)> {
        [
            (DType::BF16, (8, 0)),
            (DType::F16, (8, 9)),
            (DType::BF16, (9, 0)),
            (DType::F16, (9, 0)),
            (DType::F32, (9, 0)),
            (DType::BF16, (10, 0)),
        ]
        .map(|(dtype, capability)| (dtype, capability, of_dtype(dtype, capability)))
        .to_vec()
    }

    #[test]
    fn capabilities_get_the_instruction_that_they_have() {
        let instructions: Vec<Instruction> = all().into_iter().map(|(_, _, found)| found.instruction).collect();
        use Instruction::{Fma, Mma, Wgmma};
        assert_eq!(instructions, [Mma, Mma, Wgmma, Wgmma, Fma, Mma]);
    }

    /// Every accumulator counts its products, and the loops have no hazard.
    #[test]
    fn the_emulator_counts_every_product() {
        const ROUNDS: u32 = 3;
        const BLOCKS: u32 = 2;
        for (dtype, capability, found) in all() {
            let module = Module::parse(&found.text).unwrap_or_else(|error| panic!("{dtype} {capability:?}: {error}"));
            let memory = Memory::new();
            let bytes = 4 * u64::from(BLOCKS * THREADS);
            let results = memory.allocate(bytes, 256).expect("memory");
            let params: [&[u8]; 3] = [&results.to_le_bytes(), &ROUNDS.to_le_bytes(), &found.ones.to_le_bytes()];
            let launch = Launch {
                kernel: module.kernel(ENTRY).expect("the entry"),
                grid: [BLOCKS, 1, 1],
                block: [THREADS, 1, 1],
                cluster: [1; 3],
                registers: 0,
                dynamic_shared_bytes: 0,
                params: &params,
            };
            let is_hopper = found.instruction == Instruction::Wgmma;
            let architecture = if is_hopper { Architecture::Sm90a } else { Architecture::Sm80 };
            let report = ptx_emu::run(&launch, &memory, &Options::new(architecture)).expect("it runs");
            assert!(report.hazards.is_empty(), "{dtype} {capability:?}: {}", report.hazards[0]);
            let mut values = vec![0; bytes as usize];
            memory.read(results, &mut values).expect("memory");
            for value in values.chunks(4).map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])) {
                assert_eq!(f64::from(value), f64::from(ROUNDS) * found.growth, "{dtype} {capability:?}");
            }
            // What is said to be computed is what the instructions compute.
            let counted = match found.instruction {
                Instruction::Fma => found.flops * u64::from(ROUNDS * BLOCKS),
                _ => report.counters.tensor_flops,
            };
            assert_eq!(counted, found.flops * u64::from(ROUNDS * BLOCKS), "{dtype} {capability:?}");
        }
    }

    /// The machine code keeps every product, and without a note that wgmma had to be serialised.
    #[test]
    fn ptxas_takes_the_loops_as_they_are() {
        let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
        let toolkit = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/toolkit/nvidia/cu13");
        let candidates = homes.chain([toolkit, PathBuf::from("/usr/local/cuda")]);
        let Some(ptxas) = candidates.map(|home| home.join("bin/ptxas")).find(|path| path.exists()) else {
            println!("skipped: there is no ptxas; `cargo xtask toolkit` installs one");
            return;
        };
        let folder = std::env::temp_dir().join(format!("warpfold-loops-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        for (number, (dtype, capability, found)) in all().into_iter().enumerate() {
            let source = folder.join(format!("{number}.ptx"));
            std::fs::write(&source, &found.text).expect("a file");
            let arch = match (found.instruction, capability) {
                (Instruction::Wgmma, _) => "sm_90a".to_string(),
                (_, (major, minor)) => format!("sm_{major}{minor}"),
            };
            let output = Command::new(&ptxas)
                .args(["-v", "-arch", &arch, "-o"])
                .arg(folder.join("out.cubin"))
                .arg(&source)
                .output()
                .expect("ptxas starts");
            let said =
                format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert!(output.status.success(), "{dtype} {arch}: {said}");
            assert!(!said.contains("C75") && !said.contains("serialized"), "{dtype} {arch}: {said}");
            assert!(said.contains("0 bytes spill stores"), "{dtype} {arch}: {said}");
        }
        std::fs::remove_dir_all(&folder).expect("it is there");
    }
}
