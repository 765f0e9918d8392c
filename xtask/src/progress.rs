//! Progress: a spinner with the elapsed time where stdout is a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

/// Does the work and shows `what` while it lasts; the work gets the bar to change its message.
pub fn during<T>(what: &str, work: impl FnOnce(&ProgressBar) -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let bar = if std::io::stdout().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    bar.set_style(ProgressStyle::with_template("{spinner} {msg} ({elapsed})").expect("the template is valid"));
    bar.set_message(what.to_string());
    bar.enable_steady_tick(Duration::from_millis(120));
    if bar.is_hidden() {
        println!("{what} ...");
    }
    let result = work(&bar);
    bar.finish_and_clear();
    let outcome = if result.is_ok() { "done" } else { "FAILED" };
    println!("{what}: {outcome} in {}", seconds(start.elapsed()));
    result
}

/// A duration for people: `0.4 s`, `73 s`, `4 min 10 s`.
pub fn seconds(time: Duration) -> String {
    match time.as_secs() {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        whole @ 10..120 => format!("{whole} s"),
        whole => format!("{} min {} s", whole / 60, whole % 60),
    }
}
