//! Logic, shifts and bit fields.

use super::{binary, binary_mixed, ternary, ternary_mixed, unary};
use crate::Error;
use crate::decode::{Decoder, Form, Inst};
use crate::machine::lanes::{long1, long2, mixed, word1, word2, word3};
use crate::machine::{Exec, Handler, Step};
use crate::module::ScalarType::*;

pub(super) fn decode(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    match f.base {
        "and" | "or" | "xor" | "not" | "cnot" => logic(d, f),
        "shl" | "shr" => shift(d, f),
        "shf" => funnel(d, f),
        "lop3" => lop3(d, f),
        "prmt" => permute(d, f),
        "bfe" => extract(d, f),
        "bfi" => insert(d, f),
        "bfind" => find(d, f),
        _ => count(d, f),
    }
}

fn logic(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    let ty = f.ty()?;
    let handler: Handler = match (f.base, ty) {
        ("and", B16 | B32) => word2!(|a, b| a & b),
        ("or", B16 | B32) => word2!(|a, b| a | b),
        ("xor", B16 | B32) => word2!(|a, b| a ^ b),
        ("and", B64) => long2!(|a, b| a & b),
        ("or", B64) => long2!(|a, b| a | b),
        ("xor", B64) => long2!(|a, b| a ^ b),
        ("and", Pred) => predicate_logic::<0>,
        ("or", Pred) => predicate_logic::<1>,
        ("xor", Pred) => predicate_logic::<2>,
        ("not", B16) => return unary(d, f, word1!(|a| !a & 0xffff), ty, ty),
        ("not", B32) => return unary(d, f, word1!(|a| !a), ty, ty),
        ("not", B64) => return unary(d, f, long1!(|a| !a), ty, ty),
        ("not", Pred) => return unary(d, f, predicate_not, ty, ty),
        ("cnot", B16 | B32) => return unary(d, f, word1!(|a| u32::from(a == 0)), ty, ty),
        ("cnot", B64) => return unary(d, f, long1!(|a| u64::from(a == 0)), ty, ty),
        _ => return Err(f.unsupported(format!("type {ty:?} is not possible here"))),
    };
    binary(d, f, handler, ty)
}

fn predicate_logic<const OPERATION: u8>(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
    let a = x.predicate(i.a, mask);
    let b = x.predicate(i.b, mask);
    let value = match OPERATION {
        0 => a & b,
        1 => a | b,
        _ => a ^ b,
    };
    x.set_predicate(i.d, mask, value);
    Step::Next
}

fn predicate_not(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
    let a = x.predicate(i.a, mask);
    x.set_predicate(i.d, mask, !a);
    Step::Next
}

/// Shift amounts beyond the width clamp.
fn shift(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    let ty = f.ty()?;
    let handler: Handler = match (f.base, ty) {
        ("shl", B16) => word2!(|a, b| if b > 15 { 0 } else { a << b & 0xffff }),
        ("shl", B32) => word2!(|a, b| if b > 31 { 0 } else { a << (b & 31) }),
        ("shl", B64) => shift_long::<0>,
        ("shr", B16 | U16) => word2!(|a, b| if b > 15 { 0 } else { a >> b }),
        ("shr", S16) => word2!(|a, b| (i32::from(a as i16) >> b.min(15)) as u32 & 0xffff),
        ("shr", B32 | U32) => word2!(|a, b| if b > 31 { 0 } else { a >> (b & 31) }),
        ("shr", S32) => word2!(|a, b| (a as i32 >> b.min(31)) as u32),
        ("shr", B64 | U64) => shift_long::<1>,
        ("shr", S64) => shift_long::<2>,
        _ => return Err(f.unsupported(format!("type {ty:?} is not possible here"))),
    };
    binary_mixed(d, f, handler, [ty, ty, U32])
}

fn shift_long<const KIND: u8>(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
    let a = x.long(i.a, mask);
    let b = x.word(i.b, mask);
    let mut out = [0; 32];
    for lane in 0..32 {
        let by = b[lane].min(63);
        let over = b[lane] > 63;
        out[lane] = match KIND {
            0 => {
                if over {
                    0
                } else {
                    a[lane] << by
                }
            }
            1 => {
                if over {
                    0
                } else {
                    a[lane] >> by
                }
            }
            _ => (a[lane] as i64 >> by) as u64,
        };
    }
    x.set_long(i.d, mask, &out);
    Step::Next
}

/// `shf`: the operands `b:a` as one 64-bit value.
fn funnel(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    let left = f.require("the direction", &[("l", true), ("r", false)])?;
    let wrap = f.require("the mode", &[("wrap", true), ("clamp", false)])?;
    let ty = f.ty()?;
    if ty != B32 {
        return Err(f.unsupported("only .b32 exists"));
    }
    fn joined(a: u32, b: u32) -> u64 {
        u64::from(b) << 32 | u64::from(a)
    }
    let handler: Handler = match (left, wrap) {
        (true, true) => word3!(|a, b, c| (joined(a, b) << (c & 31) >> 32) as u32),
        (true, false) => word3!(|a, b, c| (joined(a, b) << c.min(32) >> 32) as u32),
        (false, true) => word3!(|a, b, c| (joined(a, b) >> (c & 31)) as u32),
        (false, false) => word3!(|a, b, c| (joined(a, b) >> c.min(32)) as u32),
    };
    ternary(d, f, handler, B32)
}

/// `lop3.b32 d, a, b, c, table`: bit `4a + 2b + c` of the table, for each bit position.
fn lop3(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    if f.ty()? != B32 {
        return Err(f.unsupported("only .b32 exists"));
    }
    f.expect_operands(5..=5)?;
    let mut inst = Inst::new(|x, i, mask| {
        let (a, b, c) = (x.word(i.a, mask), x.word(i.b, mask), x.word(i.c, mask));
        let mut out = [0u32; 32];
        for term in (0..8).filter(|term| i.flags >> term & 1 != 0) {
            let flip = |bit: u32| if term >> bit & 1 != 0 { 0 } else { u32::MAX };
            let (fa, fb, fc) = (flip(2), flip(1), flip(0));
            for lane in 0..32 {
                out[lane] |= (a[lane] ^ fa) & (b[lane] ^ fb) & (c[lane] ^ fc);
            }
        }
        x.set_word(i.d, mask, &out);
        Step::Next
    });
    inst.d = d.destination(f, f.operand(0)?, B32)?;
    inst.a = d.source(f, f.operand(1)?, B32)?;
    inst.b = d.source(f, f.operand(2)?, B32)?;
    inst.c = d.source(f, f.operand(3)?, B32)?;
    inst.flags = f.constant(4)? as u32 & 0xff;
    Ok(inst)
}

fn permute(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    if f.ty()? != B32 {
        return Err(f.unsupported("only .b32 exists"));
    }
    fn pick(a: u32, b: u32, index: u32) -> u32 {
        ((u64::from(b) << 32 | u64::from(a)) >> (index * 8)) as u32 & 0xff
    }
    fn gather(a: u32, b: u32, indices: [u32; 4]) -> u32 {
        indices.iter().enumerate().fold(0, |out, (at, index)| out | pick(a, b, *index) << (8 * at))
    }
    let modes: [(&str, Handler); 6] = [
        ("f4e", word3!(|a, b, c| gather(a, b, std::array::from_fn(|k| (c & 3) + k as u32)))),
        ("b4e", word3!(|a, b, c| gather(a, b, std::array::from_fn(|k| (c & 3).wrapping_sub(k as u32) & 7)))),
        ("rc8", word3!(|a, b, c| gather(a, b, [c & 3; 4]))),
        ("ecl", word3!(|a, b, c| gather(a, b, std::array::from_fn(|k| (c & 3).max(k as u32))))),
        ("ecr", word3!(|a, b, c| gather(a, b, std::array::from_fn(|k| (c & 3).min(k as u32))))),
        ("rc16", word3!(|a, b, c| gather(a, b, std::array::from_fn(|k| (c & 1) * 2 + (k as u32 & 1))))),
    ];
    // Each nibble of the selector: three bits of index, and one that replicates the byte's sign.
    let general: Handler = word3!(|a, b, c| {
        let mut out = 0;
        for at in 0..4 {
            let nibble = c >> (4 * at) & 0xf;
            let byte = pick(a, b, nibble & 7);
            let byte = if nibble & 8 == 0 {
                byte
            } else if byte & 0x80 != 0 {
                0xff
            } else {
                0
            };
            out |= byte << (8 * at);
        }
        out
    });
    ternary(d, f, f.choose(&modes).unwrap_or(general), B32)
}

/// `bfe`: position and length are the low bytes of `b` and `c`.
fn extract(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    let ty = f.ty()?;
    fn field(value: u64, bits: u32, position: u32, length: u32, signed: bool) -> u64 {
        let (position, length) = (position & 0xff, length & 0xff);
        if length == 0 {
            return 0;
        }
        let shifted = if position >= bits { 0 } else { value >> position };
        let kept = if length >= 64 { shifted } else { shifted & ((1 << length) - 1) };
        // Beyond the top of the value, a signed field is filled with its sign bit.
        let sign_at = (position + length - 1).min(bits - 1);
        if !signed || value >> sign_at & 1 == 0 {
            return kept;
        }
        let valid = if position >= bits { 0 } else { (sign_at + 1 - position).min(length) };
        if valid >= 64 { kept } else { kept | u64::MAX << valid }
    }
    let handler: Handler = match ty {
        U32 => word3!(|a, b, c| field(u64::from(a), 32, b, c, false) as u32),
        S32 => word3!(|a, b, c| field(u64::from(a), 32, b, c, true) as u32),
        U64 => long_field::<false>,
        S64 => long_field::<true>,
        _ => return Err(f.unsupported(format!("type {ty:?} is not possible here"))),
    };
    fn long_field<const SIGNED: bool>(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
        let (a, b, c) = (x.long(i.a, mask), x.word(i.b, mask), x.word(i.c, mask));
        let out = std::array::from_fn(|lane| field(a[lane], 64, b[lane], c[lane], SIGNED));
        x.set_long(i.d, mask, &out);
        Step::Next
    }
    ternary_mixed(d, f, handler, [ty, ty, U32, U32])
}

/// `bfi d, a, b, c, e`: the low bits of `a` into `b` at position `c`, length `e`.
fn insert(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    let ty = f.ty()?;
    fn field(a: u64, b: u64, position: u32, length: u32, bits: u32) -> u64 {
        let (position, length) = (position & 0xff, (length & 0xff).min(bits));
        if position >= bits || length == 0 {
            return b;
        }
        let ones = if length >= 64 { u64::MAX } else { (1 << length) - 1 };
        b & !(ones << position) | (a & ones) << position
    }
    f.expect_operands(5..=5)?;
    let handler: Handler = match ty {
        B32 => |x, i, mask| {
            let (a, b) = (x.word(i.a, mask), x.word(i.b, mask));
            let (position, length) = (x.word(i.c, mask), x.word(i.flags, mask));
            let out = std::array::from_fn(|lane| {
                field(u64::from(a[lane]), u64::from(b[lane]), position[lane], length[lane], 32) as u32
            });
            x.set_word(i.d, mask, &out);
            Step::Next
        },
        B64 => |x, i, mask| {
            let (a, b) = (x.long(i.a, mask), x.long(i.b, mask));
            let (position, length) = (x.word(i.c, mask), x.word(i.flags, mask));
            let out = std::array::from_fn(|lane| field(a[lane], b[lane], position[lane], length[lane], 64));
            x.set_long(i.d, mask, &out);
            Step::Next
        },
        _ => return Err(f.unsupported(format!("type {ty:?} is not possible here"))),
    };
    let mut inst = Inst::new(handler);
    inst.d = d.destination(f, f.operand(0)?, ty)?;
    inst.a = d.source(f, f.operand(1)?, ty)?;
    inst.b = d.source(f, f.operand(2)?, ty)?;
    inst.c = d.source(f, f.operand(3)?, U32)?;
    inst.flags = d.source(f, f.operand(4)?, U32)?;
    Ok(inst)
}

/// `bfind`: the highest bit that differs from the sign, counted from below, or with `.shiftamt` how
/// far it is from the top.
fn find(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    let shift = f.accept("shiftamt");
    let ty = f.ty()?;
    fn word(a: u32, shift: bool) -> u32 {
        let zeros = a.leading_zeros();
        if zeros == 32 {
            u32::MAX
        } else if shift {
            zeros
        } else {
            31 - zeros
        }
    }
    fn long(a: u64, shift: bool) -> u32 {
        let zeros = a.leading_zeros();
        if zeros == 64 {
            u32::MAX
        } else if shift {
            zeros
        } else {
            63 - zeros
        }
    }
    let handler: Handler = match (ty, shift) {
        (U32, false) => word1!(|a| word(a, false)),
        (U32, true) => word1!(|a| word(a, true)),
        (S32, false) => word1!(|a| word(a ^ (a as i32 >> 31) as u32, false)),
        (S32, true) => word1!(|a| word(a ^ (a as i32 >> 31) as u32, true)),
        (U64, false) => mixed!(long => word, |a| long(a, false)),
        (U64, true) => mixed!(long => word, |a| long(a, true)),
        (S64, false) => mixed!(long => word, |a| long(a ^ (a as i64 >> 63) as u64, false)),
        (S64, true) => mixed!(long => word, |a| long(a ^ (a as i64 >> 63) as u64, true)),
        _ => return Err(f.unsupported(format!("type {ty:?} is not possible here"))),
    };
    unary(d, f, handler, U32, ty)
}

fn count(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    let ty = f.ty()?;
    let (to, handler): (_, Handler) = match (f.base, ty) {
        ("popc", B32) => (U32, word1!(|a| a.count_ones())),
        ("popc", B64) => (U32, mixed!(long => word, |a| a.count_ones())),
        ("clz", B32) => (U32, word1!(|a| a.leading_zeros())),
        ("clz", B64) => (U32, mixed!(long => word, |a| a.leading_zeros())),
        ("brev", B32) => (B32, word1!(|a| a.reverse_bits())),
        ("brev", B64) => (B64, long1!(|a| a.reverse_bits())),
        _ => return Err(f.unsupported(format!("type {ty:?} is not possible here"))),
    };
    unary(d, f, handler, to, ty)
}
