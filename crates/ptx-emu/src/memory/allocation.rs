//! One allocation: words that several host threads may touch, and which of their bytes were
//! written. Relaxed atomics cost nothing over plain accesses here and keep the code safe; what
//! order the kernel's accesses need is checked by the shadow memory, not by the host.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

#[derive(Debug)]
pub(crate) struct Allocation {
    pub base: u64,
    pub bytes: u64,
    words: Box<[AtomicU32]>,
    /// One bit per byte.
    written: Box<[AtomicU32]>,
}

/// What undefined memory reads back as: NaN in every float type.
const UNDEFINED: u32 = u32::MAX;

impl Allocation {
    pub fn new(base: u64, bytes: u64) -> Option<Self> {
        Some(Allocation {
            base,
            bytes,
            words: filled(bytes.div_ceil(4), UNDEFINED)?,
            written: filled(bytes.div_ceil(32), 0)?,
        })
    }

    #[inline]
    pub fn contains(&self, address: u64, bytes: u64) -> bool {
        address.wrapping_sub(self.base).checked_add(bytes).is_some_and(|end| end <= self.bytes) && address >= self.base
    }

    /// Reads 1, 2, 4, 8 or 16 bytes at a multiple of their number; `false` if some were never written.
    #[inline]
    pub fn load(&self, offset: u64, bytes: u32, out: &mut [u32; 4]) -> bool {
        let word = (offset >> 2) as usize;
        if bytes >= 4 {
            let count = (bytes / 4) as usize;
            for (value, cell) in out.iter_mut().zip(&self.words[word..word + count]) {
                *value = cell.load(Relaxed);
            }
        } else {
            let shift = (offset & 3) * 8;
            out[0] = self.words[word].load(Relaxed) >> shift & ((1u32 << (bytes * 8)) - 1);
        }
        self.is_written(offset, bytes)
    }

    /// Writes 1, 2, 4, 8 or 16 bytes at a multiple of their number.
    #[inline]
    pub fn store(&self, offset: u64, bytes: u32, values: &[u32; 4]) {
        let word = (offset >> 2) as usize;
        if bytes >= 4 {
            let count = (bytes / 4) as usize;
            for (value, cell) in values.iter().zip(&self.words[word..word + count]) {
                cell.store(*value, Relaxed);
            }
        } else {
            let shift = (offset & 3) as u32 * 8;
            let mask = ((1u32 << (bytes * 8)) - 1) << shift;
            let merge = |old: u32| Some(old & !mask | values[0] << shift & mask);
            // The closure always returns a value, so this cannot fail.
            let _ = self.words[word].fetch_update(Relaxed, Relaxed, merge);
        }
        self.mark(offset, bytes);
    }

    /// Whether these bytes, which do not cross a multiple of 32, were written.
    #[inline]
    pub fn is_written(&self, offset: u64, bytes: u32) -> bool {
        let mask = ((1u64 << bytes) - 1) as u32;
        self.written[(offset >> 5) as usize].load(Relaxed) >> (offset & 31) & mask == mask
    }

    #[inline]
    fn mark(&self, offset: u64, bytes: u32) {
        let mask = (((1u64 << bytes) - 1) << (offset & 31)) as u32;
        let cell = &self.written[(offset >> 5) as usize];
        if cell.load(Relaxed) & mask != mask {
            cell.fetch_or(mask, Relaxed);
        }
    }

    pub fn write_bytes(&self, offset: u64, bytes: &[u8]) {
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let (size, values) = if at & 3 == 0 && rest.len() >= 4 {
                (4, u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]))
            } else {
                (1, u32::from(rest[0]))
            };
            self.store(at, size, &[values, 0, 0, 0]);
            at += u64::from(size);
            rest = &rest[size as usize..];
        }
    }

    pub fn read_bytes(&self, offset: u64, bytes: &mut [u8]) {
        for (at, byte) in (offset..).zip(bytes) {
            *byte = (self.words[(at >> 2) as usize].load(Relaxed) >> ((at & 3) * 8)) as u8;
        }
    }

    pub fn poison(&self, offset: u64, bytes: u64) {
        for at in offset..offset + bytes {
            self.store(at, 1, &[UNDEFINED, 0, 0, 0]);
            self.written[(at >> 5) as usize].fetch_and(!(1 << (at & 31)), Relaxed);
        }
    }
}

fn filled(count: u64, value: u32) -> Option<Box<[AtomicU32]>> {
    let count = usize::try_from(count).ok()?;
    let mut words = Vec::new();
    words.try_reserve_exact(count).ok()?;
    words.resize_with(count, || AtomicU32::new(value));
    Some(words.into_boxed_slice())
}
