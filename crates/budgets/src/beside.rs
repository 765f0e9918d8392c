//! Another's kernels beside ours: the loops that the time goes to, in neighbouring columns.

use std::fmt::Write as _;

use sass::Loop;

use crate::Kernel;
use crate::report::shortened;
use crate::table::Table;

/// A table for each of our kernels and each of the others for the same compute capability.
pub fn text(ours: &[Kernel], theirs: &[Kernel]) -> String {
    let mut text = "Ours beside another's. Ratio: theirs to ours. Instructions of an iteration; cycles of one warp that each unit of a\n\
                    sub-partition needs for them; % of the tensor cores' cycles\n"
        .to_string();
    for our in ours {
        for their in theirs.iter().filter(|their| their.arch == our.arch) {
            let _ = writeln!(
                text,
                "\n{}\n  beside {}, sm_{} at the rates of the {}",
                our.name,
                shortened(&their.name),
                our.arch,
                our.rates
            );
            text += &table(our, their);
        }
    }
    text
}

fn table(our: &Kernel, their: &Kernel) -> String {
    let mut table = Table::new(["", "ours", "theirs", "ratio"]);
    let mut row = |name: &str, [ours, theirs]: [Option<f64>; 2], decimals: usize| {
        let shown = |value: Option<f64>| value.map_or("-".to_string(), |value| format!("{value:.decimals$}"));
        let ratio = ours.zip(theirs).filter(|(ours, _)| *ours > 0.0);
        let ratio = ratio.map_or(String::new(), |(ours, theirs)| format!("{:.2}", theirs / ours));
        table.rows.push(vec![name.to_string(), shown(ours), shown(theirs), ratio]);
    };
    let both = [our, their];
    row("registers", both.map(|kernel| kernel.registers.map(f64::from)), 0);
    row("local accesses", both.map(|kernel| Some(kernel.local_accesses as f64)), 0);
    row("instructions of all code", both.map(|kernel| Some(kernel.instructions as f64)), 0);
    type Choice = fn(&Kernel) -> Option<&Loop>;
    let choices: [(&str, Choice); 2] = [("main loop", main), ("costliest loop", costliest)];
    for (name, choice) in choices {
        let loops = both.map(choice);
        if loops.iter().all(Option::is_none) {
            continue;
        }
        let mut of_loop = |what: &str, value: &dyn Fn(&Loop) -> Option<f64>, decimals: usize| {
            row(&format!("{name}: {what}"), loops.map(|found| found.and_then(value)), decimals);
        };
        of_loop("instructions", &|found| Some(f64::from(found.instructions)), 0);
        of_loop("tensor instructions", &|found| Some(f64::from(found.tensor_instructions)), 0);
        of_loop("instructions per mma", &|found| found.instructions_per_tensor(), 2);
        of_loop("tensor cycles", &|found| Some(f64::from(found.cycles.tensor)), 0);
        of_loop("issue", &|found| Some(f64::from(found.cycles.issue)), 0);
        // What neither uses is left out.
        for unit in 0..6 {
            let cycles = |found: &Loop| found.cycles.others()[unit].1;
            if let Some(any) = loops.iter().flatten().find(|found| cycles(found) > 0) {
                of_loop(any.cycles.others()[unit].0, &|found| Some(f64::from(cycles(found))), 0);
            }
        }
        of_loop("issue %", &|found| found.cycles.issue_percent().map(f64::from), 0);
        of_loop("busiest other unit %", &|found| found.cycles.other_unit_percent().map(f64::from), 0);
    }
    table.text()
}

/// The main loop; of a kernel without tensor work the longest of the innermost ones.
fn main(kernel: &Kernel) -> Option<&Loop> {
    match kernel.main_loop {
        Some(place) => kernel.loops.get(place),
        None => kernel.loops.iter().filter(|found| found.is_innermost).max_by_key(|found| found.instructions),
    }
}

fn costliest(kernel: &Kernel) -> Option<&Loop> {
    kernel.loops.get(kernel.masked_loop?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = include_str!("../../sass/tests/listing.sass");

    fn kernel(name: &str, arch: u32) -> Kernel {
        let functions = sass::functions(LISTING);
        let function = functions.iter().find(|function| function.name == name).expect("the listing has it");
        Kernel::new(function, arch, 0, None)
    }

    fn cells(text: &str, name: &str) -> Vec<String> {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let line = line.unwrap_or_else(|| panic!("no line of {name} in\n{text}"));
        line.split_whitespace().map(str::to_string).collect()
    }

    #[test]
    fn two_main_loops_are_in_neighbouring_columns() {
        let text = text(&[kernel("tiles", 80)], &[kernel("marked", 80)]);
        assert!(text.contains("\ntiles\n  beside marked, sm_80 at the rates of the A100\n"), "{text}");
        assert_eq!(cells(&text, "main loop: instructions "), ["9", "6", "0.67"]);
        assert_eq!(cells(&text, "main loop: tensor instructions"), ["2", "1", "0.50"]);
        assert_eq!(cells(&text, "main loop: instructions per mma"), ["4.50", "6.00", "1.33"]);
        assert_eq!(cells(&text, "main loop: tensor cycles"), ["16", "8", "0.50"]);
        // Nothing of ours goes through shared memory: there is no ratio to that.
        assert_eq!(cells(&text, "main loop: shared"), ["0", "16"]);
        assert_eq!(cells(&text, "main loop: issue %"), ["57", "75", "1.32"]);
        assert!(!text.contains("fp64") && !text.contains("costliest"), "{text}");
    }

    #[test]
    fn a_kernel_without_tensor_work_has_its_longest_loop() {
        let text = text(&[kernel("rows", 80)], &[kernel("tiles", 80)]);
        assert_eq!(cells(&text, "main loop: instructions "), ["4", "9", "2.25"]);
        assert_eq!(cells(&text, "main loop: instructions per mma"), ["-", "4.50"]);
    }

    #[test]
    fn code_for_another_gpu_is_not_compared() {
        assert!(!text(&[kernel("tiles", 80)], &[kernel("tiles", 90)]).contains("beside tiles"));
    }
}
