//! `budgets --peer` on a file of machine code: one of ours in the place of another's.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const OURS: &str = "attention_forward_sm80_bf16_d64_plain";
const PEER: &str = "attention_forward_sm80_f16_d64_plain";

fn budgets(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_budgets")).args(arguments).output().expect("the program starts")
}

#[test]
fn a_file_of_machine_code_is_shown_beside_ours() {
    let Ok(image) = warpfold::cuda::image(PEER, 90) else {
        eprintln!("skipped: this build has no machine code of {PEER} for sm_90");
        return;
    };
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("peer.cubin");
    fs::write(&file, image).expect("a file");
    let file = file.to_str().expect("a plain path");

    let output = budgets(&[OURS, "--peer", file]);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains(&format!("\n{OURS}\n  beside {PEER}, sm_90 at the rates of the H100\n")), "{text}");
    // Both types multiply in as many instructions.
    let line = text.lines().find(|line| line.starts_with("main loop: tensor instructions")).expect("the main loops");
    let cells: Vec<&str> = line.split_whitespace().skip(4).collect();
    assert!(cells[0] == cells[1] && cells[0] != "0" && cells[2] == "1.00", "{line}");

    let output = budgets(&[OURS, "--peer", file, "--peer-name", "nothing"]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("has no such function"));
}
