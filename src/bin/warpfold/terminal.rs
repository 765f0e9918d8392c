//! What the commands share: the device that is asked for, and progress.

use std::fmt;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use warpfold::Device;

/// How long plain lines may be silent.
const PATIENCE: Duration = Duration::from_secs(5);

/// The device that was asked for cannot be used here.
#[derive(Debug)]
pub struct NoDevice {
    name: String,
    reason: warpfold::Error,
}

impl fmt::Display for NoDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot use {}: {}", self.name, self.reason)
    }
}

impl std::error::Error for NoDevice {}

/// The command line makes no sense, which shows only when it is carried out.
#[derive(Debug)]
pub struct Usage(pub String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// The device of that name: `cpu`, `cpu:avx2`, `cuda:0`, `emulator:sm_80`.
///
/// # Errors
/// [`NoDevice`], which ends the program with exit code 3.
pub fn device(name: &str) -> Result<Device, NoDevice> {
    name.parse().map_err(|reason| NoDevice { name: name.to_string(), reason })
}

/// A bar where stderr is a terminal; elsewhere a plain line now and then.
pub struct Progress {
    bar: Option<ProgressBar>,
    what: String,
    total: u64,
    last_line: Instant,
}

impl Progress {
    /// Starts at 0 of `total`.
    pub fn new(what: impl Into<String>, total: u64) -> Progress {
        let what = what.into();
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{prefix} {bar:40.cyan/blue} {pos}/{len}, {eta} left  {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(total).with_style(style).with_prefix(what.clone())
        });
        Progress { bar, what, total, last_line: Instant::now() }
    }

    /// `done` of the total are done, and this comes next.
    pub fn set(&mut self, done: u64, next: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_message(next.to_string());
                bar.set_position(done);
            }
            None if self.last_line.elapsed() >= PATIENCE => {
                eprintln!("{}: {done} of {}", self.what, self.total);
                self.last_line = Instant::now();
            }
            None => (),
        }
    }

    /// Prints a line of results above the bar.
    pub fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| println!("{text}")),
            None => println!("{text}"),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
