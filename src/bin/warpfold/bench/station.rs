//! A device with what measures it: its clock, its ceilings, its sensors, and what records say of it.

use anyhow::Result;
use warpfold::variants::Variant;
use warpfold::{Device, Target};

use super::ceilings::{self, Ceilings, Unit};
use super::clock::Clock;
#[cfg(feature = "cuda")]
use super::cuda::Gpu;
use super::machine::Machine;
use super::record::Record;
use super::times::Rotation;
use super::trial::Workshop;

pub struct Station<'a> {
    pub device: Device,
    pub clock: Clock,
    pub machine: Machine,
    /// Of sets of tensors; the CPU's problems stay where they are, and are compared with a copy of their size.
    pub rotation: Option<Rotation>,
    kernels: &'a [&'static Variant],
    #[cfg(feature = "cuda")]
    gpu: Option<Gpu>,
}

/// What a GPU's sensors show.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    pub clock_mhz: Option<f64>,
    pub power_w: Option<f64>,
    pub temperature_c: Option<f64>,
}

impl Sample {
    /// What is worth a note: clocks that moved while a problem ran.
    pub fn change_since(&self, before: &Sample) -> Option<String> {
        let (from, to) = (before.clock_mhz?, self.clock_mhz?);
        ((to - from).abs() > 0.05 * from).then(|| format!("clock {from:.0} to {to:.0} MHz"))
    }
}

impl<'a> Station<'a> {
    /// A device, on a stream of the clock's own where it is a GPU.
    pub fn open(device: Device, kernels: &'a [&'static Variant]) -> Result<Station<'a>> {
        let name = device.to_string();
        #[cfg(feature = "cuda")]
        if let Some(ordinal) = name.strip_prefix("cuda:") {
            let gpu = Gpu::open(ordinal.parse()?)?;
            let (machine, rotation) = (gpu.machine(), Some(gpu.rotation()?));
            let (device, clock) = (gpu.device()?, Clock::Cuda(gpu.events()));
            return Ok(Station { device, clock, machine, rotation, kernels, gpu: Some(gpu) });
        }
        let mut machine = Machine::of_cpu(&device);
        if name.starts_with("emulator") {
            machine.device = name;
            machine.compiler = warpfold::kernel_compiler().to_string();
        }
        let clock = Clock::Host;
        Ok(Station {
            device,
            clock,
            machine,
            rotation: None,
            kernels,
            #[cfg(feature = "cuda")]
            gpu: None,
        })
    }

    pub fn workshop(&self) -> Workshop<'_> {
        Workshop { device: &self.device, rotation: self.rotation, kernels: self.kernels }
    }

    pub fn ceilings(&self, budget_ms: f64) -> Result<Ceilings> {
        #[cfg(feature = "cuda")]
        if let Some(gpu) = &self.gpu {
            return gpu.ceilings(budget_ms);
        }
        ceilings::of_cpu(budget_ms)
    }

    /// The unit in which its operations are counted.
    pub fn flop_unit(&self) -> Unit {
        match self.device.target() {
            Target::Cpu => Unit::Gigaflops,
            _ => Unit::Teraflops,
        }
    }

    pub fn sample(&self) -> Sample {
        #[cfg(feature = "cuda")]
        if let Some(gpu) = &self.gpu {
            return gpu.sample();
        }
        Sample::default()
    }

    /// In words, for the head of a record.
    pub fn describe(&self) -> String {
        let Machine { driver, compiler, threads, .. } = &self.machine;
        let mut parts = vec![format!("warpfold {} at {}", env!("CARGO_PKG_VERSION"), self.machine.commit)];
        parts.extend(threads.map(|threads| format!("{threads} threads")));
        for (what, name) in [("driver", driver), ("kernels by", compiler)] {
            if !name.is_empty() {
                parts.push(format!("{what} {name}"));
            }
        }
        parts.join(", ")
    }

    /// A row that says where it comes from, and nothing else.
    pub fn record(&self) -> Record {
        let Machine { date, commit, device, driver, compiler, threads } = self.machine.clone();
        Record { date, commit, device, driver, compiler, threads, ..Record::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_clocks_that_moved_are_noted() {
        let at = |clock_mhz| Sample { clock_mhz, ..Sample::default() };
        assert_eq!(at(Some(1980.0)).change_since(&at(Some(1950.0))), None);
        assert_eq!(at(Some(1400.0)).change_since(&at(Some(1980.0))), Some("clock 1980 to 1400 MHz".to_string()));
        assert_eq!(at(None).change_since(&at(Some(1980.0))), None);
    }
}
