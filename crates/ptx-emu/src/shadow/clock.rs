//! Vector clocks. The unit of order is the warp; inside a warp, lanes are told apart between the
//! points at which they synchronise.

use std::collections::BTreeMap;

/// Clocks of the warps of each block that something is known about.
pub(crate) type Knowledge = BTreeMap<u32, Vec<u32>>;

/// Takes over what `other` knows.
pub(crate) fn join(into: &mut Knowledge, other: &Knowledge) {
    for (block, clocks) in other {
        let mine = into.entry(*block).or_insert_with(|| vec![0; clocks.len()]);
        mine.iter_mut().zip(clocks).for_each(|(a, b)| *a = (*a).max(*b));
    }
}

/// The clock of one warp. An access at time `t` of warp `w` happened before what this warp does now
/// if `t <= visible[w]`.
#[derive(Debug, Clone)]
pub(crate) struct WarpClock {
    pub block: u32,
    pub warp: u32,
    /// Stamped on the accesses of this warp.
    pub now: u32,
    /// Per warp of the block. The warp's own entry is the last time at which all lanes met.
    pub visible: Vec<u32>,
    /// What is known of other blocks.
    pub foreign: Knowledge,
    /// `lanes[a][b]`: accesses of lane `b` up to this time happened before what lane `a` does.
    lanes: Option<Box<[[u32; 32]; 32]>>,
    /// What the last fence made ready to be released by a relaxed store.
    fenced: Option<Knowledge>,
    /// What relaxed loads have seen and the next fence will acquire.
    observed: Knowledge,
}

impl WarpClock {
    pub fn new(block: u32, warp: u32, warps: usize) -> Self {
        WarpClock {
            block,
            warp,
            now: 1,
            visible: vec![0; warps],
            foreign: Knowledge::new(),
            lanes: None,
            fenced: None,
            observed: Knowledge::new(),
        }
    }

    /// Whether an access happened before what `lane` of this warp does now.
    #[inline]
    pub fn sees(&self, block: u32, warp: u32, from_lane: Option<u32>, time: u32, lane: u32) -> bool {
        if block != self.block {
            return self.foreign.get(&block).and_then(|c| c.get(warp as usize)).is_some_and(|seen| time <= *seen);
        }
        if time <= self.visible[warp as usize] {
            return true;
        }
        if warp != self.warp {
            return false;
        }
        match (from_lane, &self.lanes) {
            (Some(from), _) if from == lane => true,
            (Some(from), Some(lanes)) => time <= lanes[lane as usize][from as usize],
            (None, Some(lanes)) => lanes[lane as usize].iter().all(|seen| time <= *seen),
            _ => false,
        }
    }

    /// `bar.warp.sync` or a barrier: these lanes of the warp meet.
    pub fn meet(&mut self, lanes: u32, live: u32) {
        let time = self.now;
        self.now += 1;
        if lanes & live == live {
            self.visible[self.warp as usize] = time;
            self.lanes = None;
            return;
        }
        let base = self.visible[self.warp as usize];
        let table = self.lanes.get_or_insert_with(|| Box::new([[base; 32]; 32]));
        let members = || (0..32usize).filter(move |lane| lanes >> lane & 1 != 0);
        let mut union = [0; 32];
        for member in members() {
            union.iter_mut().zip(&table[member]).for_each(|(a, b)| *a = (*a).max(*b));
        }
        members().for_each(|member| union[member] = time);
        members().for_each(|member| table[member] = union);
    }

    /// Everything that happened before this point, own accesses included; later accesses are not.
    pub fn release(&mut self) -> Knowledge {
        let mut all = self.foreign.clone();
        let mut own = self.visible.clone();
        own[self.warp as usize] = self.now;
        all.insert(self.block, own);
        self.now += 1;
        all
    }

    /// What another warp released happened before all that follows.
    pub fn acquire(&mut self, knowledge: &Knowledge) {
        for (block, clocks) in knowledge {
            if *block != self.block {
                let mine = self.foreign.entry(*block).or_insert_with(|| vec![0; clocks.len()]);
                mine.iter_mut().zip(clocks).for_each(|(a, b)| *a = (*a).max(*b));
                continue;
            }
            for (warp, time) in clocks.iter().enumerate() {
                if warp != self.warp as usize {
                    self.visible[warp] = self.visible[warp].max(*time);
                }
            }
        }
    }

    /// `fence`, `membar`: orders what was seen before, and readies a release.
    pub fn fence(&mut self) {
        let observed = std::mem::take(&mut self.observed);
        self.acquire(&observed);
        self.fenced = Some(self.release());
    }

    /// What a relaxed store publishes: all before the last fence.
    pub fn fenced(&self) -> Option<&Knowledge> {
        self.fenced.as_ref()
    }

    /// A relaxed load has seen a store that published this; the next fence will acquire it.
    pub fn observe(&mut self, knowledge: &Knowledge) {
        join(&mut self.observed, knowledge);
    }
}
