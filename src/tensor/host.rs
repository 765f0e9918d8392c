//! Host memory of owned tensors, aligned to a cache line.
//!
//! Large buffers are mapped with huge pages where the system has them: touching 64 MB for the first time is then 32 page faults and
//! not 16,384. Middling ones are kept for the next tensor of about their size, so that an operation that is called again and again
//! does not wait for the system each time.

use std::sync::Mutex;

/// One cache line. Its alignment is what aligns memory of the heap.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct CacheLine([u8; 64]);

/// From this size on, memory is mapped, and not of the heap: two huge pages.
const MAPPED_BYTES_MIN: usize = 4 << 20;
/// Buffers of these sizes are kept when they are not needed any more, and so many bytes in all.
const KEPT_BYTES: std::ops::Range<usize> = 64 << 10..16 << 20;
const KEPT_BYTES_MAX: usize = 32 << 20;

/// Initialised bytes that start on a cache line.
pub(crate) struct HostBuffer {
    memory: Memory,
    size_bytes: usize,
}

enum Memory {
    Heap(Vec<CacheLine>),
    Mapped(memmap2::MmapMut),
}

impl Memory {
    fn zeroed(size_bytes: usize) -> Memory {
        if size_bytes >= MAPPED_BYTES_MIN
            && let Ok(mapped) = memmap2::MmapMut::map_anon(size_bytes)
        {
            // A system that does not take the advice has small pages, which work too.
            #[cfg(target_os = "linux")]
            let _ = mapped.advise(memmap2::Advice::HugePage);
            return Memory::Mapped(mapped);
        }
        Memory::Heap(bytemuck::allocation::zeroed_vec(size_bytes.div_ceil(64)))
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Memory::Heap(lines) => bytemuck::cast_slice(lines),
            Memory::Mapped(mapped) => mapped,
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Memory::Heap(lines) => bytemuck::cast_slice_mut(lines),
            Memory::Mapped(mapped) => mapped,
        }
    }
}

/// Buffers that are kept, the oldest first.
static KEPT: Mutex<Vec<Memory>> = Mutex::new(Vec::new());

impl HostBuffer {
    pub(crate) fn zeroed(size_bytes: usize) -> HostBuffer {
        HostBuffer { memory: Memory::zeroed(size_bytes), size_bytes }
    }

    /// Bytes of any value, for somebody to overwrite.
    pub(crate) fn any(size_bytes: usize) -> HostBuffer {
        let memory = if KEPT_BYTES.contains(&size_bytes) { take_kept(size_bytes) } else { None };
        HostBuffer { memory: memory.unwrap_or_else(|| Memory::zeroed(size_bytes)), size_bytes }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.memory.bytes()[..self.size_bytes]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory.bytes_mut()[..self.size_bytes]
    }
}

/// A kept buffer that has so many bytes, and not more than twice as many.
fn take_kept(size_bytes: usize) -> Option<Memory> {
    let mut kept = KEPT.lock().ok()?;
    let fits = |memory: &Memory| (size_bytes..=2 * size_bytes).contains(&memory.bytes().len());
    // The youngest one is the likeliest to be in the caches.
    let index = kept.iter().rposition(fits)?;
    Some(kept.remove(index))
}

impl Drop for HostBuffer {
    fn drop(&mut self) {
        let memory = std::mem::replace(&mut self.memory, Memory::Heap(Vec::new()));
        if !KEPT_BYTES.contains(&memory.bytes().len()) {
            return;
        }
        let Ok(mut kept) = KEPT.lock() else { return };
        kept.push(memory);
        while kept.iter().map(|memory| memory.bytes().len()).sum::<usize>() > KEPT_BYTES_MAX {
            kept.remove(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_of_all_sizes_start_on_a_cache_line_and_zeroed_ones_are_zero() {
        for size in [0, 1, 63, 64, 65, 100_000, (4 << 20) + 1, 20 << 20] {
            for _ in 0..2 {
                let mut buffer = HostBuffer::zeroed(size);
                assert_eq!(buffer.bytes().len(), size);
                assert!(buffer.bytes().as_ptr().addr().is_multiple_of(64));
                assert!(buffer.bytes().iter().all(|byte| *byte == 0), "{size}");
                buffer.bytes_mut().fill(0xff);
                drop(buffer);
                let mut buffer = HostBuffer::any(size);
                assert_eq!((buffer.bytes().len(), buffer.bytes_mut().len()), (size, size));
                assert!(buffer.bytes().as_ptr().addr().is_multiple_of(64));
                buffer.bytes_mut().fill(0xff);
            }
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let buffers: Vec<HostBuffer> = (0..10).map(|_| HostBuffer::any(8 << 20)).collect();
        drop(buffers);
        let kept = KEPT.lock().unwrap().iter().map(|memory| memory.bytes().len()).sum::<usize>();
        assert!(kept <= KEPT_BYTES_MAX, "{kept}");
    }
}
