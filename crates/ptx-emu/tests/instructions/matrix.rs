//! Matrices in shared memory and in registers. The model works on plain 2D arrays and knows the fragment layouts of
//! the manual as functions from lane and register to row and column.

#![allow(clippy::needless_range_loop, reason = "rows, columns and lanes index several arrays")]

use super::half::f16_value;
use crate::common::Bench;
use crate::harness::random;
use ptx_emu::{Architecture, Options, TensorCore};

const HEADER: &str = ".version 7.8\n.target sm_80\n.address_size 64\n";

/// A kernel that loads `count` words per lane into `%r1..`, runs `body`, and stores `%r21..`.
fn kernel(inputs: usize, body: &str, outputs: usize) -> String {
    let load: String = (0..inputs).map(|k| format!("ld.global.u32 %r{}, [%d3+{}];\n", k + 1, 128 * k)).collect();
    let store: String = (0..outputs).map(|k| format!("st.global.u32 [%d4+{}], %r{};\n", 128 * k, k + 21)).collect();
    format!(
        "{HEADER}.visible .entry k(.param .u64 in, .param .u64 out) {{\n.reg .b32 %r<40>; .reg .f32 %f<40>; .reg .b64 %d<8>;\n\
         .shared .align 16 .b8 buffer[512];\n\
         ld.param.u64 %d1, [in];\nld.param.u64 %d2, [out];\nmov.u32 %r0, %tid.x;\nmul.wide.u32 %d5, %r0, 4;\n\
         add.s64 %d3, %d1, %d5;\nadd.s64 %d4, %d2, %d5;\nmov.u32 %r38, buffer;\nshl.b32 %r39, %r0, 4;\n\
         add.u32 %r39, %r38, %r39;\n{load}{body}\n{store}ret;\n}}"
    )
}

/// `input[register][lane]` to `output[register][lane]`.
fn run(text: &str, input: &[[u32; 32]], outputs: usize, options: Options) -> Vec<[u32; 32]> {
    let bench = Bench::from_text(text).threads(32).options(options);
    let flat: Vec<u32> = input.iter().flatten().copied().collect();
    let (source, target) = (bench.words(&flat), bench.blank(outputs as u64 * 128));
    bench.clean("k", &[source, target]);
    bench.read_words(target, outputs * 32).chunks_exact(32).map(|c| c.try_into().unwrap()).collect()
}

fn sm80() -> Options {
    Options::new(Architecture::Sm80)
}

/// Four registers of four 8x8 matrices of halves; element (row, column) of matrix k is `1000 k + 10 row + column`.
fn numbered() -> Vec<[u32; 32]> {
    // Lane 8k + r holds row r of matrix k in its 16 bytes.
    let half = |lane: usize, column: usize| (1000 * (lane / 8) + 10 * (lane % 8) + column) as u32;
    (0..4).map(|w| std::array::from_fn(|lane| half(lane, 2 * w) | half(lane, 2 * w + 1) << 16)).collect()
}

#[test]
fn ldmatrix_gives_each_lane_its_pair() {
    for (count, trans) in [(1, false), (2, false), (4, false), (1, true), (2, true), (4, true)] {
        let registers: Vec<String> = (0..count).map(|k| format!("%r{}", 21 + k)).collect();
        let body = format!(
            "st.shared.v4.u32 [%r39], {{%r1, %r2, %r3, %r4}};\nbar.warp.sync -1;\n\
             ldmatrix.sync.aligned.m8n8.x{count}{}.shared.b16 {{{}}}, [%r39];",
            if trans { ".trans" } else { "" },
            registers.join(", ")
        );
        let output = run(&kernel(4, &body, count), &numbered(), count, sm80());
        for (matrix, register) in output.iter().enumerate() {
            for (lane, word) in register.iter().enumerate() {
                for part in 0..2 {
                    let (row, column) = (lane / 4, 2 * (lane % 4) + part);
                    let (row, column) = if trans { (column, row) } else { (row, column) };
                    let expected = (1000 * matrix + 10 * row + column) as u32;
                    assert_eq!(word >> (16 * part) & 0xffff, expected, "matrix {matrix} lane {lane} part {part}");
                }
            }
        }
    }
}

#[test]
fn stmatrix_undoes_ldmatrix() {
    for trans in ["", ".trans"] {
        let body = format!(
            "stmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 [%r39], {{%r1, %r2, %r3, %r4}};\nbar.warp.sync -1;\n\
             ldmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 {{%r21, %r22, %r23, %r24}}, [%r39];"
        );
        let mut state = 4;
        let input: Vec<[u32; 32]> = (0..4).map(|_| std::array::from_fn(|_| random(&mut state) as u32)).collect();
        assert_eq!(run(&kernel(4, &body, 4), &input, 4, sm80()), input);
    }
}

#[test]
fn movmatrix_transposes() {
    let input = [std::array::from_fn(|lane| {
        let half = |column: usize| (10 * (lane / 4) + column) as u32;
        half(2 * (lane % 4)) | half(2 * (lane % 4) + 1) << 16
    })];
    let output = run(&kernel(1, "movmatrix.sync.aligned.m8n8.trans.b16 %r21, %r1;", 1), &input, 1, sm80());
    for (lane, word) in output[0].iter().enumerate() {
        let (row, column) = (lane / 4, 2 * (lane % 4));
        assert_eq!((word & 0xffff, word >> 16), ((10 * column + row) as u32, (10 * (column + 1) + row) as u32));
    }
}

/// Operand types of `mma` with how an element is encoded; values are small multiples of 1/4, exact everywhere.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Element {
    F16,
    Bf16,
    Tf32,
}

fn f16_bits(value: f32) -> u32 {
    (0..0x1_0000).find(|bits| f16_value(*bits) == f64::from(value)).unwrap() as u32
}

fn encode(element: Element, value: f32) -> u32 {
    match element {
        Element::F16 => f16_bits(value),
        Element::Bf16 => value.to_bits() >> 16,
        Element::Tf32 => value.to_bits(),
    }
}

#[test]
fn products_of_every_shape() {
    let cases = [
        (Element::F16, 16, false),
        (Element::F16, 16, true),
        (Element::F16, 8, false),
        (Element::F16, 8, true),
        (Element::Bf16, 16, false),
        (Element::Bf16, 8, false),
        (Element::Tf32, 8, false),
        (Element::Tf32, 4, false),
    ];
    for (element, depth, half_sum) in cases {
        let mut state = 11;
        let mut small = || (random(&mut state) % 17) as f32 / 4.0 - 2.0;
        let a: Vec<[f32; 16]> = (0..16).map(|_| std::array::from_fn(|_| small())).collect();
        let b: Vec<[f32; 8]> = (0..16).map(|_| std::array::from_fn(|_| small())).collect();
        let c: Vec<[f32; 8]> = (0..16).map(|_| std::array::from_fn(|_| small())).collect();
        let pack = |low: u32, high: u32| low | high << 16;
        let mut input: Vec<[u32; 32]> = Vec::new();
        let (a_count, b_count) = if element == Element::Tf32 { (depth / 2, depth / 4) } else { (depth / 4, depth / 8) };
        for q in 0..a_count {
            input.push(std::array::from_fn(|lane| {
                let (g, t) = (lane / 4, lane % 4);
                let row = g + 8 * (q % 2);
                match element {
                    Element::Tf32 => encode(element, a[row][t + 4 * (q / 2)]),
                    _ => {
                        let column = 2 * t + 8 * (q / 2);
                        pack(encode(element, a[row][column]), encode(element, a[row][column + 1]))
                    }
                }
            }));
        }
        for q in 0..b_count {
            input.push(std::array::from_fn(|lane| {
                let (g, t) = (lane / 4, lane % 4);
                match element {
                    Element::Tf32 => encode(element, b[t + 4 * q][g]),
                    _ => {
                        let row = 2 * t + 8 * q;
                        pack(encode(element, b[row][g]), encode(element, b[row + 1][g]))
                    }
                }
            }));
        }
        let sums = if half_sum { 2 } else { 4 };
        for i in 0..sums {
            input.push(std::array::from_fn(|lane| {
                let (g, t) = (lane / 4, lane % 4);
                if half_sum {
                    let row = g + 8 * i;
                    pack(f16_bits(c[row][2 * t]), f16_bits(c[row][2 * t + 1]))
                } else {
                    c[g + 8 * (i / 2)][2 * t + i % 2].to_bits()
                }
            }));
        }
        let names =
            |from: usize, count: usize| (from..from + count).map(|k| format!("%r{k}")).collect::<Vec<_>>().join(", ");
        let ty = match element {
            Element::F16 => "f16",
            Element::Bf16 => "bf16",
            Element::Tf32 => "tf32",
        };
        let sum_type = if half_sum { "f16" } else { "f32" };
        let body = format!(
            "mma.sync.aligned.m16n8k{depth}.row.col.{sum_type}.{ty}.{ty}.{sum_type} {{{}}}, {{{}}}, {{{}}}, {{{}}};",
            names(21, sums),
            names(1, a_count),
            names(1 + a_count, b_count),
            names(1 + a_count + b_count, sums),
        );
        for tensor_core in [TensorCore::Sequential, TensorCore::Aligned] {
            let output = run(&kernel(input.len(), &body, sums), &input, sums, sm80().tensor_core(tensor_core));
            for row in 0..16 {
                for column in 0..8 {
                    let expected = (0..depth).fold(c[row][column], |sum, k| sum + a[row][k] * b[k][column]);
                    let lane = row % 8 * 4 + column / 2;
                    let found = if half_sum {
                        f16_value(u64::from(output[row / 8][lane] >> (16 * (column % 2)) & 0xffff)) as f32
                    } else {
                        f32::from_bits(output[row / 8 * 2 + column % 2][lane])
                    };
                    assert_eq!(found, expected, "{element:?} k{depth} {sum_type} at {row}, {column}");
                }
            }
        }
    }
}

/// One product per row is enough to see where the tensor core cuts off.
#[test]
fn the_tensor_core_truncates_where_f32_rounds() {
    // 1 + 2^-24 + 2^-24: each term is below half a unit of 1.0, so the sequential sum stays at 1.0; aligned with 24
    // fraction bits both are kept and make one unit.
    let mut input = vec![[0u32; 32]; 10];
    let small = f16_bits(2f32.powi(-12));
    for lane in 0..32 {
        // Row g of A and column g of B are 2^-12 at k = 0 and 1.
        if lane % 4 == 0 {
            input[0][lane] = small | small << 16;
            input[4][lane] = small | small << 16;
        }
        (6..10).for_each(|i| input[i][lane] = 1f32.to_bits());
    }
    let body = "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%r21, %r22, %r23, %r24}, {%r1, %r2, %r3, %r4}, \
                {%r5, %r6}, {%r7, %r8, %r9, %r10};";
    let text = kernel(10, body, 4);
    let sequential = run(&text, &input, 4, sm80());
    let aligned = run(&text, &input, 4, sm80().tensor_core(TensorCore::Aligned));
    assert_eq!(sequential[0], [1f32.to_bits(); 32]);
    assert_eq!(aligned[0], [1f32.to_bits() + 1; 32]);
    // Truncation, not rounding: 1 + 2^-24 alone is cut back to 1, and so is 1 - 2^-26 with its sign.
    let one = |value: u32| {
        let mut input = input.clone();
        (0..32).filter(|lane| lane % 4 == 0).for_each(|lane| {
            input[0][lane] = value;
            input[4][lane] = small;
        });
        run(&text, &input, 4, sm80().tensor_core(TensorCore::Aligned))[0][0]
    };
    assert_eq!(one(small), 1f32.to_bits());
    assert_eq!(one(f16_bits(-(2f32.powi(-14)))), 1f32.to_bits());
}

#[test]
fn infinities_and_nans_pass_through_products() {
    let mut input = vec![[0u32; 32]; 10];
    input[0][0] = 0x7c00;
    input[4] = [0x3c00; 32];
    let body = "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%r21, %r22, %r23, %r24}, {%r1, %r2, %r3, %r4}, \
                {%r5, %r6}, {%r7, %r8, %r9, %r10};";
    for tensor_core in [TensorCore::Sequential, TensorCore::Aligned] {
        let options = sm80().tensor_core(tensor_core);
        let output = run(&kernel(10, body, 4), &input, 4, options.clone());
        assert_eq!(output[0][0], 0x7f80_0000);
        assert_eq!(output[0][4], 0);
        let mut nan = input.clone();
        nan[4] = [0; 32];
        assert_eq!(run(&kernel(10, body, 4), &nan, 4, options)[0][0], 0x7fff_ffff, "infinity times zero");
    }
}
