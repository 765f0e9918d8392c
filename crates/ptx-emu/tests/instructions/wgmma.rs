//! Products of warpgroups against plain sums. Where an element lies in shared memory is computed here from its row and
//! its k, as TMA would place it: a swizzled line holds its chunks of 16 bytes in an order that depends on the line.

use super::half::f16_value;
use crate::common::Bench;
use crate::harness::random;
use ptx_emu::{Architecture, Completion, Options, Schedule, TensorCore};

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Element {
    F16,
    Bf16,
    Tf32,
}

impl Element {
    fn name(self) -> &'static str {
        match self {
            Element::F16 => "f16",
            Element::Bf16 => "bf16",
            Element::Tf32 => "tf32",
        }
    }

    fn bytes(self) -> usize {
        if self == Element::Tf32 { 4 } else { 2 }
    }

    fn depth(self) -> usize {
        32 / self.bytes()
    }

    /// Multiples of a quarter up to 4 are exact in each type.
    fn encode(self, value: f32) -> u32 {
        match self {
            Element::F16 if value == 0.0 => 0,
            Element::F16 => {
                let bits = value.to_bits();
                bits >> 16 & 0x8000 | ((bits >> 23 & 0xff) - 112) << 10 | bits >> 13 & 0x3ff
            }
            Element::Bf16 => value.to_bits() >> 16,
            Element::Tf32 => value.to_bits(),
        }
    }
}

/// How a matrix of rows (or columns) `r` and depth `k` lies in shared memory.
#[derive(Debug, Clone, Copy)]
struct Layout {
    /// 0, 32, 64 or 128.
    swizzle: usize,
    /// Elements next to each other have the same `k`.
    mn_major: bool,
    start: usize,
    leading: usize,
    stride: usize,
}

impl Layout {
    /// Byte offset of an element of 2 or 4 bytes.
    fn place(&self, r: usize, k: usize, bytes: usize) -> usize {
        let per_chunk = 16 / bytes;
        let (line, along) = if self.mn_major { (k, r) } else { (r, k) };
        let (chunk, within) = (along / per_chunk, along % per_chunk * bytes);
        let (outer, inner) = (line / 8, line % 8);
        if self.swizzle == 0 {
            let (r_step, k_step) = (self.stride, self.leading);
            let (of_line, of_chunk) = if self.mn_major { (k_step, r_step) } else { (r_step, k_step) };
            return self.start + outer * of_line + chunk * of_chunk + inner * 16 + within;
        }
        let chunks_of_line = self.swizzle / 16;
        let order = match self.swizzle {
            128 => inner,
            64 => inner / 2,
            _ => inner / 4,
        };
        // `start` may lie inside of a line, to choose a part of the depth.
        let first = self.start % self.swizzle / 16;
        let (block, chunk) = (chunk / chunks_of_line, chunk % chunks_of_line);
        let place = (first + chunk) ^ order;
        self.start - first * 16
            + outer * self.stride
            + block * self.leading
            + inner * self.swizzle
            + place * 16
            + within
    }

    fn descriptor(&self) -> u64 {
        let mode = match self.swizzle {
            0 => 0,
            128 => 1,
            64 => 2,
            _ => 3u64,
        };
        (self.start as u64 >> 4) | (self.leading as u64 >> 4) << 16 | (self.stride as u64 >> 4) << 32 | mode << 62
    }
}

/// One product.
#[derive(Debug, Clone, Copy)]
struct Case {
    columns: usize,
    element: Element,
    half_sum: bool,
    /// `None`: in registers.
    a: Option<Layout>,
    b: Layout,
    scale_a: i32,
    scale_b: i32,
    accumulate: bool,
    options: fn(Options) -> Options,
}

const SHARED_BYTES: usize = 200 << 10;

impl Case {
    fn sums(&self) -> usize {
        self.columns / if self.half_sum { 4 } else { 2 }
    }

    fn instruction(&self) -> String {
        let list = |first: usize, count: usize| {
            let names: Vec<String> = (first..first + count).map(|k| format!("%r{k}")).collect();
            format!("{{{}}}", names.join(", "))
        };
        let ty = self.element.name();
        let transposes = match (self.element, self.a) {
            (Element::Tf32, _) => String::new(),
            (_, None) => format!(", {}", u8::from(self.b.mn_major)),
            (_, Some(a)) => format!(", {}, {}", u8::from(a.mn_major), u8::from(self.b.mn_major)),
        };
        format!(
            "wgmma.mma_async.sync.aligned.m64n{}k{}.{}.{ty}.{ty} {}, {}, %d7, %p1, {}, {}{transposes};",
            self.columns,
            self.element.depth(),
            if self.half_sum { "f16" } else { "f32" },
            list(100, self.sums()),
            if self.a.is_some() { "%d6".to_owned() } else { list(10, 4) },
            self.scale_a,
            self.scale_b,
        )
    }

    /// Fills shared memory, loads the registers, multiplies, stores the sums.
    fn text(&self) -> String {
        let load: String =
            (0..self.sums()).map(|i| format!("ld.global.u32 %r{}, [%d4+{}];\n", 100 + i, 512 * i)).collect();
        let store: String =
            (0..self.sums()).map(|i| format!("st.global.u32 [%d4+{}], %r{};\n", 512 * i, 100 + i)).collect();
        let fragments: String = (0..4).map(|q| format!("ld.global.u32 %r{}, [%d5+{}];\n", 10 + q, 512 * q)).collect();
        let a = self.a.map_or(0, |a| a.descriptor());
        format!(
            ".version 8.0\n.target sm_90a\n.address_size 64\n\
             .visible .entry k(.param .u64 image, .param .u64 fragments, .param .u64 sums) {{\n\
             .reg .pred %p<4>; .reg .b32 %r<240>; .reg .b64 %d<12>;\n.shared .align 1024 .b8 buffer[{SHARED_BYTES}];\n\
             ld.param.u64 %d1, [image]; ld.param.u64 %d2, [fragments]; ld.param.u64 %d3, [sums];\n\
             mov.u32 %r0, %tid.x; mul.wide.u32 %d8, %r0, 4; add.s64 %d4, %d3, %d8; add.s64 %d5, %d2, %d8;\n\
             mul.wide.u32 %d8, %r0, 16; add.s64 %d1, %d1, %d8; shl.b32 %r1, %r0, 4; mov.u32 %r2, buffer;\n\
             add.u32 %r2, %r2, %r1;\n\
             FILL:\nld.global.v4.u32 {{%r3, %r4, %r5, %r6}}, [%d1]; st.shared.v4.u32 [%r2], {{%r3, %r4, %r5, %r6}};\n\
             add.s64 %d1, %d1, 2048; add.u32 %r2, %r2, 2048; add.u32 %r1, %r1, 2048;\n\
             setp.lt.u32 %p2, %r1, {SHARED_BYTES}; @%p2 bra FILL;\n\
             {load}{fragments}mov.u64 %d6, {a}; mov.u64 %d7, {}; setp.eq.u32 %p1, {}, 1;\n\
             fence.proxy.async; bar.sync 0;\nwgmma.fence.sync.aligned;\n{}\nwgmma.commit_group.sync.aligned;\n\
             wgmma.wait_group.sync.aligned 0;\n{store}ret;\n}}",
            self.b.descriptor(),
            u8::from(self.accumulate),
            self.instruction(),
        )
    }

    fn check(&self) {
        let depth = self.element.depth();
        let bytes = self.element.bytes();
        let mut state = self.columns as u64 * 7 + 1;
        let mut small = || (random(&mut state) % 17) as f32 / 4.0 - 2.0;
        let a: Vec<Vec<f32>> = (0..64).map(|_| (0..depth).map(|_| small()).collect()).collect();
        let b: Vec<Vec<f32>> = (0..self.columns).map(|_| (0..depth).map(|_| small()).collect()).collect();
        let c: Vec<Vec<f32>> = (0..64).map(|_| (0..self.columns).map(|_| small()).collect()).collect();
        let mut image = vec![0u8; SHARED_BYTES];
        let mut put = |layout: Layout, matrix: &[Vec<f32>]| {
            for (r, line) in matrix.iter().enumerate() {
                for (k, value) in line.iter().enumerate() {
                    let at = layout.place(r, k, bytes);
                    image[at..at + bytes].copy_from_slice(&self.element.encode(*value).to_le_bytes()[..bytes]);
                }
            }
        };
        put(self.b, &b);
        if let Some(layout) = self.a {
            put(layout, &a);
        }
        let pack = |low: u32, high: u32| low | high << 16;
        // [register][thread]
        let mut fragments = vec![0u32; 4 * 128];
        for (q, thread) in (0..4).flat_map(|q| (0..128).map(move |thread| (q, thread))) {
            let (g, t) = (thread % 32 / 4, thread % 4);
            let row = 16 * (thread / 32) + g + 8 * (q % 2);
            fragments[128 * q + thread] = if self.element == Element::Tf32 {
                self.element.encode(a[row][t + 4 * (q / 2)])
            } else {
                let k = 2 * t + 8 * (q / 2);
                pack(self.element.encode(a[row][k]), self.element.encode(a[row][k + 1]))
            };
        }
        let place = |i: usize, thread: usize| {
            let (g, t) = (thread % 32 / 4, thread % 4);
            (16 * (thread / 32) + g + 8 * (i / 2 % 2), 8 * (i / 4) + 2 * t + i % 2)
        };
        let mut sums = vec![0u32; self.sums() * 128];
        for (at, slot) in sums.iter_mut().enumerate() {
            let (register, thread) = (at / 128, at % 128);
            let value = |i: usize| {
                let (row, column) = place(i, thread);
                c[row][column]
            };
            *slot = if self.half_sum {
                pack(Element::F16.encode(value(2 * register)), Element::F16.encode(value(2 * register + 1)))
            } else {
                value(register).to_bits()
            };
        }
        let options = (self.options)(Options::new(Architecture::Sm90a));
        let bench = Bench::from_text(&self.text()).threads(128).options(options);
        let words: Vec<u32> = image.chunks_exact(4).map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]])).collect();
        let (image, fragments, out) = (bench.words(&words), bench.words(&fragments), bench.words(&sums));
        let report = bench.clean("k", &[image, fragments, out]);
        assert_eq!(report.counters.tensor_flops, (2 * 64 * self.columns * depth) as u64);
        let found = bench.read_words(out, self.sums() * 128);
        let sign = (self.scale_a * self.scale_b) as f32;
        for i in 0..self.columns / 2 {
            for thread in 0..128 {
                let (row, column) = place(i, thread);
                let product: f32 = (0..depth).map(|k| sign * a[row][k] * b[column][k]).sum();
                let expected = product + if self.accumulate { c[row][column] } else { 0.0 };
                let value = if self.half_sum {
                    f16_value(u64::from(found[i / 2 * 128 + thread] >> (16 * (i % 2)) & 0xffff)) as f32
                } else {
                    f32::from_bits(found[i * 128 + thread])
                };
                assert_eq!(value, expected, "{self:?} at {row}, {column}");
            }
        }
    }
}

/// A layout for `rows` rows (or columns) from `base` on.
fn layout(swizzle: usize, mn_major: bool, base: usize, rows: usize) -> Layout {
    let line = if swizzle == 0 { 16 } else { swizzle };
    let atom = 8 * line;
    let (leading, stride) = match (swizzle, mn_major) {
        // Core matrices with gaps between them.
        (0, false) => (2 * atom * (rows / 8) + 256, 2 * atom),
        (0, true) => (atom, 2 * atom),
        // The leading offset means nothing.
        (_, false) => (16, atom),
        (_, true) => (2 * atom, atom),
    };
    Layout { swizzle, mn_major, start: base, leading, stride }
}

const SWIZZLES: [usize; 4] = [0, 32, 64, 128];

fn case(columns: usize, b: Layout) -> Case {
    Case {
        columns,
        element: Element::Bf16,
        half_sum: false,
        a: Some(layout(128, false, 128 << 10, 64)),
        b,
        scale_a: 1,
        scale_b: 1,
        accumulate: true,
        options: |options| options,
    }
}

#[test]
fn every_width_swizzle_and_major_of_b() {
    for columns in (8..=256).step_by(8) {
        for swizzle in SWIZZLES {
            for mn_major in [false, true] {
                let element = if columns % 16 == 0 { Element::F16 } else { Element::Bf16 };
                Case { element, ..case(columns, layout(swizzle, mn_major, 0, columns)) }.check();
            }
        }
    }
}

#[test]
fn every_swizzle_and_major_of_a() {
    for swizzle in SWIZZLES {
        for mn_major in [false, true] {
            let a = Some(layout(swizzle, mn_major, 64 << 10, 64));
            Case { a, ..case(64, layout(128, false, 0, 64)) }.check();
        }
    }
}

#[test]
fn a_step_along_k_moves_the_start_inside_a_line() {
    for (swizzle, steps) in [(128, 4), (64, 2), (32, 1)] {
        for step in 0..steps {
            let inside = |mut layout: Layout| {
                layout.start += 32 * step;
                layout
            };
            let a = Some(inside(layout(swizzle, false, 64 << 10, 64)));
            Case { a, ..case(96, inside(layout(swizzle, false, 0, 96))) }.check();
        }
    }
}

#[test]
fn a_in_registers_both_sums_both_scales() {
    for element in [Element::F16, Element::Bf16, Element::Tf32] {
        for in_registers in [false, true] {
            for half_sum in [false, true] {
                for (scale_a, scale_b, accumulate) in [(1, 1, true), (-1, 1, true), (1, -1, false), (-1, -1, false)] {
                    if half_sum && element != Element::F16 {
                        continue;
                    }
                    let a = (!in_registers).then(|| layout(64, false, 64 << 10, 64));
                    let b = layout(128, element != Element::Tf32, 0, 40);
                    Case { element, half_sum, a, scale_a, scale_b, accumulate, ..case(40, b) }.check();
                }
            }
        }
    }
}

#[test]
fn every_schedule_and_completion_gives_the_same() {
    let all: [fn(Options) -> Options; 6] = [
        |o| o.completion(Completion::Earliest),
        |o| o.completion(Completion::Random).seed(3),
        |o| o.schedule(Schedule::Reverse),
        |o| o.schedule(Schedule::Random).seed(4),
        |o| o.schedule(Schedule::Diverged).seed(5),
        |o| o.tensor_core(TensorCore::Aligned),
    ];
    for options in all {
        for a in [None, Some(layout(128, true, 64 << 10, 64))] {
            Case { a, options, ..case(64, layout(128, true, 0, 64)) }.check();
        }
    }
}
