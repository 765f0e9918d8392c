//! model.safetensors: every tensor by name, shape and type.

use std::collections::BTreeSet;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};

use crate::config::{Config, read_file};
use crate::error::{Error, Result};

/// The weights of a model on the host, in f32, row-major.
#[derive(Clone, Debug)]
pub(crate) struct Weights {
    /// `[vocab_size, hidden]`.
    pub words: Vec<f32>,
    /// `[max_positions, hidden]`.
    pub positions: Vec<f32>,
    /// `[num_token_types, hidden]`.
    pub token_types: Vec<f32>,
    pub embeddings_norm: NormWeights,
    pub layers: Vec<LayerWeights>,
}

/// One layer: attention, then feed-forward, each followed by a layer norm of its sum with its input.
#[derive(Clone, Debug)]
pub(crate) struct LayerWeights {
    /// Query, key and value projections, one below the other: `[3 * hidden, hidden]`.
    pub qkv: LinearWeights,
    pub attention_output: LinearWeights,
    pub attention_norm: NormWeights,
    pub up: LinearWeights,
    pub down: LinearWeights,
    pub output_norm: NormWeights,
}

/// `y = x weight^T + bias`.
#[derive(Clone, Debug)]
pub(crate) struct LinearWeights {
    /// Where it comes from, for messages.
    pub name: String,
    pub inputs: usize,
    /// `[outputs, inputs]`.
    pub weight: Vec<f32>,
    /// `[outputs]`.
    pub bias: Vec<f32>,
}

#[derive(Clone, Debug)]
pub(crate) struct NormWeights {
    /// Where it comes from, for messages.
    pub name: String,
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
}

/// Tensors of the published file that an embedding does not use: a table of 0, 1, 2, ... and the head that was
/// trained to tell whether one sentence follows another.
const UNUSED: [&str; 3] = ["embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"];

impl Weights {
    /// Reads a file and checks that it holds exactly the model that `config` describes.
    ///
    /// # Errors
    /// [`Error::MissingFile`], [`Error::Read`], [`Error::WeightsFormat`], [`Error::MissingTensor`],
    /// [`Error::UnexpectedTensors`], [`Error::TensorShape`], [`Error::TensorDType`].
    pub fn read(path: &Path, config: &Config) -> Result<Weights> {
        let bytes = read_file(path)?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|source| Error::WeightsFormat {
            path: path.to_path_buf(),
            size_bytes: bytes.len(),
            source,
        })?;
        let mut reader = Reader { path, tensors: &tensors, seen: BTreeSet::from(UNUSED.map(String::from)) };
        let weights = reader.model(config)?;
        reader.check_all_seen()?;
        Ok(weights)
    }
}

struct Reader<'a> {
    path: &'a Path,
    tensors: &'a SafeTensors<'a>,
    seen: BTreeSet<String>,
}

impl Reader<'_> {
    fn model(&mut self, config: &Config) -> Result<Weights> {
        let hidden = config.hidden_size;
        Ok(Weights {
            words: self.tensor("embeddings.word_embeddings.weight", &[config.vocab_size, hidden])?,
            positions: self.tensor("embeddings.position_embeddings.weight", &[config.max_positions, hidden])?,
            token_types: self.tensor("embeddings.token_type_embeddings.weight", &[config.num_token_types, hidden])?,
            embeddings_norm: self.norm("embeddings.LayerNorm", hidden)?,
            layers: (0..config.num_layers)
                .map(|layer| self.layer(&format!("encoder.layer.{layer}"), config))
                .collect::<Result<_>>()?,
        })
    }

    fn layer(&mut self, prefix: &str, config: &Config) -> Result<LayerWeights> {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let mut qkv =
            LinearWeights { name: format!("{prefix}.attention.self"), inputs: hidden, weight: vec![], bias: vec![] };
        for part in ["query", "key", "value"] {
            let part = self.linear(&format!("{prefix}.attention.self.{part}"), hidden, hidden)?;
            qkv.weight.extend(part.weight);
            qkv.bias.extend(part.bias);
        }
        Ok(LayerWeights {
            qkv,
            attention_output: self.linear(&format!("{prefix}.attention.output.dense"), hidden, hidden)?,
            attention_norm: self.norm(&format!("{prefix}.attention.output.LayerNorm"), hidden)?,
            up: self.linear(&format!("{prefix}.intermediate.dense"), hidden, intermediate)?,
            down: self.linear(&format!("{prefix}.output.dense"), intermediate, hidden)?,
            output_norm: self.norm(&format!("{prefix}.output.LayerNorm"), hidden)?,
        })
    }

    fn linear(&mut self, name: &str, inputs: usize, outputs: usize) -> Result<LinearWeights> {
        Ok(LinearWeights {
            name: name.to_string(),
            inputs,
            weight: self.tensor(&format!("{name}.weight"), &[outputs, inputs])?,
            bias: self.tensor(&format!("{name}.bias"), &[outputs])?,
        })
    }

    fn norm(&mut self, name: &str, hidden: usize) -> Result<NormWeights> {
        Ok(NormWeights {
            name: name.to_string(),
            weight: self.tensor(&format!("{name}.weight"), &[hidden])?,
            bias: self.tensor(&format!("{name}.bias"), &[hidden])?,
        })
    }

    fn tensor(&mut self, name: &str, expected: &[usize]) -> Result<Vec<f32>> {
        let tensor = self
            .tensors
            .tensor(name)
            .map_err(|_| Error::MissingTensor { path: self.path.to_path_buf(), tensor: name.to_string() })?;
        if tensor.dtype() != Dtype::F32 {
            return Err(Error::TensorDType {
                path: self.path.to_path_buf(),
                tensor: name.to_string(),
                dtype: tensor.dtype().to_string(),
            });
        }
        if tensor.shape() != expected {
            return Err(Error::TensorShape {
                path: self.path.to_path_buf(),
                tensor: name.to_string(),
                shape: tensor.shape().to_vec(),
                expected: expected.to_vec(),
            });
        }
        self.seen.insert(name.to_string());
        // The format is little-endian, and its tensors start at any byte.
        let (values, _) = tensor.data().as_chunks::<4>();
        Ok(values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }

    /// A seventh layer, say, would be left out without a word and give wrong embeddings.
    fn check_all_seen(&self) -> Result<()> {
        let mut tensors: Vec<String> =
            self.tensors.names().into_iter().filter(|name| !self.seen.contains(*name)).map(String::from).collect();
        if tensors.is_empty() {
            return Ok(());
        }
        tensors.sort();
        Err(Error::UnexpectedTensors { path: self.path.to_path_buf(), tensors })
    }
}
