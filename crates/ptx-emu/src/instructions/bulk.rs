//! `cp.async.bulk`, `cp.reduce.async.bulk` and their tensor forms. See [`crate::machine::bulk`] for when they take place.

use super::address::addresses;
use super::atomic;
use crate::Error;
use crate::counters::{Sectors, Wavefronts};
use crate::decode::layout::PARAMETER_WINDOW;
use crate::decode::{Address, BulkForm, Decoder, Form, Inst};
use crate::hazard::{Access, HazardKind};
use crate::machine::bulk::{Bulk, End, Reduction};
use crate::machine::cluster::rank_of;
use crate::machine::{Exec, Step, each_lane};
use crate::module::ScalarType::{self, B16, B64, S32, U32};
use crate::module::{Operand, Space};
use crate::shadow::Conflict;
use crate::tensor_map::{Element, Piece, Swizzle, TENSOR_MAP_BYTES, TensorMap};

/// Bulk copies move multiples of it, from and to multiples of it.
const GRAIN_BYTES: u32 = 16;
/// Boxes lie in shared memory at multiples of it.
const BOX_ALIGNMENT: u32 = 128;

/// Between which memories a copy goes.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// From global to shared memory.
    Load,
    /// From shared to global memory.
    Store,
    /// From the own shared memory to another block's.
    Forward,
    /// Into the cache.
    Prefetch,
}

/// What comes after `cp.async.bulk` or `cp.reduce.async.bulk`.
pub(super) fn decode(d: &mut Decoder<'_>, f: &Form<'_>, reduces: bool) -> Result<Inst, Error> {
    if f.accept("commit_group") {
        f.expect_operands(0..=0)?;
        return Ok(Inst::new(|x, _, mask| {
            x.commit_bulk(mask);
            Step::Next
        }));
    }
    if f.accept("wait_group") {
        let reads_only = f.accept("read");
        f.expect_operands(1..=1)?;
        let mut inst = Inst::new(|x, i, mask| {
            x.wait_bulk(mask, i.a, i.b == 0);
            Step::Next
        });
        let count = f.constant(0)?;
        inst.a = u32::try_from(count).map_err(|_| f.unsupported("the number of groups is out of range"))?;
        inst.b = u32::from(reads_only);
        return Ok(inst);
    }
    copy(d, f, reduces)
}

fn copy(d: &mut Decoder<'_>, f: &Form<'_>, reduces: bool) -> Result<Inst, Error> {
    let is_prefetch = f.accept("prefetch");
    let is_tensor = f.accept("tensor");
    let rank =
        if is_tensor { f.require("the rank", &[("1d", 1), ("2d", 2), ("3d", 3), ("4d", 4), ("5d", 5)])? } else { 0 };
    // The destination's space stands before the source's.
    let way = if is_prefetch {
        f.require("the level", &[("L2", ())])?;
        f.require("the source", &[("global", ())])?;
        Way::Prefetch
    } else {
        let spaces: Vec<&str> =
            ["shared::cluster", "shared::cta", "global"].into_iter().filter(|s| f.accept(s)).collect();
        match (f.first_of(&["shared::cluster", "shared::cta", "global"]), spaces.as_slice()) {
            (Some("global"), ["shared::cta", "global"]) => Way::Store,
            (Some("shared::cluster" | "shared::cta"), ["shared::cluster" | "shared::cta", "global"]) => Way::Load,
            (Some("shared::cluster"), ["shared::cluster", "shared::cta"]) if !is_tensor => Way::Forward,
            _ => return Err(f.unsupported("no copy goes between these spaces")),
        }
    };
    if is_tensor {
        // `.im2col` is refused as an unknown modifier.
        f.accept("tile");
    }
    if reduces && way != Way::Store {
        return Err(f.unsupported("only reductions into global memory are modelled"));
    }
    let mut form = BulkForm { map_rank: rank, ..BulkForm::default() };
    if reduces {
        d.program.communicates = true;
        if is_tensor {
            form.reduction = Some((atomic::operation_number(f)?, None));
        } else {
            let (operation, ty) = atomic::reduction(f)?;
            form.reduction = Some((operation, Some(ty)));
        }
    }
    let has_policy = f.accept("L2::cache_hint");
    let is_multicast = f.accept("multicast::cluster");
    match way {
        Way::Load | Way::Forward => f.require("the completion", &[("mbarrier::complete_tx::bytes", ())])?,
        Way::Store => f.require("the completion", &[("bulk_group", ())])?,
        Way::Prefetch => {}
    }
    // Destination and source, where one of them may be a box of a tensor.
    let mut at = 0;
    let mut next = || {
        at += 1;
        f.operand(at - 1)
    };
    let tensor = |d: &mut Decoder<'_>, operand: &Operand| -> Result<(Address, Box<[u32]>), Error> {
        let Operand::Tensor(map, coordinates) = operand else {
            return Err(f.unsupported("a tensor map with coordinates is missing"));
        };
        if coordinates.len() != rank as usize {
            return Err(f.unsupported(format!("{} coordinates for {rank} dimensions", coordinates.len())));
        }
        let rows = coordinates.iter().map(|coordinate| d.source(f, coordinate, S32)).collect::<Result<_, Error>>()?;
        Ok((d.address(f, map)?, rows))
    };
    if way != Way::Prefetch {
        let operand = next()?;
        if is_tensor && way == Way::Store {
            (form.global, form.coordinates) = tensor(d, operand)?;
        } else {
            let address = d.address(f, operand)?;
            *(if way == Way::Store { &mut form.global } else { &mut form.destination }) = address;
        }
    }
    let operand = next()?;
    match (is_tensor, way) {
        (true, Way::Load | Way::Prefetch) => (form.global, form.coordinates) = tensor(d, operand)?,
        (_, Way::Store | Way::Forward) => form.source = d.address(f, operand)?,
        (false, _) => form.global = d.address(f, operand)?,
    }
    if !is_tensor {
        form.bytes = d.source(f, next()?, U32)?;
    }
    if matches!(way, Way::Load | Way::Forward) {
        form.mbarrier = d.address(f, next()?)?;
    }
    if is_multicast {
        form.ranks = Some(d.source(f, next()?, B16)?);
    }
    if has_policy {
        d.source(f, next()?, B64)?;
    }
    f.expect_operands(at..=at)?;
    let mut inst = Inst::new(match way {
        Way::Load => load,
        Way::Store => store,
        Way::Forward => forward,
        Way::Prefetch => prefetch,
    });
    inst.a = d.program.bulk_forms.len() as u32;
    d.program.bulk_forms.push(form);
    Ok(inst)
}

/// The addresses of the lanes.
fn lane_addresses(x: &mut Exec<'_>, i: &Inst, address: Address, mask: u32) -> [u64; 32] {
    let mut view = Inst::new(i.handler);
    (view.a, view.offset) = (address.row, address.offset);
    view.flags = if address.long { super::address::LONG_BASE } else { 0 };
    addresses(x, &view, mask)
}

/// What one lane copies.
struct Extent {
    pieces: Vec<Piece>,
    bytes: u32,
    swizzle: Swizzle,
    fill: [u8; 8],
    element: Option<Element>,
    alignment: u32,
}

/// Checks the bytes of a plain copy; `false` after a report.
fn check_size(x: &mut Exec<'_>, lane: usize, bytes: u32) -> bool {
    let is_good = bytes != 0 && bytes.is_multiple_of(GRAIN_BYTES);
    if !is_good {
        let message = format!("a copy of {bytes} bytes; it must be a multiple of {GRAIN_BYTES}, and not zero");
        x.report(Some(lane as u32), None, HazardKind::TensorMap { message });
    }
    is_good
}

/// The extents of all lanes, which access global memory in that way; `None` after a report.
fn extents(x: &mut Exec<'_>, i: &Inst, form: &BulkForm, access: Access, mask: u32) -> Option<Vec<(usize, Extent)>> {
    let global = lane_addresses(x, i, form.global, mask);
    let mut all = Vec::new();
    if form.map_rank == 0 {
        let sizes = x.word(form.bytes, mask);
        for lane in each_lane(mask) {
            let bytes = sizes[lane];
            if !check_size(x, lane, bytes) {
                return None;
            }
            if !global[lane].is_multiple_of(u64::from(GRAIN_BYTES)) {
                let kind = HazardKind::Misaligned { space: Space::Global, access, bytes: GRAIN_BYTES };
                x.report(Some(lane as u32), Some(global[lane]), kind);
                return None;
            }
            let pieces = vec![Piece { offset: 0, address: global[lane], bytes }];
            let (swizzle, fill) = (Swizzle::None, [0; 8]);
            all.push((lane, Extent { pieces, bytes, swizzle, fill, element: None, alignment: GRAIN_BYTES }));
        }
        return Some(all);
    }
    let coordinates: Vec<[u32; 32]> = form.coordinates.iter().map(|row| x.word(*row, mask)).collect();
    for lane in each_lane(mask) {
        let corner: Vec<i64> = coordinates.iter().map(|row| i64::from(row[lane] as i32)).collect();
        let found = read_map(x, global[lane]).and_then(|map| match corner_fault(&map, &corner) {
            Some(message) => Err(message),
            None => Ok(map),
        });
        let map = match found {
            Ok(map) => map,
            Err(message) => {
                x.report(Some(lane as u32), Some(global[lane]), HazardKind::TensorMap { message });
                return None;
            }
        };
        all.push((
            lane,
            Extent {
                pieces: map.pieces(&corner),
                bytes: map.box_bytes(),
                swizzle: map.swizzle,
                fill: map.fill(),
                element: Some(map.element),
                alignment: BOX_ALIGNMENT,
            },
        ));
    }
    Some(all)
}

/// The tensor map at a generic address.
fn read_map(x: &mut Exec<'_>, address: u64) -> Result<TensorMap, String> {
    if !address.is_multiple_of(64) {
        return Err(format!("the tensor map at {address:#x} is not 64-byte aligned"));
    }
    let mut bytes = [0; TENSOR_MAP_BYTES];
    if let Some(offset) =
        address.checked_sub(PARAMETER_WINDOW).filter(|offset| *offset < x.launch.parameters.len() as u64)
    {
        let found = x.launch.parameters.get(offset as usize..offset as usize + TENSOR_MAP_BYTES);
        bytes.copy_from_slice(found.ok_or("the tensor map reaches beyond the parameters")?);
    } else {
        let found = x.find_allocation(address, TENSOR_MAP_BYTES as u64);
        let (index, offset) = found.ok_or_else(|| format!("there is no memory for a tensor map at {address:#x}"))?;
        x.launch.allocations[index].read_bytes(offset, &mut bytes);
    }
    TensorMap::decode(&bytes)
}

/// Why no box of the tensor can begin at these coordinates.
fn corner_fault(map: &TensorMap, corner: &[i64]) -> Option<String> {
    if map.dims.len() != corner.len() {
        return Some(format!("a copy in {} dimensions of a tensor of {}", corner.len(), map.dims.len()));
    }
    // An H100 ends loads from anywhere else with "illegal instruction", also where the box lies outside of the tensor. Stores do
    // the same on Hopper, by reports of others (to tilelang); reductions and prefetches are assumed to.
    let (inner, bytes) = (corner[0], map.element.bytes());
    let along = inner * i64::from(bytes);
    (along % i64::from(GRAIN_BYTES) != 0).then(|| {
        format!(
            "a box at {corner:?}, whose innermost coordinate {inner} in elements of {bytes} bytes is {along} bytes along the row; \
             it must be a multiple of {GRAIN_BYTES}"
        )
    })
}

/// Checks the place of a copy in the shared memory of the block that is the own one now.
fn check_shared_place(x: &mut Exec<'_>, lane: usize, address: u32, extent: &Extent, access: Access) -> bool {
    if u64::from(address) + u64::from(extent.bytes) > u64::from(x.launch.shared_bytes) {
        x.out_of_bounds(Space::Shared, access, lane, u64::from(address), extent.bytes);
        return false;
    }
    if !address.is_multiple_of(extent.alignment) {
        let kind = HazardKind::Misaligned { space: Space::Shared, access, bytes: extent.alignment };
        x.report(Some(lane as u32), Some(u64::from(address)), kind);
        return false;
    }
    true
}

/// Checks what a copy reads from global memory; `false` if the block must stop.
fn check_global_reads(x: &mut Exec<'_>, lane: usize, extent: &Extent) -> bool {
    let mut sectors = Sectors { instructions: 1, actual: 0, ideal: 0 };
    for piece in &extent.pieces {
        let Some((index, offset)) = x.find_allocation(piece.address, u64::from(piece.bytes)) else {
            x.out_of_bounds(Space::Global, Access::AsyncRead, lane, piece.address, piece.bytes);
            return false;
        };
        count_sectors(&mut sectors, *piece);
        if x.launch.options.checks.global_races {
            let actor = x.actor(lane as u32, false);
            let bytes = u64::from(piece.bytes);
            let shadow = &mut x.block.global_shadow;
            if let Some((at, event)) = shadow.read_range(&x.warp.clock, actor, index, offset, bytes) {
                x.report_conflict(
                    Space::Global,
                    Access::AsyncRead,
                    lane,
                    piece.address - offset + at,
                    Conflict::Race(event),
                );
            }
        }
    }
    x.block.tally.global[4].add(sectors);
    true
}

fn count_sectors(sectors: &mut Sectors, piece: Piece) {
    let end = piece.address + u64::from(piece.bytes);
    sectors.actual += end.div_ceil(32) - piece.address / 32;
    sectors.ideal += u64::from(piece.bytes.div_ceil(32));
}

/// Shared memory takes and gives whole lines of banks.
fn count_wavefronts(x: &mut Exec<'_>, bytes: u32, blocks: usize) {
    let fronts = u64::from(bytes.div_ceil(128)) * blocks as u64;
    x.block.tally.shared[6].add(Wavefronts { instructions: 1, actual: fronts, ideal: fronts });
}

fn load(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
    let form = x.launch.program.bulk_forms[i.a as usize].clone();
    let to = lane_addresses(x, i, form.destination, mask);
    let mbarrier = lane_addresses(x, i, form.mbarrier, mask);
    let masks = form.ranks.map(|row| x.word(row, mask));
    let Some(all) = extents(x, i, &form, Access::AsyncRead, mask) else { return Step::Fault };
    for (lane, extent) in all {
        let ((rank, to), (barrier_rank, mbarrier)) = (rank_of(to[lane]), rank_of(mbarrier[lane]));
        let own = x.block.rank;
        let ranks: Vec<u32> = match &masks {
            Some(masks) => (0..16).filter(|rank| masks[lane] >> rank & 1 != 0).collect(),
            None => vec![rank.unwrap_or(own)],
        };
        if masks.is_none() && barrier_rank.unwrap_or(own) != ranks[0] {
            let reason = "is not the one of the copy's mbarrier";
            x.report(Some(lane as u32), Some(u64::from(to)), HazardKind::RemoteBlock { rank: ranks[0], reason });
            return Step::Fault;
        }
        if !check_global_reads(x, lane, &extent) {
            return Step::Fault;
        }
        count_wavefronts(x, extent.bytes, ranks.len());
        let Some(ranks) = begin_writes(x, lane, (to, mbarrier), ranks, &extent) else { return Step::Fault };
        if !ranks.is_empty() {
            let copy = bulk(x, lane, extent, End::Load { to, mbarrier, ranks });
            x.issue_load(copy);
        }
    }
    Step::Next
}

/// Checks and records that a copy into these blocks begins; those where it can. `None` if the block must stop.
fn begin_writes(
    x: &mut Exec<'_>,
    lane: usize,
    (to, mbarrier): (u32, u32),
    ranks: Vec<u32>,
    extent: &Extent,
) -> Option<Vec<u32>> {
    let mut begun = Vec::new();
    for rank in ranks {
        let checks = x.launch.options.checks;
        let in_there = x.begin_in_block(rank, lane, to, |x| {
            if !check_shared_place(x, lane, to, extent, Access::AsyncWrite) {
                return None;
            }
            let has_mbarrier = x.use_mbarrier_for_copy(lane, mbarrier);
            if has_mbarrier && (checks.shared_races || checks.uninitialized_memory) {
                let actor = x.actor(lane as u32, false);
                let (clock, bytes) = (&x.warp.clock, extent.bytes);
                let found = x.block.shared_shadow.begin_bulk(clock, actor, to, bytes, checks.fences_after_reads);
                if let Some((at, conflict)) = found.filter(|_| checks.shared_races) {
                    x.report_conflict(Space::Shared, Access::AsyncWrite, lane, u64::from(at), conflict);
                }
            }
            Some(has_mbarrier)
        });
        match in_there {
            Some(None) => return None,
            Some(Some(true)) => begun.push(rank),
            _ => {}
        }
    }
    Some(begun)
}

fn bulk(x: &Exec<'_>, lane: usize, extent: Extent, end: End) -> Bulk {
    Bulk {
        warp: x.warp.clock.warp,
        lane: lane as u32,
        pc: x.pc,
        pieces: extent.pieces,
        bytes: extent.bytes,
        swizzle: extent.swizzle,
        fill: extent.fill,
        end,
    }
}

/// Checks and records that a copy out of the own shared memory begins; `false` if the block must stop.
fn begin_read(x: &mut Exec<'_>, lane: usize, from: u32, extent: &Extent) -> bool {
    if !check_shared_place(x, lane, from, extent, Access::AsyncRead) {
        return false;
    }
    let checks = x.launch.options.checks;
    if checks.shared_races {
        let actor = x.actor(lane as u32, false);
        let found = x.block.shared_shadow.begin_async_read_at(&x.warp.clock, actor, from, extent.bytes);
        if let Some((at, conflict)) = found {
            x.report_conflict(Space::Shared, Access::AsyncRead, lane, u64::from(at), conflict);
        }
    }
    if checks.uninitialized_memory {
        // What a box stores of itself must be there; the rest is left out.
        let unwritten = extent.pieces.iter().find_map(|piece| {
            let (start, end) = (piece.offset, piece.offset + piece.bytes);
            let mut chunks = (start / GRAIN_BYTES * GRAIN_BYTES..end).step_by(GRAIN_BYTES as usize).map(|chunk| {
                let first = chunk.max(start);
                (extent.swizzle.place(from + first), (chunk + GRAIN_BYTES).min(end) - first)
            });
            chunks.find(|(place, bytes)| !x.block.shared_shadow.is_written(*place, *bytes))
        });
        if let Some((place, bytes)) = unwritten {
            x.report_uninitialized(Space::Shared, lane, u64::from(place), bytes);
        }
    }
    count_wavefronts(x, extent.bytes, 1);
    true
}

fn store(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
    let form = x.launch.program.bulk_forms[i.a as usize].clone();
    let from = lane_addresses(x, i, form.source, mask);
    let Some(all) = extents(x, i, &form, Access::AsyncWrite, mask) else { return Step::Fault };
    for (lane, extent) in all {
        let (rank, from) = rank_of(from[lane]);
        if rank.is_some_and(|rank| rank != x.block.rank) {
            let reason = "cannot be the source of a copy to global memory";
            let kind = HazardKind::RemoteBlock { rank: rank.unwrap_or(0), reason };
            x.report(Some(lane as u32), Some(u64::from(from)), kind);
            return Step::Fault;
        }
        let reduction = match reduction_of(&form, &extent) {
            Ok(reduction) => reduction,
            Err(message) => {
                x.report(Some(lane as u32), None, HazardKind::TensorMap { message });
                return Step::Fault;
            }
        };
        if !begin_read(x, lane, from, &extent) {
            return Step::Fault;
        }
        let agent = x.store_agent(lane);
        let mut sectors = Sectors { instructions: 1, actual: 0, ideal: 0 };
        for piece in &extent.pieces {
            let Some((index, offset)) = x.find_allocation(piece.address, u64::from(piece.bytes)) else {
                x.out_of_bounds(Space::Global, Access::AsyncWrite, lane, piece.address, piece.bytes);
                return Step::Fault;
            };
            count_sectors(&mut sectors, *piece);
            let checks = x.launch.options.checks;
            if reduction.is_some() && checks.uninitialized_memory {
                let allocation = &x.launch.allocations[index];
                if !(offset..offset + u64::from(piece.bytes)).all(|byte| allocation.is_written(byte, 1)) {
                    x.report_uninitialized(Space::Global, lane, piece.address, piece.bytes);
                }
            }
            if checks.global_races {
                let actor = x.actor(lane as u32, reduction.is_some());
                let bytes = u64::from(piece.bytes);
                let shadow = &mut x.block.global_shadow;
                if let Some((at, event)) = shadow.write_range(&x.warp.clock, actor, agent, index, offset, bytes) {
                    x.report_conflict(
                        Space::Global,
                        Access::AsyncWrite,
                        lane,
                        piece.address - offset + at,
                        Conflict::Race(event),
                    );
                }
            }
        }
        x.block.tally.global[4].add(sectors);
        let copy = bulk(x, lane, extent, End::Store { from, reduction });
        x.issue_store(copy);
    }
    Step::Next
}

/// How the elements of a store are combined with those in memory, if they are.
fn reduction_of(form: &BulkForm, extent: &Extent) -> Result<Option<Reduction>, String> {
    let Some((operation, ty)) = form.reduction else { return Ok(None) };
    let of_element = |element| match element {
        Element::U32 => ScalarType::U32,
        Element::S32 => ScalarType::S32,
        Element::U64 => ScalarType::U64,
        Element::S64 => ScalarType::S64,
        Element::F16 => ScalarType::F16,
        Element::Bf16 => ScalarType::Bf16,
        Element::F32 => ScalarType::F32,
        Element::F64 => ScalarType::F64,
        Element::U8 | Element::U16 => ScalarType::U8,
    };
    let mut ty = ty.or(extent.element.map(of_element)).unwrap_or(ScalarType::U32);
    // Bitwise operations take integers of any sign.
    if !atomic::exists(operation, ty) {
        ty = match ty.bytes() {
            4 => ScalarType::B32,
            8 => ScalarType::B64,
            _ => ty,
        };
    }
    if !atomic::exists(operation, ty) {
        return Err(format!("there is no such reduction of elements of {:?}", extent.element));
    }
    Ok(Some(Reduction { ty, combine: atomic::combine_numbered, operation }))
}

fn forward(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
    let form = x.launch.program.bulk_forms[i.a as usize].clone();
    let to = lane_addresses(x, i, form.destination, mask);
    let from = lane_addresses(x, i, form.source, mask);
    let mbarrier = lane_addresses(x, i, form.mbarrier, mask);
    let sizes = x.word(form.bytes, mask);
    for lane in each_lane(mask) {
        let (own, bytes) = (x.block.rank, sizes[lane]);
        let ((rank, to), (_, from), (barrier_rank, mbarrier)) =
            (rank_of(to[lane]), rank_of(from[lane]), rank_of(mbarrier[lane]));
        let rank = rank.unwrap_or(own);
        if barrier_rank.unwrap_or(own) != rank {
            let reason = "is not the one of the copy's mbarrier";
            x.report(Some(lane as u32), Some(u64::from(to)), HazardKind::RemoteBlock { rank, reason });
            return Step::Fault;
        }
        if !check_size(x, lane, bytes) {
            return Step::Fault;
        }
        let pieces = vec![Piece { offset: 0, address: 0, bytes }];
        let (swizzle, fill) = (Swizzle::None, [0; 8]);
        let mut extent = Extent { pieces, bytes, swizzle, fill, element: None, alignment: GRAIN_BYTES };
        if !begin_read(x, lane, from, &extent) {
            return Step::Fault;
        }
        let Some(ranks) = begin_writes(x, lane, (to, mbarrier), vec![rank], &extent) else { return Step::Fault };
        if ranks.is_empty() {
            x.block.shared_shadow.drop_async_read(from, bytes);
            continue;
        }
        extent.pieces.clear();
        let copy = bulk(x, lane, extent, End::Forward { from, to, mbarrier, rank });
        x.issue_load(copy);
    }
    Step::Next
}

/// Moves no data, but its box must make sense.
fn prefetch(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
    let form = x.launch.program.bulk_forms[i.a as usize].clone();
    if extents(x, i, &form, Access::AsyncRead, mask).is_some() { Step::Next } else { Step::Fault }
}
