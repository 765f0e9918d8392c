//! Asynchronous copies from global to shared memory (`cp.async`) as deferred effects.

use super::{Exec, each_lane};

/// The copies that one instruction issued.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    /// Lanes whose copy is not complete.
    pub lanes: u32,
    /// The group each lane's copy belongs to, counted per lane.
    pub group: [u32; 32],
    pub destination: [u32; 32],
    pub source: [u64; 32],
    /// Bytes written; what exceeds `source_bytes` is zero.
    pub bytes: u32,
    pub source_bytes: [u8; 32],
    /// The data was moved when the copy was issued; only the bookkeeping is left.
    pub moved: bool,
}

/// The copies of one warp that are in flight.
#[derive(Debug, Default)]
pub(crate) struct CopyQueue {
    pub batches: Vec<Batch>,
    /// Groups that each lane has committed.
    pub committed: [u32; 32],
}

impl Exec<'_> {
    /// Issues copies whose addresses have been checked.
    pub fn issue_copies(&mut self, mut batch: Batch) {
        use crate::options::Completion::*;
        let early = match self.launch.options.completion {
            Latest => false,
            Earliest => true,
            Random => self.block.random.next() & 1 == 0,
        };
        if early {
            self.move_data(&batch, batch.lanes);
            batch.moved = true;
        }
        batch.group = self.warp.copies.committed;
        self.warp.copies.batches.push(batch);
    }

    /// `cp.async.commit_group`
    pub fn commit_copies(&mut self, mask: u32) {
        for lane in each_lane(mask) {
            self.warp.copies.committed[lane] += 1;
        }
    }

    /// `cp.async.wait_group`: completes all but the latest `pending` groups of each lane; with
    /// `None` everything, committed or not.
    pub fn wait_copies(&mut self, mask: u32, pending: Option<u64>) {
        let mut batches = std::mem::take(&mut self.warp.copies.batches);
        let committed = self.warp.copies.committed;
        for batch in &mut batches {
            let done = match pending {
                None => batch.lanes & mask,
                Some(pending) => each_lane(batch.lanes & mask)
                    .filter(|lane| u64::from(batch.group[*lane]).saturating_add(pending) < u64::from(committed[*lane]))
                    .fold(0, |done, lane| done | 1 << lane),
            };
            if done == 0 {
                continue;
            }
            if !batch.moved {
                self.move_data(batch, done);
            }
            if self.launch.options.checks.shared_races {
                let clock = &self.warp.clock;
                for lane in each_lane(done) {
                    self.block.shared_shadow.end_copy(clock, lane as u32, batch.destination[lane], batch.bytes);
                }
            }
            batch.lanes &= !done;
        }
        batches.retain(|batch| batch.lanes != 0);
        self.warp.copies.batches = batches;
    }

    fn move_data(&mut self, batch: &Batch, lanes: u32) {
        for lane in each_lane(lanes) {
            let mut words = [0u32; 4];
            let wanted = u32::from(batch.source_bytes[lane]);
            if wanted > 0 {
                self.copy_source(batch.source[lane], wanted, batch.bytes, &mut words);
            }
            let start = batch.destination[lane] as usize;
            let target = &mut self.block.shared[start..start + batch.bytes as usize];
            for (chunk, word) in target.chunks_exact_mut(4).zip(words) {
                chunk.copy_from_slice(&word.to_le_bytes());
            }
        }
    }

    /// Reads `wanted` of `bytes` source bytes; the rest is zero.
    fn copy_source(&mut self, address: u64, wanted: u32, bytes: u32, words: &mut [u32; 4]) {
        let Some((index, offset)) = self.find_allocation(address, u64::from(wanted)) else { return };
        let allocation = &self.launch.allocations[index];
        if wanted == bytes {
            allocation.load(offset, bytes, words);
            return;
        }
        let mut image = [0u8; 16];
        allocation.read_bytes(offset, &mut image[..wanted as usize]);
        for (word, chunk) in words.iter_mut().zip(image.chunks_exact(4)) {
            *word = u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
        }
    }
}
