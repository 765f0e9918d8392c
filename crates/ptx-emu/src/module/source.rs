//! Source positions: what `.file` and `.loc` say about an instruction.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// A place in the program: the PTX line always, file and line of the CUDA source when the PTX was
/// made with `-lineinfo`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// CUDA source file, as `.file` names it.
    pub file: Option<Arc<str>>,
    /// 1-based line in that file; 0 when unknown.
    pub line: u32,
    /// Where the function that holds the line was inlined, innermost caller first.
    pub inlined_at: Vec<(Arc<str>, u32)>,
    /// 1-based line in the PTX text.
    pub ptx_line: u32,
    /// The instruction's opcode with its modifiers.
    pub opcode: Arc<str>,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => write!(f, "{file}:{}", self.line)?,
            None => write!(f, "PTX line {}", self.ptx_line)?,
        }
        for (file, line) in &self.inlined_at {
            write!(f, ", inlined at {file}:{line}")?;
        }
        write!(f, " (`{}`)", self.opcode)
    }
}

/// File, line and the call chain of inlined code.
pub(crate) type Place = (Option<Arc<str>>, u32, Vec<(Arc<str>, u32)>);

/// One `.loc` directive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Loc {
    pub file: u32,
    pub line: u32,
    pub column: u32,
    pub inlined_at: Option<(u32, u32, u32)>,
    /// The directive that described the call site, if one came before.
    pub parent: Option<u32>,
}

/// The `.loc` directives of one kernel and how to resolve them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Locations {
    locs: Vec<Loc>,
    /// The last directive at each file, line and column.
    latest: HashMap<(u32, u32, u32), u32>,
}

/// Calls deeper than this are left out of a position.
const CHAIN_MAX: usize = 64;

impl Locations {
    /// Adds a directive and returns its index.
    pub fn push(&mut self, mut loc: Loc) -> u32 {
        loc.parent = loc.inlined_at.and_then(|site| self.latest.get(&site).copied());
        let index = self.locs.len() as u32;
        self.latest.insert((loc.file, loc.line, loc.column), index);
        self.locs.push(loc);
        index
    }

    /// File, line and call chain of a directive.
    pub fn resolve(&self, index: u32, files: &Files) -> Place {
        let loc = self.locs[index as usize];
        let mut chain = Vec::new();
        let mut current = loc;
        while let Some((file, line, _)) = current.inlined_at {
            if let Some(name) = files.get(file) {
                chain.push((name, line));
            }
            match current.parent.filter(|_| chain.len() < CHAIN_MAX) {
                // A parent always has a smaller index, so this ends.
                Some(parent) => current = self.locs[parent as usize],
                None => break,
            }
        }
        (files.get(loc.file), loc.line, chain)
    }
}

/// The `.file` table of a module.
#[derive(Debug, Clone, Default)]
pub(crate) struct Files {
    pub entries: Vec<(u32, Arc<str>)>,
}

impl Files {
    pub fn get(&self, index: u32) -> Option<Arc<str>> {
        self.entries.iter().find(|(i, _)| *i == index).map(|(_, name)| name.clone())
    }
}
