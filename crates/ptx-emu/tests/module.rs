//! What the parser accepts, keeps and refuses.

mod common;

use common::{Bench, ptx};
use ptx_emu::{Architecture, Error, Launch, Memory, Module, Options};

const HEADER: &str = ".version 7.8\n.target sm_80\n.address_size 64\n";

#[test]
fn reports_name_the_source_line_and_the_calls_around_it() {
    let bench = Bench::new("module/lineinfo.ptx").threads(1);
    let hazards = bench.hazards("k", &[bench.blank(16)], &["out of bounds"]);
    assert_eq!((hazards[0].file(), hazards[0].line()), (Some("kernels/lib/row.cuh"), 7));
    let position = hazards[0].position.to_string();
    let chain =
        "kernels/lib/row.cuh:7, inlined at kernels/lib/row.cuh:40, inlined at kernels/softmax.cu:12 (`ld.global.u32`)";
    assert_eq!(position, chain);
    assert_eq!(hazards[0].position.ptx_line, 22);
}

#[test]
fn counters_are_kept_by_line() {
    let bench = Bench::new("module/lineinfo.ptx").threads(32);
    let report = bench.run("k", &[bench.words(&[0; 1025])]);
    let lines: Vec<_> =
        report.counters.by_line.iter().map(|((f, l), c)| (f.as_str(), *l, c.thread_instructions)).collect();
    assert_eq!(lines, [("kernels/lib/row.cuh", 7, 64), ("kernels/softmax.cu", 10, 32)]);
}

#[test]
fn a_kernel_describes_itself() {
    let module = Module::parse(&ptx("module/lineinfo.ptx")).unwrap();
    assert_eq!((module.version(), module.target()), ((9, 0), "sm_80"));
    let kernel = module.kernel("k").unwrap();
    assert_eq!((kernel.maximum_threads(), kernel.required_threads()), (Some([32, 1, 1]), None));
    assert_eq!((kernel.parameters().len(), kernel.parameters()[0].bytes), (1, 8));
    assert_eq!((kernel.instruction_count(), kernel.static_shared_bytes()), (3, 0));
    let error = module.kernel("other").unwrap_err();
    assert_eq!(error, Error::UnknownKernel { name: "other".into(), available: vec!["k".into()] });
}

#[test]
fn shared_variables_are_laid_out_by_alignment() {
    let text = format!(
        "{HEADER}.shared .align 1 .b8 unused[1000];\n.shared .align 1 .b8 a[3];\n.shared .align 16 .b8 b[8];\n\
         .extern .shared .align 128 .b8 c[];\n.visible .entry k(.param .u64 out) {{\n.reg .b32 %r<4>; .reg .b64 %d<2>;\n\
         ld.param.u64 %d1, [out];\nmov.u32 %r1, a;\nmov.u32 %r2, b+4;\nmov.u32 %r3, c;\n\
         st.global.u32 [%d1], %r1; st.global.u32 [%d1+4], %r2; st.global.u32 [%d1+8], %r3;\nret; }}"
    );
    let bench = Bench::from_text(&text).threads(1);
    let out = bench.blank(16);
    bench.clean("k", &[out]);
    assert_eq!(bench.read_words(out, 3), [0, 20, 128]);
    assert_eq!(Module::parse(&text).unwrap().kernel("k").unwrap().static_shared_bytes(), 24);
}

/// The error of a kernel body, when parsed or when launched.
fn refuse(body: &str) -> Error {
    let text = format!(
        "{HEADER}.visible .entry k() {{\n.reg .b32 %r<9>; .reg .b64 %d<9>; .reg .pred %p<9>;\n{body}\nret;\n}}"
    );
    let module = match Module::parse(&text) {
        Ok(module) => module,
        Err(error) => return error,
    };
    let launch = Launch {
        kernel: module.kernel("k").unwrap(),
        grid: [1; 3],
        block: [32, 1, 1],
        cluster: [1; 3],
        registers: 0,
        dynamic_shared_bytes: 0,
        params: &[],
    };
    ptx_emu::run(&launch, &Memory::new(), &Options::new(Architecture::Sm80)).unwrap_err()
}

#[test]
fn what_is_not_modelled_names_line_instruction_and_section() {
    for (body, part, section) in [
        ("frobnicate.u32 %r1, %r2;", "opcode is unknown", "Instruction Set"),
        ("add.cc.u32 %r1, %r2, %r3;", "`.cc`", "Integer Arithmetic"),
        ("ld.global.u32.bogus %r1, [%d1];", "`.bogus`", "Data Movement"),
        ("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%r1}, {%r1}, {%r1}, {%r1};", "shape", "Warp Level Matrix"),
        (
            "cp.async.bulk.shared::cta.shared::cta.bulk_group [%r1], [%r2], 16;",
            "between these spaces",
            "bulk and tensor",
        ),
        ("cp.async.mbarrier.arrive.shared::cta.b64 [%r1];", "not announced", "non-bulk"),
        (
            "wgmma.mma_async.sync.aligned.m64n8k32.f32.e4m3.e4m3 {%r1}, %d1, %d2, 1, 1, 1;",
            "shape",
            "Asynchronous Warpgroup",
        ),
        ("mbarrier.pending_count.b64 %r1, %d1;", "not modelled", "Parallel Synchronization"),
        ("call foo, (%r1);", "not modelled", "Control Flow"),
        ("mov.u32 %r1, %gridid.x;", "`%gridid.x`", "Data Movement"),
        ("add.f32 %r1, %d2, %r3;", "`%d2`", "Integer Arithmetic Instructions / Floating"),
        ("shfl.bfly.b32 %r1, %r2, 1, 31;", "convergence", "Data Movement"),
    ] {
        let error = refuse(body);
        let Error::Unsupported { line: 6, instruction, section: found, .. } = &error else { panic!("{body}: {error}") };
        assert!(body.starts_with(instruction.as_str()), "{body}: {instruction}");
        assert!(found.contains(section), "{body}: {found}");
        assert!(error.to_string().contains(part), "{body}: {error}");
    }
}

#[test]
fn malformed_text_names_the_line() {
    for (body, line, part) in [
        ("add.u32 %r1, %r2", 7, "expected `,` or `;`"),
        ("@%r1 bra L;", 6, "predicate register"),
        ("mov.u32 %r1, 0xzz;", 6, "not a number"),
        ("L: L: ret;", 6, "defined twice"),
        ("ld.global.u32 %r1, [%d1;", 6, "expected `]`"),
        ("{ { {", 4, "not closed"),
        ("/* open", 6, "not closed"),
        ("mov.u32 %r1, \"text;", 6, "not closed"),
        (".reg .b33 %x;", 6, "register type"),
        (".shared .align 3 .b8 x[4];", 6, "power of two"),
        (".shared .b8 x[99999999999999];", 6, "too large"),
    ] {
        let error = refuse(body);
        let Error::Parse { line: found, message } = &error else { panic!("{body}: {error}") };
        assert_eq!(*found, line, "{body}: {error}");
        assert!(message.contains(part), "{body}: {message}");
    }
    assert!(matches!(refuse("bra NOWHERE;"), Error::UnknownSymbol { line: 6, .. }));
    assert!(matches!(refuse("mov.u32 %r1, nothing;"), Error::UnknownSymbol { line: 6, .. }));
    assert!(matches!(Module::parse(""), Err(Error::Parse { .. })));
}

#[test]
fn launches_that_do_not_fit_are_refused() {
    let text = format!(
        "{HEADER}.extern .shared .align 16 .b8 dynamic[];\n\
         .visible .entry k(.param .u64 p, .param .align 4 .b8 s[12]) .reqntid 32, 2 {{ .reg .b32 %r<2>; mov.u32 %r1, dynamic; ret; }}"
    );
    let module = Module::parse(&text).unwrap();
    let (pointer, structure) = ([0u8; 8], [0u8; 12]);
    let good: [&[u8]; 2] = [&pointer, &structure];
    let run = |grid, block, dynamic_shared_bytes, params: &[&[u8]]| {
        let launch = Launch {
            kernel: module.kernel("k").unwrap(),
            grid,
            block,
            cluster: [1; 3],
            registers: 0,
            dynamic_shared_bytes,
            params,
        };
        ptx_emu::run(&launch, &Memory::new(), &Options::new(Architecture::Sm86))
    };
    assert!(run([1; 3], [32, 2, 1], 99 << 10, &good).is_ok());
    let shared = run([1; 3], [32, 2, 1], (99 << 10) + 1, &good).unwrap_err();
    assert_eq!(shared, Error::SharedMemory { bytes: 101_377, limit_bytes: 101_376 });
    assert!(matches!(run([1; 3], [32, 2, 1], u32::MAX, &good), Err(Error::SharedMemory { .. })));
    assert!(matches!(run([1; 3], [64, 1, 1], 0, &good), Err(Error::LaunchShape { .. })));
    assert!(matches!(run([0, 1, 1], [32, 2, 1], 0, &good), Err(Error::LaunchShape { .. })));
    assert!(matches!(run([u32::MAX; 3], [32, 2, 1], 0, &good), Err(Error::LaunchShape { .. })));
    assert!(matches!(run([1 << 30, 1, 1], [32, 2, 1], 0, &good), Err(Error::Limit { .. })));
    assert!(matches!(run([1; 3], [32, 2, 1], 0, &good[..1]), Err(Error::ParameterCount { .. })));
    let short = run([1; 3], [32, 2, 1], 0, &[&pointer, &structure[..11]]).unwrap_err();
    assert!(matches!(short, Error::ParameterSize { index: 1, expected_bytes: 12, bytes: 11, .. }));
}

#[test]
fn huge_modules_take_reasonable_time_and_memory() {
    // As many labels as registers: the analysis of registers must not build a set of one for each of the other.
    let mut body = String::from(".reg .b32 %r<40001>;\n");
    for k in 0..40_000 {
        body += &format!("L{k}: mov.u32 %r{k}, {k}; bra L{};\n", k + 1);
    }
    let chain: String =
        (0..20_000).map(|_| ".loc 1 1 1, function_name f, inlined_at 1 1 1\nmov.u32 %r0, 1;\n").collect();
    let text = format!("{HEADER}.visible .entry k() {{\n{body}L40000:\n{chain}ret;\n}}\n.file 1 \"a.cu\"\n");
    let started = std::time::Instant::now();
    Bench::from_text(&text).threads(1).clean("k", &[]);
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}
