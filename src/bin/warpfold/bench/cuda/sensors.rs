//! NVML, where it can be loaded: clocks, power and temperature, read only.

use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
use warpfold::cuda::cudarc::driver::sys::CUuuid;

use crate::bench::station::Sample;

pub struct Sensors {
    nvml: Nvml,
    /// NVML counts GPUs in an order of its own, and those that CUDA was not shown.
    uuid: Option<String>,
    ordinal: usize,
}

impl Sensors {
    /// `None` without NVML.
    pub fn open(ordinal: usize, uuid: Option<CUuuid>) -> Option<Sensors> {
        // The name without a version comes with development packages only.
        let by_version = || Nvml::builder().lib_path("libnvidia-ml.so.1".as_ref()).init();
        let nvml = by_version().or_else(|_| Nvml::init()).ok()?;
        Some(Sensors { nvml, uuid: uuid.map(|uuid| text(uuid.bytes.map(|byte| byte as u8))), ordinal })
    }

    pub fn driver(&self) -> Option<String> {
        self.nvml.sys_driver_version().ok()
    }

    pub fn sample(&self) -> Sample {
        let by_uuid = self.uuid.as_ref().and_then(|uuid| self.nvml.device_by_uuid(uuid.as_str()).ok());
        let by_index = || self.nvml.device_by_index(u32::try_from(self.ordinal).ok()?).ok();
        let Some(device) = by_uuid.or_else(by_index) else { return Sample::default() };
        Sample {
            clock_mhz: device.clock_info(Clock::SM).ok().map(f64::from),
            power_w: device.power_usage().ok().map(|milliwatts| f64::from(milliwatts) / 1000.0),
            temperature_c: device.temperature(TemperatureSensor::Gpu).ok().map(f64::from),
        }
    }
}

/// As NVML writes it: `GPU-` and groups of 8, 4, 4, 4 and 12 digits.
fn text(bytes: [u8; 16]) -> String {
    let mut text = String::from("GPU");
    for (index, byte) in bytes.iter().enumerate() {
        if [0, 4, 6, 8, 10].contains(&index) {
            text.push('-');
        }
        text += &format!("{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_written_as_nvml_does() {
        let bytes = std::array::from_fn(|index| 0x10 * (index as u8 % 10) + 1);
        assert_eq!(text(bytes), "GPU-01112131-4151-6171-8191-011121314151");
    }

    #[test]
    fn without_a_driver_there_are_no_sensors() {
        match Sensors::open(0, None) {
            None => println!("skipped: there is no NVML"),
            Some(sensors) => assert!(sensors.driver().is_some_and(|driver| driver.contains('.'))),
        }
    }
}
