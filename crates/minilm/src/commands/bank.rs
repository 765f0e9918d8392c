//! `minilm bank`: one word, two meanings. An embedding of the word alone could not tell them apart: it is attention
//! that brings in the words around it.

use anyhow::ensure;
use minilm::{Model, cosine};

use super::reference::{Reference, cosine_bound};
use super::terminal::cosine_table;

/// The word.
const WORD: &str = "bank";

/// The sentences that the reference does not hold.
const RIVER: &str = "They walked along the grassy bank of the stream.";
const MONEY: &str = "The bank approved the loan and opened an account.";

/// Shows the cosines, and checks that each meaning is closer to itself than to the other.
///
/// # Errors
/// The model's; when a pair of two meanings is closer than a pair of one, or the reference's pair is off.
pub fn run(model: &Model) -> anyhow::Result<()> {
    let reference = Reference::read()?;
    let sentences = [&reference.bank.river, RIVER, &reference.bank.money, MONEY];
    let mut vectors = Vec::with_capacity(sentences.len());
    for sentence in sentences {
        vectors.push(model.token_vectors(sentence)?.of(WORD)?.to_vec());
    }
    let cosines: Vec<Vec<f64>> = vectors.iter().map(|a| vectors.iter().map(|b| cosine(a, b)).collect()).collect();

    println!("The last hidden state of \"{WORD}\" in");
    for (index, sentence) in sentences.iter().enumerate() {
        println!("{:>5}  {sentence}   ({})", index + 1, if index < 2 { "a river's edge" } else { "a house of money" });
    }
    println!("\ncosine similarity of the word\n{}", cosine_table(&cosines));

    let same = cosines[0][1].min(cosines[2][3]);
    let across = [(0, 2), (0, 3), (1, 2), (1, 3)].map(|(a, b)| cosines[a][b]).into_iter().fold(f64::MIN, f64::max);
    println!("\nlowest cosine of one meaning {same:.3}, highest across meanings {across:.3}");
    ensure!(same > across, "\"{WORD}\" is as close across its meanings ({across:.4}) as within one ({same:.4})");

    let exact = reference.bank.cosine_river_money;
    let (difference, bound) = ((cosines[0][2] - exact).abs(), cosine_bound(model.dtype()));
    println!(
        "cosine of 1 and 3: {:.6}, in float64 {exact:.6}, difference {difference:.1e} (bound in {}: {bound:.0e})",
        cosines[0][2],
        model.dtype()
    );
    ensure!(difference <= bound, "the cosine of the two banks is off by {difference:.2e}, more than {bound:.0e}");
    Ok(())
}
