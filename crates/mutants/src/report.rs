//! What the terminal shows: progress, the table, the summary.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::mutant::{Expected, Mutant};
use crate::trial::{Catch, Finding};
use crate::{Fate, Outcome};

/// A bar on a terminal, plain lines elsewhere.
pub struct Progress {
    bar: Option<ProgressBar>,
    done: AtomicUsize,
    count: usize,
}

impl Progress {
    pub fn new(what: &str, count: usize) -> Progress {
        let bar = std::io::stdout().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{prefix} {bar:40} {pos}/{len} {msg} ({elapsed}, {eta} left)");
            let bar = ProgressBar::new(count as u64).with_style(style.expect("the template is valid"));
            bar.set_prefix(what.to_string());
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        if bar.is_none() {
            println!("{count} {what}");
        }
        Progress { bar, done: AtomicUsize::new(0), count }
    }

    /// One item is done.
    pub fn step(&self, name: &str, outcome: &str) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        match &self.bar {
            Some(bar) => {
                bar.set_message(name.to_string());
                bar.inc(1);
            }
            None => println!("  {done}/{} {name}: {outcome}", self.count),
        }
    }

    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A duration for people: `0.4 s`, `73 s`, `4 min 10 s`.
pub fn seconds(time: Duration) -> String {
    match time.as_secs() {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        whole @ 10..120 => format!("{whole} s"),
        whole => format!("{} min {} s", whole / 60, whole % 60),
    }
}

impl Fate {
    /// In a word.
    pub fn word(&self) -> String {
        match self {
            Fate::Caught { catch, .. } => catch.finding.to_string(),
            Fate::Refused(_) => "the compiler refuses it".to_string(),
            Fate::SameCode => "the compiler makes the same code of it".to_string(),
            Fate::Survived => "nothing".to_string(),
        }
    }
}

/// A mutant in one line.
pub fn entry(mutant: &Mutant) -> String {
    let fast = if mutant.fast { " [fast]" } else { "" };
    format!("{:<32} {} ({}){fast}", mutant.name, mutant.what, mutant.variants.join(", "))
}

/// One line a mutant and kernel: what caught it, in which way of running, and what would
/// have without the checks for races and unwritten memory.
pub fn table(rows: &[(&Mutant, &Outcome)]) -> String {
    let mut cells = vec![["MUTANT", "CAUGHT BY", "RUN", "WITHOUT THE CHECKS"].map(str::to_string)];
    for (mutant, outcome) in rows {
        let caught = match (&outcome.fate, &mutant.expected) {
            (Fate::SameCode, _) => "nothing: compiles to the same code".to_string(),
            (Fate::Survived, Expected::Equivalent(_)) => "nothing: equivalent".to_string(),
            (Fate::Survived, _) => "SURVIVED".to_string(),
            // The kind that was expected stands for all reports.
            (Fate::Caught { catch, .. }, Expected::Hazard(kinds)) => match &catch.finding {
                Finding::Hazards(reports) => {
                    let known = reports.iter().find(|(kind, _)| kinds.contains(&kind.as_str())).or(reports.first());
                    known.map(|(kind, place)| format!("{kind} at {place}")).unwrap_or_default()
                }
                other => other.to_string(),
            },
            (fate, _) => fate.word(),
        };
        let (run, alone) = match &outcome.fate {
            Fate::Caught { catch, unchecked } => {
                let alone = match (&catch.finding, unchecked) {
                    (Finding::Counters(_), _) => "nothing: only counters tell".to_string(),
                    (_, Some(None)) => "nothing: only the checks tell".to_string(),
                    (_, Some(Some(Catch { finding: Finding::Numbers(_), way, .. }))) => format!("wrong numbers, {way}"),
                    (_, Some(Some(Catch { way, .. }))) => format!("a hazard, {way}"),
                    (_, None) => String::new(),
                };
                (catch.way, alone)
            }
            _ => ("", String::new()),
        };
        cells.push([mutant.name.to_string(), caught, run.to_string(), alone]);
    }
    let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let [name_width, caught_width, run_width] = [0, 1, 2].map(width);
    let mut text = String::new();
    for [name, caught, run, alone] in &cells {
        let line = format!("{name:<name_width$}  {caught:<caught_width$}  {run:<run_width$}  {alone}");
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// Everything that was reported of one mutant.
pub fn details(mutant: &Mutant, outcome: &Outcome) -> String {
    let mut text = format!("{}\n", entry(mutant));
    if let Fate::Caught { catch, .. } = &outcome.fate {
        let _ = writeln!(text, "  case: {}; {}", catch.case, catch.way);
        match &catch.finding {
            Finding::Hazards(reports) => {
                for (kind, place) in reports {
                    let _ = writeln!(text, "  {kind} at {place}");
                }
            }
            finding => {
                let _ = writeln!(text, "  {finding}");
            }
        }
    }
    text
}

/// How many were caught by what.
pub fn summary(rows: &[(&Mutant, &Outcome)]) -> String {
    let count =
        |is: &dyn Fn(&Fate, &Mutant) -> bool| rows.iter().filter(|(mutant, outcome)| is(&outcome.fate, mutant)).count();
    let caught = |is: fn(&Finding) -> bool| {
        count(&move |fate, _| matches!(fate, Fate::Caught { catch, .. } if is(&catch.finding)))
    };
    let equivalent = |mutant: &Mutant| matches!(mutant.expected, Expected::Equivalent(_));
    let parts = [
        (caught(|finding| matches!(finding, Finding::Hazards(_))), "by a hazard report"),
        (caught(|finding| matches!(finding, Finding::Numbers(_))), "by the numbers"),
        (caught(|finding| matches!(finding, Finding::Counters(_))), "by a counter"),
        (caught(|finding| matches!(finding, Finding::Endless)), "because they did not end"),
        (count(&|fate, _| matches!(fate, Fate::Refused(_))), "by the compiler"),
        (
            count(&|fate, mutant| matches!(fate, Fate::SameCode | Fate::Survived) && equivalent(mutant)),
            "not, as they are equivalent",
        ),
        (count(&|fate, mutant| matches!(fate, Fate::SameCode | Fate::Survived) && !equivalent(mutant)), "NOT AT ALL"),
    ];
    let parts: Vec<String> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, how)| format!("{count} {how}")).collect();
    format!("Caught: {}", parts.join(", "))
}
