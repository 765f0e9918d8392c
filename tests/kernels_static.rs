//! What the compiled kernels must be, seen in their machine code: no local memory, the instructions they are written
//! around, registers and main loops within the budgets of the table. Needs no GPU, but the CUDA compiler and its
//! disassembler.

#![cfg(feature = "cuda")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{env, fs};

use rayon::prelude::*;
use warpfold::KernelInfo;
use warpfold::variants::{Arch, LoopBudget, Operation, RowFeatures, Tile, VARIANTS, Variant};

mod common;
#[path = "../build/ptx.rs"]
mod ptx;
#[path = "../src/ptx.rs"]
mod text;

use common::skipped;

/// A program of the toolkit, where `cargo xtask toolkit` puts it or in PATH.
fn tool(name: &str) -> Option<PathBuf> {
    let pinned = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/toolkit/nvidia/cu13/bin").join(name);
    let in_path = env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(name)).collect::<Vec<_>>();
    std::iter::once(pinned).chain(in_path).find(|path| path.is_file())
}

/// A file of our own for a test.
fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{name}", std::process::id()))
}

fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("the program starts");
    assert!(status.success(), "{command:?} failed:\n{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).expect("the program writes UTF-8")
}

#[test]
fn every_row_of_the_table_is_compiled() {
    let kernels = warpfold::kernels();
    if kernels.is_empty() {
        return skipped("every_row_of_the_table_is_compiled", "this build has no CUDA compiler");
    }
    let compiled: Vec<String> = kernels.iter().map(|kernel| kernel.name.to_string()).collect();
    assert_eq!(compiled, VARIANTS.map(|variant| variant.name()));
    assert!(warpfold::kernel_compiler().starts_with("nvcc "), "{:?}", warpfold::kernel_compiler());
}

/// What is wrong with the code of a kernel.
fn complaints(variant: &Variant, arch: u32, listing: &str) -> Vec<String> {
    let name = variant.name();
    let functions = sass::functions(listing);
    let Some(function) = functions.iter().find(|function| function.name == name) else {
        panic!("this is no disassembly of {name}:\n{listing}");
    };
    assert!(function.count(&["EXIT"]) > 0, "{name} has no end:\n{listing}");
    let mut complaints = Vec::new();
    for forbidden in ["LDL", "STL"] {
        if function.count(&[forbidden]) > 0 {
            complaints.push(format!("uses local memory ({forbidden})"));
        }
    }
    let needed: &[&str] = match variant.tile {
        Tile::Attention { .. } if variant.dtype.size_bytes() == 2 => &["HMMA", "LDSM", "LDGSTS"],
        Tile::AttentionHopper { .. } => &["HGMMA", "UTMALDG", "SYNCS", "USETMAXREG"],
        _ => &[],
    };
    let missing = needed.iter().filter(|needed| function.count(&[needed]) == 0);
    complaints.extend(missing.map(|needed| format!("has no {needed}")));
    if let Tile::Rows { vectors, features: RowFeatures::Whole | RowFeatures::Plain, .. } = variant.tile {
        let tensors = if variant.operation == Operation::SoftmaxForward { 1 } else { 2 };
        let wanted = vectors as usize * tensors;
        let found = loads_in_flight(function);
        if found < wanted {
            complaints.push(format!("waits for a load after {found} vectors of {wanted}"));
        }
    }
    match function.registers {
        Some(count) if count <= variant.budget.registers => {}
        Some(count) => complaints.push(format!("uses {count} registers of {}", variant.budget.registers)),
        None => complaints.push("does not say how many registers it uses".to_string()),
    }
    // The code for the architecture that the source is written for.
    let (own_arch, rates) = match variant.arch {
        Arch::Sm90a => (90, sass::Rates::H100),
        _ => (80, sass::Rates::A100),
    };
    if arch == own_arch {
        let loops = sass::loops(function, &rates);
        if let Some(budget) = variant.budget.main_loop {
            complaints.extend(loop_complaints("main loop", &budget, sass::main_loop(&loops)));
        }
        if let Some(budget) = variant.budget.masked_loop {
            complaints.extend(loop_complaints("masked loop", &budget, sass::costliest_loop(&loops)));
        }
    }
    complaints
}

/// The 16-byte loads that are issued before the result of any of them is needed.
fn loads_in_flight(function: &sass::Function) -> usize {
    let mut loaded: BTreeSet<String> = BTreeSet::new();
    let mut loads = 0;
    for instruction in &function.instructions {
        // Of `R12.reuse.H0_H0` or `[R30.64+0x600]`, the register.
        let mut registers = instruction
            .operands
            .split(|c: char| !c.is_ascii_alphanumeric())
            .filter(|word| word.strip_prefix('R').is_some_and(|number| number.parse::<u32>().is_ok()));
        if instruction.base() == "LDG" && instruction.has("128") {
            let first: u32 =
                registers.next().and_then(|name| name[1..].parse().ok()).expect("a load has a destination");
            loaded.extend((first..first + 4).map(|number| format!("R{number}")));
            loads += 1;
        } else if registers.any(|name| loaded.contains(name)) {
            break;
        }
    }
    loads
}

/// What a loop has too much of.
fn loop_complaints(name: &str, budget: &LoopBudget, found: Option<&sass::Loop>) -> Vec<String> {
    let Some(found) = found else { return vec![format!("has no {name}")] };
    let mut complaints: Vec<String> =
        found.unrated.iter().map(|opcode| format!("uses {opcode}, whose rate is not known")).collect();
    let unit = found.cycles.longest_other().0;
    let limits = [
        ("instructions".to_string(), Some(found.instructions), budget.instructions),
        ("issue slots for 100 tensor cycles".to_string(), found.cycles.issue_percent(), budget.issue_percent),
        (
            format!("cycles of {unit} for 100 tensor cycles"),
            found.cycles.other_unit_percent(),
            budget.other_unit_percent,
        ),
    ];
    for (what, value, limit) in limits {
        if value.is_none_or(|value| value > limit) {
            let value = value.map_or("no".to_string(), |value| value.to_string());
            complaints.push(format!("has {value} {what} in its {name}, of {limit}"));
        }
    }
    complaints
}

/// Local memory is where spilled registers and indexed arrays go: one access in an inner loop halves the speed.
/// HMMA are the tensor cores, LDSM is ldmatrix, LDGSTS is cp.async; of Hopper, HGMMA the tensor cores of a warpgroup, UTMALDG
/// the copy engine, SYNCS mbarriers. `cargo xtask budgets` shows what the loops are held to.
#[test]
fn machine_code_is_as_intended() {
    let kernels = warpfold::kernels();
    if kernels.is_empty() {
        return skipped("machine_code_is_as_intended", "this build has no CUDA compiler");
    }
    let Some(nvdisasm) = tool("nvdisasm") else {
        return skipped("machine_code_is_as_intended", "there is no nvdisasm; `cargo xtask toolkit` installs it");
    };
    let variant = |name: &str| -> &Variant {
        VARIANTS.iter().find(|variant| variant.name() == name).expect("every kernel has a row in the table")
    };
    let disassemble = |name: &str, arch: u32| {
        let code = warpfold::cuda::image(name, arch).expect("the kernel has code for its architectures");
        let file = scratch(&format!("{name}-{arch}.cubin"));
        fs::write(&file, code).expect("the folder is writable");
        let disassembly = run(Command::new(&nvdisasm).arg(&file));
        fs::remove_file(&file).expect("the file is ours");
        disassembly
    };
    // What attention's baseline costs on Hopper nobody needs to know; that it does not spill there either, the build holds it to.
    let num_wanted = |kernel: &KernelInfo| match variant(kernel.name).tile {
        Tile::Attention { .. } => 1,
        _ => kernel.architectures.len(),
    };
    let images: Vec<(&str, u32)> = kernels
        .iter()
        .flat_map(|kernel| kernel.architectures.iter().take(num_wanted(kernel)).map(|&arch| (kernel.name, arch)))
        .collect();
    let complaints: Vec<String> = images
        .par_iter()
        .flat_map_iter(|&(name, arch)| {
            let complaints = complaints(variant(name), arch, &disassemble(name, arch));
            complaints.into_iter().map(move |complaint| format!("{name} for sm_{arch} {complaint}"))
        })
        .collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn loads_that_wait_for_one_another_are_counted() {
    let listing = "\
\t.section\t.text.k,\"ax\",@progbits
        /*0000*/              @!P3 LDG.E.128 R12, [R30.64+0x600] ;
        /*0010*/                   IADD3 R2, R3, R4, RZ ;
        /*0020*/              @!P5 LDG.E.128 R16, [R30.64] ;
        /*0030*/                   HADD2.F32 R3, -RZ, R19.reuse.H0_H0 ;
        /*0040*/                   LDG.E.128 R20, [R30.64] ;
        /*0050*/                   EXIT ;
";
    assert_eq!(loads_in_flight(&sass::functions(listing)[0]), 2);
}

#[test]
fn a_loop_over_its_budget_is_reported() {
    let listing = "\
\t.section\t.text.k,\"ax\",@progbits
.L_x_0:
        /*0000*/                   HMMA.16816.F32 R12, R4, R8, R12 ;
        /*0010*/                   LDSM.16.M88.2 R4, [R100] ;
        /*0020*/              @!P0 BRA `(.L_x_0) ;
        /*0030*/                   EXIT ;
";
    let loops = sass::loops(&sass::functions(listing)[0], &sass::Rates::A100);
    let kept = LoopBudget { instructions: 3, issue_percent: 38, other_unit_percent: 100 };
    assert_eq!(loop_complaints("main loop", &kept, sass::main_loop(&loops)), [""; 0]);
    let broken = LoopBudget { instructions: 2, issue_percent: 37, other_unit_percent: 99 };
    let expected = [
        "has 3 instructions in its main loop, of 2",
        "has 38 issue slots for 100 tensor cycles in its main loop, of 37",
        "has 100 cycles of shared for 100 tensor cycles in its main loop, of 99",
    ];
    assert_eq!(loop_complaints("main loop", &broken, sass::main_loop(&loops)), expected);
    assert_eq!(loop_complaints("masked loop", &kept, sass::costliest_loop(&loops)), ["has no masked loop"]);
}

/// A scheduler has a warp of each warpgroup, each with its own share of the tensor cores' time: their number cancels out.
#[test]
fn loops_of_warpgroups_are_held_to_the_tensor_cores_of_hopper() {
    let listing = "\
\t.section\t.text.k,\"ax\",@progbits
.L_x_0:
        /*0000*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR16], R24 ;
        /*0010*/                   MUFU.EX2 R4, R5 ;
        /*0020*/                   FFMA R4, R5, R6, R7 ;
        /*0030*/              @!P0 BRA `(.L_x_0) ;
        /*0040*/                   EXIT ;
";
    let loops = sass::loops(&sass::functions(listing)[0], &sass::Rates::H100);
    // 64 cycles of the tensor cores, for which shared memory is read in 48.
    let kept = LoopBudget { instructions: 4, issue_percent: 7, other_unit_percent: 75 };
    assert_eq!(loop_complaints("main loop", &kept, sass::main_loop(&loops)), [""; 0]);
    let broken = LoopBudget { instructions: 4, issue_percent: 6, other_unit_percent: 74 };
    let expected = [
        "has 7 issue slots for 100 tensor cycles in its main loop, of 6",
        "has 75 cycles of shared for 100 tensor cycles in its main loop, of 74",
    ];
    assert_eq!(loop_complaints("main loop", &broken, sass::main_loop(&loops)), expected);
}

/// The emulator runs the text with source positions, GPUs get the text without: they must be the same code, all that nvcc
/// writes but for comments.
#[test]
fn the_text_for_gpus_is_what_nvcc_writes_without_source_positions() {
    let name = "the_text_for_gpus_is_what_nvcc_writes_without_source_positions";
    if warpfold::kernels().is_empty() {
        return skipped(name, "this build has no CUDA compiler");
    }
    let Some(nvcc) = tool("nvcc") else { return skipped(name, "there is no nvcc under target/toolkit or in PATH") };
    // One source of each kind.
    let mut seen = BTreeSet::new();
    let kind = |variant: &Variant| (variant.arch.name(), matches!(variant.tile, Tile::Rows { .. }));
    for variant in VARIANTS.iter().filter(|variant| seen.insert(kind(variant))) {
        let compile = |further: &[&str]| {
            let file = scratch(&format!("{}{}.ptx", variant.name(), further.concat()));
            let mut command = Command::new(&nvcc);
            command
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .args(["-O3", "-std=c++17", "-ptx", "-Ikernels"])
                .args(further);
            command.arg(format!("-arch={}", variant.arch.virtual_name()));
            command.args(variant.defines().iter().map(|(name, value)| format!("-D{name}={value}")));
            command.arg(Path::new("kernels").join(variant.source())).arg("-o").arg(&file);
            run(&mut command);
            let text = fs::read_to_string(&file).expect("nvcc wrote the file");
            fs::remove_file(&file).expect("the file is ours");
            text
        };
        let (plain, annotated) = (compile(&[]), compile(&["-lineinfo"]));
        assert!(annotated.contains("\t.loc\t"), "-lineinfo adds source positions");
        let stripped = text::for_gpu(&ptx::with_positions(&annotated, &[]), "99.0");
        let says_something = |line: &&str| !line.trim().is_empty() && !line.trim().starts_with("//");
        let plain = plain.lines().filter(says_something);
        assert!(stripped.lines().eq(plain), "{}: the texts differ", variant.name());
    }
}

#[test]
fn only_what_nobody_reads_is_stripped() {
    let text = "\
//
.version 9.0
.target sm_80

.visible .entry k(.param .u64 p) {
\t.local .align 4 .b8 \t__local_depot0[256];
\t// begin inline asm
\t.loc\t1 3 1
\tmov.u32 \t%r1, 0;
\t.loc\t2 7 5, function_name $L__info_string0, inlined_at 1 4 2
$L__BB0_1: // a label
\tret;
}
\t.file\t1 \"/home/someone/kernels/lib/tile.cuh\"
\t.file\t2 \"/opt/cuda/bin/..//include/cuda_fp16.hpp\"
\t.section\t.debug_str
\t{
$L__info_string0:
.b8 95,90,0
\t}
";
    let embedded = "\
.version 9.0
.target sm_80
.visible .entry k(.param .u64 p) {
\t.local .align 4 .b8 \t__local_depot0[256];
\t.loc\t1 3 1
\tmov.u32 \t%r1, 0;
\t.loc\t2 7 5, inlined_at 1 4 2
$L__BB0_1: // a label
\tret;
}
\t.file\t1 \"kernels/lib/tile.cuh\"
\t.file\t2 \"cuda/cuda_fp16.hpp\"
";
    let for_gpu = "\
.version 7.8
.target sm_80
.visible .entry k(.param .u64 p) {
\t.local .align 4 .b8 \t__local_depot0[256];
\tmov.u32 \t%r1, 0;
$L__BB0_1: // a label
\tret;
}
";
    assert_eq!(ptx::with_positions(text, &["kernels/a.cu".into(), "kernels/lib/tile.cuh".into()]), embedded);
    assert_eq!(text::for_gpu(embedded, "7.8"), for_gpu);
    assert_eq!(text::for_gpu(for_gpu, "8.0"), for_gpu, "a version is never raised");
}
