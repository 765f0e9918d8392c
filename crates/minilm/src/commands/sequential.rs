//! `minilm sequential`: all tokens at once, and one after another.

use std::time::Instant;

use anyhow::ensure;
use minilm::Model;

use super::reference::embedding_bound;
use super::terminal::Progress;

/// Lengths in tokens, the two special ones included.
const LENGTHS: [usize; 5] = [16, 32, 64, 128, 256];

/// Repetitions of each timing; the median counts.
const REPEATS: usize = 3;

/// Words of one token each, to make sentences of any length from.
const WORDS: &str = "the river ran past the old town and the people who lived there watched the water rise and fall \
    with the moon while boats went down to the sea with wood and stone and came back with salt and fish";

/// Prints the table.
///
/// # Errors
/// The model's; when the two ways do not give the same embeddings.
pub fn run(model: &Model) -> anyhow::Result<()> {
    let layers = model.config().num_layers;
    let bound = embedding_bound(model.dtype());
    println!(
        "Both ways compute the same embedding. A recurrent network has no choice: each token waits for the one before,\n\
         so its longest chain of dependent layers grows with the sentence. Attention's stays at {layers}, and all tokens\n\
         of a layer run as one product.\n"
    );
    println!(
        "{:>7}  {:>13}  {:>17}  {:>6}  {:>16}  {:>18}",
        "tokens", "parallel (ms)", "one by one (ms)", "ratio", "longest chain", "largest difference"
    );
    let mut progress = Progress::new("timing", LENGTHS.len() * REPEATS);
    let mut rows = Vec::new();
    for (index, length) in LENGTHS.into_iter().enumerate() {
        let sentence = sentence(model, length)?;
        let tokens = model.tokens(&sentence)?.len();
        let expected = model.embed(&[&sentence])?;
        let (mut parallel, mut one_by_one, mut largest) = (Vec::new(), Vec::new(), 0.0f32);
        for repeat in 0..REPEATS {
            let started = Instant::now();
            model.embed(&[&sentence])?;
            parallel.push(started.elapsed().as_secs_f64() * 1e3);
            let started = Instant::now();
            let embedding = model.embed_one_token_at_a_time(&sentence)?;
            one_by_one.push(started.elapsed().as_secs_f64() * 1e3);
            largest = largest.max(embedding.largest_difference(&expected[0]));
            progress.set(index * REPEATS + repeat + 1);
        }
        let (parallel, one_by_one) = (median(parallel), median(one_by_one));
        let chain = format!("{layers} against {}", tokens + layers - 1);
        rows.push(format!(
            "{tokens:>7}  {parallel:>13.1}  {one_by_one:>17.1}  {:>6.1}  {chain:>16}  {largest:>18.1e}",
            one_by_one / parallel
        ));
        ensure!(
            f64::from(largest) <= bound,
            "{tokens} tokens: one at a time differs from all at once by {largest:.2e}, more than {bound:.0e}"
        );
    }
    drop(progress);
    println!("{}", rows.join("\n"));
    println!("medians of {REPEATS}, {} on {}", model.dtype(), model.device());
    if model.device().to_string().starts_with("emulator") {
        println!("(an emulator's times say nothing about a GPU's)");
    }
    Ok(())
}

/// A text of `length` tokens, or of one less where a word is two.
fn sentence(model: &Model, length: usize) -> anyhow::Result<String> {
    let mut text = String::new();
    for word in WORDS.split_whitespace().cycle().take(length) {
        let longer = if text.is_empty() { word.to_string() } else { format!("{text} {word}") };
        if model.tokens(&longer).is_ok_and(|tokens| tokens.len() <= length) {
            text = longer;
        } else {
            break;
        }
    }
    Ok(text)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
