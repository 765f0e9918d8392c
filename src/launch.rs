//! The seam between a plan and the devices that run kernels.

use crate::device::{Device, Kind, Stream};
use crate::error::{Error, Result};
use crate::plan::LaunchPlan;
use crate::tensor::{TensorMut, TensorRef};
use crate::workspace::Workspace;

/// Runs a planned kernel on the device. `reads` and `writes` are in the order of the addresses with which the
/// kernel's parameter struct begins; `None` is an absent tensor.
pub(crate) fn launch(
    device: &Device,
    plan: &LaunchPlan,
    reads: &[Option<TensorRef<'_>>],
    writes: &mut [Option<&mut TensorMut<'_>>],
) -> Result<()> {
    // Without blocks there is nothing to compute: the keys' gradients, where there are no keys.
    if plan.grid.contains(&0) {
        return Ok(());
    }
    match device.kind() {
        #[cfg(feature = "cuda")]
        Kind::Cuda(cuda) => cuda.launch(plan, reads, writes),
        #[cfg(feature = "emulator")]
        Kind::Emulator(emulator) => emulator.launch(plan, reads, writes),
        Kind::Cpu(_) => {
            let _ = (reads, writes);
            Err(Error::PlanMismatch {
                what: "the device",
                given: device.to_string(),
                planned: format!("a GPU, for kernel {}", plan.variant.name()),
            })
        }
    }
}

/// The scratch memory of a call: without launches, `cpu_elements` f32 a thread. Making it also does beforehand what the
/// first launches would do, which is to load the kernels.
pub(crate) fn workspace(launches: &[&LaunchPlan], stream: &Stream, cpu_elements: usize) -> Result<Workspace> {
    if launches.is_empty() {
        return Ok(Workspace::per_thread(cpu_elements));
    }
    launches.iter().try_for_each(|plan| prepare(stream.device(), plan))?;
    Ok(Workspace::empty())
}

fn prepare(device: &Device, plan: &LaunchPlan) -> Result<()> {
    match device.kind() {
        #[cfg(feature = "cuda")]
        Kind::Cuda(cuda) => cuda.prepare(plan),
        #[cfg(feature = "emulator")]
        Kind::Emulator(_) => Ok(()),
        Kind::Cpu(_) => {
            let _ = plan;
            Ok(())
        }
    }
}

/// Every tensor of a call must be on the device that runs it.
pub(crate) fn check_devices(
    device: &Device,
    read_names: &[&'static str],
    reads: &[Option<TensorRef<'_>>],
    write_names: &[&'static str],
    writes: &[Option<&mut TensorMut<'_>>],
) -> Result<()> {
    let reads = read_names.iter().zip(reads).filter_map(|(name, read)| Some((name, read.as_ref()?.device())));
    let writes = write_names.iter().zip(writes).filter_map(|(name, write)| Some((name, write.as_ref()?.device())));
    for (name, on) in reads.chain(writes) {
        if on != device {
            return Err(Error::DeviceMismatch { tensor: name, device: on.to_string(), expected: device.to_string() });
        }
    }
    Ok(())
}
