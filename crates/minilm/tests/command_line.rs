//! The program `minilm`: what it prints, what it writes, and how it fails.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use common::{FOR_KERNELS, ODD, Tiny, real_model};

fn minilm(model: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_minilm")).arg("--model").arg(model).args(arguments).output().unwrap()
}

/// Standard output of a run that must succeed.
fn succeeds(model: &Path, arguments: &[&str]) -> String {
    let output = minilm(model, arguments);
    let (text, errors) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {errors}\n{text}");
    text
}

/// Standard error of a run that must fail with one line and no panic.
fn fails(model: &Path, arguments: &[&str]) -> String {
    let output = minilm(model, arguments);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {errors}");
    assert!(errors.contains("error: ") && !errors.contains("panicked"), "{errors}");
    errors
}

fn png_size(path: &Path) -> (u32, u32) {
    let bytes = fs::read(path).unwrap();
    assert_eq!(&bytes[..8], b"\x89PNG\r\n\x1a\n");
    let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    (number(16), number(20))
}

#[test]
fn faults_are_one_line_with_the_cure() {
    let tiny = Tiny::new(ODD);
    let nowhere = tiny.path().join("nowhere");
    assert!(fails(&nowhere, &["--device", "cpu", "embed", "a"]).contains("cargo xtask model"));
    assert!(fails(tiny.path(), &["--device", "abacus", "embed", "a"]).contains("there is no device \"abacus\""));
    assert!(fails(tiny.path(), &["--device", "cpu", "embed"]).contains("there is no sentence"));
    assert!(fails(tiny.path(), &["--device", "cpu", "embed", "a", " "]).contains("sentence 1 is empty"));
    assert!(fails(tiny.path(), &["--device", "cpu", "embed", "--file", "no/such/file"]).contains("no/such/file"));
    let long = "the ".repeat(40);
    assert!(fails(tiny.path(), &["--device", "cpu", "embed", &long]).contains("--truncate"));
    assert!(
        fails(tiny.path(), &["--device", "cpu", "attention", "the river", "--layer", "9"])
            .contains("layer 9 of 1 to 2")
    );
}

#[test]
fn a_gpu_that_is_not_there_is_an_error() {
    let tiny = Tiny::new(FOR_KERNELS);
    // Whatever the build and the machine lack, there are not ten thousand GPUs.
    fails(tiny.path(), &["--device", "cuda:10000", "embed", "a"]);
}

#[test]
fn json_holds_the_unit_vectors_and_their_cosines() {
    let tiny = Tiny::new(ODD);
    let file = tiny.file("sentences.txt");
    fs::write(&file, "the river\n\n  a bank by the river \n").unwrap();
    let text =
        succeeds(tiny.path(), &["--device", "cpu", "embed", "a boat", "--json", "--file", file.to_str().unwrap()]);
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["sentences"], serde_json::json!(["a boat", "the river", "a bank by the river"]));
    let vector = |index: usize| -> Vec<f64> {
        value["embeddings"][index].as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
    };
    for a in 0..3 {
        for b in 0..3 {
            let dot: f64 = vector(a).iter().zip(vector(b)).map(|(a, b)| a * b).sum();
            assert!((dot - value["similarity"][a][b].as_f64().unwrap()).abs() < 1e-6);
            assert_eq!(a == b, dot > 0.999_999);
        }
    }
}

#[test]
fn truncation_is_a_visible_warning() {
    let tiny = Tiny::new(ODD);
    let long = "the ".repeat(40);
    let output = minilm(tiny.path(), &["--device", "cpu", "--truncate", "embed", "a", &long]);
    assert!(output.status.success());
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("warning: sentence 1 was cut from 42 to 19 tokens"), "{errors}");
}

#[test]
fn pictures_of_short_and_long_sentences_are_written() {
    let tiny = Tiny::new(FOR_KERNELS);
    let out = tiny.file("pictures");
    for (sentence, layer) in [("a".to_string(), "1"), ("the boat ".repeat(60), "2")] {
        let arguments = [
            "--device",
            "cpu",
            "attention",
            &sentence,
            "--layer",
            layer,
            "--head",
            "2",
            "--out",
            out.to_str().unwrap(),
        ];
        let text = succeeds(tiny.path(), &arguments);
        assert!(text.contains(&format!("layer {layer}, head 2")), "{text}");
        for name in ["attention_heads.png", "attention_head.png"] {
            let (width, height) = png_size(&out.join(name));
            assert!((100..4000).contains(&width) && (100..4000).contains(&height), "{name} is {width} x {height}");
        }
    }
}

#[test]
fn the_quick_demo_passes_on_the_real_model() {
    let Some(model) = real_model() else { return };
    let out = tempfile::tempdir().unwrap();
    let arguments = ["--device", "cpu", "demo", "--quick", "--check-reference", "--out", out.path().to_str().unwrap()];
    let text = succeeds(&model, &arguments);
    for expected in [
        "most alike: 4 and 5, cosine 0.564",
        "(bound in f32: 2e-5)",
        "cosine of 1 and 3: 0.769016, in float64 0.769016",
        "layer 3, head 2",
        "all checks passed",
    ] {
        assert!(text.contains(expected), "no \"{expected}\" in:\n{text}");
    }
    assert_eq!(png_size(&out.path().join("attention_heads.png")).0 / 1000, 2);
}
