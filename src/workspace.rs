//! Scratch memory of a running call, owned by the caller so that a call allocates nothing.

use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// Scratch memory for one call at a time of the plan that made it.
#[derive(Debug)]
pub struct Workspace {
    /// One scratch area a thread of the pool.
    pub(crate) slots: Vec<Vec<f32>>,
    /// What one kernel leaves for the next, on the device.
    pub(crate) tensors: Vec<Tensor>,
}

impl Workspace {
    pub(crate) fn empty() -> Workspace {
        Workspace { slots: Vec::new(), tensors: Vec::new() }
    }

    /// A scratch area of `elements` f32 for each thread of rayon's current pool.
    pub(crate) fn per_thread(elements: usize) -> Workspace {
        Workspace { slots: vec![vec![0.0; elements]; rayon::current_num_threads()], tensors: Vec::new() }
    }

    /// Adds memory on the device.
    pub(crate) fn with_tensor(mut self, tensor: Tensor) -> Workspace {
        self.tensors.push(tensor);
        self
    }

    /// The memory on the device.
    pub(crate) fn device_tensors<const N: usize>(&mut self) -> Result<[&mut Tensor; N]> {
        let count = self.tensors.len();
        let mut tensors = self.tensors.iter_mut();
        let first: [Option<&mut Tensor>; N] = std::array::from_fn(|_| tensors.next());
        match count == N {
            true => Ok(first.map(|tensor| tensor.expect("there are as many"))),
            false => Err(Error::PlanMismatch {
                what: "the workspace",
                given: format!("{count} tensors on the device"),
                planned: format!("{N} tensors on the device"),
            }),
        }
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
        let tensors = self.tensors.iter().map(|tensor| tensor.layout().num_elements() * tensor.dtype().size_bytes());
        self.slots.iter().map(|slot| slot.len() * size_of::<f32>()).chain(tensors).sum()
    }
}
