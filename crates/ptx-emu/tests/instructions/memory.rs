//! Loads and stores of every size and space.

use crate::common::Bench;
use crate::harness::{Out, compare};

/// Spaces by how a place is declared and addressed: each thread gets 16 bytes at `[%d7]`.
fn spaces() -> [(&'static str, &'static str); 4] {
    [
        ("shared", ".shared .align 16 .b8 s[2048]; mov.u64 %d6, s; mul.wide.u32 %d7, %r6, 16; add.s64 %d7, %d6, %d7;"),
        ("local", ".local .align 16 .b8 l[16]; mov.u64 %d7, l;"),
        (
            "",
            ".shared .align 16 .b8 s[2048]; mov.u64 %d6, s; cvta.shared.u64 %d6, %d6; mul.wide.u32 %d7, %r6, 16; \
             add.s64 %d7, %d6, %d7;",
        ),
        ("", ".local .align 16 .b8 l[16]; mov.u64 %d7, l; cvta.local.u64 %d7, %d7;"),
    ]
}

#[test]
fn sizes_and_extension() {
    for (space, place) in spaces() {
        let dot = if space.is_empty() { String::new() } else { format!(".{space}") };
        let run = |body: &str, out: Out, model: fn([u64; 4]) -> u64| {
            let body = body.replace("ld.", &format!("ld{dot}.")).replace("st.", &format!("st{dot}."));
            compare(&format!("{{ mov.u32 %r6, %tid.x; {place} {body} }}"), out, model);
        };
        run("st.u64 [%d7], %d1; ld.u8 %r0, [%d7+3];", Out::Word, |[a, ..]| a >> 24 & 0xff);
        run("st.u64 [%d7], %d1; ld.s8 %r0, [%d7+3];", Out::Word, |[a, ..]| u64::from((a >> 24) as i8 as u32));
        run("st.u64 [%d7], %d1; ld.s8 %h0, [%d7+7];", Out::Half, |[a, ..]| u64::from((a >> 56) as i8 as u16));
        run("st.u64 [%d7], %d1; ld.u16 %h0, [%d7+6];", Out::Half, |[a, ..]| a >> 48);
        run("st.u64 [%d7], %d1; ld.s16 %r0, [%d7+2];", Out::Word, |[a, ..]| u64::from((a >> 16) as i16 as u32));
        run("st.u64 [%d7], %d1; ld.s32 %d0, [%d7+4];", Out::Long, |[a, ..]| (a >> 32) as i32 as u64);
        run("st.u64 [%d7], %d1; st.u8 [%d7+1], %r2; ld.u64 %d0, [%d7];", Out::Long, |[a, b, ..]| {
            a & !0xff00 | (b & 0xff) << 8
        });
        run("st.u64 [%d7], %d1; st.u16 [%d7+4], %h2; ld.u64 %d0, [%d7];", Out::Long, |[a, b, ..]| {
            a & !0xffff_0000_0000 | (b & 0xffff) << 32
        });
        run("st.u64 [%d7], %d1; st.u32 [%d7], %d2; ld.u64 %d0, [%d7];", Out::Long, |[a, b, ..]| {
            a & !0xffff_ffff | b & 0xffff_ffff
        });
        run("st.v4.u32 [%d7], {%r1, %r2, %r3, %r4}; ld.v2.u64 {_, %d0}, [%d7];", Out::Long, |[_, _, c, e]| {
            c & 0xffff_ffff | e << 32
        });
        run("st.v2.u16 [%d7+4], {%h1, %h2}; ld.u32 %r0, [%d7+4];", Out::Word, |[a, b, ..]| {
            a & 0xffff | (b & 0xffff) << 16
        });
        run("st.v4.u8 [%d7], {%r1, %r2, %r3, %r4}; ld.u32 %r0, [%d7];", Out::Word, |inputs| {
            inputs.iter().rev().fold(0, |all, part| all << 8 | part & 0xff)
        });
        run("st.v4.u16 [%d7+8], {%h1, %h2, %h3, %h4}; ld.v4.u16 {_, _, _, %h0}, [%d7+8];", Out::Half, |[.., e]| {
            e & 0xffff
        });
    }
}

#[test]
fn cache_operators_carry_no_meaning() {
    for modifiers in [
        "nc",
        "ca",
        "cg",
        "cs",
        "lu",
        "cv",
        "nc.L1::no_allocate",
        "L1::evict_last",
        "L2::128B",
        "nc.L1::no_allocate.L2::256B",
    ] {
        let body = format!("ld.global.{modifiers}.u32 %r0, [%d11];");
        compare(&body, Out::Word, |[a, ..]| a & 0xffff_ffff);
    }
    compare("prefetch.global.L2 [%d11]; mov.u32 %r0, 1;", Out::Word, |_| 1);
}

#[test]
fn module_variables_are_initialised() {
    let text = ".version 7.8\n.target sm_80\n.address_size 64\n\
        .global .align 4 .u32 counts[4] = {1, 2, 3};\n\
        .const .align 8 .f64 ratios[2] = {0d3FF0000000000000, 0d4000000000000000};\n\
        .global .align 8 .u64 pointer = counts+8;\n.global .align 8 .u64 other = generic(counts)+4;\n\
        .visible .entry k(.param .u64 out) {\n.reg .b64 %d<8>; .reg .b32 %r<8>;\n\
        ld.param.u64 %d1, [out];\nld.global.u32 %r1, [counts+4];\nld.const.f64 %d2, [ratios+8];\n\
        ld.global.u64 %d3, [pointer];\nld.global.u32 %r2, [%d3];\nld.global.u64 %d4, [other];\nld.u32 %r3, [%d4+8];\n\
        st.global.u32 [%d1], %r1;\nst.global.u32 [%d1+4], %r2;\nst.global.u64 [%d1+8], %d2;\n\
        st.global.u32 [%d1+16], %r3;\nadd.u32 %r1, %r1, 40;\nst.global.u32 [counts+4], %r1;\nret; }";
    let bench = Bench::from_text(text).threads(1);
    let out = bench.blank(32);
    bench.clean("k", &[out]);
    assert_eq!(bench.read_words(out, 5), [2, 3, 0, 0x4000_0000, 0]);
    bench.clean("k", &[out]);
    assert_eq!(bench.read_words(out, 1), [42], "a variable keeps its value between launches");
}

#[test]
fn structures_passed_by_value() {
    let text = ".version 7.8\n.target sm_80\n.address_size 64\n\
        .visible .entry k(.param .u64 out, .param .align 8 .b8 s[24]) {\n.reg .b64 %d<8>; .reg .b32 %r<8>; .reg .b16 %h<4>;\n\
        ld.param.u64 %d1, [out];\nld.param.u8 %r1, [s+17];\nld.param.s16 %r2, [s+2];\nld.param.v2.u32 {%r3, %r4}, [s+8];\n\
        mov.b64 %d2, s;\nadd.s64 %d3, %d2, 20;\nld.param.u32 %r5, [%d3];\ncvta.param.u64 %d4, %d2;\nld.u32 %r6, [%d4+12];\n\
        ld.param.s32 %d5, [s];\n\
        st.global.v2.u32 [%d1], {%r1, %r2};\nst.global.v4.u32 [%d1+16], {%r3, %r4, %r5, %r6};\nst.global.u64 [%d1+8], %d5;\nret; }";
    let module = ptx_emu::Module::parse(text).unwrap();
    let bench = Bench::from_text(text).threads(1);
    let out = bench.blank(32);
    let structure: Vec<u8> = (0..24).map(|k| 0xe0 + k as u8).collect();
    let launch = ptx_emu::Launch {
        kernel: module.kernel("k").unwrap(),
        grid: [1; 3],
        block: [1; 3],
        cluster: [1; 3],
        registers: 0,
        dynamic_shared_bytes: 0,
        params: &[&out.to_le_bytes(), &structure],
    };
    let report = ptx_emu::run(&launch, &bench.memory, &bench.options).unwrap();
    assert!(report.hazards.is_empty(), "{:?}", report.hazards);
    let word = |at: usize| u32::from_le_bytes(structure[at..at + 4].try_into().unwrap());
    let short = i16::from_le_bytes(structure[2..4].try_into().unwrap());
    let wide = i64::from(word(0) as i32) as u64;
    let expected = [
        u32::from(structure[17]),
        i32::from(short) as u32,
        wide as u32,
        (wide >> 32) as u32,
        word(8),
        word(12),
        word(20),
        word(12),
    ];
    assert_eq!(bench.read_words(out, 8), expected);
}
