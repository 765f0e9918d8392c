//! PTX text and what it declares.

mod lexer;
mod operand;
mod parser;
mod source;
pub(crate) mod types;
mod variables;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) use operand::{Instruction, Literal, Operand, Register, RegisterId};
pub use source::Position;
pub(crate) use source::{Files, Locations};
pub(crate) use types::{Class, ScalarType, Space};
pub(crate) use variables::{Initial, Variable};

use crate::Error;

/// A parsed PTX module.
///
/// ```
/// let ptx = ".version 7.8\n.target sm_80\n.address_size 64\n.visible .entry noop() { ret; }";
/// let module = ptx_emu::Module::parse(ptx)?;
/// assert_eq!(module.kernel("noop")?.name(), "noop");
/// # Ok::<(), ptx_emu::Error>(())
/// ```
#[derive(Debug)]
pub struct Module {
    pub(crate) version: (u32, u32),
    pub(crate) target: String,
    pub(crate) kernels: Vec<Kernel>,
}

/// What all kernels of a module share.
#[derive(Debug)]
pub(crate) struct ModuleScope {
    /// Distinguishes modules, so that each gets its own variables in a [`Memory`](crate::Memory).
    pub id: u64,
    pub files: Files,
    pub variables: Vec<Variable>,
}

impl Module {
    /// Parses PTX text.
    ///
    /// # Errors
    /// [`Error::Parse`] names the line of the first thing that is not well formed. Instructions
    /// are looked at when a kernel is launched, so a module may hold kernels that cannot run.
    pub fn parse(text: &str) -> Result<Self, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        parser::parse(text, NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// The kernel of that name.
    ///
    /// # Errors
    /// [`Error::UnknownKernel`] lists the names that exist.
    pub fn kernel(&self, name: &str) -> Result<&Kernel, Error> {
        self.kernels.iter().find(|kernel| kernel.name == name).ok_or_else(|| Error::UnknownKernel {
            name: name.to_owned(),
            available: self.kernels.iter().map(|kernel| kernel.name.clone()).collect(),
        })
    }

    /// All kernels, in the order of the text.
    pub fn kernels(&self) -> impl Iterator<Item = &Kernel> {
        self.kernels.iter()
    }

    /// The `.version` directive.
    pub fn version(&self) -> (u32, u32) {
        self.version
    }

    /// The `.target` directive, for instance `sm_80`.
    pub fn target(&self) -> &str {
        &self.target
    }
}

/// A parameter of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Name in the PTX.
    pub name: String,
    /// Offset in the parameter block.
    pub offset: usize,
    /// Size of the parameter; a structure passed by value counts whole.
    pub bytes: usize,
    /// Alignment.
    pub alignment: usize,
}

/// An `.entry` function of a module.
#[derive(Debug)]
pub struct Kernel {
    pub(crate) name: String,
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) parameter_bytes: usize,
    pub(crate) required_threads: Option<[u32; 3]>,
    pub(crate) maximum_threads: Option<[u32; 3]>,
    pub(crate) required_cluster: Option<[u32; 3]>,
    pub(crate) registers: Vec<Register>,
    pub(crate) variables: Vec<Variable>,
    pub(crate) scope_parents: Vec<u32>,
    pub(crate) code: Vec<Instruction>,
    /// Jump tables: the label of `.branchtargets` and the instruction indices.
    pub(crate) branch_targets: HashMap<String, Vec<u32>>,
    pub(crate) locations: Locations,
    pub(crate) module: Arc<ModuleScope>,
    /// Where the text declares it.
    pub(crate) line: u32,
}

impl Kernel {
    /// The (mangled) name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Parameters in order.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// `.reqntid`, the only block shape the kernel may have.
    pub fn required_threads(&self) -> Option<[u32; 3]> {
        self.required_threads
    }

    /// `.maxntid`: the product bounds the threads of a block.
    pub fn maximum_threads(&self) -> Option<[u32; 3]> {
        self.maximum_threads
    }

    /// `.reqnctapercluster`, the only cluster shape the kernel may have.
    pub fn required_cluster(&self) -> Option<[u32; 3]> {
        self.required_cluster
    }

    /// Number of virtual registers the text declares and uses.
    pub fn register_count(&self) -> usize {
        self.registers.len()
    }

    /// Statically declared shared memory.
    pub fn static_shared_bytes(&self) -> u64 {
        crate::decode::layout::SharedLayout::of(self).static_bytes
    }

    /// Number of PTX instructions.
    pub fn instruction_count(&self) -> usize {
        self.code.len()
    }

    /// The declaration that `name` means in lexical scope `scope`.
    pub(crate) fn variable(&self, name: &str, scope: u32) -> Option<&Variable> {
        let mut scope = scope;
        loop {
            if let Some(found) = self.variables.iter().find(|v| v.name == name && v.scope == scope) {
                return Some(found);
            }
            if scope == 0 {
                return self.module.variables.iter().find(|v| v.name == name);
            }
            scope = self.scope_parents[scope as usize];
        }
    }
}
