//! Scratch memory of a running call, owned by the caller so that a call allocates nothing.

use crate::error::{Error, Result};

/// Scratch memory for one call at a time of the plan that made it.
#[derive(Debug)]
pub struct Workspace {
    /// One scratch area a thread of the pool.
    pub(crate) slots: Vec<Vec<f32>>,
}

impl Workspace {
    pub(crate) fn empty() -> Workspace {
        Workspace { slots: Vec::new() }
    }

    /// A scratch area of `elements` f32 for each thread of rayon's current pool.
    pub(crate) fn per_thread(elements: usize) -> Workspace {
        Workspace { slots: vec![vec![0.0; elements]; rayon::current_num_threads()] }
    }

    /// The workspace must have a scratch area of at least `elements`.
    pub(crate) fn check(&self, elements: usize) -> Result<()> {
        if self.slots.first().is_some_and(|slot| slot.len() >= elements) {
            return Ok(());
        }
        Err(Error::PlanMismatch {
            what: "the workspace",
            given: format!("{} areas of {} f32", self.slots.len(), self.slots.first().map_or(0, Vec::len)),
            planned: format!("one area a thread of {elements} f32"),
        })
    }

    /// The size of the scratch memory in bytes.
    pub fn size_bytes(&self) -> usize {
        self.slots.iter().map(|slot| slot.len() * size_of::<f32>()).sum()
    }
}
