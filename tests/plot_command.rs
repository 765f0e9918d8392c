//! `warpfold plot`, as a user calls it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const RECORD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/bench_record.csv");

/// A folder of a test's own, empty.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("plot_command").join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn plot(arguments: &[&str], out: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_warpfold")).arg("plot").args(arguments).arg("--out").arg(out).output().unwrap()
}

/// What it says where it fails.
fn refusal(arguments: &[&str], out: &Path) -> String {
    let output = plot(arguments, out);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(fs::read_dir(out).unwrap().count(), 0, "nothing is written");
    said
}

/// Width and height, after all of a PNG's pixels were decoded.
fn png_size(path: &Path) -> (u32, u32) {
    let decoder = png::Decoder::new(fs::File::open(path).unwrap());
    let mut reader = decoder.read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size()];
    let info = reader.next_frame(&mut pixels).unwrap();
    assert!(pixels.iter().any(|value| *value != pixels[0]), "{} is of one colour", path.display());
    (info.width, info.height)
}

/// The number behind `name="` where it comes first.
fn attribute(svg: &str, name: &str) -> u32 {
    let rest = svg.split_once(&format!("{name}=\"")).unwrap().1;
    rest.split_once('"').unwrap().0.parse().unwrap()
}

#[test]
fn svg_and_png_of_everything_in_the_record() {
    let out = folder("both");
    let output = plot(&[RECORD], &out);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut names: Vec<String> =
        fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let stems = ["attention_forward_over_size", "bandwidth", "roofline", "softmax_forward_over_size"];
    let wanted: Vec<String> = stems.iter().flat_map(|stem| [format!("{stem}.png"), format!("{stem}.svg")]).collect();
    assert_eq!(names, wanted);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(wanted.iter().all(|name| said.contains(name.as_str())), "it says what it wrote: {said}");

    for stem in stems {
        let svg = fs::read_to_string(out.join(format!("{stem}.svg"))).unwrap();
        for text in ["AMD EPYC (AVX2), 2 threads, 2026-11-27, warpfold 3244020", "/s"] {
            assert!(svg.contains(text), "{stem} has no {text}");
        }
        // The PNG has two pixels for one of the SVG.
        let size = (attribute(&svg, "width") * 2, attribute(&svg, "height") * 2);
        assert_eq!(png_size(&out.join(format!("{stem}.png"))), size, "{stem}");
    }
    let roofline = fs::read_to_string(out.join("roofline.svg")).unwrap();
    for text in ["copy: 23.4 GB/s", "matrix f32: 185 GFLOP/s", "matrix bf16: 183 GFLOP/s", "1x8x4096x128 causal"] {
        assert!(roofline.contains(text), "the roofline has no {text}");
    }
}

#[test]
fn every_point_of_a_sweep_is_in_the_svg() {
    let out = folder("points");
    assert!(plot(&[RECORD, "--format", "svg"], &out).status.success());
    assert!(!out.join("roofline.png").exists(), "SVG only");
    let svg = fs::read_to_string(out.join("softmax_forward_over_size.svg")).unwrap();
    // f32's markers are circles, on one line from left to right: four sizes, and one in the legend.
    let circles: Vec<&str> =
        svg.lines().filter(|line| line.starts_with("<circle") && line.contains("fill=\"none\"")).collect();
    assert_eq!(circles.len(), 4 + 1);
    let x: Vec<u32> = circles[..4].iter().map(|circle| attribute(circle, "cx")).collect();
    let steps: Vec<u32> = x.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // Sizes grow by factors of four, so their steps are equal on this axis.
    assert!(steps.iter().all(|step| step.abs_diff(steps[0]) <= 1), "{x:?}");
    // 33.67 GB/s at 256 and 1024 columns, less at 4096: rates are drawn upwards.
    let y: Vec<u32> = circles[..4].iter().map(|circle| attribute(circle, "cy")).collect();
    assert!(y[0] == y[1] && y[2] > y[1], "{y:?}");
}

#[test]
fn files_are_drawn_together() {
    let out = folder("together");
    let other = out.join("other.csv");
    fs::write(&other, fs::read_to_string(RECORD).unwrap().replace("AMD EPYC (AVX2)", "Another CPU")).unwrap();
    assert!(plot(&[RECORD, other.to_str().unwrap(), "--format", "svg"], &out.join("plots")).status.success());
    let svg = fs::read_to_string(out.join("plots/attention_forward_over_size.svg")).unwrap();
    assert!(svg.contains("[1] AMD EPYC (AVX2), 2026-11-27") && svg.contains("[2] Another CPU, 2026-11-27"));
}

#[test]
fn what_cannot_be_drawn_is_said() {
    let (out, files) = (folder("refused"), folder("refused_files"));
    let path = |name: &str, text: &str| {
        let path = files.join(name);
        fs::write(&path, text).unwrap();
        path.into_os_string().into_string().unwrap()
    };
    let record = fs::read_to_string(RECORD).unwrap();
    assert!(refusal(&["missing.csv"], &out).contains("cannot read missing.csv"));

    let wrong = path("wrong.csv", &record.replacen("23.41,GB/s", "quick,GB/s", 1));
    let said = refusal(&[&wrong], &out);
    assert!(said.contains("wrong.csv: line 4, column `rate`: \"quick\""), "{said}");

    let other = path("other.csv", "library,operation\nwarpfold,copy\n");
    assert!(refusal(&[&other], &out).contains("other.csv: line 1: no column `date`"));

    let ceilings: Vec<&str> =
        record.lines().filter(|line| !line.contains(",operation,") || line.starts_with("date")).collect();
    let empty = path("empty.csv", &ceilings.join("\n"));
    assert!(refusal(&[&empty], &out).contains("nothing to draw"));

    let many: Vec<String> = (0..4).map(|index| path(&format!("{index}.csv"), &record)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(refusal(&many, &out).contains("4 devices and dates in these files"));

    // A command line without a file is another kind of error.
    assert_eq!(plot(&[], &out).status.code(), Some(2));
}
