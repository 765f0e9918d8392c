//! What was measured on an H100, beside PyTorch on the same kind of machine.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};

use super::blocks::{paragraph, table};
use super::record::{LIBRARIES, Record, Row};

const MACHINE: &str = "h100";
const TOKENS: usize = 16_384;
const COLUMNS: usize = 2048;

/// Our figures and another library's, of one folder: of each, the newest.
struct Figures<'a> {
    records: Vec<&'a Record>,
}

/// A problem of ours and the same of the other library.
struct Pair<'a> {
    ours: Row<'a>,
    theirs: Option<Row<'a>>,
}

impl<'a> Figures<'a> {
    fn of(records: &'a [Record]) -> Figures<'a> {
        let of_machine = |record: &&Record| record.machine == MACHINE && record.has(LIBRARIES);
        Figures { records: records.iter().filter(of_machine).collect() }
    }

    fn find(&self, library: &str, operation: &str, problem: &str) -> Option<Row<'a>> {
        let is_it = |row: &Row<'_>| {
            row.get("library") == library && row.get("operation") == operation && row.get("problem") == problem
        };
        self.records.iter().rev().find_map(|record| record.rows().rev().find(is_it))
    }

    /// The other library's figure is that of the same file; of the newest other one, if that has none.
    fn pair(&self, library: &str, operation: &str, problem: &str) -> Option<Pair<'a>> {
        let ours = self.find("warpfold", operation, problem)?;
        let same_file = Figures { records: vec![ours.record()] };
        let theirs = same_file.find(library, operation, problem).or_else(|| self.find(library, operation, problem));
        Some(Pair { ours, theirs })
    }

    /// The problems of an operation, in the order in which they come.
    fn problems(&self, operation: &str) -> Vec<&'a str> {
        let mut problems = Vec::new();
        for row in self.records.iter().flat_map(|record| record.rows()) {
            if row.get("library") == "warpfold"
                && row.get("operation") == operation
                && !problems.contains(&row.get("problem"))
            {
                problems.push(row.get("problem"));
            }
        }
        problems
    }
}

/// Files that figures came from, in their order, and how many from each.
#[derive(Default)]
struct Origins<'a> {
    files: BTreeMap<&'a str, (&'a Record, usize)>,
}

impl<'a> Origins<'a> {
    fn add(&mut self, row: Row<'a>) {
        let record = row.record();
        self.files.entry(&record.path).or_insert((record, 0)).1 += 1;
    }

    /// Links to them, the one with most figures first.
    fn links(&self) -> String {
        let mut files: Vec<(&Record, usize)> = self.files.values().copied().collect();
        files.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let links = files.iter().enumerate().map(|(index, (record, count))| match index {
            0 => record.link(),
            _ => format!("{} ({count} of them)", record.link()),
        });
        links.collect::<Vec<_>>().join(" and ")
    }

    fn main(&self) -> Option<&'a Record> {
        self.files.values().max_by_key(|(_, count)| *count).map(|(record, _)| *record)
    }

    /// PyTorch's version, from the files' comments.
    fn pytorch(&self) -> &'a str {
        self.files.values().find_map(|(record, _)| record.said("PyTorch")).unwrap_or("of an unknown version")
    }
}

/// `458 (0.86)`: the rate, and how many times the other's it is.
fn cell<'a>(pair: &Pair<'a>, ours: &mut Origins<'a>, theirs: &mut Origins<'a>) -> Result<String> {
    let rate = pair.ours.number("rate")?;
    ours.add(pair.ours);
    let Some(other) = pair.theirs else {
        return Ok(format!("{rate:.0}"));
    };
    theirs.add(other);
    Ok(format!("{rate:.0} ({:.2})", rate / other.number("rate")?))
}

/// Attention, by pass, head_dim and mask, over the length of sequences.
pub fn attention(records: &[Record]) -> Result<String> {
    let figures = Figures::of(records);
    let (mut ours, mut theirs) = (Origins::default(), Origins::default());
    let mut lengths = BTreeSet::new();
    let mut kinds = BTreeSet::new();
    for operation in ["attention forward", "attention backward"] {
        for problem in figures.problems(operation) {
            if let Some(shape) = Shape::of(problem) {
                lengths.insert(shape.length);
                kinds.insert((shape.head_dim, shape.mask == "causal"));
            }
        }
    }
    let mut rows = Vec::new();
    for pass in ["forward", "backward"] {
        for &(head_dim, is_causal) in &kinds {
            let mask = if is_causal { "causal" } else { "dense" };
            let shown = if is_causal { "causal" } else { "no mask" };
            let mut cells = vec![format!("{pass}, d{head_dim}, {shown}")];
            for &length in &lengths {
                let problem = Shape { length, head_dim, mask }.name();
                let pair = figures.pair("pytorch cudnn", &format!("attention {pass}"), &problem);
                let text = pair.map(|pair| cell(&pair, &mut ours, &mut theirs)).transpose()?;
                cells.push(text.unwrap_or_default());
            }
            rows.push(cells);
        }
    }
    let main = ours.main().context("no attention in the records of the H100")?;
    let head: Vec<String> = std::iter::once(String::new()).chain(lengths.iter().map(ToString::to_string)).collect();
    let caption = format!(
        "bf16 attention by the length of sequences, in all 16,384 tokens of 2048 columns; TFLOP/s, and in brackets how many \
         times those of cuDNN, by PyTorch {}. {} Ours from {}, cuDNN's from {}.",
        theirs.pytorch(),
        machine(main),
        ours.links(),
        theirs.links(),
    );
    Ok(format!("{}\n\n{}", table(&head, &rows), paragraph(&caption)))
}

/// What a record's first comment says of machine and day, as a sentence.
fn machine(record: &Record) -> String {
    let text = record.comments.first().map_or("", String::as_str);
    format!("{}.", text.trim_end_matches('.'))
}

/// A problem of `cargo xtask sweep --table` as the table has them: the tokens and columns that it always has.
struct Shape<'a> {
    length: usize,
    head_dim: usize,
    mask: &'a str,
}

impl<'a> Shape<'a> {
    fn of(problem: &'a str) -> Option<Shape<'a>> {
        let words: Vec<&str> = problem.split(' ').collect();
        let [_, _, length, head_dim, mask] = words[..] else {
            return None;
        };
        let length = length.strip_prefix('s')?.split('/').next()?.parse().ok()?;
        let head_dim = head_dim.strip_prefix('d')?.parse().ok()?;
        let shape = Shape { length, head_dim, mask };
        // Others are measured too, such as few queries on many keys; they are not of this table.
        (length > 0 && head_dim > 0 && shape.name() == problem).then_some(shape)
    }

    fn name(&self) -> String {
        let Shape { length, head_dim, mask } = self;
        let (batch, heads) = (TOKENS / length, COLUMNS / head_dim);
        format!("b{batch} h{heads}/{heads} s{length}/{length} d{head_dim} {mask}")
    }
}

/// Softmax and norms, by operation, over type and shape.
pub fn rows(records: &[Record]) -> Result<String> {
    const OPERATIONS: [(&str, &str); 3] =
        [("softmax", "softmax"), ("layer_norm", "layer norm"), ("rms_norm", "RMS norm")];
    let figures = Figures::of(records);
    let (mut ours, mut theirs) = (Origins::default(), Origins::default());
    let problems = figures.problems("softmax forward");
    let mut rows = Vec::new();
    for (name, shown) in OPERATIONS {
        for pass in ["forward", "backward"] {
            let mut cells = vec![format!("{shown} {pass}")];
            for problem in &problems {
                let pair = figures.pair("pytorch eager", &format!("{name} {pass}"), problem);
                let text = pair.map(|pair| cell(&pair, &mut ours, &mut theirs)).transpose()?;
                cells.push(text.unwrap_or_default());
            }
            rows.push(cells);
        }
    }
    let main = ours.main().context("no softmax in the records of the H100")?;
    // The copy of the run that PyTorch's kernels are of: the same machine, minutes apart.
    let of_pytorch = theirs.main().map_or_else(|| figures.records.clone(), |record| vec![record]);
    let copy = Figures { records: of_pytorch }.find("pytorch copy_", "copy", "1 GiB");
    let copied = match copy {
        Some(row) => format!("; a copy of 1 GiB by PyTorch ran at {:.0}", row.number("rate")?),
        None => String::new(),
    };
    let head: Vec<String> = std::iter::once("").chain(problems).map(str::to_string).collect();
    let caption = format!(
        "GB/s that must be read and written, and in brackets how many times those of PyTorch {}'s own kernels{copied}. {} \
         Ours from {}, PyTorch's from {}.",
        theirs.pytorch(),
        machine(main),
        ours.links(),
        theirs.links(),
    );
    Ok(format!("{}\n\n{}", table(&head, &rows), paragraph(&caption)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROBLEM: &str = "b32 h16/16 s512/512 d128 dense";

    fn record(name: &str, lines: &[String]) -> Record {
        let text = format!(
            "# GPU, driver 1.2, 2026-01-01.\n# beside PyTorch 2.11 (cuDNN)\n{LIBRARIES}\n{}\n",
            lines.join("\n")
        );
        Record::parse(&format!("benches/record/h100/{name}.csv"), &text).unwrap()
    }

    fn line(library: &str, operation: &str, problem: &str, rate: f64) -> String {
        format!("{library},{operation},{problem},1,1,1,{rate},TFLOP/s")
    }

    #[test]
    fn of_each_figure_the_newest_counts_and_cudnn_of_the_same_file_first() {
        let forward = |library: &str, rate| line(library, "attention forward", PROBLEM, rate);
        let backward = |library: &str, rate| line(library, "attention backward", PROBLEM, rate);
        let records = [
            record(
                "2026-01-01-a",
                &[forward("warpfold", 400.0), forward("pytorch cudnn", 500.0), backward("pytorch cudnn", 250.0)],
            ),
            record(
                "2026-01-02-b",
                &[forward("warpfold", 458.0), forward("pytorch cudnn", 529.7), backward("warpfold", 200.0)],
            ),
            record("2026-01-03-c", &[forward("pytorch cudnn", 1000.0)]),
        ];
        let text = attention(&records).unwrap();
        assert!(text.contains("| | 512 |\n"), "{text}");
        assert!(text.contains("| forward, d128, no mask | 458 (0.86) |\n"), "{text}");
        assert!(text.contains("| backward, d128, no mask | 200 (0.80) |\n"), "{text}");
        let text = text.replace('\n', " ");
        assert!(text.contains("by PyTorch 2.11. GPU, driver 1.2, 2026-01-01. Ours from [2026-01-02-b.csv](benches/record/h100/2026-01-02-b.csv)"));
        assert!(
            text.contains("2026-01-01-a.csv) (1 of them)") || text.contains("2026-01-02-b.csv) (1 of them)"),
            "{text}"
        );
    }

    #[test]
    fn without_the_other_library_there_is_no_ratio() {
        let records = [record("2026-01-01-a", &[line("warpfold", "attention forward", PROBLEM, 400.0)])];
        assert!(attention(&records).unwrap().contains("| forward, d128, no mask | 400 |\n"));
        assert!(attention(&[]).is_err(), "a table without figures is no table");
    }

    #[test]
    fn problems_of_other_shapes_are_not_of_the_table() {
        let shape = Shape::of("b2 h32/32 s8192/8192 d64 causal").unwrap();
        assert_eq!((shape.length, shape.head_dim, shape.mask), (8192, 64, "causal"));
        for other in
            ["b2 h32/8 s8192/8192 d64 causal", "b4 h32/32 s1/8192 d64 dense", "bf16 8192x4096", "b0 h1/1 s0/0 d0 dense"]
        {
            assert!(Shape::of(other).is_none(), "{other}");
        }
    }

    #[test]
    fn rows_stand_beside_the_copy_of_pytorchs_run() {
        let problem = "bf16 65536x1024";
        let records = [
            record(
                "2026-01-01-a",
                &[
                    line("pytorch eager", "softmax forward", problem, 2000.0),
                    line("pytorch copy_", "copy", "1 GiB", 3005.7),
                ],
            ),
            record(
                "2026-01-02-b",
                &[line("warpfold", "softmax forward", problem, 2843.6), line("pytorch copy_", "copy", "1 GiB", 3024.7)],
            ),
        ];
        let text = rows(&records).unwrap();
        assert!(text.contains("| | bf16 65536x1024 |\n| --- | --- |\n| softmax forward | 2844 (1.42) |\n"), "{text}");
        assert!(text.replace('\n', " ").contains("a copy of 1 GiB by PyTorch ran at 3006."), "{text}");
    }
}
