use std::path::PathBuf;

use super::*;
use crate::workspace::target;

/// A folder of a test's own, empty.
pub fn folder(name: &str) -> PathBuf {
    let folder = target().join("xtask-tests").join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// A line of a record of `cargo xtask compare`; without times where unit, rate and ratio are empty.
pub fn line(operation: &str, dtype: &str, shape: &str, backend: &str, figures: [&str; 3]) -> String {
    let [unit, rate, ratio] = figures;
    format!(
        "2026-01-02 10:00,abc1234,CPU,0.1.0,\"2.15, cuDNN 9\",2,{operation},{dtype},{operation} {dtype} {shape},{backend},\
         1,1,1,1,1,1,{unit},1,{rate},{ratio},,0,0,,,"
    )
}

/// The text of such a record.
pub fn compared(comment: &str, lines: &[String]) -> String {
    format!("# {comment}\n{}\n{}\n", record::COMPARE, lines.join("\n"))
}

/// The repository's README and records, in a folder of its own.
fn copy(name: &str) -> PathBuf {
    let copy = folder(name);
    fs::create_dir_all(copy.join("docs")).unwrap();
    fs::copy(root().join(README), copy.join(README)).unwrap();
    for record in record::read_all(root()).unwrap() {
        let path = copy.join(&record.path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Records of `warpfold bench` come and go; these tests bring their own.
        if !record.has(record::BENCH) {
            fs::copy(root().join(&record.path), path).unwrap();
        }
    }
    // Figures of the newest comparison, which these tests can count on.
    let lines = [
        line("attention forward", "bf16", "2x16x8192x128 causal", "cudnn", ["TFLOP/s", "733.7", "1.237"]),
        line("attention forward", "bf16", "1x16x16384x128 causal", "cudnn", ["TFLOP/s", "770.6", "1.218"]),
        line("softmax", "bf16", "16384x4096", "eager out", ["GB/s", "2802", "2.216"]),
        line("softmax", "f32", "1024x1024", "eager out", ["GB/s", "929.6", "1.057"]),
    ];
    fs::write(copy.join("benches/record/h100/2099-01-01-compare.csv"), compared("x", &lines)).unwrap();
    copy
}

fn add_bench_record(root: &Path) {
    let text = include_str!("../../../tests/data/bench_record.csv");
    fs::write(root.join(format!("benches/record/{CPU}/2027-01-01-bench.csv")), text).unwrap();
}

fn drawn(_: &Path) -> Result<Vec<Plot>> {
    Ok(vec![Plot { name: "cpu_roofline.svg".to_string(), svg: "<svg>\n<a/>\n</svg>\n".to_string() }])
}

fn not_drawn(_: &Path) -> Result<Vec<Plot>> {
    panic!("there is no record to draw")
}

#[test]
fn what_is_written_agrees_afterwards_and_figures_come_from_records() {
    let root = copy("written");
    run_in(&root, false, &not_drawn).unwrap();
    run_in(&root, true, &not_drawn).unwrap();
    let text = fs::read_to_string(root.join(README)).unwrap();
    for line in [
        "| | 8192 | 16384 |\n| --- | --- | --- |\n| forward, d128, causal | 734 (1.24) | 771 (1.22) |",
        "| softmax forward | | 2802 (2.22) | | | | |",
        "| softmax, 1024 x 1024 | GB/s | 930 (1.06) |",
    ] {
        assert!(text.contains(&format!("{line}\n")), "{line} is not in\n{text}");
    }
    assert!(!text.contains("<!-- table: xeon-compare -->\n<!-- end of table -->"), "it has a record");
    assert!(text.contains("<!-- table: cpu-bench -->\n<!-- end of table -->"), "no record, no text");
}

#[test]
fn a_figure_that_somebody_typed_is_found() {
    let root = copy("typed");
    run_in(&root, false, &not_drawn).unwrap();
    let text = fs::read_to_string(root.join(README)).unwrap();
    let line = text.lines().position(|line| line.starts_with("| forward, d128, causal |")).unwrap() + 1;
    let typed = text.replace("| 771 (1.22) |", "| 791 (1.25) |");
    fs::write(root.join(README), &typed).unwrap();
    let said = run_in(&root, true, &not_drawn).unwrap_err().to_string();
    assert!(said.contains("run `cargo xtask tables`"), "{said}");
    assert!(
        said.contains(&format!("README.md, table h100-attention, line {line}:\n- | forward, d128, causal |")),
        "{said}"
    );
    assert_eq!(fs::read_to_string(root.join(README)).unwrap(), typed, "a check writes nothing");
}

#[test]
fn a_bench_record_gives_a_table_and_plots_which_are_checked_too() {
    let root = copy("bench");
    run_in(&root, false, &not_drawn).unwrap();
    add_bench_record(&root);
    let said = run_in(&root, true, &drawn).unwrap_err().to_string();
    assert!(said.contains("table cpu-bench") && said.contains("docs/cpu_roofline.svg: missing"), "{said}");
    assert!(!root.join("docs/cpu_roofline.svg").exists());
    run_in(&root, false, &drawn).unwrap();
    run_in(&root, true, &drawn).unwrap();
    let text = fs::read_to_string(root.join(README)).unwrap();
    assert!(text.contains("| attention forward, 1x8x512x64 | GFLOP/s | 81.9 (44 %) |"));
    assert!(text.contains("![Roofline](docs/cpu_roofline.svg)"));

    fs::write(root.join("docs/cpu_roofline.svg"), "<svg>\n<b/>\n</svg>\n").unwrap();
    fs::write(root.join("docs/cpu_old.svg"), "<svg/>\n").unwrap();
    fs::write(root.join("docs/photo.svg"), "<svg/>\n").unwrap();
    let said = run_in(&root, true, &drawn).unwrap_err().to_string();
    assert!(said.contains("docs/cpu_roofline.svg, line 2: not what the record gives"), "{said}");
    assert!(said.contains("docs/cpu_old.svg: no record gives it any more"), "{said}");
    run_in(&root, false, &drawn).unwrap();
    assert!(!root.join("docs/cpu_old.svg").exists() && root.join("docs/photo.svg").exists());
    run_in(&root, true, &drawn).unwrap();
}

#[test]
fn a_malformed_record_stops_it() {
    let root = copy("malformed");
    fs::write(root.join("benches/record/h100/2027-01-01.csv"), "a,b\n1\n").unwrap();
    let said = run_in(&root, false, &not_drawn).unwrap_err().to_string();
    assert!(said.contains("benches/record/h100/2027-01-01.csv, line 2"), "{said}");
}
