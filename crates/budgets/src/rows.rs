//! Kernels that walk rows, which the tables of loops say little about: many have no loop at all, and what counts is how few bytes
//! and instructions an element takes, and whether memory is reached 16 bytes at a time.

use serde::Serialize;

use crate::emulated::{Emulated, Outcome};
use crate::report::shortened;
use crate::table::Table;
use crate::{Findings, Kernel};

/// What a kernel of rows has in its machine code, loops or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Accesses {
    /// Loads from global memory of 16 bytes a lane, and others.
    pub loads: [usize; 2],
    /// The same of stores.
    pub stores: [usize; 2],
    pub shuffles: usize,
    pub barriers: usize,
    pub special: usize,
}

impl Accesses {
    pub fn of(function: &sass::Function) -> Accesses {
        let mut found = Accesses::default();
        for instruction in &function.instructions {
            let other = usize::from(!instruction.has("128"));
            match instruction.base() {
                "LDG" => found.loads[other] += 1,
                "STG" => found.stores[other] += 1,
                "SHFL" => found.shuffles += 1,
                "BAR" => found.barriers += 1,
                "MUFU" => found.special += 1,
                _ => {}
            }
        }
        found
    }
}

/// The tables of the kernels that walk rows; nothing where there are none.
pub fn text(findings: &Findings) -> String {
    let mut text = String::new();
    let with_accesses: Vec<(&Kernel, Accesses)> =
        findings.kernels.iter().filter_map(|kernel| Some((kernel, kernel.rows?))).collect();
    if !with_accesses.is_empty() {
        text += "\nRows: instructions in all of the code, loops or not; of loads and stores those of 16 bytes a lane + others\n";
        let mut table = Table::new(["kernel", "sm", "ldg", "stg", "shfl", "bar", "mufu", "all"]);
        for (kernel, found) in with_accesses {
            let both = |[wide, other]: [usize; 2]| format!("{wide} + {other}");
            table.rows.push(vec![
                shortened(&kernel.name),
                kernel.arch.to_string(),
                both(found.loads),
                both(found.stores),
                found.shuffles.to_string(),
                found.barriers.to_string(),
                found.special.to_string(),
                kernel.instructions.to_string(),
            ]);
        }
        text += &table.text();
    }
    let per_element: Vec<Vec<String>> = findings.emulated.iter().filter_map(row).collect();
    if !per_element.is_empty() {
        text += "\nRows on the emulator: for each element, bytes in whole sectors that are read and written, and instructions of a thread\n";
        let mut table = Table::new(["kernel", "problem", "read", "written", "instructions"]);
        table.rows.extend(per_element);
        text += &table.text();
    }
    text
}

/// What an element takes.
fn row(run: &Emulated) -> Option<Vec<String>> {
    let Outcome::Ran(traffic) = &run.outcome else { return None };
    let elements = traffic.elements? as f64;
    let [read, written] = traffic.sectors().map(|sectors| format!("{:.2}", sectors as f64 * 32.0 / elements));
    let instructions = format!("{:.2}", traffic.warp_instructions as f64 * 32.0 / elements);
    Some(vec![run.name.clone(), traffic.problem.clone(), read, written, instructions])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::emulated::{Count, Traffic};

    #[test]
    fn accesses_are_counted_by_their_width() {
        let listing = ".section .text.k,\"ax\"\n /*0000*/ LDG.E.128 R4, [R2] ;\n /*0010*/ LDG.E.U16 R8, [R2] ;\n\
                       /*0020*/ SHFL.BFLY PT, R0, R1, 0x1, 0x1f ;\n /*0030*/ STG.E.128 [R2], R4 ;\n /*0040*/ EXIT ;\n";
        let found = Accesses::of(&sass::functions(listing)[0]);
        assert_eq!(found, Accesses { loads: [1, 1], stores: [1, 0], shuffles: 1, ..Accesses::default() });
    }

    #[test]
    fn an_element_has_its_share() {
        let count = |actual| Count { actual, ideal: actual };
        let traffic = Traffic {
            problem: "8 rows of 64".to_string(),
            elements: Some(512),
            warp_instructions: 48,
            rare: 0,
            shared_wavefronts: BTreeMap::new(),
            global_sectors: BTreeMap::from([("Load".to_string(), count(64)), ("Store".to_string(), count(32))]),
        };
        let run = Emulated { name: "softmax".to_string(), outcome: Outcome::Ran(traffic) };
        assert_eq!(row(&run), Some(["softmax", "8 rows of 64", "4.00", "2.00", "3.00"].map(String::from).to_vec()));
        let not_run = Emulated { name: "softmax".to_string(), outcome: Outcome::NotRun("why".to_string()) };
        assert_eq!(row(&not_run), None);
    }
}
