//! The findings as tables.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use sass::{Class, Loop, Occupancy};

use crate::emulated::{Count, Emulated, Outcome};
use crate::table::Table;
use crate::{Findings, Kernel, rows};

/// Names longer than this are cut in their middle: C++ names of templates fill pages.
const NAME_MAX: usize = 72;

/// Everything.
pub fn text(findings: &Findings) -> String {
    let mut text = String::new();
    if let Some(compiler) = &findings.compiler {
        let _ = writeln!(text, "Machine code of {compiler}\n");
    }
    let _ = writeln!(text, "Resources: shared memory in bytes, static + dynamic; blocks (warps) an SM and their limit");
    text += &resources(&findings.kernels);
    text += "\nLoops: innermost ones and those with tensor work; * is the main loop, + the masked one. Instructions of an iteration, all and by\n\
             kind; then the cycles of one warp that each unit of a sub-partition needs for them, and issue slots and the\n\
             busiest other unit for 100 cycles of the tensor cores\n";
    let mut rates: Vec<String> = findings
        .kernels
        .iter()
        .map(|kernel| format!("sm_{} at the rates of the {}", kernel.arch, kernel.rates))
        .collect();
    rates.sort_unstable();
    rates.dedup();
    let _ = writeln!(text, "({})", rates.join(", "));
    text += &loops(&findings.kernels);
    let unrated = findings.kernels.iter().flat_map(|kernel| &kernel.loops).flat_map(|found| &found.unrated);
    let mut unrated: Vec<&str> = unrated.map(String::as_str).collect();
    unrated.sort_unstable();
    unrated.dedup();
    if !unrated.is_empty() {
        let _ = writeln!(text, "Missing from the tensor cycles, as their rate is not known: {}", unrated.join(", "));
    }
    text += "Passes through shared memory's banks are counted by an access's width: where lanes want the same bytes, as most\n\
             loads of the f32 kernels do, fewer can suffice, and \"shared\" is an upper bound\n";
    if !findings.emulated.is_empty() {
        text += "\nEmulator: how often warps ran blocks that are marked as rare, passes through shared memory's banks, 32-byte\n\
                 sectors of global memory; excess is what conflicts and gaps cost\n";
        text += &emulated(&findings.emulated);
    }
    text += &rows::text(findings);
    if findings.compiler.is_some() {
        text += &footer(&findings.kernels);
    }
    text
}

/// How much there is of it.
fn footer(kernels: &[Kernel]) -> String {
    let mut names: Vec<&str> = kernels.iter().map(|kernel| kernel.name.as_str()).collect();
    names.dedup();
    let code_bytes: usize = kernels.iter().map(|kernel| kernel.image_bytes).sum();
    format!(
        "\n{} kernels, {} images of machine code: {:.1} MB before they are compressed\n",
        names.len(),
        kernels.len(),
        code_bytes as f64 / 1e6
    )
}

fn resources(kernels: &[Kernel]) -> String {
    let mut gpus: Vec<&str> = Vec::new();
    for occupancy in kernels.iter().flat_map(|kernel| &kernel.occupancy) {
        if !gpus.contains(&occupancy.gpu) {
            gpus.push(occupancy.gpu);
        }
    }
    let heads = ["kernel", "sm", "registers", "spills", "code", "threads", "shared"];
    let mut table = Table::new(heads.iter().chain(&gpus).copied());
    for kernel in kernels {
        let registers = match (kernel.registers, kernel.registers_max) {
            (Some(registers), Some(max)) => format!("{registers} of {max}"),
            (Some(registers), None) => registers.to_string(),
            (None, _) => "?".to_string(),
        };
        let dynamic = kernel.shared_dynamic_bytes.map(|bytes| format!(" + {bytes}")).unwrap_or_default();
        let mut row = vec![
            shortened(&kernel.name),
            kernel.arch.to_string(),
            registers,
            kernel.local_accesses.to_string(),
            kernel.instructions.to_string(),
            kernel.threads.map(|threads| threads.to_string()).unwrap_or_default(),
            format!("{}{dynamic}", kernel.shared_static_bytes),
        ];
        let occupancy = |gpu: &&str| kernel.occupancy.iter().find(|occupancy| occupancy.gpu == *gpu);
        row.extend(gpus.iter().map(|gpu| occupancy(gpu).map(fits).unwrap_or_default()));
        table.rows.push(row);
    }
    table.text()
}

fn fits(occupancy: &Occupancy) -> String {
    let Occupancy { blocks, warps, warps_max, limits, .. } = occupancy;
    format!("{blocks} ({warps}/{warps_max}) {}", limits.join(", "))
}

fn loops(kernels: &[Kernel]) -> String {
    let all = || kernels.iter().flat_map(|kernel| &kernel.loops);
    let classes = Class::ALL.into_iter().filter(|class| all().any(|found| found.mix.contains_key(class)));
    let classes: Vec<Class> = classes.collect();
    let units = |found: &Loop| found.cycles.others();
    let is_used = |unit: &usize| all().any(|found| units(found)[*unit].1 > 0);
    let used: Vec<usize> = (0..6).filter(is_used).collect();
    let mut heads = vec!["kernel", "sm", "loop", "all", "least", "cold", "per mma"];
    heads.extend(classes.iter().map(|class| class.name()));
    heads.extend(["| tensor", "issue"]);
    if let Some(any) = all().next() {
        let names = units(any);
        heads.extend(used.iter().map(|&unit| names[unit].0));
    }
    heads.extend(["| issue %", "other %"]);
    let mut table = Table::new(heads);
    for kernel in kernels {
        for (index, found) in kernel.loops.iter().enumerate() {
            let mark = match Some(index) {
                place if place == kernel.main_loop => "*",
                place if place == kernel.masked_loop => "+",
                _ => "",
            };
            let mut row = vec![
                shortened(&kernel.name),
                kernel.arch.to_string(),
                format!("{mark}{}{:x}-{:x}", "> ".repeat(found.depth), found.first, found.last),
                found.instructions.to_string(),
                found.instructions_min.to_string(),
                found.cold_instructions.to_string(),
                found.instructions_per_tensor().map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
            ];
            // A dot for none: the eye keeps its column.
            let count = |class: &Class| found.mix.get(class).map_or(".".to_string(), u32::to_string);
            row.extend(classes.iter().map(count));
            row.push(format!("| {}", found.cycles.tensor));
            row.push(found.cycles.issue.to_string());
            row.extend(used.iter().map(|&unit| units(found)[unit].1.to_string()));
            let issue = found.cycles.issue_percent().map(|percent| percent.to_string()).unwrap_or_default();
            row.push(format!("| {issue}"));
            let other = found.cycles.other_unit_percent();
            let (unit, _) = found.cycles.longest_other();
            row.push(other.map(|percent| format!("{percent} {unit}")).unwrap_or_default());
            table.rows.push(row);
        }
    }
    table.text()
}

fn emulated(runs: &[Emulated]) -> String {
    let heads =
        ["kernel", "problem", "warp instructions", "rare", "wavefronts", "excess", "sectors read", "written", "excess"];
    let mut table = Table::new(heads);
    for run in runs {
        let mut row = vec![run.name.clone()];
        match &run.outcome {
            Outcome::Ran(traffic) => {
                let [read, written] = traffic.sectors();
                row.extend([
                    traffic.problem.clone(),
                    traffic.warp_instructions.to_string(),
                    traffic.rare.to_string(),
                    traffic.shared_wavefronts.values().map(|wavefronts| wavefronts.actual).sum::<u64>().to_string(),
                    excess(&traffic.shared_wavefronts),
                    read.to_string(),
                    written.to_string(),
                    excess(&traffic.global_sectors),
                ]);
            }
            Outcome::NotRun(reason) => row.push(format!("not run: {reason}")),
        }
        table.rows.push(row);
    }
    table.text()
}

/// What is more than it would be at best, and in which accesses.
fn excess(counts: &BTreeMap<String, Count>) -> String {
    let parts = counts.iter().filter(|(_, count)| count.excess() > 0);
    let parts: Vec<String> = parts.map(|(name, count)| format!("{} {name}", count.excess())).collect();
    if parts.is_empty() { "0".to_string() } else { parts.join(" + ") }
}

pub fn shortened(name: &str) -> String {
    if name.len() <= NAME_MAX {
        return name.to_string();
    }
    // Names of machine code are ASCII.
    let part = |range: std::ops::Range<usize>| name.get(range).unwrap_or_default();
    let half = (NAME_MAX - 3) / 2;
    format!("{}...{}", part(0..half), part(name.len() - half..name.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excess_names_its_accesses() {
        let count = |actual, ideal| Count { actual, ideal };
        let mut counts = BTreeMap::from([("Load".to_string(), count(4, 4))]);
        assert_eq!(excess(&counts), "0");
        counts.insert("Store".to_string(), count(9, 4));
        counts.insert("LoadMatrix".to_string(), count(3, 2));
        assert_eq!(excess(&counts), "1 LoadMatrix + 5 Store");
    }

    #[test]
    fn long_names_keep_both_ends() {
        let name = format!("begin{}end", "x".repeat(200));
        let short = shortened(&name);
        assert!(short.len() <= NAME_MAX && short.starts_with("begin") && short.ends_with("end"), "{short}");
        assert_eq!(shortened("rows"), "rows");
    }
}
