//! An H100 beside PyTorch: its newest comparison, in three tables.

use std::collections::BTreeSet;

use anyhow::{Context, Result};

use super::blocks::{paragraph, table};
use super::compare;
use super::record::{Record, Row};

const MACHINE: &str = "h100";
/// The table of attention holds these, however long the sequences are.
const TOKENS: usize = 16_384;
const COLUMNS: usize = 2048;
/// The table of rows has these, of each type: 64 Mi elements.
const SHAPES: [&str; 3] = ["65536x1024", "16384x4096", "4096x16384"];
const DTYPES: [&str; 2] = ["bf16", "f32"];
const ROW_OPERATIONS: [&str; 6] =
    ["softmax", "softmax backward", "layer_norm", "layer_norm backward", "rms_norm", "rms_norm backward"];

/// Attention, by pass, head_dim and mask, over the length of sequences.
pub fn attention(records: &[Record]) -> Result<String> {
    let rows: Vec<(Attention, Row<'_>)> = compare::timed(newest(records)?)
        .filter(|row| row.get("backend") == "cudnn")
        .filter_map(|row| Some((Attention::of(&row)?, row)))
        .collect();
    let (_, last) = rows.last().context("no attention beside cuDNN in the newest comparison of the H100")?;
    let lengths: BTreeSet<usize> = rows.iter().map(|(attention, _)| attention.length).collect();
    let kinds: BTreeSet<Kind> = rows.iter().map(|(attention, _)| attention.kind).collect();
    let mut lines = Vec::new();
    for &kind in &kinds {
        let mut cells = vec![kind.label()];
        for &length in &lengths {
            let same = rows.iter().filter(|(attention, _)| *attention == Attention { kind, length });
            cells.push(compare::cell(same.map(|(_, row)| *row))?);
        }
        lines.push(cells);
    }
    let head: Vec<String> = std::iter::once(String::new()).chain(lengths.iter().map(ToString::to_string)).collect();
    let caption = format!(
        "bf16 attention by the length of sequences, in all 16,384 tokens of 2048 columns; TFLOP/s, and in brackets how many \
         times those of cuDNN, which PyTorch calls. {}",
        compare::source(last),
    );
    Ok(format!("{}\n\n{}", table(&head, &lines), paragraph(&caption)))
}

/// Softmax and norms of large matrices, by operation, over type and shape.
pub fn rows(records: &[Record]) -> Result<String> {
    let rows: Vec<Row<'_>> = compare::timed(newest(records)?).filter(is_of_rows).collect();
    let last = rows.last().context("no softmax or norm of a large matrix in the newest comparison of the H100")?;
    let columns = || DTYPES.iter().flat_map(|dtype| SHAPES.iter().map(move |shape| (*dtype, *shape)));
    let mut lines = Vec::new();
    for operation in ROW_OPERATIONS {
        let pass = if operation.ends_with(" backward") { "" } else { " forward" };
        let mut cells = vec![format!("{}{pass}", compare::words(operation))];
        for (dtype, shape) in columns() {
            let is_it = |row: &Row<'_>| {
                row.get("operation") == operation && row.get("dtype") == dtype && compare::shape(row) == shape
            };
            cells.push(compare::cell(rows.iter().copied().filter(is_it))?);
        }
        lines.push(cells);
    }
    let head: Vec<String> =
        std::iter::once(String::new()).chain(columns().map(|(dtype, shape)| format!("{dtype} {shape}"))).collect();
    let caption = format!(
        "GB/s that must be read and written, and in brackets how many times those of PyTorch's own kernels. {}",
        compare::source(last),
    );
    Ok(format!("{}\n\n{}", table(&head, &lines), paragraph(&caption)))
}

/// What the two tables above do not show: small problems, decoding, attention in f32.
pub fn other(records: &[Record]) -> Result<String> {
    compare::block(records, MACHINE, &|row| Attention::of(row).is_none() && !is_of_rows(row))
}

fn newest(records: &[Record]) -> Result<&Record> {
    compare::newest(records, MACHINE).context("no comparison of the H100 in benches/record/h100")
}

/// Whether a row is of the table of rows.
fn is_of_rows(row: &Row<'_>) -> bool {
    ROW_OPERATIONS.contains(&row.get("operation"))
        && DTYPES.contains(&row.get("dtype"))
        && SHAPES.contains(&compare::shape(row))
}

/// A problem of the table of attention.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Attention {
    kind: Kind,
    length: usize,
}

/// A line of the table, in the order in which they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    is_backward: bool,
    head_dim: usize,
    is_causal: bool,
}

impl Attention {
    /// None of a row of another table.
    fn of(row: &Row<'_>) -> Option<Attention> {
        let is_backward = match row.get("operation") {
            "attention forward" => false,
            "attention backward" => true,
            _ => return None,
        };
        let (sizes, rest) = compare::shape(row).split_once(' ').unwrap_or((compare::shape(row), ""));
        let is_causal = match rest {
            "" => false,
            "causal" => true,
            // Few queries on many keys, say.
            _ => return None,
        };
        let sizes: Vec<usize> = sizes.split('x').map(|size| size.parse().ok()).collect::<Option<_>>()?;
        let [batch, heads, length, head_dim] = sizes[..] else {
            return None;
        };
        let is_shown = row.get("dtype") == "bf16" && batch * length == TOKENS && heads * head_dim == COLUMNS;
        is_shown.then_some(Attention { kind: Kind { is_backward, head_dim, is_causal }, length })
    }
}

impl Kind {
    fn label(self) -> String {
        let pass = if self.is_backward { "backward" } else { "forward" };
        let mask = if self.is_causal { "causal" } else { "no mask" };
        format!("{pass}, d{}, {mask}", self.head_dim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::tests::{compared, line};

    fn record(name: &str, lines: &[String]) -> Record {
        let text = compared("CPU (132 SMs), driver 1.2,\n# 2026-01-02. Measured by hand.", lines);
        Record::parse(&format!("benches/record/h100/{name}.csv"), &text).unwrap()
    }

    fn forward(dtype: &str, shape: &str, backend: &str, rate: &str, ratio: &str) -> String {
        line("attention forward", dtype, shape, backend, ["TFLOP/s", rate, ratio])
    }

    /// A record with something of each table, and of each something that looks as if it belonged to another.
    fn mixed() -> Record {
        let of_rows = |operation: &str, dtype: &str, shape: &str, backend: &str, rate: &str, ratio: &str| {
            line(operation, dtype, shape, backend, ["GB/s", rate, ratio])
        };
        let refused = line("attention forward", "f32", "1x8x512x64", "cudnn", ["", "", ""]);
        record(
            "2026-01-02",
            &[
                refused,
                forward("f32", "1x8x512x64", "efficient", "6.95", "0.778"),
                forward("f32", "1x8x512x64", "math", "6.95", "0.862"),
                forward("bf16", "1x8x512x64", "cudnn", "36.08", "0.781"),
                forward("f32", "32x16x512x128", "efficient", "20", "0.5"),
                line("attention forward", "bf16", "1x32x1x128 on 1x32x4096x128", "math", ["GB/s", "1444", "5.591"]),
                line("attention forward", "bf16", "1x32x1x128 on 1x32x4096x128", "cudnn", ["GB/s", "1444", "0.709"]),
                line("attention backward", "bf16", "8x32x2048x64 causal", "cudnn", ["TFLOP/s", "303.5", "0.961"]),
                forward("bf16", "8x32x2048x64", "flash", "505.1", "0.4"),
                forward("bf16", "8x32x2048x64", "cudnn", "505.1", "1.085"),
                forward("bf16", "32x16x512x128", "cudnn", "462.4", "0.884"),
                of_rows("softmax", "bf16", "65536x1024", "eager out", "2812", "1.260"),
                of_rows("softmax", "bf16", "65536x1024 allocating", "eager", "2000", "1.1"),
                of_rows("layer_norm", "f32", "4096x16384", "eager", "2445", "1.343"),
                of_rows("layer_norm", "f32", "4096x16384", "quack", "2445", "0.900"),
                of_rows("rms_norm backward", "bf16", "4096x16384", "eager", "960.3", "0.827"),
                of_rows("rms_norm", "f32", "1024x1024", "eager", "846", "0.768"),
            ],
        )
    }

    fn table_of(text: &str) -> &str {
        text.split("\n\n").next().unwrap()
    }

    #[test]
    fn attention_is_beside_cudnn_over_lengths() {
        let text = attention(&[mixed()]).unwrap();
        let wanted = "| | 512 | 2048 |\n| --- | --- | --- |\n\
                      | forward, d64, no mask | | 505 (1.08) |\n\
                      | forward, d128, no mask | 462 (0.88) | |\n\
                      | backward, d64, causal | | 304 (0.96) |";
        assert_eq!(table_of(&text), wanted);
    }

    #[test]
    fn rows_are_beside_pytorch_by_type_and_shape() {
        let text = rows(&[mixed()]).unwrap();
        let wanted = "| | bf16 65536x1024 | bf16 16384x4096 | bf16 4096x16384 | f32 65536x1024 | f32 16384x4096 | f32 4096x16384 |\n\
                      | --- | --- | --- | --- | --- | --- | --- |\n\
                      | softmax forward | 2812 (1.26) | | | | | |\n\
                      | softmax backward | | | | | | |\n\
                      | layer norm forward | | | | | | 2445 (1.34) |\n\
                      | layer norm backward | | | | | | |\n\
                      | RMS norm forward | | | | | | |\n\
                      | RMS norm backward | | | 960 (0.83) | | | |";
        assert_eq!(table_of(&text), wanted);
    }

    #[test]
    fn what_these_two_do_not_show_is_in_the_third() {
        let text = other(&[mixed()]).unwrap();
        let wanted = "| | | f32 | bf16 |\n| --- | --- | --- | --- |\n\
                      | attention forward, 512 tokens, d64 | TFLOP/s | 7.0 (0.78) | 36 (0.78) |\n\
                      | attention forward, 512 tokens, d128 | TFLOP/s | 20.0 (0.50) | |\n\
                      | attention forward, one query on 4096 keys, 32 heads, d128 | GB/s | | 1444 (0.71) |\n\
                      | RMS norm, 1024 x 1024 | GB/s | 846 (0.77) | |";
        assert_eq!(table_of(&text), wanted);
    }

    #[test]
    fn captions_say_where_when_and_with_what() {
        for text in [attention(&[mixed()]), rows(&[mixed()]), other(&[mixed()])] {
            let text = text.unwrap().replace('\n', " ");
            let wanted = "CPU (132 SMs), driver 1.2, 2026-01-02; warpfold 0.1.0 (abc1234), through the Python package, and PyTorch \
                          2.15 with cuDNN 9 in turns in one run. From [2026-01-02.csv](benches/record/h100/2026-01-02.csv).";
            assert!(text.ends_with(wanted), "{text}");
        }
    }

    #[test]
    fn the_newest_comparison_counts_and_nothing_else() {
        let newer = record("2026-01-03", &[forward("bf16", "32x16x512x128", "cudnn", "500", "0.95")]);
        // Also of another machine, or with other columns.
        let mut elsewhere = mixed();
        elsewhere.machine = "h200".to_string();
        let columns =
            Record::parse("benches/record/h100/2026-01-04.csv", "library,operation\nwarpfold,softmax\n").unwrap();
        let records = [mixed(), newer, columns, elsewhere];
        assert_eq!(
            table_of(&attention(&records).unwrap()),
            "| | 512 |\n| --- | --- |\n| forward, d128, no mask | 500 (0.95) |"
        );
        assert!(rows(&records).is_err(), "a table without figures is no table");
        assert_eq!(other(&records).unwrap(), "");
        assert!(attention(&[]).unwrap_err().to_string().contains("no comparison of the H100"));
    }
}
