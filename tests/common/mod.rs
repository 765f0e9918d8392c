//! What the differential tests share: devices, seeded inputs in poisoned memory, and one attempt of each operation.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::BTreeSet;
use std::io::Write as _;
use std::sync::Mutex;

use half::{bf16, f16};
use warpfold::reference::naive::round;
use warpfold::{DType, Device, Layout, Result, Tensor, TensorMut, TensorRef};

pub mod attention;
pub mod rows;

/// The devices that a test runs on: the one that WARPFOLD_TEST_DEVICE names, else the CPU with each instruction set, the
/// emulator and the first GPU, each if it is there; says in one line what is skipped, and why.
pub fn devices() -> Vec<Device> {
    if let Ok(name) = std::env::var("WARPFOLD_TEST_DEVICE") {
        return vec![name.parse().unwrap_or_else(|error| panic!("WARPFOLD_TEST_DEVICE={name}: {error}"))];
    }
    let mut devices = Vec::new();
    // The best instruction set is first, and that of `cpu`.
    for name in ["cpu:avx512_bf16", "cpu:avx512", "cpu:avx2", "cpu:portable", "emulator:sm_80", "cuda:0"] {
        match name.parse() {
            Ok(_) if devices.is_empty() => devices.push(Device::cpu()),
            Ok(device) => devices.push(device),
            Err(error) => skipped(name, error),
        }
    }
    devices
}

/// The emulator of Hopper, which has attention kernels of its own.
pub const HOPPER: &str = "emulator:sm_90a";

/// The devices that attention is tested on: those of [`devices`], and the emulator of Hopper.
pub fn attention_devices() -> Vec<Device> {
    let mut all = devices();
    if std::env::var("WARPFOLD_TEST_DEVICE").is_err() {
        match HOPPER.parse() {
            Ok(device) => all.push(device),
            Err(error) => skipped(HOPPER, error),
        }
    }
    all
}

/// Says once that something cannot run here, and why; not through `println`, which the test harness keeps to itself.
pub fn skipped(what: &str, reason: impl std::fmt::Display) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let line = format!("skipped: {what}: {reason}\n");
    if SAID.lock().is_ok_and(|mut said| said.insert(line.clone())) {
        // A test that cannot say so is still right.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}

/// Whether only a small part of each grid is wanted, for runs under a sanitizer.
pub fn small() -> bool {
    std::env::var("WARPFOLD_TEST_CASES").is_ok_and(|cases| cases == "small")
}

/// The float types, which every device computes.
pub const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// Seeded values of non-zero mean, rounded to the element type: a normal-like spread of 1 around `mean`.
pub fn values(seed: u64, count: usize, mean: f64, spread: f64, dtype: DType) -> Vec<f64> {
    let mut random = fastrand::Rng::with_seed(seed);
    // The sum of four uniform numbers has variance 1/3.
    let mut normal = || ((0..4).map(|_| random.f64()).sum::<f64>() - 2.0) * 3f64.sqrt();
    (0..count).map(|_| round(mean + spread * normal(), dtype)).collect()
}

/// Bytes without a pattern, for a boolean mask: about a quarter of them are 0, the others any other number.
pub fn mask_bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..count).map(|_| if random.u8(..) < 64 { 0 } else { random.u8(1..) }).collect()
}

/// Copies f64 values, exact in the type, to a device.
pub fn upload(device: &Device, dtype: DType, values: &[f64], shape: &[usize]) -> Result<Tensor> {
    match dtype {
        DType::F32 => Tensor::from_slice(device, &values.iter().map(|v| *v as f32).collect::<Vec<_>>(), shape),
        DType::F16 => Tensor::from_slice(device, &values.iter().map(|v| f16::from_f64(*v)).collect::<Vec<_>>(), shape),
        DType::BF16 => {
            Tensor::from_slice(device, &values.iter().map(|v| bf16::from_f64(*v)).collect::<Vec<_>>(), shape)
        }
        DType::U8 => Tensor::from_slice(device, &values.iter().map(|v| *v as u8).collect::<Vec<_>>(), shape),
        other => panic!("no test data of type {other}"),
    }
}

/// How a tensor lies in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Placement {
    /// Row-major without gaps.
    Contiguous,
    /// The two dimensions before the last one exchanged in memory: `[batch, len, heads, head_dim]`, and of packed sequences
    /// `[heads, total, head_dim]`.
    Transposed,
    /// Rows 16 elements longer than they are, so that they stay aligned.
    Padded,
    /// Starts one element late and has rows an odd number of elements longer: no row is 16-byte aligned.
    Misaligned,
}

pub const PLACEMENTS: [Placement; 4] =
    [Placement::Contiguous, Placement::Transposed, Placement::Padded, Placement::Misaligned];

impl Placement {
    /// The layout of a shape, and the elements of the memory that holds it with a margin around.
    pub fn layout(self, shape: &[usize]) -> (Layout, usize) {
        let columns = *shape.last().expect("tensors have rows");
        let (offset, row) = match self {
            Placement::Contiguous | Placement::Transposed => (32, columns),
            Placement::Padded => (32, columns.next_multiple_of(8) + 16),
            Placement::Misaligned => (33, columns + 3 + columns % 2),
        };
        let mut sizes = shape.to_vec();
        let exchanged = (self == Placement::Transposed && shape.len() > 2).then(|| (shape.len() - 3, shape.len() - 2));
        if let Some((a, b)) = exchanged {
            sizes.swap(a, b);
        }
        let mut strides = vec![1; sizes.len()];
        let mut stride = row;
        for axis in (0..sizes.len().saturating_sub(1)).rev() {
            strides[axis] = stride;
            stride *= sizes[axis].max(1);
        }
        if let Some((a, b)) = exchanged {
            strides.swap(a, b);
        }
        let layout = Layout::strided(shape, &strides, offset).expect("test shapes are small");
        (layout, layout.end().max(offset) + 32)
    }
}

/// A tensor in NaN-filled memory; bytes, which have no NaN, lie among arbitrary ones.
pub struct Placed {
    memory: Tensor,
    layout: Layout,
    elements: usize,
}

impl Placed {
    /// Row-major values, placed; everything around them is NaN, or noise.
    pub fn new(device: &Device, dtype: DType, values: &[f64], shape: &[usize], placement: Placement) -> Result<Placed> {
        let (layout, elements) = placement.layout(shape);
        let mut memory = match dtype {
            DType::U8 => mask_bytes(elements as u64, elements).into_iter().map(f64::from).collect(),
            _ => vec![f64::NAN; elements],
        };
        for (index, value) in values.iter().enumerate() {
            memory[position(&layout, index)] = *value;
        }
        Ok(Placed { memory: upload(device, dtype, &memory, &[elements])?, layout, elements })
    }

    /// NaN everywhere, for an output.
    pub fn poisoned(device: &Device, dtype: DType, shape: &[usize], placement: Placement) -> Result<Placed> {
        Placed::new(device, dtype, &[], shape, placement)
    }

    pub fn view(&self) -> TensorRef<'_> {
        self.memory.view().with_layout(self.layout).expect("the memory was made for the layout")
    }

    pub fn view_mut(&mut self) -> TensorMut<'_> {
        self.memory.view_mut().with_layout(self.layout).expect("the memory was made for the layout")
    }

    /// The elements in row-major order. Panics when memory around them is no longer NaN.
    pub fn values(&self) -> Result<Vec<f64>> {
        let memory: Vec<f64> = self.memory.to_vec_f32()?.into_iter().map(f64::from).collect();
        let count = self.layout.num_elements();
        let mut inside = vec![false; self.elements];
        let mut values = Vec::with_capacity(count);
        for index in 0..count {
            let position = position(&self.layout, index);
            inside[position] = true;
            values.push(memory[position]);
        }
        for (position, value) in memory.iter().enumerate().filter(|(position, _)| !inside[*position]) {
            assert!(value.is_nan(), "element {position} outside the tensor {:?} was overwritten", self.layout);
        }
        Ok(values)
    }
}

/// Where element `index`, counted in row-major order, lies.
pub fn position(layout: &Layout, index: usize) -> usize {
    let mut rest = index;
    let mut position = layout.offset();
    for (size, stride) in layout.shape().iter().zip(layout.strides()).rev() {
        position += rest % size * stride;
        rest /= size;
    }
    position
}
