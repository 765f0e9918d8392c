//! `warpfold bench` as it is typed: records that come back, and exit codes.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde::Deserialize;

/// What a record's row has that these tests read.
#[derive(Debug, Deserialize)]
struct Row {
    date: String,
    commit: String,
    device: String,
    kind: String,
    operation: String,
    dtype: String,
    problem: String,
    median_ms: Option<f64>,
    p10_ms: Option<f64>,
    p90_ms: Option<f64>,
    calls: Option<usize>,
    rate: Option<f64>,
    unit: String,
    ceiling: Option<f64>,
    fraction: Option<f64>,
    intensity: Option<f64>,
    error: Option<f64>,
}

fn bench(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_warpfold"));
    command.arg("bench").args(arguments).output().expect("the program starts")
}

fn said(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn file(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("warpfold-{}-{name}", std::process::id()))
}

#[test]
fn a_record_comes_back() {
    let (csv, json) = (file("bench.csv"), file("bench.json"));
    let paths = [&csv, &json].map(|path| path.to_str().expect("a plain name").to_string());
    let output = bench(&[
        "--device",
        "cpu",
        "--op",
        "softmax",
        "attention-forward",
        "--shapes",
        "64x64",
        "b1,h2/1,s40/50,d16,causal",
        "--dtype",
        "f32,bf16",
        "--budget-ms",
        "5",
        "--csv",
        &paths[0],
        "--json",
        &paths[1],
    ]);
    let text = said(&output.stdout);
    assert!(output.status.success(), "{text}{}", said(&output.stderr));

    let record = std::fs::read_to_string(&csv).expect("the record is there");
    assert!(record.starts_with("# ") && record.contains("# warpfold bench --device cpu"), "{record}");
    assert!(!record.contains(&paths[0]), "where the record lies is nobody's business");
    let mut reader = csv::ReaderBuilder::new().comment(Some(b'#')).from_reader(record.as_bytes());
    let rows: Vec<Row> = reader.deserialize().collect::<Result<_, _>>().expect("rows");

    let of_kind = |kind: &str| rows.iter().filter(|row| row.kind == kind).collect::<Vec<_>>();
    let ceilings: Vec<&str> = of_kind("ceiling").iter().map(|row| row.operation.as_str()).collect();
    assert_eq!(ceilings, ["copy", "copy in cache", "matrix"]);
    let operations = of_kind("operation");
    let names: Vec<String> =
        operations.iter().map(|row| format!("{} {} {}", row.operation, row.dtype, row.problem)).collect();
    assert_eq!(names.len(), 2 * 2 + 2, "{names:?}");
    assert!(names.contains(&"softmax backward bf16 64x64".to_string()), "{names:?}");
    assert!(names.contains(&"attention forward f32 b1 h2/1 s40/50 d16 causal".to_string()), "{names:?}");
    for row in &operations {
        let figures = [row.p10_ms, row.median_ms, row.p90_ms].map(|time| time.expect("it was timed"));
        assert!(figures.is_sorted() && figures[0] > 0.0 && row.calls >= Some(5), "{row:?}");
        let (rate, ceiling, fraction) = (row.rate.expect("a rate"), row.ceiling.expect("a ceiling"), row.fraction);
        assert!((rate / ceiling / fraction.expect("a fraction") - 1.0).abs() < 1e-3, "{row:?}");
        assert!(row.error.is_some_and(|error| (0.0..=1.0).contains(&error)), "{row:?}");
        let (unit, has_intensity) =
            if row.operation.starts_with("attention") { ("GFLOP/s", true) } else { ("GB/s", false) };
        assert_eq!((row.unit.as_str(), row.intensity.is_some()), (unit, has_intensity));
        assert!(row.date.len() == 10 && !row.commit.is_empty() && row.device.ends_with(')'), "{row:?}");
    }
    let overheads = of_kind("overhead");
    assert_eq!(overheads.len(), 3 * 3, "a prepared call, a plan and an allocating call of each");

    let whole: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&json).expect("it is there")).expect("JSON");
    assert_eq!(whole["records"].as_array().map(Vec::len), Some(rows.len()));
    for operation in operations {
        assert!(text.contains(&operation.problem), "{text}");
    }
    for path in [csv, json] {
        std::fs::remove_file(path).expect("it is there");
    }
}

#[test]
fn what_is_not_reached_is_named() {
    let output = bench(&["--device", "cpu", "--op", "rms_norm", "--budget-ms", "1", "--seconds", "0.001"]);
    let text = said(&output.stdout);
    assert!(output.status.success(), "{text}{}", said(&output.stderr));
    let missed = text.split_once("not reached within").expect("all of them are missed").1;
    assert!(missed.contains("rms_norm forward bf16 4096x4096"), "{text}");
}

#[test]
fn what_makes_no_sense_ends_with_2_and_the_grammar() {
    for (arguments, expected) in [
        (&["--shapes", "64x"][..], "ROWSxCOLUMNS"),
        (&["--shapes", "b1,s64,x9"], "there is no field `x9`"),
        (&["--op", "softmax", "--shapes", "s64"], "ROWSxCOLUMNS"),
        (&["--op", "sofmax"], "layer_norm"),
        (&["--dtype", "f8"], "bf16"),
        (&["--budget-ms", "0"], "above 0"),
        (&["--kernels", "attention"], "no kernel"),
    ] {
        let output = bench(&[&["--device", "cpu"], arguments].concat());
        let error = said(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
}

#[test]
fn a_device_that_is_not_there_ends_with_3() {
    for device in ["tpu:0", "cuda:4095", "cpu:avx9"] {
        let output = bench(&["--device", device]);
        assert_eq!(output.status.code(), Some(3), "{device}: {}", said(&output.stderr));
        assert!(said(&output.stderr).contains(device), "{}", said(&output.stderr));
    }
}
