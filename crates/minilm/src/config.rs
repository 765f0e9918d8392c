//! config.json: the sizes of the model.

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};

/// The sizes of a BERT encoder.
#[derive(Clone, Debug, PartialEq, serde::Deserialize)]
#[non_exhaustive]
pub struct Config {
    /// Number of tokens in the vocabulary.
    pub vocab_size: usize,
    /// Width of a hidden state.
    pub hidden_size: usize,
    /// Number of layers.
    #[serde(rename = "num_hidden_layers")]
    pub num_layers: usize,
    /// Number of attention heads in a layer.
    #[serde(rename = "num_attention_heads")]
    pub num_heads: usize,
    /// Width between the two projections of a feed-forward block.
    pub intermediate_size: usize,
    /// Longest sequence that has position embeddings.
    #[serde(rename = "max_position_embeddings")]
    pub max_positions: usize,
    /// Number of token types.
    #[serde(rename = "type_vocab_size")]
    pub num_token_types: usize,
    /// What layer norm adds to the variance.
    pub layer_norm_eps: f32,
    model_type: String,
    hidden_act: String,
    #[serde(default = "absolute")]
    position_embedding_type: String,
    #[serde(default)]
    pad_token_id: u32,
}

fn absolute() -> String {
    "absolute".to_string()
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`Error::MissingFile`], [`Error::Read`], [`Error::ConfigSyntax`], [`Error::ConfigValue`].
    pub fn read(path: &Path) -> Result<Config> {
        let text = read_file(path)?;
        let config: Config =
            serde_json::from_slice(&text).map_err(|source| Error::ConfigSyntax { path: path.to_path_buf(), source })?;
        config.check(path)?;
        Ok(config)
    }

    fn check(&self, path: &Path) -> Result<()> {
        let refuse = |field, value: String, supported| {
            Err(Error::ConfigValue { path: path.to_path_buf(), field, value, supported })
        };
        for (field, value, supported) in [
            ("model_type", &self.model_type, "bert"),
            ("hidden_act", &self.hidden_act, "gelu"),
            ("position_embedding_type", &self.position_embedding_type, "absolute"),
        ] {
            if value != supported {
                return refuse(field, format!("\"{value}\""), supported);
            }
        }
        for (field, value) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_layers),
            ("num_attention_heads", self.num_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_positions),
            ("type_vocab_size", self.num_token_types),
        ] {
            // The upper bound keeps every product of two sizes far from overflow.
            if value == 0 || value > 1 << 24 {
                return refuse(field, value.to_string(), "a size from 1 to 2^24");
            }
        }
        if !self.hidden_size.is_multiple_of(self.num_heads) {
            return refuse("hidden_size", self.hidden_size.to_string(), "a multiple of num_attention_heads");
        }
        if self.pad_token_id as usize >= self.vocab_size {
            return refuse("pad_token_id", self.pad_token_id.to_string(), "a token of the vocabulary");
        }
        Ok(())
    }

    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_heads
    }

    /// The token that fills short sentences of a batch.
    pub(crate) fn pad_token(&self) -> u32 {
        self.pad_token_id
    }
}

/// Reads a file of the model.
///
/// # Errors
/// [`Error::MissingFile`], [`Error::Read`].
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => Error::MissingFile { path: path.to_path_buf() },
        _ => Error::Read { path: path.to_path_buf(), source },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(change: (&str, &str)) -> Result<Config> {
        let text = r#"{"vocab_size": 30522, "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
            "intermediate_size": 1536, "max_position_embeddings": 512, "type_vocab_size": 2, "layer_norm_eps": 1e-12,
            "model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute", "unknown": [1]}"#;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        assert!(text.contains(change.0));
        fs::write(&path, text.replace(change.0, change.1)).unwrap();
        Config::read(&path)
    }

    #[test]
    fn the_sizes_are_read() {
        let config = parse(("", "")).unwrap();
        assert_eq!((config.num_layers, config.num_heads, config.head_dim(), config.pad_token()), (6, 12, 32, 0));
        assert_eq!(config.layer_norm_eps, 1e-12);
    }

    #[test]
    fn another_architecture_is_refused() {
        for (from, to, wanted) in [
            ("\"bert\"", "\"roberta\"", "model_type is \"roberta\""),
            ("\"gelu\"", "\"gelu_new\"", "hidden_act is \"gelu_new\""),
            ("\"absolute\"", "\"relative_key\"", "position_embedding_type is \"relative_key\""),
            ("\"hidden_size\": 384", "\"hidden_size\": 385", "multiple of num_attention_heads"),
            ("\"num_attention_heads\": 12", "\"num_attention_heads\": 0", "num_attention_heads is 0"),
            ("\"vocab_size\": 30522", "\"vocab_size\": 99999999999", "vocab_size is 99999999999"),
        ] {
            let error = parse((from, to)).unwrap_err();
            assert!(matches!(error, Error::ConfigValue { .. }), "{error:?}");
            assert!(error.to_string().contains(wanted), "{error}");
        }
        assert!(matches!(parse(("\"hidden_size\": 384,", "")), Err(Error::ConfigSyntax { .. })));
        assert!(matches!(parse(("\"hidden_size\": 384,", "\"hidden_size\": -1,")), Err(Error::ConfigSyntax { .. })));
    }
}
