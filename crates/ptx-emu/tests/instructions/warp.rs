//! Exchanges between lanes, modelled on arrays of 32.

use crate::harness::{Inputs, Out, any_inputs, compare_warps};

/// The loop of the manual for one lane: source lane, and whether it is in range.
fn source(mode: &str, lane: i32, b: u32, c: u32) -> (i32, bool) {
    let (by, clamp, segment) = ((b & 31) as i32, (c & 31) as i32, (c >> 8 & 31) as i32);
    let last = lane & segment | clamp & !segment;
    let (target, inside) = match mode {
        "up" => (lane - by, lane - by >= last),
        "down" => (lane + by, lane + by <= last),
        "bfly" => (lane ^ by, (lane ^ by) <= last),
        _ => {
            let target = lane & segment | by & !segment;
            (target, target <= last)
        }
    };
    if inside { (target, true) } else { (lane, false) }
}

#[test]
fn shuffles() {
    for mode in ["up", "down", "bfly", "idx"] {
        // The clamps that CUDA uses for widths of 32, 16, 8 and 4.
        for width in [32u32, 16, 8, 4] {
            let c = (32 - width) << 8 | if mode == "up" { 0 } else { 31 };
            let instruction = format!("shfl.sync.{mode}.b32 %r0|%p0, %r1, %r2, {c}, -1;");
            let one = |lanes: &[Inputs], lane: usize| source(mode, lane as i32, lanes[lane][1] as u32, c);
            compare_warps(&instruction, Out::Word, &any_inputs(), |lanes| {
                (0..32).map(|lane| lanes[one(lanes, lane).0 as usize][0] & 0xffff_ffff).collect()
            });
            compare_warps(&instruction, Out::Predicate, &any_inputs(), |lanes| {
                (0..32).map(|lane| u64::from(one(lanes, lane).1)).collect()
            });
        }
    }
}

#[test]
fn votes() {
    let ballot = |lanes: &[Inputs]| lanes.iter().rev().fold(0u64, |all, inputs| all << 1 | inputs[0] & 1);
    let inputs = any_inputs();
    compare_warps("vote.sync.ballot.b32 %r0, %p1, -1;", Out::Word, &inputs, |lanes| vec![ballot(lanes); 32]);
    compare_warps("vote.sync.ballot.b32 %r0, !%p1, -1;", Out::Word, &inputs, |lanes| {
        vec![ballot(lanes) ^ 0xffff_ffff; 32]
    });
    let mut agreeing = inputs.clone();
    agreeing[..1024].iter_mut().for_each(|inputs| inputs[0] |= 1);
    agreeing[1024..2048].iter_mut().for_each(|inputs| inputs[0] &= !1);
    for (mode, model) in [
        ("all", (|v: u64| v == 0xffff_ffff) as fn(u64) -> bool),
        ("any", |v| v != 0),
        ("uni", |v| v == 0 || v == 0xffff_ffff),
    ] {
        compare_warps(&format!("vote.sync.{mode}.pred %p0, %p1, -1;"), Out::Predicate, &agreeing, |lanes| {
            vec![u64::from(model(ballot(lanes))); 32]
        });
    }
}

#[test]
fn matches() {
    // Few different values, so that lanes do agree.
    let mut few: Vec<Inputs> = any_inputs().iter().map(|[a, ..]| [a % 3, 0, 0, 0]).collect();
    few[..512].iter_mut().for_each(|inputs| inputs[0] = 9);
    for (bits, r) in [(32, "%r"), (64, "%d")] {
        compare_warps(&format!("match.any.sync.b{bits} %r0, {r}1, -1;"), Out::Word, &few, |lanes| {
            let same = |value| (0..32).filter(|k| lanes[*k][0] == value).fold(0, |all, k| all | 1 << k);
            lanes.iter().map(|inputs| same(inputs[0])).collect()
        });
        compare_warps(&format!("match.all.sync.b{bits} %r0|%p0, {r}1, -1;"), Out::Word, &few, |lanes| {
            vec![if lanes.iter().all(|l| l[0] == lanes[0][0]) { 0xffff_ffff } else { 0 }; 32]
        });
    }
}

#[test]
fn reductions() {
    type Model = fn(u32, u32) -> u32;
    let operations: [(&str, Model); 8] = [
        ("add.u32", u32::wrapping_add),
        ("min.u32", |a, b| if a < b { a } else { b }),
        ("max.u32", |a, b| if a > b { a } else { b }),
        ("min.s32", |a, b| if (a as i32) < b as i32 { a } else { b }),
        ("max.s32", |a, b| if a as i32 > b as i32 { a } else { b }),
        ("and.b32", |a, b| a & b),
        ("or.b32", |a, b| a | b),
        ("xor.b32", |a, b| a ^ b),
    ];
    for (name, model) in operations {
        compare_warps(&format!("redux.sync.{name} %r0, %r1, -1;"), Out::Word, &any_inputs(), |lanes| {
            let total = lanes.iter().map(|inputs| inputs[0] as u32).reduce(model).unwrap();
            vec![u64::from(total); 32]
        });
    }
    // Halves of a warp, each with its own member mask in the same instruction.
    let halves = "mov.u32 %r5, %laneid; setp.lt.u32 %p6, %r5, 16; selp.b32 %r6, 0xffff, 0xffff0000, %p6; \
                  redux.sync.add.u32 %r0, %r1, %r6;";
    compare_warps(halves, Out::Word, &any_inputs(), |lanes| {
        let sum = |part: &[Inputs]| u64::from(part.iter().fold(0u32, |sum, l| sum.wrapping_add(l[0] as u32)));
        (0..32).map(|lane| if lane < 16 { sum(&lanes[..16]) } else { sum(&lanes[16..]) }).collect()
    });
}

#[test]
fn barrier_reductions() {
    // Blocks have 128 threads: the model looks at one warp, so all four agree on the predicate of lane 0.
    let same: Vec<Inputs> =
        any_inputs().iter().enumerate().map(|(k, i)| [i[0] & !1 | (k as u64 >> 7 & 1), 0, 0, 0]).collect();
    compare_warps("bar.red.popc.u32 %r0, 1, %p1;", Out::Word, &same, |lanes| vec![128 * (lanes[0][0] & 1); 32]);
    compare_warps("bar.red.and.pred %p0, 1, %p1;", Out::Predicate, &same, |lanes| vec![lanes[0][0] & 1; 32]);
    compare_warps("barrier.sync 2; barrier.cta.red.or.pred %p0, 1, 128, !%p1;", Out::Predicate, &same, |lanes| {
        vec![lanes[0][0] & 1 ^ 1; 32]
    });
}

#[test]
fn elections() {
    // The lowest of the lanes that are named; its number goes to all of them.
    let inputs = any_inputs();
    compare_warps("elect.sync %r0|%p0, -1;", Out::Predicate, &inputs, |_| {
        (0..32).map(|lane| u64::from(lane == 0)).collect()
    });
    let upper = "mov.u32 %r5, %laneid; setp.ge.u32 %p6, %r5, 11; mov.u32 %r0, 77; setp.ne.u32 %p0, %r0, 77;\n\
                 @%p6 elect.sync %r0|%p0, 0xfffff800;";
    compare_warps(upper, Out::Predicate, &inputs, |_| (0..32).map(|lane| u64::from(lane == 11)).collect());
    compare_warps(upper, Out::Word, &inputs, |_| (0..32).map(|lane| if lane < 11 { 77 } else { 11 }).collect());
}
