//! From parsed instructions to the compact form that is executed: registers become rows of a
//! register file, immediates and parameters become constant rows, modifiers become handlers.

mod allocation;
mod form;
pub(crate) mod layout;
mod operands;
mod sections;
pub(crate) mod special;

use std::collections::HashMap;

pub(crate) use form::Form;
pub(crate) use operands::Address;

use crate::Error;
use crate::instructions;
use crate::machine::Handler;
use crate::module::{Class, Instruction, Kernel, ScalarType};
use allocation::Access;
use layout::{LocalLayout, SharedLayout};
use special::Special;

/// No guard predicate.
pub(crate) const ALWAYS: u32 = u32::MAX;

/// Which lanes must be present before an instruction may execute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Sync {
    /// Each lane for itself.
    #[default]
    None,
    /// All lanes of the warp (`.sync.aligned`).
    Aligned,
    /// `bar.sync` and its kin: all lanes that have not exited.
    Barrier,
    /// The lanes of the member mask in this word row.
    Members(u32),
}

/// A decoded instruction.
#[derive(Clone)]
pub(crate) struct Inst {
    pub handler: Handler,
    pub guard: u32,
    pub guard_negated: bool,
    pub sync: Sync,
    /// Whether it reads or writes registers that asynchronous products hold as well.
    pub touches: bool,
    /// Whether it only computes: a lane's results from that lane's sources.
    pub is_pure: bool,
    /// Destination row.
    pub d: u32,
    pub a: u32,
    pub b: u32,
    pub c: u32,
    /// Meaning depends on the handler.
    pub flags: u32,
    pub offset: i64,
    /// Rows of vector operands.
    pub rows: Box<[u32]>,
}

impl Inst {
    pub fn new(handler: Handler) -> Self {
        Inst {
            handler,
            guard: ALWAYS,
            guard_negated: false,
            sync: Sync::None,
            touches: false,
            is_pure: false,
            d: 0,
            a: 0,
            b: 0,
            c: 0,
            flags: 0,
            offset: 0,
            rows: Box::default(),
        }
    }
}

/// A word row that an ordinary instruction shares with asynchronous products.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Touch {
    pub row: u32,
    pub writes: bool,
}

/// The operands of a bulk copy; those that it has not are of no meaning.
#[derive(Debug, Clone, Default)]
pub(crate) struct BulkForm {
    pub destination: Address,
    pub source: Address,
    pub mbarrier: Address,
    /// Global memory, or the tensor map.
    pub global: Address,
    /// Dimensions of the tensor, 0 for plain bytes.
    pub map_rank: u32,
    /// Rows of the coordinates of a box.
    pub coordinates: Box<[u32]>,
    /// Row of the number of bytes.
    pub bytes: u32,
    /// Row of a mask of blocks of the cluster.
    pub ranks: Option<u32>,
    /// An operation of `atom`, and its type where the tensor map does not say.
    pub reduction: Option<(u32, Option<ScalarType>)>,
}

/// What the addresses of symbols depend on.
#[derive(Clone, Copy)]
pub(crate) struct Bindings<'a> {
    pub parameters: &'a [u8],
    /// Addresses of `.global` and `.const` variables.
    pub variables: &'a HashMap<String, u64>,
}

/// A kernel ready to run with one set of parameters.
pub(crate) struct Program {
    pub code: Vec<Inst>,
    pub word_rows: u32,
    pub long_rows: u32,
    pub predicate_rows: u32,
    pub word_constants: Vec<(u32, u32)>,
    pub long_constants: Vec<(u32, u64)>,
    pub predicate_constants: Vec<(u32, bool)>,
    pub word_specials: Vec<(u32, Special)>,
    pub long_specials: Vec<(u32, Special)>,
    /// Register names by row, for reports.
    pub word_names: HashMap<u32, String>,
    pub long_names: HashMap<u32, String>,
    pub predicate_names: HashMap<u32, String>,
    pub tables: Vec<Vec<u32>>,
    pub bulk_forms: Vec<BulkForm>,
    /// Per instruction, for those with [`Inst::touches`].
    pub touches: Vec<Box<[Touch]>>,
    /// The kernel has instructions of warpgroups.
    pub has_warpgroups: bool,
    pub shared: SharedLayout,
    pub local: LocalLayout,
    /// The kernel may order memory between blocks (atomics, volatile or acquire/release accesses).
    pub communicates: bool,
}

/// Gives meaning to the instructions of one kernel.
pub(crate) struct Decoder<'a> {
    pub kernel: &'a Kernel,
    pub bindings: Bindings<'a>,
    pub program: Program,
    register_rows: Vec<Option<u32>>,
    /// What the current instruction reads and writes.
    access: Access,
    word_constant_rows: HashMap<u32, u32>,
    long_constant_rows: HashMap<u64, u32>,
    predicate_constant_rows: [Option<u32>; 2],
    word_special_rows: HashMap<Special, u32>,
    long_special_rows: HashMap<Special, u32>,
    sinks: [Option<u32>; 3],
}

/// Decodes a whole kernel, twice: once to see what its instructions read and write, and once with the rows that follow
/// from it.
pub(crate) fn decode(kernel: &Kernel, bindings: Bindings<'_>) -> Result<Program, Error> {
    let mut draft = Decoder::new(kernel, bindings)?;
    let mut accesses = Vec::with_capacity(kernel.code.len());
    for instruction in &kernel.code {
        draft.instruction(instruction)?;
        accesses.push(std::mem::take(&mut draft.access));
    }
    let rows = allocation::allocate(kernel, &accesses);
    let mut decoder = Decoder::new(kernel, bindings)?;
    decoder.use_rows(&rows);
    for instruction in &kernel.code {
        let inst = decoder.instruction(instruction)?;
        decoder.program.code.push(inst);
    }
    if decoder.program.has_warpgroups {
        decoder.find_touches(&accesses);
    }
    Ok(decoder.program)
}

impl<'a> Decoder<'a> {
    fn new(kernel: &'a Kernel, bindings: Bindings<'a>) -> Result<Self, Error> {
        Ok(Decoder {
            kernel,
            bindings,
            program: Program {
                code: Vec::with_capacity(kernel.code.len()),
                word_rows: 0,
                long_rows: 0,
                predicate_rows: 0,
                word_constants: Vec::new(),
                long_constants: Vec::new(),
                predicate_constants: Vec::new(),
                word_specials: Vec::new(),
                long_specials: Vec::new(),
                word_names: HashMap::new(),
                long_names: HashMap::new(),
                predicate_names: HashMap::new(),
                tables: Vec::new(),
                bulk_forms: Vec::new(),
                touches: Vec::new(),
                has_warpgroups: false,
                shared: SharedLayout::of(kernel),
                local: LocalLayout::of(kernel)?,
                communicates: false,
            },
            register_rows: vec![None; kernel.registers.len()],
            access: Access::default(),
            word_constant_rows: HashMap::new(),
            long_constant_rows: HashMap::new(),
            predicate_constant_rows: [None; 2],
            word_special_rows: HashMap::new(),
            long_special_rows: HashMap::new(),
            sinks: [None; 3],
        })
    }

    /// Fixes the rows of word and long registers.
    fn use_rows(&mut self, rows: &allocation::Rows) {
        self.register_rows.clone_from(&rows.of);
        self.program.word_rows = rows.words;
        self.program.long_rows = rows.longs;
        for (register, row) in rows.of.iter().enumerate().filter(|(register, _)| rows.own[*register]) {
            let (Some(row), declared) = (row, &self.kernel.registers[register]) else { continue };
            match declared.ty.class() {
                Class::Word => self.program.word_names.insert(*row, declared.name.clone()),
                _ => self.program.long_names.insert(*row, declared.name.clone()),
            };
        }
    }

    fn instruction(&mut self, instruction: &Instruction) -> Result<Inst, Error> {
        let mut form = Form::new(instruction);
        let mut inst = instructions::decode(self, &mut form)?;
        form.finish()?;
        if let Some((register, negated)) = instruction.guard {
            inst.guard = self.read_row(register);
            inst.guard_negated = negated;
        }
        Ok(inst)
    }

    /// The instruction's word registers belong to it until a wait.
    pub fn hold_registers(&mut self) {
        self.access.holds = true;
    }

    /// Notes the ordinary instructions that name registers of asynchronous products.
    fn find_touches(&mut self, accesses: &[Access]) {
        let held = allocation::held(self.kernel, accesses);
        for (inst, access) in self.program.code.iter_mut().zip(accesses) {
            let mut found = Vec::new();
            for (registers, writes) in [(&access.reads, false), (&access.writes, true)] {
                for register in registers.iter().filter(|register| !access.holds && held[**register as usize]) {
                    if let Some(row) = self.register_rows[*register as usize] {
                        found.push(Touch { row, writes });
                    }
                }
            }
            inst.touches = !found.is_empty();
            self.program.touches.push(found.into());
        }
    }

    fn new_row(&mut self, class: Class) -> u32 {
        let counter = match class {
            Class::Word => &mut self.program.word_rows,
            Class::Long => &mut self.program.long_rows,
            Class::Predicate => &mut self.program.predicate_rows,
        };
        *counter += 1;
        *counter - 1
    }

    /// The row of a register that the instruction reads.
    pub fn read_row(&mut self, register: u32) -> u32 {
        self.access.reads.push(register);
        self.register_row(register)
    }

    /// The row of a register that the instruction writes.
    pub fn write_row(&mut self, register: u32) -> u32 {
        self.access.writes.push(register);
        self.register_row(register)
    }

    fn register_row(&mut self, register: u32) -> u32 {
        if let Some(row) = self.register_rows[register as usize] {
            return row;
        }
        let declared = &self.kernel.registers[register as usize];
        let row = self.new_row(declared.ty.class());
        self.register_rows[register as usize] = Some(row);
        if declared.ty.class() == Class::Predicate {
            self.program.predicate_names.insert(row, declared.name.clone());
        }
        row
    }

    /// A word row that always holds this value.
    pub fn word_constant(&mut self, value: u32) -> u32 {
        if let Some(row) = self.word_constant_rows.get(&value) {
            return *row;
        }
        let row = self.new_row(Class::Word);
        self.word_constant_rows.insert(value, row);
        self.program.word_constants.push((row, value));
        row
    }

    /// A long row that always holds this value.
    pub fn long_constant(&mut self, value: u64) -> u32 {
        if let Some(row) = self.long_constant_rows.get(&value) {
            return *row;
        }
        let row = self.new_row(Class::Long);
        self.long_constant_rows.insert(value, row);
        self.program.long_constants.push((row, value));
        row
    }

    /// A predicate row that always holds this value.
    pub fn predicate_constant(&mut self, value: bool) -> u32 {
        if let Some(row) = self.predicate_constant_rows[usize::from(value)] {
            return row;
        }
        let row = self.new_row(Class::Predicate);
        self.predicate_constant_rows[usize::from(value)] = Some(row);
        self.program.predicate_constants.push((row, value));
        row
    }

    /// A row whose contents nobody reads.
    pub fn sink(&mut self, class: Class) -> u32 {
        let slot = class as usize;
        if let Some(row) = self.sinks[slot] {
            return row;
        }
        let row = self.new_row(class);
        self.sinks[slot] = Some(row);
        row
    }
}
