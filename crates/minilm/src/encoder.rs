//! The encoder: every attention and layer norm is warpfold's, all else is the backend's.

use warpfold::{Attention, AttentionOutputs, DType, Device, NormInputs, NormOutputs, Qkv, SeqLens, Tensor, TensorRef};

use crate::backend::{After, Backend, Batch};
use crate::config::Config;
use crate::error::Result;
use crate::weights::{LayerWeights, NormWeights, Weights};

/// What attention saw in one layer, on the host in f32: `q` and `k` `[batch, heads, len, head_dim]`, lse
/// `[batch, heads, len]`.
pub(crate) struct Trace {
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub lse: Vec<f32>,
}

/// An encoder on some device.
pub(crate) trait Encode: Send + Sync {
    fn device(&self) -> &Device;
    fn dtype(&self) -> DType;

    /// The last hidden states, `[batch, len, hidden]`; `observe` gets each layer's trace in turn.
    fn encode(&self, batch: &Batch, observe: Option<&mut dyn FnMut(Trace)>) -> Result<Vec<f32>>;

    /// The last hidden states of one sentence, `[len, hidden]`, computed token by token: every product, attention
    /// and layer norm is called for one row, as a network that reads one word after another has to.
    fn encode_one_token_at_a_time(&self, ids: &[u32]) -> Result<Vec<f32>>;
}

/// A BERT encoder with its weights on the device.
pub(crate) struct Encoder<B: Backend> {
    backend: B,
    config: Config,
    tables: B::Tables,
    embeddings_norm: Norm<B>,
    layers: Vec<Layer<B>>,
}

struct Layer<B: Backend> {
    qkv: B::Linear,
    attention_output: B::Linear,
    attention_norm: Norm<B>,
    up: B::Linear,
    down: B::Linear,
    output_norm: Norm<B>,
}

struct Norm<B: Backend> {
    weight: B::Memory,
    bias: B::Memory,
}

impl<B: Backend> Norm<B> {
    fn upload(backend: &B, weights: &NormWeights) -> Result<Norm<B>> {
        Ok(Norm {
            weight: backend.upload(&weights.name, &weights.weight)?,
            bias: backend.upload(&weights.name, &weights.bias)?,
        })
    }
}

impl<B: Backend> Layer<B> {
    fn upload(backend: &B, weights: &LayerWeights) -> Result<Layer<B>> {
        Ok(Layer {
            qkv: backend.upload_linear(&weights.qkv)?,
            attention_output: backend.upload_linear(&weights.attention_output)?,
            attention_norm: Norm::upload(backend, &weights.attention_norm)?,
            up: backend.upload_linear(&weights.up)?,
            down: backend.upload_linear(&weights.down)?,
            output_norm: Norm::upload(backend, &weights.output_norm)?,
        })
    }
}

/// Which third of the fused projection.
#[derive(Clone, Copy)]
enum Part {
    Query,
    Key,
    Value,
}

impl<B: Backend> Encoder<B> {
    /// Brings the weights to the backend's device.
    pub fn new(backend: B, config: Config, weights: &Weights) -> Result<Encoder<B>> {
        Ok(Encoder {
            tables: backend.upload_tables(weights)?,
            embeddings_norm: Norm::upload(&backend, &weights.embeddings_norm)?,
            layers: weights.layers.iter().map(|layer| Layer::upload(&backend, layer)).collect::<Result<_>>()?,
            backend,
            config,
        })
    }

    /// The sum of the three embeddings, normalised.
    fn embed(&self, ids: &[u32], positions: &[u32]) -> Result<B::Memory> {
        let x = self.backend.embed(&self.tables, ids, positions)?;
        self.layer_norm(&x, ids.len(), &self.embeddings_norm)
    }

    /// What follows attention in a layer: `x` is the layer's input, `context` what attention gathered.
    fn finish_layer(&self, layer: &Layer<B>, x: &B::Memory, context: &B::Memory, rows: usize) -> Result<B::Memory> {
        let x = self.backend.linear(context, &layer.attention_output, After::Add(x))?;
        let x = self.layer_norm(&x, rows, &layer.attention_norm)?;
        let wide = self.backend.linear(&x, &layer.up, After::Gelu)?;
        let x = self.backend.linear(&wide, &layer.down, After::Add(&x))?;
        self.layer_norm(&x, rows, &layer.output_norm)
    }

    /// Layer norm of `[rows, hidden]` by warpfold.
    fn layer_norm(&self, x: &B::Memory, rows: usize, norm: &Norm<B>) -> Result<B::Memory> {
        let hidden = self.config.hidden_size;
        let stream = self.backend.device().stream();
        let mut y = self.backend.allocate(rows * hidden)?;
        let inputs = NormInputs::new(self.backend.view(x, &[rows, hidden])?)
            .weight(self.backend.view(&norm.weight, &[hidden])?)
            .bias(self.backend.view(&norm.bias, &[hidden])?);
        let output = self.backend.view_mut(&mut y, &[rows, hidden])?;
        let plan = warpfold::Norm::layer()
            .eps(self.config.layer_norm_eps)
            .plan(&inputs.spec().output(output.spec()), &self.backend.device().target())?;
        let mut workspace = plan.workspace(&stream)?;
        plan.forward_into(&stream, &inputs, NormOutputs::new(output), &mut workspace)?;
        Ok(y)
    }

    /// A third of the fused projection `[batch * len, 3 * hidden]`, seen as `[batch, heads, len, head_dim]`: the
    /// heads of a token lie side by side, and no element moves.
    fn heads<'a>(&'a self, qkv: &'a B::Memory, part: Part, batch: usize, len: usize) -> Result<TensorRef<'a>> {
        let heads = self.config.num_heads;
        let all = self.backend.view(qkv, &[batch, len, 3 * heads, self.config.head_dim()])?;
        Ok(all.narrow(2, part as usize * heads, heads)?.transpose(1, 2)?)
    }

    /// Attention by warpfold of `batch` sentences with `len` queries each; the result is `[batch * len, hidden]`,
    /// ready for the next product.
    fn attention(&self, inputs: &Qkv<'_>, [batch, len]: [usize; 2], lse: Option<&mut Tensor>) -> Result<B::Memory> {
        let spec = inputs.spec();
        let (heads, head_dim) = (self.config.num_heads, self.config.head_dim());
        let stream = self.backend.device().stream();
        let mut context = self.backend.allocate(batch * len * heads * head_dim)?;
        let output = self.backend.view_mut(&mut context, &[batch, len, heads, head_dim])?.transpose(1, 2)?;
        let plan = Attention::new().plan(&spec.output(output.spec()), &self.backend.device().target())?;
        let mut workspace = plan.workspace(&stream)?;
        let mut outputs = AttentionOutputs::new(output);
        if let Some(lse) = lse {
            outputs = outputs.lse(lse);
        }
        plan.forward_into(&stream, inputs, outputs, &mut workspace)?;
        Ok(context)
    }
}

impl<B: Backend> Encode for Encoder<B> {
    fn device(&self) -> &Device {
        self.backend.device()
    }

    fn dtype(&self) -> DType {
        self.backend.dtype()
    }

    fn encode(&self, batch: &Batch, mut observe: Option<&mut dyn FnMut(Trace)>) -> Result<Vec<f32>> {
        let (size, len) = (batch.size(), batch.len);
        let rows = size * len;
        let lengths: Vec<i32> = batch.lengths.iter().map(|length| *length as i32).collect();
        let lengths = SeqLens::new(self.device(), &lengths)?;
        let positions: Vec<u32> = (0..rows).map(|row| (row % len) as u32).collect();

        let mut x = self.embed(&batch.ids, &positions)?;
        for layer in &self.layers {
            let qkv = self.backend.linear(&x, &layer.qkv, After::Nothing)?;
            let q = self.heads(&qkv, Part::Query, size, len)?;
            let k = self.heads(&qkv, Part::Key, size, len)?;
            let v = self.heads(&qkv, Part::Value, size, len)?;
            let mut lse = match observe {
                Some(_) => Some(Tensor::zeros(self.device(), DType::F32, [size, self.config.num_heads, len])?),
                None => None,
            };
            let context = self.attention(&Qkv::new(q, k, v).key_lengths(&lengths), [size, len], lse.as_mut())?;
            if let (Some(observe), Some(lse)) = (&mut observe, &lse) {
                observe(Trace { q: q.to_vec_f32()?, k: k.to_vec_f32()?, lse: lse.to_vec()? });
            }
            x = self.finish_layer(layer, &x, &context, rows)?;
        }
        Ok(self.backend.view(&x, &[rows, self.config.hidden_size])?.to_vec_f32()?)
    }

    fn encode_one_token_at_a_time(&self, ids: &[u32]) -> Result<Vec<f32>> {
        let hidden = self.config.hidden_size;
        let mut tokens: Vec<B::Memory> = Vec::with_capacity(ids.len());
        for (position, id) in ids.iter().enumerate() {
            tokens.push(self.embed(&[*id], &[position as u32])?);
        }
        for layer in &self.layers {
            // Every token sees every other, so all keys and values of a layer come before its first attention.
            let mut qkv = Vec::with_capacity(tokens.len());
            for token in &tokens {
                qkv.push(self.backend.linear(token, &layer.qkv, After::Nothing)?);
            }
            let all = self.backend.concatenate(&qkv)?;
            let k = self.heads(&all, Part::Key, 1, ids.len())?;
            let v = self.heads(&all, Part::Value, 1, ids.len())?;
            for (token, own) in tokens.iter_mut().zip(&qkv) {
                let q = self.heads(own, Part::Query, 1, 1)?;
                let context = self.attention(&Qkv::new(q, k, v), [1, 1], None)?;
                *token = self.finish_layer(layer, token, &context, 1)?;
            }
        }
        let mut states = Vec::with_capacity(ids.len() * hidden);
        for token in &tokens {
            states.extend(self.backend.view(token, &[1, hidden])?.to_vec_f32()?);
        }
        Ok(states)
    }
}
