//! Tensor copies against a plain walk over the box, with the swizzle written down as the manual draws it.

use super::bulk::element;
use crate::hopper::*;
use ptx_emu::Error;
use ptx_emu::tensor_map::{Element, Swizzle, TensorMap};

/// Where byte `at` of a box lies: line and column of chunks in a picture of lines as wide as the swizzle, where the column
/// is exchanged by the number of the 128-byte line.
fn place(swizzle: Swizzle, at: usize) -> usize {
    let (width, period) = match swizzle {
        Swizzle::None => return at,
        Swizzle::Bytes32 => (2, 4),
        Swizzle::Bytes64 => (4, 2),
        Swizzle::Bytes128 => (8, 1),
    };
    let (chunk, within) = (at / 16, at % 16);
    let (line, column) = (chunk / width, chunk % width);
    (line * width + (column ^ (line / period % width))) * 16 + within
}

/// Each element of a box: its number in the box, and the byte offset in the tensor if it lies inside.
fn walk(map: &TensorMap, corner: &[i32]) -> Vec<(usize, Option<usize>)> {
    let count: u32 = map.box_dims.iter().product();
    let size = u64::from(map.element.bytes());
    let strides: Vec<u64> = [size].iter().chain(&map.strides_bytes).copied().collect();
    let of = |number: u32| {
        let (mut rest, mut offset) = (number, Some(0u64));
        for axis in 0..map.dims.len() {
            let at = i64::from(corner[axis]) + i64::from(rest % map.box_dims[axis]);
            rest /= map.box_dims[axis];
            let inside = at >= 0 && (at as u64) < map.dims[axis];
            offset = offset.filter(|_| inside).map(|offset| offset + at as u64 * strides[axis]);
        }
        (number as usize, offset.map(|offset| offset as usize))
    };
    (0..count).map(of).collect()
}

fn coordinates(corner: &[i32]) -> (String, String) {
    let moves = corner.iter().enumerate().map(|(axis, at)| format!("mov.s32 %r{}, {at};\n", 10 + axis)).collect();
    let names: Vec<String> = (0..corner.len()).map(|axis| format!("%r{}", 10 + axis)).collect();
    (moves, names.join(", "))
}

fn loading(map: &TensorMap, corner: &[i32]) -> Bed {
    let (moves, names) = coordinates(corner);
    let bytes = box_bytes(map) as u32;
    let body = init(0, 1)
        + &moves
        + &expect(0, bytes)
        + &format!(
            "@%p0 cp.async.bulk.tensor.{}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes \
             [%r1], [%d2, {{{names}}}], [%r2];\n",
            corner.len()
        )
        + &wait(0, 0)
        + &dump(bytes);
    let mut test = bed(body);
    test.map = Some((Of::Input, map.clone()));
    test
}

fn box_bytes(map: &TensorMap) -> usize {
    map.box_dims.iter().product::<u32>() as usize * map.element.bytes() as usize
}

fn check_load(map: &TensorMap, corner: &[i32], in_every_order: bool) {
    let test = loading(map, corner);
    let out = if in_every_order { test.every() } else { test.output() };
    let size = map.element.bytes() as usize;
    let fill: &[u8] = if map.fills_with_nan { &[0xf7, 0x7f, 0xf7, 0x7f, 0xf7, 0x7f, 0xf7, 0x7f] } else { &[0; 8] };
    for (number, offset) in walk(map, corner) {
        let expected = offset.map_or(&fill[..size], |offset| &test.input[offset..offset + size]);
        let found = &out[place(map.swizzle, number * size)..][..size];
        assert_eq!(found, expected, "element {number} at {offset:?} of {map:?} from {corner:?}");
    }
    assert!(out[box_bytes(map)..].iter().all(|byte| *byte == 0xaa));
}

/// Tensors of one to five dimensions with gaps between their rows, in elements of `size` bytes.
fn tensors(element: Element) -> Vec<TensorMap> {
    let inner = 64 / element.bytes();
    let row = 128;
    let odd = u64::from(inner) + 3;
    vec![
        map(element, &[odd], &[], &[inner]),
        map(element, &[odd, 7], &[row], &[inner, 4]),
        map(element, &[odd, 5, 3], &[row, 5 * row + 16], &[inner, 2, 2]),
        map(element, &[odd, 3, 2, 4], &[row, 3 * row, 6 * row], &[inner, 2, 2, 3]),
        map(element, &[odd, 2, 3, 2, 2], &[row, 2 * row, 6 * row, 12 * row + 32], &[inner, 2, 2, 1, 2]),
    ]
}

/// Elements in 16 bytes, at multiples of which boxes begin along a row.
fn chunk(map: &TensorMap) -> i32 {
    16 / map.element.bytes() as i32
}

/// As far along every axis, in chunks along the rows.
fn diagonal(map: &TensorMap, at: i32) -> Vec<i32> {
    let mut corner = vec![at; map.dims.len()];
    corner[0] *= chunk(map);
    corner
}

const ELEMENTS: [Element; 10] = [
    Element::U8,
    Element::U16,
    Element::U32,
    Element::S32,
    Element::U64,
    Element::S64,
    Element::F16,
    Element::Bf16,
    Element::F32,
    Element::F64,
];

#[test]
fn loads_of_every_rank_and_type() {
    for element in ELEMENTS {
        for map in tensors(element) {
            let rank = map.dims.len();
            check_load(&map, &vec![0; rank], false);
            // Across each lower and each upper end, past it by some elements, and past it altogether.
            for axis in 0..rank {
                let step = if axis == 0 { chunk(&map) } else { 1 };
                let last = (map.dims[axis] as i32 - 1) / step * step;
                for at in [-step, -3 * step, step, last, last + step, -300 * step, i32::MIN, i32::MAX - (step - 1)] {
                    let mut corner = vec![0; rank];
                    corner[axis] = at;
                    check_load(&map, &corner, false);
                }
            }
            check_load(&map, &diagonal(&map, -1), false);
            check_load(&map, &diagonal(&map, 1), false);
        }
    }
}

#[test]
fn the_outside_reads_as_zero_or_nan() {
    for element in [Element::F16, Element::Bf16, Element::F32, Element::F64] {
        for mut map in tensors(element) {
            map.fills_with_nan = true;
            check_load(&map, &diagonal(&map, -1), false);
        }
    }
}

#[test]
fn loads_in_every_swizzle_and_order() {
    for (swizzle, span) in
        [(Swizzle::None, 48), (Swizzle::Bytes32, 32), (Swizzle::Bytes64, 64), (Swizzle::Bytes128, 128)]
    {
        for element in [Element::U8, Element::Bf16, Element::F32] {
            let inner = span / element.bytes();
            let row = u64::from(span) + 16;
            let mut map = map(element, &[u64::from(inner) + 1, 11, 2], &[row, 12 * row], &[inner, 9, 2]);
            map.swizzle = swizzle;
            check_load(&map, &[0, 0, 0], element == Element::Bf16);
            check_load(&map, &[-chunk(&map), -1, 1], element == Element::Bf16);
            check_load(&map, &[chunk(&map), 3, -1], false);
        }
    }
}

#[test]
fn swizzles_go_by_the_address_in_shared_memory() {
    // The same box 128 bytes further on: the exchange is that of the address, not that of the box.
    let mut tensor = map(Element::F32, &[32, 8], &[128], &[32, 4]);
    tensor.swizzle = Swizzle::Bytes128;
    let mut test = loading(&tensor, &[0, 0]);
    test.body = test
        .body
        .replace("[%r1], [%d2", "[%r1+384], [%d2")
        .replace(&dump(512), &("add.u32 %r1, %r1, 384;\n".to_owned() + &dump(512)));
    let out = test.every();
    for (number, offset) in walk(&tensor, &[0, 0]) {
        let at = place(Swizzle::Bytes128, 384 + 4 * number) - 384;
        assert_eq!(out[at..at + 4], test.input[offset.unwrap()..][..4]);
    }
}

#[test]
fn stores_leave_out_what_lies_outside() {
    for (element, swizzle) in [
        (Element::U8, Swizzle::None),
        (Element::F16, Swizzle::Bytes64),
        (Element::F32, Swizzle::Bytes64),
        (Element::F64, Swizzle::None),
    ] {
        for mut map in tensors(element) {
            map.swizzle = swizzle;
            let rank = map.dims.len();
            let corners = [0, -1, 2, -400].map(|at| diagonal(&map, at));
            for (number, corner) in corners.into_iter().enumerate() {
                let (moves, names) = coordinates(&corner);
                let body = fill(box_bytes(&map) as u32)
                    + FENCE
                    + BAR
                    + &moves
                    + &format!(
                        "@%p0 cp.async.bulk.tensor.{rank}d.global.shared::cta.tile.bulk_group [%d2, {{{names}}}], [%r1];\n"
                    )
                    + COMMIT
                    + WAIT_GROUP;
                let mut test = bed(body);
                test.map = Some((Of::Output, map.clone()));
                let out = if rank == 3 && number == 1 { test.every() } else { test.output() };
                let size = element.bytes() as usize;
                let mut expected = test.output.clone();
                for (number, offset) in walk(&map, &corner) {
                    if let Some(offset) = offset {
                        let at = place(map.swizzle, number * size);
                        expected[offset..offset + size].copy_from_slice(&test.input[at..at + size]);
                    }
                }
                assert!(out == expected, "{map:?} to {corner:?}");
            }
        }
    }
}

#[test]
fn reductions_of_boxes() {
    type Model = fn(u64, u64) -> u64;
    let float: Model = |a, b| u64::from((f32::from_bits(a as u32) + f32::from_bits(b as u32)).to_bits());
    let cases: [(Element, &str, &str, Model); 8] = [
        (Element::U32, "u32", "add", |a, b| (a + b) & 0xffff_ffff),
        (Element::U32, "u32", "xor", |a, b| a ^ b),
        (Element::U32, "u32", "inc", |a, b| if a >= b { 0 } else { a + 1 }),
        (Element::S32, "s32", "min", |a, b| u64::from((a as i32).min(b as i32) as u32)),
        (Element::S32, "s32", "or", |a, b| a | b),
        (Element::U64, "u64", "max", u64::max),
        (Element::U64, "u64", "and", |a, b| a & b),
        (Element::F32, "f32", "add", float),
    ];
    for (kind, ty, operation, model) in cases {
        let size = kind.bytes() as usize;
        let tensor = map(kind, &[11, 5], &[128], &[64 / kind.bytes(), 4]);
        let corner = [-chunk(&tensor), 2];
        let (moves, names) = coordinates(&corner);
        let body = fill(256)
            + FENCE
            + BAR
            + &moves
            + &format!(
                "@%p0 cp.reduce.async.bulk.tensor.2d.global.shared::cta.{operation}.tile.bulk_group \
                 [%d2, {{{names}}}], [%r1];\n"
            )
            + COMMIT
            + WAIT_GROUP;
        let mut test = bed(body);
        let encode = |seed: u64, count: usize| -> Vec<u8> {
            (0..count as u64).flat_map(|at| element(ty, seed + at).to_le_bytes()[..size].to_vec()).collect()
        };
        (test.input, test.output) = (encode(1, 256 / size), encode(999, 1024 / size));
        test.map = Some((Of::Output, tensor.clone()));
        let decode = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |all, byte| all << 8 | u64::from(*byte));
        let mut expected = test.output.clone();
        for (number, offset) in walk(&tensor, &corner) {
            let Some(offset) = offset else { continue };
            let result = model(decode(&expected[offset..offset + size]), decode(&test.input[number * size..][..size]));
            expected[offset..offset + size].copy_from_slice(&result.to_le_bytes()[..size]);
        }
        assert!(test.every() == expected, "{operation} of {kind:?}");
    }
    // Halves, whose sums of small integers are exact.
    for (kind, one, two) in [(Element::F16, 0x3c00u16, 0x4000u16), (Element::Bf16, 0x3f80, 0x4000)] {
        let mut test = bed(fill(64)
            + FENCE
            + BAR
            + "mov.u32 %r10, 0;\n\
               @%p0 cp.reduce.async.bulk.tensor.1d.global.shared::cta.add.tile.bulk_group [%d2, {%r10}], [%r1];\n"
            + COMMIT
            + WAIT_GROUP);
        (test.input, test.output) = (one.to_le_bytes().repeat(32), one.to_le_bytes().repeat(40));
        test.map = Some((Of::Output, map(kind, &[31], &[], &[32])));
        let expected: Vec<u8> =
            (0..40).flat_map(|at| if at < 31 { two.to_le_bytes() } else { one.to_le_bytes() }).collect();
        assert_eq!(test.every(), expected);
    }
}

#[test]
fn maps_in_global_memory_and_prefetches() {
    let tensor = map(Element::F32, &[64], &[], &[64]);
    let body = init(0, 1)
        + "mov.u32 %r10, 0; @%p0 prefetch.tensormap [%d2];\n\
           @%p0 cp.async.bulk.prefetch.tensor.1d.L2.global.tile [%d2, {%r10}];\n"
        + &expect(0, 256)
        + "@%p0 cp.async.bulk.tensor.1d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint [%r1], \
           [%d2, {%r10}], [%r2], %d2;\n"
        + &wait(0, 0)
        + &dump(256);
    let mut test = bed(body);
    test.map = Some((Of::Input, tensor));
    assert_eq!(test.every()[..256], test.input[..256]);
}

#[test]
fn maps_that_break_a_rule() {
    let good = map(Element::Bf16, &[64, 10], &[128], &[64, 8]);
    assert!(good.encode().is_ok());
    let mut count = 0;
    let mut refused = |change: &dyn Fn(&mut TensorMap), says: &str| {
        let mut map = good.clone();
        change(&mut map);
        let error = map.encode().unwrap_err();
        assert!(matches!(error, Error::TensorMap { .. }));
        assert!(error.to_string().contains(says), "{error}");
        count += 1;
    };
    refused(&|m| m.address = 8, "address 0x8 is not a multiple of 16");
    refused(&|m| m.dims[1] = 0, "a dimension of 0");
    refused(&|m| m.dims[0] = (1 << 32) + 1, "a dimension of 4294967297");
    refused(&|m| m.strides_bytes[0] = 136, "a stride of 136 bytes");
    refused(&|m| m.strides_bytes[0] = 1 << 40, "a stride of 1099511627776 bytes");
    refused(&|m| m.box_dims[1] = 0, "a box dimension of 0");
    refused(&|m| m.box_dims[1] = 257, "a box dimension of 257");
    refused(&|m| m.box_dims[0] = 4, "an inner box dimension of 8 bytes");
    refused(&|m| m.swizzle = Swizzle::Bytes64, "an inner box dimension of 128 bytes");
    refused(
        &|m| (m.swizzle, m.box_dims[0]) = (Swizzle::Bytes128, 32),
        "less than the span of Bytes128, which is not modelled",
    );
    refused(&|m| m.dims = vec![], "0 dimensions");
    refused(&|m| m.dims = vec![1; 6], "6 dimensions");
    refused(&|m| m.strides_bytes = vec![], "0 strides");
    refused(&|m| m.box_dims = vec![64], "1 box sizes");
    refused(&|m| (m.element, m.fills_with_nan) = (Element::U16, true), "no NaN to fill with");
    let large = |m: &mut TensorMap| {
        (m.dims, m.strides_bytes, m.box_dims) = (vec![256; 3], vec![512, 1 << 17], vec![256; 3]);
    };
    refused(&large, "a box of 33554432 bytes");
    assert_eq!(count, 16);
    let mut swizzled = good.clone();
    swizzled.swizzle = Swizzle::Bytes128;
    assert!(swizzled.encode().is_ok());
}
