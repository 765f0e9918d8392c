//! Logic, shifts and bit fields, modelled bit by bit.

use crate::harness::{Out, compare};

fn bit(value: u64, at: u32) -> u64 {
    if at < 64 { value >> at & 1 } else { 0 }
}

fn build(bits: u32, each: impl Fn(u32) -> u64) -> u64 {
    (0..bits).fold(0, |value, at| value | each(at) << at)
}

#[test]
fn logic() {
    for (bits, r, out) in [(16, "%h", Out::Half), (32, "%r", Out::Word), (64, "%d", Out::Long)] {
        type Model = fn(u64, u64) -> u64;
        let operations: [(&str, Model); 3] =
            [("and", |a, b| a * b), ("or", |a, b| (a + b).min(1)), ("xor", |a, b| (a + b) % 2)];
        for (name, model) in operations {
            let instruction = format!("{name}.b{bits} {r}0, {r}1, {r}2;");
            compare(&instruction, out, |[a, b, ..]| build(bits, |at| model(bit(a, at), bit(b, at))));
        }
        compare(&format!("not.b{bits} {r}0, {r}1;"), out, |[a, ..]| build(bits, |at| 1 - bit(a, at)));
        compare(&format!("cnot.b{bits} {r}0, {r}1;"), out, |[a, ..]| u64::from((0..bits).all(|at| bit(a, at) == 0)));
    }
    compare("and.pred %p0, %p1, %p2;", Out::Predicate, |[a, b, ..]| a & b & 1);
    compare("or.pred %p0, %p1, %p2;", Out::Predicate, |[a, b, ..]| (a | b) & 1);
    compare("xor.pred %p0, %p1, %p2;", Out::Predicate, |[a, b, ..]| (a ^ b) & 1);
    compare("not.pred %p0, %p1;", Out::Predicate, |[a, ..]| !a & 1);
}

#[test]
fn lop3_for_every_table() {
    for table in 0..256u64 {
        // Every table on a few hundred inputs would take long; all tables share one path, so edges suffice.
        if table % 7 != 0 && !matches!(table, 0x96 | 0xe8 | 0xca | 0x3c | 0xff) {
            continue;
        }
        compare(&format!("lop3.b32 %r0, %r1, %r2, %r3, {table};"), Out::Word, |[a, b, c, _]| {
            build(32, |at| table >> (4 * bit(a, at) + 2 * bit(b, at) + bit(c, at)) & 1)
        });
    }
}

#[test]
fn shifts() {
    for (bits, r, out) in [(16u32, "%h", Out::Half), (32, "%r", Out::Word), (64, "%d", Out::Long)] {
        let by = |b: u64| b as u32;
        compare(&format!("shl.b{bits} {r}0, {r}1, %r2;"), out, |[a, b, ..]| {
            build(bits, |at| if at >= by(b) { bit(a, at - by(b)) } else { 0 })
        });
        let right = |a: u64, b: u64, fill: u64| {
            build(bits, |at| {
                let from = at.saturating_add(by(b));
                if from < bits { bit(a, from) } else { fill }
            })
        };
        compare(&format!("shr.u{bits} {r}0, {r}1, %r2;"), out, |[a, b, ..]| right(a, b, 0));
        compare(&format!("shr.s{bits} {r}0, {r}1, %r2;"), out, |[a, b, ..]| right(a, b, bit(a, bits - 1)));
    }
    // Register pair b:a, moved by c.
    let pair = |a: u64, b: u64| (b & 0xffff_ffff) << 32 | a & 0xffff_ffff;
    let amount = |c: u64, wrap: bool| if wrap { c as u32 % 32 } else { (c as u32).min(32) };
    for (mode, wrap) in [("wrap", true), ("clamp", false)] {
        compare(&format!("shf.l.{mode}.b32 %r0, %r1, %r2, %r3;"), Out::Word, |[a, b, c, _]| {
            build(32, |at| bit(pair(a, b), at + 32 - amount(c, wrap)))
        });
        compare(&format!("shf.r.{mode}.b32 %r0, %r1, %r2, %r3;"), Out::Word, |[a, b, c, _]| {
            build(32, |at| bit(pair(a, b), at + amount(c, wrap)))
        });
    }
}

#[test]
fn permutations() {
    let byte = |a: u64, b: u64, index: u64| ((b & 0xffff_ffff) << 32 | a & 0xffff_ffff) >> (8 * index) & 0xff;
    compare("prmt.b32 %r0, %r1, %r2, %r3;", Out::Word, |[a, b, c, _]| {
        (0..4).fold(0, |out, at| {
            let selector = c >> (4 * at) & 15;
            let chosen = byte(a, b, selector & 7);
            out | (if selector < 8 { chosen } else { (chosen >> 7) * 0xff }) << (8 * at)
        })
    });
    let modes: [(&str, [[u64; 4]; 4]); 6] = [
        ("f4e", [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6]]),
        ("b4e", [[0, 7, 6, 5], [1, 0, 7, 6], [2, 1, 0, 7], [3, 2, 1, 0]]),
        ("rc8", [[0; 4], [1; 4], [2; 4], [3; 4]]),
        ("ecl", [[0, 1, 2, 3], [1, 1, 2, 3], [2, 2, 2, 3], [3, 3, 3, 3]]),
        ("ecr", [[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 2, 2], [0, 1, 2, 3]]),
        ("rc16", [[0, 1, 0, 1], [2, 3, 2, 3], [0, 1, 0, 1], [2, 3, 2, 3]]),
    ];
    for (mode, table) in modes {
        compare(&format!("prmt.b32.{mode} %r0, %r1, %r2, %r3;"), Out::Word, |[a, b, c, _]| {
            let row = table[(c & 3) as usize];
            (0..4).fold(0, |out, at| out | byte(a, b, row[at]) << (8 * at))
        });
    }
}

#[test]
fn fields() {
    for (bits, r, out) in [(32u32, "%r", Out::Word), (64, "%d", Out::Long)] {
        for signed in [false, true] {
            let sign = if signed { 's' } else { 'u' };
            compare(&format!("bfe.{sign}{bits} {r}0, {r}1, %r2, %r3;"), out, |[a, b, c, _]| {
                let (position, length) = (b as u32 & 0xff, c as u32 & 0xff);
                let top = bits - 1;
                let fill = if !signed || length == 0 { 0 } else { bit(a, (position + length - 1).min(top)) };
                build(bits, |at| if at < length && position + at <= top { bit(a, position + at) } else { fill })
            });
        }
        compare(&format!("bfi.b{bits} {r}0, {r}1, {r}2, %r3, %r4;"), out, |[a, b, c, e]| {
            let (position, length) = (c as u32 & 0xff, e as u32 & 0xff);
            build(bits, |at| {
                let inside = at >= position && at < position + length;
                if inside { bit(a, at - position) } else { bit(b, at) }
            })
        });
        compare(&format!("popc.b{bits} %r0, {r}1;"), Out::Word, |[a, ..]| (0..bits).map(|at| bit(a, at)).sum());
        let highest = |a: u64, bits: u32| (0..bits).rev().find(|at| bit(a, *at) == 1);
        compare(&format!("clz.b{bits} %r0, {r}1;"), Out::Word, |[a, ..]| {
            highest(a, bits).map_or(u64::from(bits), |at| u64::from(bits - 1 - at))
        });
        compare(&format!("brev.b{bits} {r}0, {r}1;"), out, |[a, ..]| build(bits, |at| bit(a, bits - 1 - at)));
        for (sign, signed) in [("u", false), ("s", true)] {
            let different = |a: u64| {
                let skip = if signed { bit(a, bits - 1) } else { 0 };
                (0..bits).rev().find(|at| bit(a, *at) != skip)
            };
            compare(&format!("bfind.{sign}{bits} %r0, {r}1;"), Out::Word, |[a, ..]| {
                different(a).map_or(0xffff_ffff, u64::from)
            });
            compare(&format!("bfind.shiftamt.{sign}{bits} %r0, {r}1;"), Out::Word, |[a, ..]| {
                different(a).map_or(0xffff_ffff, |at| u64::from(bits - 1 - at))
            });
        }
    }
}
