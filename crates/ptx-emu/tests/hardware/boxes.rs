//! Boxes that lie in a tensor, across its edges and outside, as the copy engine brings them: element by element, zeros or NaN for
//! what the tensor does not have, at their places in the swizzle.

use ptx_emu::tensor_map::{Element, Swizzle, TensorMap};

use super::{HOPPER, bench, check_recorded, mixed};

const TENSOR_WORDS: usize = 2048;

fn map(element: Element, swizzle: Swizzle, box_dims: &[u32], fills_with_nan: bool) -> TensorMap {
    let (dims, strides_bytes) = match (box_dims.len(), element.bytes()) {
        (3, _) => (vec![24, 5, 3], vec![64, 352]),
        (_, 4) => (vec![36, 20], vec![160]),
        _ => (vec![72, 20], vec![160]),
    };
    TensorMap { element, address: 0, dims, strides_bytes, box_dims: box_dims.to_vec(), swizzle, fills_with_nan }
}

/// As in `operands.py`.
fn maps() -> Vec<TensorMap> {
    vec![
        map(Element::Bf16, Swizzle::None, &[32, 8], false),
        map(Element::Bf16, Swizzle::Bytes32, &[16, 8], false),
        map(Element::Bf16, Swizzle::Bytes64, &[32, 8], false),
        map(Element::Bf16, Swizzle::Bytes128, &[64, 8], false),
        map(Element::Bf16, Swizzle::Bytes128, &[64, 8], true),
        map(Element::F16, Swizzle::None, &[32, 8], true),
        map(Element::F32, Swizzle::None, &[16, 8], true),
        map(Element::F16, Swizzle::None, &[16, 2, 2], false),
        map(Element::F16, Swizzle::Bytes32, &[16, 2, 2], false),
    ]
}

/// Inside, across each edge, outside, and far outside, at multiples of 16 bytes along a row: a GPU takes no other boxes.
fn corners(map: &TensorMap) -> Vec<[i32; 4]> {
    let width = map.dims[0] as i32;
    if map.dims.len() == 3 {
        let found = [[0, 0, 0], [16, 4, 2], [-8, -1, -1], [8, -1, 2], [0, 0, 3], [width, 0, 0], [-16, 1, 1]];
        return found.map(|[x, y, z]| [x, y, z, 0]).to_vec();
    }
    let near = [[0, 0], [16, 12], [-8, -3], [-8, 3], [width - 8, 14], [width, 0], [0, 20], [-64, -8], [1000, 1000]];
    near.into_iter().chain([[i32::MAX - 7, 0], [0, i32::MIN]]).map(|[x, y]| [x, y, 0, 0]).collect()
}

/// Each element of a box: its number, and its byte offset in the tensor if it lies inside.
fn elements(map: &TensorMap, corner: [i32; 4]) -> impl Iterator<Item = (usize, Option<usize>)> {
    let count: u32 = map.box_dims.iter().product();
    (0..count).map(move |number| {
        let (mut rest, mut offset, mut step) = (number, Some(0), map.element.bytes() as usize);
        for (axis, first) in corner.iter().enumerate().take(map.dims.len()) {
            let at = i64::from(*first) + i64::from(rest % map.box_dims[axis]);
            rest /= map.box_dims[axis];
            let is_inside = (0..map.dims[axis] as i64).contains(&at);
            offset = offset.filter(|_| is_inside).map(|offset| offset + at as usize * step);
            step = map.strides_bytes.get(axis).map_or(0, |stride| *stride as usize);
        }
        (number as usize, offset)
    })
}

/// Where a byte of a box lies: its chunk of 16 bytes changes places within the swizzle's width, by the number of the 128-byte line.
fn place(swizzle: Swizzle, at: usize) -> usize {
    let width = match swizzle {
        Swizzle::None => return at,
        Swizzle::Bytes32 => 2,
        Swizzle::Bytes64 => 4,
        Swizzle::Bytes128 => 8,
    };
    let chunk = at / 16;
    (chunk / width * width + ((chunk % width) ^ (at / 128 % width))) * 16 + at % 16
}

/// What a GPU fills with where it is asked for NaN, in every type: a NaN of 16 bits, repeated.
const NAN_BYTES: [u8; 4] = [0xf7, 0x7f, 0xf7, 0x7f];

#[test]
fn boxes_hold_what_the_tensor_has_and_nothing_of_what_lies_around() {
    let tensor: Vec<u32> = (0..TENSOR_WORDS).map(|at| mixed(7, at)).collect();
    let tensor_bytes: Vec<u8> = tensor.iter().flat_map(|word| word.to_le_bytes()).collect();
    let mut all = Vec::new();
    for mut map in maps() {
        let size = map.element.bytes() as usize;
        let box_bytes = map.box_dims.iter().product::<u32>() as usize * size;
        let corners = corners(&map);
        let bench = bench(HOPPER, 128, corners.len());
        map.address = bench.words(&tensor);
        let of_corners: Vec<u32> = corners.iter().flatten().map(|at| *at as u32).collect();
        let (of_corners, out) = (bench.words(&of_corners), bench.blank((corners.len() * box_bytes) as u64));
        let encoded = map.encode().expect("the map keeps the rules");
        let kernel = format!("boxes_{}d", map.dims.len());
        let parameters = [of_corners, out, box_bytes as u64].map(u64::to_le_bytes);
        let [of_corners, to, bytes] = &parameters;
        let report =
            bench.launch(&kernel, &[&encoded, of_corners, to, bytes]).unwrap_or_else(|error| panic!("{error}"));
        assert!(report.hazards.is_empty(), "{:?}", report.hazards);
        let words = bench.read_words(out, corners.len() * box_bytes / 4);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        for (corner, found) in corners.iter().zip(bytes.chunks_exact(box_bytes)) {
            for (number, offset) in elements(&map, *corner) {
                let found = &found[place(map.swizzle, number * size)..][..size];
                let is_right = match offset {
                    Some(offset) => found == &tensor_bytes[offset..offset + size],
                    None if map.fills_with_nan => found == &NAN_BYTES[..size],
                    None => found.iter().all(|byte| *byte == 0),
                };
                assert!(is_right, "element {number} at {offset:?} from {corner:?} of {map:?}: {found:x?}");
            }
        }
        all.extend(words);
    }
    check_recorded("boxes", &all);
}
