//! Host memory of owned tensors, aligned to a cache line.

/// One cache line. Its alignment is what aligns a [`HostBuffer`].
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct CacheLine([u8; 64]);

/// Zero-initialised bytes that start on a cache line.
pub(crate) struct HostBuffer {
    lines: Vec<CacheLine>,
    size_bytes: usize,
}

impl HostBuffer {
    pub(crate) fn zeroed(size_bytes: usize) -> HostBuffer {
        HostBuffer { lines: bytemuck::allocation::zeroed_vec(size_bytes.div_ceil(64)), size_bytes }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.lines)[..self.size_bytes]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.size_bytes]
    }
}
