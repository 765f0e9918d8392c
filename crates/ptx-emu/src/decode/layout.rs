//! Where variables live, and the address windows of the generic address space.

use crate::Error;
use crate::module::{Kernel, Operand, Space, Variable};

/// Generic addresses of shared memory start here.
pub(crate) const SHARED_WINDOW: u64 = 0x7f00_0000_0000;
/// An address of `shared::cluster` names the block of rank r by r + 1 from this bit on; 0 there is the own block.
pub(crate) const RANK_SHIFT: u32 = 24;
/// Generic addresses of a thread's local memory start here.
pub(crate) const LOCAL_WINDOW: u64 = 0x7e00_0000_0000;
/// Addresses of kernel parameters start here, in the parameter space and in the generic one.
pub(crate) const PARAMETER_WINDOW: u64 = 0x7d00_0000_0000;
/// Size of each window.
pub(crate) const WINDOW_BYTES: u64 = 1 << 32;

/// The shared variables of a kernel; dynamic shared memory comes after the static part.
#[derive(Debug, Clone)]
pub(crate) struct SharedLayout {
    offsets: Vec<(String, u32, u64)>,
    /// Saturates: a block this large is refused when it is launched.
    pub static_bytes: u64,
    /// Where `.extern .shared` arrays start.
    pub dynamic_offset: u64,
}

impl SharedLayout {
    /// Places the variables that the kernel names, in the order of their declaration.
    pub fn of(kernel: &Kernel) -> Self {
        let mut layout = SharedLayout { offsets: Vec::new(), static_bytes: 0, dynamic_offset: 0 };
        let mut dynamic = Vec::new();
        let mut dynamic_alignment = 16;
        for variable in used(kernel, Space::Shared) {
            match variable.bytes().filter(|_| !variable.is_extern) {
                Some(bytes) => {
                    let start = layout.static_bytes.saturating_add(variable.alignment - 1) & !(variable.alignment - 1);
                    layout.offsets.push((variable.name.clone(), variable.scope, start));
                    layout.static_bytes = start.saturating_add(bytes);
                }
                None => {
                    dynamic_alignment = dynamic_alignment.max(variable.alignment);
                    dynamic.push((variable.name.clone(), variable.scope));
                }
            }
        }
        layout.dynamic_offset = if dynamic.is_empty() {
            layout.static_bytes
        } else {
            layout.static_bytes.saturating_add(dynamic_alignment - 1) & !(dynamic_alignment - 1)
        };
        layout.offsets.extend(dynamic.into_iter().map(|(name, scope)| (name, scope, layout.dynamic_offset)));
        layout
    }

    pub fn offset(&self, variable: &Variable) -> Option<u64> {
        self.offsets.iter().find(|(name, scope, _)| *name == variable.name && *scope == variable.scope).map(|o| o.2)
    }
}

/// The local variables of a kernel; every thread has its own copy.
#[derive(Debug, Clone)]
pub(crate) struct LocalLayout {
    offsets: Vec<(String, u32, u64)>,
    pub bytes: u32,
}

/// More local memory per thread than any device grants.
const LOCAL_BYTES_MAX: u64 = 512 << 10;

impl LocalLayout {
    pub fn of(kernel: &Kernel) -> Result<Self, Error> {
        let mut offsets = Vec::new();
        let mut end = 0u64;
        for variable in used(kernel, Space::Local) {
            let start = end.next_multiple_of(variable.alignment);
            offsets.push((variable.name.clone(), variable.scope, start));
            end = start.saturating_add(variable.bytes().unwrap_or(u64::MAX));
            if end > LOCAL_BYTES_MAX {
                return Err(Error::Limit { what: "local memory of a thread in bytes", limit: LOCAL_BYTES_MAX });
            }
        }
        Ok(LocalLayout { offsets, bytes: end as u32 })
    }

    pub fn offset(&self, variable: &Variable) -> Option<u64> {
        self.offsets.iter().find(|(name, scope, _)| *name == variable.name && *scope == variable.scope).map(|o| o.2)
    }
}

/// Variables of that space which some instruction names, module first.
fn used(kernel: &Kernel, space: Space) -> Vec<&Variable> {
    let mut named = std::collections::HashSet::new();
    for instruction in &kernel.code {
        for operand in &instruction.operands {
            names(operand, instruction.scope, &mut named);
        }
    }
    let resolved: std::collections::HashSet<*const Variable> =
        named.iter().filter_map(|(name, scope)| kernel.variable(name, *scope)).map(std::ptr::from_ref).collect();
    let all = kernel.module.variables.iter().chain(&kernel.variables);
    all.filter(|v| v.space == space && resolved.contains(&std::ptr::from_ref(*v))).collect()
}

fn names<'a>(operand: &'a Operand, scope: u32, found: &mut std::collections::HashSet<(&'a str, u32)>) {
    match operand {
        Operand::Symbol(name, _) => {
            found.insert((name, scope));
        }
        Operand::Vector(elements) | Operand::List(elements) => {
            for element in elements {
                names(element, scope, found);
            }
        }
        Operand::Address(base, _) => names(base, scope, found),
        Operand::Tensor(map, coordinates) => {
            names(map, scope, found);
            coordinates.iter().for_each(|coordinate| names(coordinate, scope, found));
        }
        Operand::Pair(first, second) => {
            names(first, scope, found);
            names(second, scope, found);
        }
        _ => {}
    }
}
