//! The global memory of an emulated device.

mod allocation;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

pub(crate) use allocation::Allocation;

use crate::Error;
use crate::module::{Initial, ModuleScope, Space};

/// Device addresses start here: far above 32 bits, so that a truncated pointer is never valid.
const BASE: u64 = 0x10_0000_0000;
/// Allocations lie at least this far apart, so that a stray index does not land in a neighbour.
const GAP_BYTES: u64 = 16 << 20;
/// End of the addresses handed out, well below the windows of the generic address space.
const END: u64 = 0x6000_0000_0000;
/// Default bound on the sum of all allocations.
const LIMIT_BYTES: u64 = 16 << 30;

/// The global memory of one emulated device. Shared freely between threads and launches.
///
/// ```
/// let memory = ptx_emu::Memory::new();
/// let address = memory.allocate(16, 256)?;
/// memory.write(address + 4, &7u32.to_le_bytes())?;
/// let mut word = [0; 4];
/// memory.read(address + 4, &mut word)?;
/// assert_eq!(u32::from_le_bytes(word), 7);
/// # Ok::<(), ptx_emu::Error>(())
/// ```
#[derive(Debug)]
pub struct Memory {
    state: RwLock<State>,
    limit_bytes: u64,
}

#[derive(Debug, Default)]
struct State {
    allocations: BTreeMap<u64, Arc<Allocation>>,
    next: u64,
    used_bytes: u64,
    /// Addresses of the variables of each module that was launched here.
    modules: HashMap<u64, Arc<HashMap<String, u64>>>,
}

impl Default for Memory {
    fn default() -> Self {
        Memory::new()
    }
}

impl Memory {
    /// Empty memory that grows up to 16 GiB.
    pub fn new() -> Self {
        Memory::with_limit(LIMIT_BYTES)
    }

    /// Empty memory that grows up to that many bytes.
    pub fn with_limit(limit_bytes: u64) -> Self {
        Memory { state: RwLock::new(State { next: BASE, ..State::default() }), limit_bytes }
    }

    /// Reserves memory and returns its address. Its contents are undefined: reading them is a
    /// hazard, and reads back 0xFF.
    ///
    /// # Errors
    /// [`Error::Allocation`] if the alignment is no power of two or the memory is exhausted.
    pub fn allocate(&self, bytes: u64, alignment: u64) -> Result<u64, Error> {
        let refuse = |message| Error::Allocation { bytes, alignment, message };
        if !alignment.is_power_of_two() || alignment > 1 << 30 {
            return Err(refuse("the alignment must be a power of two up to 1 GiB"));
        }
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let used_bytes = state.used_bytes.saturating_add(bytes);
        if used_bytes > self.limit_bytes {
            return Err(refuse("the memory's limit is exceeded"));
        }
        let address = state.next.next_multiple_of(alignment.max(256));
        let gap = bytes.max(GAP_BYTES).next_multiple_of(4096);
        let next = address.checked_add(bytes).and_then(|end| end.checked_add(gap)).filter(|next| *next < END);
        state.next = next.ok_or_else(|| refuse("the address space is exhausted"))?;
        state.used_bytes = used_bytes;
        let allocation = Allocation::new(address, bytes).ok_or_else(|| refuse("the host has no memory left"))?;
        state.allocations.insert(address, Arc::new(allocation));
        Ok(address)
    }

    /// Gives an allocation back. Later accesses to it are out of bounds.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`] unless the address is the start of a live allocation.
    pub fn free(&self, address: u64) -> Result<(), Error> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let allocation = state.allocations.remove(&address).ok_or(Error::InvalidAddress { address, bytes: 0 })?;
        state.used_bytes -= allocation.bytes;
        Ok(())
    }

    /// Copies from the host; the bytes count as written.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`] unless all bytes lie in one live allocation.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Error> {
        let (allocation, offset) = self.locate(address, bytes.len() as u64)?;
        allocation.write_bytes(offset, bytes);
        Ok(())
    }

    /// Copies to the host.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`] unless all bytes lie in one live allocation.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Error> {
        let (allocation, offset) = self.locate(address, bytes.len() as u64)?;
        allocation.read_bytes(offset, bytes);
        Ok(())
    }

    /// Makes the bytes undefined again and fills them with 0xFF, which is NaN in every float type.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`] unless all bytes lie in one live allocation.
    pub fn poison(&self, address: u64, bytes: u64) -> Result<(), Error> {
        let (allocation, offset) = self.locate(address, bytes)?;
        allocation.poison(offset, bytes);
        Ok(())
    }

    /// Whether each of the bytes has been written, by the host or by a kernel.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`] unless all bytes lie in one live allocation.
    pub fn is_written(&self, address: u64, bytes: u64) -> Result<bool, Error> {
        let (allocation, offset) = self.locate(address, bytes)?;
        Ok((offset..offset + bytes).all(|byte| allocation.is_written(byte, 1)))
    }

    /// The address of a `.global` or `.const` variable of the kernel's module. The first use places
    /// and initialises all variables of the module.
    ///
    /// # Errors
    /// [`Error::UnknownSymbol`] if there is no such variable, [`Error::Allocation`] if it does not fit.
    pub fn variable(&self, kernel: &crate::Kernel, name: &str) -> Result<u64, Error> {
        let addresses = self.module_variables(&kernel.module)?;
        addresses.get(name).copied().ok_or_else(|| Error::UnknownSymbol { line: 0, name: name.to_owned() })
    }

    pub(crate) fn module_variables(&self, module: &ModuleScope) -> Result<Arc<HashMap<String, u64>>, Error> {
        let known = |memory: &Memory| {
            memory.state.read().unwrap_or_else(PoisonError::into_inner).modules.get(&module.id).cloned()
        };
        if let Some(found) = known(self) {
            return Ok(found);
        }
        let mut addresses = HashMap::new();
        let placed = || module.variables.iter().filter(|v| matches!(v.space, Space::Global | Space::Const));
        for variable in placed() {
            let Some(bytes) = variable.bytes().filter(|_| !variable.is_extern) else { continue };
            addresses.insert(variable.name.clone(), self.allocate(bytes, variable.alignment)?);
        }
        for variable in placed() {
            let Some(&address) = addresses.get(&variable.name) else { continue };
            // Variables without an initialiser start as zero.
            let mut image = vec![0u8; variable.bytes().unwrap_or(0) as usize];
            let size = variable.ty.bytes() as usize;
            for (element, value) in image.chunks_mut(size.max(1)).zip(&variable.initial) {
                let bits = match value {
                    Initial::Bits(bits) => *bits,
                    Initial::Address(name, offset) => {
                        let target = addresses
                            .get(name)
                            .ok_or_else(|| Error::UnknownSymbol { line: variable.line, name: name.clone() })?;
                        target.wrapping_add(*offset as u64)
                    }
                };
                element.copy_from_slice(&bits.to_le_bytes()[..size]);
            }
            self.write(address, &image)?;
        }
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::clone(state.modules.entry(module.id).or_insert_with(|| Arc::new(addresses))))
    }

    fn locate(&self, address: u64, bytes: u64) -> Result<(Arc<Allocation>, u64), Error> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let found = state.allocations.range(..=address).next_back().map(|(_, allocation)| allocation);
        let found = found.filter(|a| a.contains(address, bytes));
        let allocation = found.ok_or(Error::InvalidAddress { address, bytes })?;
        Ok((Arc::clone(allocation), address - allocation.base))
    }

    /// The live allocations, by address.
    pub(crate) fn view(&self) -> Vec<Arc<Allocation>> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.allocations.values().cloned().collect()
    }
}
