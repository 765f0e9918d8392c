//! Moves, packing and address spaces.

use crate::harness::{Out, compare};

#[test]
fn plain() {
    compare("mov.u16 %h0, %h1;", Out::Half, |[a, ..]| a & 0xffff);
    compare("mov.b32 %r0, %r1;", Out::Word, |[a, ..]| a & 0xffff_ffff);
    compare("mov.f64 %d0, %d1;", Out::Long, |[a, ..]| a);
    compare("mov.pred %p0, %p1;", Out::Predicate, |[a, ..]| a & 1);
    compare("mov.f32 %r0, 0f3F800000;", Out::Word, |_| 0x3f80_0000);
    compare("mov.f64 %d0, 0d3FF0000000000000;", Out::Long, |_| 0x3ff0_0000_0000_0000);
    compare("mov.s32 %r0, -5;", Out::Word, |_| 0xffff_fffb);
    compare("mov.u32 %r0, 0x10U;", Out::Word, |_| 16);
    compare("mov.u32 %r0, 010;", Out::Word, |_| 8);
    compare("mov.u32 %r0, WARP_SZ;", Out::Word, |_| 32);
}

#[test]
fn packing() {
    compare("mov.b32 %r0, {%h1, %h2};", Out::Word, |[a, b, ..]| a & 0xffff | (b & 0xffff) << 16);
    compare("mov.b64 %d0, {%r1, %r2};", Out::Long, |[a, b, ..]| a & 0xffff_ffff | b << 32);
    compare("mov.b64 %d0, {%h1, %h2, %h3, %h4};", Out::Long, |inputs| {
        inputs.iter().rev().fold(0, |all, part| all << 16 | part & 0xffff)
    });
    compare("mov.b32 {_, %h0}, %r1;", Out::Half, |[a, ..]| a >> 16 & 0xffff);
    compare("mov.b64 {%r0, _}, %d1;", Out::Word, |[a, ..]| a & 0xffff_ffff);
    compare("mov.b64 {_, _, %h0, _}, %d1;", Out::Half, |[a, ..]| a >> 32 & 0xffff);
}

#[test]
fn scoped_names_hide_outer_ones() {
    let inner = "{ .reg .b32 %r1; .reg .b32 t; mov.b32 %r1, 7; mov.b32 t, %r1; mov.b32 %r0, t; }";
    compare(inner, Out::Word, |_| 7);
    let twice = "{ bra LAB; mov.b32 %r0, 1; LAB: } { bra LAB; mov.b32 %r0, 2; LAB: add.u32 %r0, %r0, 5; }";
    compare(twice, Out::Word, |_| 5);
}

#[test]
fn special_registers() {
    compare(
        "mov.u32 %r0, %laneid; mov.u32 %r5, %tid.x; and.b32 %r5, %r5, 31; sub.u32 %r0, %r0, %r5;",
        Out::Word,
        |_| 0,
    );
    compare(
        "mov.u32 %r0, %lanemask_lt; popc.b32 %r0, %r0; mov.u32 %r5, %laneid; sub.u32 %r0, %r0, %r5;",
        Out::Word,
        |_| 0,
    );
    compare("mov.u32 %r0, %lanemask_ge; mov.u32 %r5, %lanemask_lt; xor.b32 %r0, %r0, %r5;", Out::Word, |_| 0xffff_ffff);
    compare("mov.u32 %r0, %lanemask_le; mov.u32 %r5, %lanemask_gt; xor.b32 %r0, %r0, %r5;", Out::Word, |_| 0xffff_ffff);
    compare("mov.u32 %r0, %ntid.x;", Out::Word, |_| 128);
    compare("mov.u32 %r0, %nctaid.x;", Out::Word, |_| 4096 / 128);
    compare("mov.u64 %d0, %clock64; mov.u64 %d5, %clock64; sub.u64 %d0, %d5, %d0;", Out::Long, |_| 1);
}

#[test]
fn generic_addresses_know_their_space() {
    let shared = ".shared .align 4 .b32 word; mov.u64 %d5, word; cvta.shared.u64 %d6, %d5;";
    compare(&format!("{shared} isspacep.shared %p0, %d6; isspacep.global %p5, %d6;"), Out::Predicate, |_| 1);
    compare(&format!("{shared} cvta.to.shared.u64 %d7, %d6; sub.u64 %d0, %d7, %d5;"), Out::Long, |_| 0);
    compare("isspacep.global %p0, %d11; isspacep.local %p5, %d11;", Out::Predicate, |_| 1);
    let local = ".local .align 8 .b64 depot[2]; mov.u64 %d5, depot; cvta.local.u64 %d6, %d5;";
    compare(&format!("{local} isspacep.local %p0, %d6; isspacep.shared %p5, %d6;"), Out::Predicate, |_| 1);
}
