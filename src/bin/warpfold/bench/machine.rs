//! What a record says of where and when it was taken.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use warpfold::Device;

/// What stays the same in all rows.
#[derive(Clone, Debug)]
pub struct Machine {
    pub date: String,
    pub commit: String,
    pub device: String,
    pub driver: String,
    pub compiler: String,
    /// Of rayon, where they compute.
    pub threads: Option<usize>,
}

impl Machine {
    pub fn of_cpu(device: &Device) -> Machine {
        let device = format!("{} ({})", processor(), device.cpu_instruction_set().unwrap_or("no CPU"));
        Machine {
            date: today(),
            commit: commit(),
            device,
            driver: String::new(),
            compiler: String::new(),
            threads: Some(rayon::current_num_threads()),
        }
    }

    #[cfg(feature = "cuda")]
    pub fn of_gpu(device: String, driver: String) -> Machine {
        let compiler = warpfold::kernel_compiler().to_string();
        Machine { date: today(), commit: commit(), device, driver, compiler, threads: None }
    }

    /// Where its records belong.
    pub fn record_name(&self) -> String {
        format!("benches/record/{}/{}-{}.csv", slug(&self.device), self.date, self.commit.trim_end_matches('+'))
    }
}

/// The model, as Linux says it.
fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    model.map_or_else(|| format!("{} processor", std::env::consts::ARCH), |(_, name)| name.trim().to_string())
}

/// `NVIDIA H100 80GB HBM3` is `h100`, `AMD EPYC (avx2)` is `epyc-avx2`.
fn slug(device: &str) -> String {
    let device = device.to_lowercase().replace("(r)", " ").replace("(tm)", " ");
    let is_word = |word: &&str| {
        let is_maker = ["", "nvidia", "amd", "intel", "cpu", "processor", "geforce", "tesla"].contains(word);
        let is_memory =
            word.starts_with("hbm") || word.strip_suffix("gb").is_some_and(|size| size.parse::<u32>().is_ok());
        !is_maker && !is_memory
    };
    let words: Vec<&str> =
        device.split(|letter: char| !letter.is_alphanumeric() && letter != '_').filter(is_word).collect();
    words.join("-")
}

/// The commit of the checkout that the program runs in, with `+` where files differ from it; else `WARPFOLD_COMMIT`, which whoever
/// packs the program may set, or `unknown`.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    let of_checkout = || {
        let top = git(&["rev-parse", "--show-toplevel"])?;
        // Another project's checkout says nothing about this program.
        let manifest = fs::read_to_string(Path::new(&top).join("Cargo.toml")).ok()?;
        manifest.contains("name = \"warpfold\"").then_some(())?;
        let commit = git(&["rev-parse", "--short", "HEAD"])?;
        let changes = git(&["status", "--porcelain", "--untracked-files=no"])?;
        Some(if changes.is_empty() { commit } else { commit + "+" })
    };
    of_checkout().or_else(|| std::env::var("WARPFOLD_COMMIT").ok()).unwrap_or_else(|| "unknown".to_string())
}

fn today() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let [year, month, day] = civil(seconds / 86_400);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Year, month and day of a number of days since 1970-01-01.
fn civil(mut days: u64) -> [u64; 3] {
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    [year, month, days + 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        let days = [0, 59, 789, 11_016, 11_017, 19_782, 20_784];
        let dates =
            [[1970, 1, 1], [1970, 3, 1], [1972, 2, 29], [2000, 2, 29], [2000, 3, 1], [2024, 2, 29], [2026, 11, 27]];
        assert_eq!(days.map(civil), dates);
    }

    #[test]
    fn machines_have_short_names() {
        for (device, expected) in [
            ("NVIDIA H100 80GB HBM3", "h100"),
            ("NVIDIA GeForce RTX 4090", "rtx-4090"),
            ("AMD EPYC (avx2)", "epyc-avx2"),
            ("Intel(R) Xeon(R) Platinum 8488C (avx512_bf16)", "xeon-platinum-8488c-avx512_bf16"),
        ] {
            assert_eq!(slug(device), expected);
        }
    }

    #[test]
    fn a_limited_device_says_so() {
        let device = Device::cpu_with("portable").unwrap_or_else(|error| panic!("{error}"));
        assert!(Machine::of_cpu(&device).device.ends_with(" (portable)"));
        let best = Machine::of_cpu(&Device::cpu());
        assert!(best.device.ends_with(')') && best.threads > Some(0), "{best:?}");
        assert!(best.record_name().starts_with("benches/record/") && best.record_name().ends_with(".csv"));
    }
}
