//! The bundle's run.sh on a machine that these tests make up: programs that succeed, fail, hang or sleep, and a GPU or none.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const RUN: &str = include_str!("../src/bundle/run.sh");

const GPU: &str = "case \"$*\" in
    *--query-gpu=name*) echo 'NVIDIA H100 80GB HBM3' ;;
    *--query-gpu=compute_cap*) echo 9.0 ;;
    *) echo 'GPU 0: NVIDIA H100 80GB HBM3' ;;
esac";

/// Leaves what it was called with, and in `bench` the figures that it is asked for.
const WARPFOLD: &str = "echo \"warpfold $*\"
while [ $# -gt 0 ]; do
    if [ \"$1\" = --csv ]; then echo \"$WARPFOLD_COMMIT\" > \"$2\"; fi
    shift
done";

/// A bundle in a folder of its own, with programs that succeed, and a PATH with an H100.
struct Bundle {
    folder: PathBuf,
}

impl Bundle {
    fn new(name: &str) -> Bundle {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("run_script").join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder).expect("the last run's folder");
        }
        let bundle = Bundle { folder };
        for (path, text) in [("run.sh", RUN), ("commit", "abc1234"), ("model/model.safetensors", "")] {
            bundle.write(path, text);
        }
        bundle.program("path/nvidia-smi", GPU);
        bundle.program("bin/warpfold", WARPFOLD);
        let others =
            ["bin/differential", "bin/minilm", "bin/sweep", "path/python3", "path/compute-sanitizer", "path/ncu"];
        others.iter().for_each(|path| bundle.program(path, "echo done"));
        bundle
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.folder.join(path);
        fs::create_dir_all(path.parent().expect("it has a folder")).expect("a folder");
        fs::write(&path, text).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its permissions");
    }

    fn program(&self, path: &str, body: &str) {
        self.write(path, &format!("#!/usr/bin/env bash\n{body}\n"));
    }

    fn start(&self, arguments: &[&str]) -> Child {
        let mut command = Command::new(self.folder.join("run.sh"));
        command
            .args(arguments)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.env("PATH", format!("{}:/usr/bin:/bin", self.folder.join("path").display()));
        command.env("SHORTEST_SECONDS", "1").spawn().expect("bash runs")
    }

    /// The exit code, once it ended.
    fn run(&self, arguments: &[&str]) -> Option<i32> {
        self.start(arguments).wait().expect("it was started").code()
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.folder.join(path)).unwrap_or_default()
    }

    fn summary(&self) -> String {
        self.text("results/summary.txt")
    }

    /// Waits for a text in a file, and returns the file.
    fn wait_for(&self, path: &str, wanted: &str) -> String {
        let start = Instant::now();
        loop {
            let text = self.text(path);
            if text.contains(wanted) {
                return text;
            }
            assert!(start.elapsed() < Duration::from_secs(10), "{path} has no \"{wanted}\":\n{text}");
            sleep(Duration::from_millis(20));
        }
    }

    /// Whether the process that a program noted is there.
    fn is_alive(&self) -> bool {
        let pid = self.text("pid");
        // One that has ended and that nobody has waited for yet does not count.
        let status = fs::read_to_string(format!("/proc/{}/status", pid.trim())).unwrap_or_default();
        assert!(!pid.is_empty(), "the program has noted its process");
        !status.is_empty() && !status.contains("State:\tZ")
    }
}

/// The line of a step.
fn line<'a>(summary: &'a str, step: &str) -> &'a str {
    let named = |line: &&str| line.split_whitespace().nth(1) == Some(step);
    summary.lines().find(named).unwrap_or_else(|| panic!("no line of {step} in\n{summary}"))
}

fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    assert!(Command::new("kill").args([name, &pid]).status().expect("kill is there").success());
}

#[test]
fn every_step_runs_and_the_record_lies_ready() {
    let bundle = Bundle::new("whole");
    bundle.program("bin/differential", "if [ \"$1\" = rows:: ]; then echo 'skipped: one'; echo 'skipped: two'; fi");
    assert_eq!(bundle.run(&["--seconds", "120"]), Some(0), "{}", bundle.summary());
    let summary = bundle.summary();
    for step in ["check-attention", "against-emulator", "synccheck-random", "compare", "sweep", "ncu-softmax", "plot"] {
        assert!(line(&summary, step).contains(" ok"), "{summary}");
    }
    assert!(line(&summary, "check-rows").contains("ok, 2 skipped"), "{summary}");
    assert!(summary.starts_with("warpfold abc1234 on NVIDIA H100 80GB HBM3"), "{summary}");
    assert!(summary.contains("in all: 0 failed, 0 cut short"), "{summary}");
    let records: Vec<_> = fs::read_dir(bundle.folder.join("results/record/h100")).expect("records").flatten().collect();
    let [record] = records.as_slice() else { panic!("{records:?}") };
    assert!(record.file_name().to_string_lossy().ends_with("-abc1234.csv"), "{record:?}");
    assert_eq!(fs::read_to_string(record.path()).expect("a record"), "abc1234\n");
    let emulator = bundle.text("results/08-against-emulator.txt");
    assert!(emulator.contains("--against emulator:sm_90a"), "{emulator}");
}

#[test]
fn a_step_that_hangs_is_killed_and_the_time_is_kept() {
    let bundle = Bundle::new("hang");
    // It does not heed the request to stop.
    let hang = "if [ \"$1\" = attention:: ]; then trap '' TERM; echo $$ > pid; while :; do sleep 0.1; done; fi";
    bundle.program("bin/differential", hang);
    let start = Instant::now();
    assert_eq!(bundle.run(&["--seconds", "9", "--only", "check,demo", "--results", "results/of/two"]), Some(1));
    // With some for a machine that has other things to do.
    assert!(start.elapsed() < Duration::from_secs(11), "{:?}", start.elapsed());
    assert!(!bundle.is_alive());
    let summary = bundle.text("results/of/two/summary-check-demo.txt");
    assert!(line(&summary, "devices").contains(" ok"), "{summary}");
    assert!(line(&summary, "check-attention").contains("FAILED: did not end within 1 s"), "{summary}");
    assert!(line(&summary, "demo-bf16").contains("not done: no time left"), "{summary}");
}

#[test]
fn a_measurement_that_is_cut_short_counts_and_a_wrong_result_fails() {
    let bundle = Bundle::new("cut");
    bundle.program("bin/sweep", "echo half; sleep 30");
    assert_eq!(bundle.run(&["--seconds", "8", "--only", "sweep"]), Some(0));
    let summary = bundle.text("results/summary-sweep.txt");
    assert!(line(&summary, "sweep").contains("cut short after "), "{summary}");

    bundle.program("bin/sweep", "exit 3");
    assert_eq!(bundle.run(&["--seconds", "20", "--only", "sweep"]), Some(1));
    let summary = bundle.text("results/summary-sweep.txt");
    assert!(line(&summary, "sweep").contains("FAILED: exit code 3"), "{summary}");
    assert!(summary.contains("in all: 1 failed, 0 cut short, 0 not done"), "{summary}");
}

#[test]
fn what_was_done_before_a_kill_is_in_the_summary() {
    let bundle = Bundle::new("kill");
    bundle.program("bin/differential", "echo $$ > pid; exec sleep 20");
    let mut child = bundle.start(&["--seconds", "100"]);
    bundle.wait_for("results/summary.txt", "check-attention: begun");
    signal(&child, "-KILL");
    child.wait().expect("it was started");
    let summary = bundle.summary();
    assert!(line(&summary, "devices").contains(" ok"), "{summary}");
    assert!(summary.contains("so far: 0 failed, 0 cut short, 0 not done"), "{summary}");
    let pid = bundle.wait_for("pid", "\n");
    Command::new("kill").arg(pid.trim()).status().expect("kill is there");

    fs::remove_file(bundle.folder.join("pid")).expect("the program's note");
    let mut child = bundle.start(&["--seconds", "100"]);
    bundle.wait_for("pid", "\n");
    signal(&child, "-TERM");
    assert_eq!(child.wait().expect("it was started").code(), Some(143));
    let summary = bundle.summary();
    assert!(line(&summary, "check-attention").contains("cut short by a signal"), "{summary}");
    assert!(summary.contains("in all: 0 failed, 1 cut short, 0 not done"), "{summary}");
    assert!(!bundle.is_alive());
}

#[test]
fn a_machine_without_a_gpu_checks_the_bundle() {
    let bundle = Bundle::new("without");
    bundle.program("path/nvidia-smi", "echo 'No devices were found'; exit 6");
    assert_eq!(bundle.run(&[]), Some(0), "{}", bundle.summary());
    let summary = bundle.summary();
    assert!(
        summary.contains("sanitizer                not done: there is no NVIDIA GPU with a driver here"),
        "{summary}"
    );
    for step in ["check-cpu", "python-cpu", "hardware-vectors", "demo-cpu-f16"] {
        assert!(line(&summary, step).contains(" ok"), "{summary}");
    }
    assert!(bundle.text("results/02-check-cpu.txt").contains("warpfold check --device cpu --cases 20"));

    bundle.program("path/python3", "exit 1");
    assert_eq!(bundle.run(&["--only", "emulator"]), Some(0));
    let summary = bundle.text("results/summary-emulator.txt");
    assert!(line(&summary, "hardware-vectors").contains("not done: python3 has no numpy here"), "{summary}");
}

#[test]
fn counters_that_may_not_be_read_are_no_failure() {
    let bundle = Bundle::new("counters");
    bundle.program("path/ncu", "echo '==ERROR== ERR_NVGPUCTRPERM - permission denied'; exit 11");
    assert_eq!(bundle.run(&["--only", "ncu"]), Some(0));
    let summary = bundle.text("results/summary-ncu.txt");
    assert!(line(&summary, "ncu-softmax").contains("the driver lets only an administrator read counters"), "{summary}");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let bundle = Bundle::new("refused");
    for arguments in
        [&["--only", "bench,nonsense"][..], &["--device", "cpu"], &["--seconds", "0"], &["cuda:1"], &["--only"]]
    {
        assert_eq!(bundle.run(arguments), Some(2), "{arguments:?}");
    }
    assert_eq!(bundle.run(&["--help"]), Some(0));
    assert_eq!(bundle.summary(), "");
}
