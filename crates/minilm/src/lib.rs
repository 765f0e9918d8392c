//! all-MiniLM-L6-v2, a real sentence transformer, on warpfold: every attention, softmax and layer norm of the model is
//! one of warpfold's, on the CPU, on a GPU or in the emulator.
//!
//! ```no_run
//! let model = minilm::ModelOptions::new("target/model").load()?;
//! let embeddings = model.embed(&["The cat sits on the mat.", "A feline rests on a rug."])?;
//! println!("{:.3}", embeddings[0].cosine(&embeddings[1]));
//! # Ok::<(), minilm::Error>(())
//! ```

#![deny(unsafe_code)]

mod backend;
mod config;
mod encoder;
mod error;
mod maps;
mod model;
mod text;
mod weights;

pub use config::Config;
pub use error::{Error, Result};
pub use maps::AttentionMaps;
pub use model::{Embedding, Model, ModelOptions, TokenVectors, best_device, cosine};
pub use text::{MAX_TOKENS, Tokens};
