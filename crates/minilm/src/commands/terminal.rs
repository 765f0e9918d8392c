//! Tables, shaded maps and progress on a terminal, and the same as plain lines elsewhere.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use console::measure_text_width;
use indicatif::{ProgressBar, ProgressStyle};
use minilm::AttentionMaps;

/// How long a task may be silent.
const PATIENCE: Duration = Duration::from_secs(2);

/// Prints a section's title.
pub fn title(text: &str) {
    println!("\n{text}\n{}", "-".repeat(measure_text_width(text)));
}

/// A bar on a terminal; elsewhere a plain line now and then.
pub struct Progress {
    bar: Option<ProgressBar>,
    what: &'static str,
    total: usize,
    last_line: Instant,
}

impl Progress {
    /// Starts at 0 of `total`, on stderr.
    pub fn new(what: &'static str, total: usize) -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{msg} {bar:40.cyan/blue} {pos}/{len}, {eta} left")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(total as u64).with_style(style).with_message(what)
        });
        Progress { bar, what, total, last_line: Instant::now() }
    }

    /// `done` of the total are done.
    pub fn set(&mut self, done: usize) {
        match &self.bar {
            Some(bar) => bar.set_position(done as u64),
            None if self.last_line.elapsed() >= PATIENCE => {
                eprintln!("{}: {done} of {}", self.what, self.total);
                self.last_line = Instant::now();
            }
            None => (),
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

/// A matrix of cosines, its rows and columns numbered from 1.
pub fn cosine_table(cosines: &[Vec<f64>]) -> String {
    let mut text = String::from("     ");
    for column in 1..=cosines.len() {
        text += &format!("{column:>7}");
    }
    for (row, values) in cosines.iter().enumerate() {
        text += &format!("\n{:>5}", row + 1);
        for value in values {
            text += &format!("{value:>7.3}");
        }
    }
    text
}

/// Five shades of a share from 0 to 1.
fn shade(share: f32) -> char {
    match share {
        share if share >= 0.65 => '█',
        share if share >= 0.4 => '▓',
        share if share >= 0.2 => '▒',
        share if share >= 0.05 => '░',
        _ => ' ',
    }
}

/// What the shades mean.
pub const LEGEND: &str = "░ from 5 %, ▒ from 20 %, ▓ from 40 %, █ from 65 %";

/// One head's map with its tokens on both sides and each share in percent.
pub fn map(maps: &AttentionMaps, layer: usize, head: usize) -> String {
    let texts = &maps.tokens.texts;
    let label = texts.iter().map(|text| measure_text_width(text)).max().unwrap_or(0);
    // A long sentence has no room for words and figures above its columns.
    let width = if texts.len() <= 14 { label.max(7) + 1 } else { 2 };
    let mut text = " ".repeat(label + 2);
    if width > 2 {
        for token in texts {
            text += &format!("{token:>width$}");
        }
    }
    for (token, row) in texts.iter().zip(maps.map(layer, head).chunks_exact(texts.len())) {
        text += &format!("\n{token:>label$} |");
        for share in row {
            let blocks = shade(*share).to_string();
            text += &match width {
                2 => blocks.repeat(2),
                _ => format!("{:>width$}", format!("{} {:>2.0}%", blocks.repeat(3), share * 100.0)),
            };
        }
    }
    text
}

/// Every head of every layer, a character an entry; nothing where that is wider than 160 columns.
pub fn all_maps(maps: &AttentionMaps) -> Option<String> {
    let len = maps.tokens.len();
    if maps.heads * (len + 2) > 160 {
        return None;
    }
    let mut text = String::new();
    for layer in 0..maps.layers {
        text += &format!("layer {}\n", layer + 1);
        for query in 0..len {
            for head in 0..maps.heads {
                let row = &maps.map(layer, head)[query * len..][..len];
                text += &row.iter().map(|share| shade(*share)).collect::<String>();
                text += " |";
            }
            text += "\n";
        }
    }
    Some(text.trim_end().to_string())
}
