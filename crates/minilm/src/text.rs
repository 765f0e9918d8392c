//! From a sentence to tokens.

use std::path::Path;

use tokenizers::Tokenizer;

use crate::config::{Config, read_file};
use crate::error::{Error, Result};

/// The longest sequence, special tokens included, that the model was trained for.
pub const MAX_TOKENS: usize = 256;

/// The tokens of one sentence, the special ones included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// Numbers in the vocabulary.
    pub ids: Vec<u32>,
    /// The text of each; a piece that continues a word starts with `##`.
    pub texts: Vec<String>,
    /// Whether each is one of `[CLS]` and `[SEP]`.
    pub is_special: Vec<bool>,
    /// The length before truncation; the same as now when nothing was cut.
    pub full_length: usize,
}

impl Tokens {
    /// The number of tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are none; a sentence always has some.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Whether tokens were cut off.
    pub fn is_truncated(&self) -> bool {
        self.len() < self.full_length
    }
}

/// Splits sentences as the model was trained to.
pub(crate) struct Text {
    tokenizer: Tokenizer,
    limit: usize,
    truncate: bool,
}

impl Text {
    /// Reads tokenizer.json. Its own padding and truncation are switched off: batches are padded to their longest
    /// sentence, and the limit is the model's.
    ///
    /// # Errors
    /// [`Error::MissingFile`], [`Error::Read`], [`Error::Tokenizer`].
    pub fn read(path: &Path, config: &Config, truncate: bool) -> Result<Text> {
        let refuse = |detail: String| Error::Tokenizer { path: path.to_path_buf(), detail };
        let mut tokenizer = Tokenizer::from_bytes(read_file(path)?).map_err(|error| refuse(error.to_string()))?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| refuse(error.to_string()))?;
        let largest = tokenizer.get_vocab(true).into_values().max().unwrap_or(0);
        if largest as usize >= config.vocab_size {
            return Err(refuse(format!(
                "it has a token number {largest}, the model only {} tokens",
                config.vocab_size
            )));
        }
        Ok(Text { tokenizer, limit: MAX_TOKENS.min(config.max_positions), truncate })
    }

    /// The tokens of sentence number `index`.
    ///
    /// # Errors
    /// [`Error::EmptySentence`], [`Error::SentenceTooLong`], [`Error::Tokenize`].
    pub fn tokens(&self, index: usize, sentence: &str) -> Result<Tokens> {
        let encoding = self
            .tokenizer
            .encode(sentence, true)
            .map_err(|error| Error::Tokenize { index, detail: error.to_string() })?;
        let is_special: Vec<bool> = encoding.get_special_tokens_mask().iter().map(|mask| *mask == 1).collect();
        if is_special.iter().all(|special| *special) {
            return Err(Error::EmptySentence { index });
        }
        let full_length = encoding.len();
        let mut tokens =
            Tokens { ids: encoding.get_ids().to_vec(), texts: encoding.get_tokens().to_vec(), is_special, full_length };
        if full_length > self.limit {
            if !self.truncate {
                return Err(Error::SentenceTooLong { index, tokens: full_length, limit: self.limit });
            }
            // The final [SEP] stays.
            let cut = self.limit - 1..full_length - 1;
            tokens.ids.drain(cut.clone());
            tokens.texts.drain(cut.clone());
            tokens.is_special.drain(cut);
        }
        Ok(tokens)
    }
}
