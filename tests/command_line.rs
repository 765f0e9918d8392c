//! The program `warpfold` from outside: what it prints, and how it exits.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// Exit code, stdout, stderr.
fn warpfold(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_warpfold")).args(arguments).output().expect("the program starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it prints UTF-8");
    (output.status.code().expect("it exits"), text(output.stdout), text(output.stderr))
}

/// Whether there are kernels to emulate; says so where there are none.
fn has_kernels(test: &str) -> bool {
    let has_kernels = !warpfold::kernels().is_empty();
    if !has_kernels {
        eprintln!("skipped: {test}: this build has no kernels");
    }
    has_kernels
}

/// A file of this test run.
fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// The words of a printed command, as a shell takes them.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut is_quoted = false;
    for c in line.chars() {
        match c {
            '\'' => is_quoted = !is_quoted,
            ' ' if !is_quoted => words.push(String::new()),
            c => words.last_mut().expect("there is a word").push(c),
        }
    }
    words
}

#[test]
fn help_says_what_there_is() {
    let (code, stdout, _) = warpfold(&["--help"]);
    assert_eq!(code, 0);
    assert!(["devices", "check"].iter().all(|command| stdout.contains(command)), "{stdout}");
    let (code, stdout, _) = warpfold(&["check", "--help"]);
    assert_eq!(code, 0);
    for option in
        ["--device", "--op", "--cases", "--seed", "--explain", "--against", "--replace", "--extract", "--case"]
    {
        assert!(stdout.contains(option), "{option} is missing in {stdout}");
    }
}

#[test]
fn devices_are_shown() {
    let (code, stdout, _) = warpfold(&["devices"]);
    assert_eq!(code, 0);
    assert!(stdout.contains("best here: ") && stdout.contains("cpu:portable     usable"), "{stdout}");
}

#[test]
fn the_cpu_passes_the_same_cases_each_time() {
    let run = || warpfold(&["check", "--device", "cpu", "--cases", "8", "--seed", "5", "--against", "cpu:portable"]);
    let (code, stdout, stderr) = run();
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(stdout.starts_with("cpu and cpu:portable against the float64 oracle, seed 5"), "{stdout}");
    for operation in ["attention", "attention-backward", "split", "softmax", "norm"] {
        let row = stdout.lines().find(|line| line.split_whitespace().next() == Some(operation));
        let row: Vec<&str> = row.expect("each operation has a row").split_whitespace().collect();
        assert_eq!(&row[1..3], ["8", "8"], "{stdout}");
        assert!(stdout.contains(&format!("\n{operation}: ")), "how {operation} differs: {stdout}");
    }
    // Everything but the times.
    let counts = |stdout: &str| -> Vec<String> {
        stdout.lines().filter(|line| line.contains(": ")).map(str::to_string).collect()
    };
    assert_eq!(counts(&run().1), counts(&stdout));
}

#[test]
fn one_case_runs_by_itself() {
    let json = r#"{"dtype":"bf16","shape":[3,100],"causal":true,"in_place":true,"seed":1}"#;
    let (code, stdout, stderr) =
        warpfold(&["check", "--device", "cpu", "--op", "softmax", "--case", json, "--explain"]);
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(stdout.contains("softmax passes on cpu") && stdout.contains("3 rows of 100"), "{stdout}");
}

/// What the library refuses fails as a case, without a panic's words.
#[test]
fn a_case_that_the_library_refuses_fails() {
    let json = r#"{"dtype":"f32","shape":[3,5],"scale":-1.0,"seed":1}"#;
    let (code, stdout, stderr) = warpfold(&["check", "--device", "cpu", "--op", "softmax", "--case", json]);
    assert_eq!(code, 1, "{stdout}{stderr}");
    assert!(stdout.contains("scale is -1") && stderr.is_empty(), "{stdout}{stderr}");
}

#[test]
fn what_makes_no_sense_exits_with_2() {
    let softmax = |case: &'static str| vec!["check", "--device", "cpu", "--op", "softmax", "--case", case];
    for (arguments, part) in [
        (vec![], "Usage"),
        (vec!["chek"], "check"),
        (vec!["check", "--op", "softmx"], "'softmax'"),
        (vec!["check", "--cases", "0"], "0 is not in 1.."),
        (vec!["check", "--device", "cpu", "--case", "{}"], "give one with --op"),
        (softmax("{"), "EOF"),
        (softmax(r#"{"dtype":"f32","shape":[0,1],"seed":1}"#), "shape is [0, 1]"),
        (softmax(r#"{"dtype":"f32","shape":[1,1],"seed":1,"size":3}"#), "unknown field `size`"),
        (vec!["check", "--device", "cpu", "--replace", "a=b"], "the device is cpu"),
    ] {
        let (code, _, stderr) = warpfold(&arguments);
        assert_eq!(code, 2, "{arguments:?}: {stderr}");
        assert!(stderr.contains(part), "{arguments:?}: {stderr}");
    }
}

#[test]
fn a_device_that_is_not_there_exits_with_3() {
    for name in ["toaster", "cuda:99", "cpu:abacus"] {
        for option in ["--device", "--against"] {
            let (code, stdout, stderr) = warpfold(&["check", option, name]);
            assert_eq!((code, stdout.as_str()), (3, ""), "{name}: {stderr}");
            assert!(stderr.starts_with(&format!("error: cannot use {name}: ")), "{stderr}");
        }
    }
}

const KERNEL: &str = "softmax_forward_sm80_f32_lanes8_general";

#[test]
fn replacing_what_is_not_there_exits_with_2() {
    if !has_kernels("replacing_what_is_not_there_exits_with_2") {
        return;
    }
    let other = file("no-kernel.ptx");
    fs::write(&other, ".version 7.8\n.target sm_80\n.address_size 64\n").expect("the target folder can be written");
    let other = other.to_str().expect("the target folder is UTF-8");
    let garbage = file("garbage.ptx");
    fs::write(&garbage, format!(".visible .entry {KERNEL}( what is this")).expect("the target folder can be written");
    let garbage = garbage.to_str().expect("the target folder is UTF-8");
    for (value, part) in [
        (KERNEL.to_string(), "write KERNEL=FILE"),
        (format!("{}=file", KERNEL.replace("lanes8", "lane8")), KERNEL),
        (format!("{KERNEL}=/nowhere/at-all.ptx"), "cannot read /nowhere/at-all.ptx"),
        (format!("{KERNEL}={other}"), "has no .entry"),
        (format!("{KERNEL}={garbage}"), "unusable"),
    ] {
        let (code, _, stderr) = warpfold(&["check", "--device", "emulator:sm_80", "--replace", &value]);
        assert_eq!(code, 2, "{value}: {stderr}");
        assert!(stderr.contains(part), "{value}: {stderr}");
    }
}

/// A wrong digit in the factor that turns powers of e into powers of 2, in one of the kernels of softmax.
#[test]
fn a_planted_bug_is_found_and_shrunk() {
    if !has_kernels("a_planted_bug_is_found_and_shrunk") {
        return;
    }
    let path = file("planted-bug.ptx");
    let option = format!("{KERNEL}={}", path.to_str().expect("the target folder is UTF-8"));
    let (code, _, stderr) = warpfold(&["check", "--extract", &option]);
    assert_eq!(code, 0, "{stderr}");
    let check = ["check", "--device", "emulator:sm_80", "--op", "softmax", "--replace", &option];
    let original = fs::read_to_string(&path).expect("it was written");
    let changed = original.replace("0f3FB8AA3B", "0f3FB9AA3B");
    assert_ne!(original, changed, "log2(e) is in {KERNEL}");

    let (code, stdout, stderr) = warpfold(&[&check[..], &["--cases", "20", "--explain"]].concat());
    assert_eq!(code, 0, "the kernel itself, put in its own place: {stdout}{stderr}");
    assert!(stdout.contains(&format!(" x {KERNEL}\n")), "{KERNEL} ran: {stdout}");

    fs::write(&path, changed).expect("the target folder can be written");
    let (code, stdout, stderr) = warpfold(&[&check[..], &["--cases", "50"]].concat());
    assert_eq!((code, stderr.as_str()), (1, ""), "{stdout}");
    assert!(stdout.starts_with("softmax fails on emulator:sm_80, in case "), "{stdout}");
    let command = stdout.lines().find(|line| line.starts_with("warpfold check ")).expect("a command is printed");
    assert!(command.contains(r#""shape":[1,2]"#), "two elements are the least that show it: {command}");

    let again = words(command);
    let (code, repeated, stderr) = warpfold(&again[1..].iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!((code, stderr.as_str()), (1, ""), "{repeated}");
    assert!(repeated.contains(command), "it prints the same command: {repeated}");
    let verdict = |text: &str| text.lines().find(|line| line.contains(" instead of ")).map(str::to_string);
    assert!(verdict(&stdout).is_some() && verdict(&stdout) == verdict(&repeated), "{stdout}{repeated}");
}

/// An emulator's report fails a case as a wrong number does; so does a kernel that never ends.
#[test]
fn hazards_and_endless_kernels_are_found() {
    if !has_kernels("hazards_and_endless_kernels_are_found") {
        return;
    }
    let path = file("endless.ptx");
    let option = format!("{KERNEL}={}", path.to_str().expect("the target folder is UTF-8"));
    let (code, _, stderr) = warpfold(&["check", "--extract", &option]);
    assert_eq!(code, 0, "{stderr}");
    let original = fs::read_to_string(&path).expect("it was written");
    let case = r#"{"dtype":"f32","shape":[1,7],"placements":{"y":"padded"},"seed":0}"#;
    let check = ["check", "--device", "emulator:sm_80", "--op", "softmax", "--replace", &option, "--case", case];
    for (changed, part) in [
        // The last return of the kernel never comes.
        (original.replace("\tret;", "$L__endless:\n\tbra.uni $L__endless;"), "instructions"),
        (original.replace("\tret;", "\tmov.u64 %rd1, 64;\n\tld.global.u32 %r1, [%rd1];\n\tret;"), "hazard"),
    ] {
        assert_ne!(changed, original);
        fs::write(&path, changed).expect("the target folder can be written");
        let (code, stdout, stderr) = warpfold(&check);
        assert_eq!((code, stderr.as_str()), (1, ""), "{part}: {stdout}");
        assert!(stdout.contains(part), "{stdout}");
    }
}
