//! One case on the devices.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Mutex, PoisonError};

use warpfold::{Device, Error};

use super::difference::Difference;
use crate::recipes::{Case, Checked, Planned};

/// The device that is checked, and the one that it is compared with.
pub struct Bench {
    pub device: Device,
    pub peer: Option<Device>,
}

/// A case that passed.
pub struct Passed {
    /// The largest error as a share of what is allowed, on either device.
    pub error_share: f64,
    /// How far the two devices are apart.
    pub difference: Option<Difference>,
}

impl Bench {
    /// Runs a case and holds it to the oracle; what is wrong, in words.
    pub fn check(&self, case: &Case) -> Result<Passed, String> {
        let running = format!("--device {} --op {} --case '{}'", self.device, case.operation(), case.to_json());
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) = running;
        let on = |device: &Device| -> Result<Checked, String> {
            caught(|| case.check(device)).and_then(|result| result.map_err(|failure| failure.to_string()))
        };
        let checked = on(&self.device)?;
        let mut passed = Passed { error_share: checked.error_share, difference: None };
        if let Some(peer) = &self.peer {
            let other = on(peer).map_err(|reason| format!("on {peer}: {reason}"))?;
            passed.error_share = passed.error_share.max(other.error_share);
            passed.difference = Some(Difference::new(&checked.outputs, &other.outputs));
        }
        Ok(passed)
    }

    /// How the case runs; `None` when planning panics, as a wrong case may in the harness.
    pub fn plans(&self, case: &Case) -> Option<Result<Vec<Planned>, Error>> {
        caught(|| case.plans(&self.device)).ok()
    }
}

/// The case that runs, for a panic that ends the program.
static RUNNING: Mutex<String> = Mutex::new(String::new());

/// How the messages of panics begin that cannot be caught: the checks of unsafe code in builds with debug assertions.
const FATAL: [&str; 3] = ["misaligned pointer dereference", "null pointer dereference", "unsafe precondition"];

/// What the last panic said, and where it was.
static PANIC: Mutex<Option<String>> = Mutex::new(None);

/// As long as it lives, panics print nothing: one is a case's failure, and a report of its own says so.
pub struct Quiet(());

impl Quiet {
    pub fn new() -> Quiet {
        panic::set_hook(Box::new(|info| {
            let place = info.location().map_or(String::new(), |place| format!(" ({}:{})", place.file(), place.line()));
            let text = format!("{}{place}", message(info.payload()));
            if FATAL.iter().any(|start| text.starts_with(start)) {
                let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
                eprintln!("{text}\nwarpfold check {running}");
            }
            // The first of several threads' is the cause.
            PANIC.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(text);
        }));
        Quiet(())
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // The usual hook is back then; it cannot be exchanged in the middle of a panic.
        if !std::thread::panicking() {
            drop(panic::take_hook());
        }
    }
}

/// Runs something whose panic is an error.
fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    let last = || PANIC.lock().unwrap_or_else(PoisonError::into_inner).take();
    last();
    // What a panic leaves half done belongs to the case, which ends with it.
    panic::catch_unwind(AssertUnwindSafe(run)).map_err(|payload| last().unwrap_or_else(|| message(&*payload)))
}

fn message(payload: &(dyn Any + Send)) -> String {
    match (payload.downcast_ref::<String>(), payload.downcast_ref::<&str>()) {
        (Some(text), _) => text.clone(),
        (_, Some(text)) => (*text).to_string(),
        _ => "a panic without words".to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_with_its_place() {
        let _quiet = Quiet::new();
        assert_eq!(caught(|| 7), Ok(7));
        let text = caught(|| panic!("element {} was overwritten", 5)).expect_err("it panics");
        assert!(text.starts_with("element 5 was overwritten (") && text.contains("trial.rs:"), "{text}");
    }
}
