//! The reference that the model is held to: embeddings computed in float64 by PyTorch and transformers.

use anyhow::{Context as _, ensure};
use minilm::Embedding;
use warpfold::DType;

const FILE: &str = include_str!("../../tests/data/minilm_reference.json");

/// The reference file.
#[derive(serde::Deserialize)]
pub struct Reference {
    /// Sentences.
    pub sentences: Vec<String>,
    /// The embedding of each.
    pub embeddings: Vec<Vec<f64>>,
    /// The two meanings of a word.
    pub bank: Bank,
}

/// One word in two sentences.
#[derive(serde::Deserialize)]
pub struct Bank {
    /// A sentence with a river's bank.
    pub river: String,
    /// A sentence with a bank that keeps money.
    pub money: String,
    /// The cosine of the word's last hidden states in the two.
    pub cosine_river_money: f64,
}

impl Reference {
    /// The file that belongs to this build.
    ///
    /// # Errors
    /// When the file is not what it should be.
    pub fn read() -> anyhow::Result<Reference> {
        serde_json::from_str(FILE).context("tests/data/minilm_reference.json")
    }

    /// Prints the largest difference of the first sentences' embeddings, and holds it to the bound of their type.
    ///
    /// # Errors
    /// When the bound is exceeded.
    pub fn check(&self, embeddings: &[Embedding], dtype: DType) -> anyhow::Result<()> {
        let pairs = embeddings.iter().zip(&self.embeddings);
        let differences = pairs.flat_map(|(ours, theirs)| {
            ours.as_slice().iter().zip(theirs).map(|(ours, theirs)| (f64::from(*ours) - theirs).abs())
        });
        let largest = differences.fold(0.0, f64::max);
        let bound = embedding_bound(dtype);
        println!("largest difference from the float64 reference: {largest:.2e} (bound in {dtype}: {bound:.0e})");
        ensure!(largest <= bound, "the embeddings differ from the reference by {largest:.3e}, more than {bound:.0e}");
        Ok(())
    }
}

/// How far a component of an embedding may be from the exact one.
pub fn embedding_bound(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 1e-3,
        DType::BF16 => 5e-3,
        _ => 2e-5,
    }
}

/// How far the cosine of two token vectors may be from the exact one.
pub fn cosine_bound(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 1e-3,
        DType::BF16 => 1e-2,
        _ => 1e-4,
    }
}
