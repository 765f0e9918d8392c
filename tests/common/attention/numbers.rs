//! The numbers of a problem, what of them is hidden, and how they are cut into smaller problems.

use std::ops::Range;

use warpfold::reference::{Alignment, AttentionCase, Broadcast};

/// All numbers of a problem, padded as the oracle takes them.
#[derive(Clone, Debug)]
pub struct Numbers {
    /// With the values of its bias and mask.
    pub case: AttentionCase,
    pub q: Vec<f64>,
    pub k: Vec<f64>,
    pub v: Vec<f64>,
    pub d_output: Vec<f64>,
    pub d_lse: Vec<f64>,
}

/// Which parts of a problem have anything to do with the results.
pub struct Seen {
    /// Rows of q that see a key.
    pub queries: Vec<bool>,
    /// Rows of k that a query sees.
    pub keys: Vec<bool>,
    /// Elements of the bias that belong to a visible score.
    pub bias: Vec<bool>,
}

impl Numbers {
    /// Fills with NaN what no result may see: queries past their sequence, keys past their length or outside of the range
    /// that takes part, and the bias of scores that are hidden.
    pub fn hide(mut self) -> Numbers {
        let case = &self.case;
        let seen = self.seen();
        let is_query = |sequence: usize, i: usize| i < case.query_len(sequence);
        let takes_part = |j: usize| case.key_range.as_ref().is_none_or(|range| range.contains(&j));
        let is_key = |sequence: usize, j: usize| j < case.key_len(sequence) && takes_part(j);
        let of_queries = |width| [case.heads_q, case.len_q, width];
        let of_keys = |width| [case.heads_kv, case.len_kv, width];
        hide_rows(&mut self.q, of_queries(case.head_dim), is_query);
        hide_rows(&mut self.d_output, of_queries(case.head_dim_v), is_query);
        hide_rows(&mut self.d_lse, of_queries(1), is_query);
        hide_rows(&mut self.k, of_keys(case.head_dim), is_key);
        hide_rows(&mut self.v, of_keys(case.head_dim_v), is_key);
        if let Some(bias) = &mut self.case.bias {
            for (value, _) in bias.values.iter_mut().zip(seen.bias).filter(|(_, seen)| !seen) {
                *value = f64::NAN;
            }
        }
        self
    }

    pub fn seen(&self) -> Seen {
        let case = &self.case;
        let bias = case.bias.as_ref();
        let mut seen = Seen {
            queries: vec![false; case.rows()],
            keys: vec![false; case.batch * case.heads_kv * case.len_kv],
            bias: vec![false; bias.map_or(0, |bias| bias.values.len())],
        };
        for row in 0..case.rows() {
            let (sequence, head, i) =
                (row / case.len_q / case.heads_q, row / case.len_q % case.heads_q, row % case.len_q);
            let key_head = sequence * case.heads_kv + head / (case.heads_q / case.heads_kv);
            for j in (0..case.len_kv).filter(|j| case.visible_to_head(sequence, head, i, *j)) {
                seen.queries[row] = true;
                seen.keys[key_head * case.len_kv + j] = true;
                if let Some(bias) = bias {
                    seen.bias[element(bias.shape, [sequence, head, i, j])] = true;
                }
            }
        }
        seen
    }

    /// Some of the sequences, in this order. Not for dropout, which goes by a sequence's number.
    pub fn select(&self, sequences: &[usize]) -> Numbers {
        let Numbers { case, q, k, v, d_output, d_lse } = self;
        let batch = case.batch;
        let chunks = |values: &[f64]| chunks(values, batch, sequences);
        let lengths = |lengths: &Option<Vec<usize>>| {
            lengths.as_ref().map(|lengths| sequences.iter().map(|sequence| lengths[*sequence]).collect())
        };
        let slopes = |slopes: &Vec<f64>| if slopes.len() == case.heads_q { slopes.clone() } else { chunks(slopes) };
        Numbers {
            case: AttentionCase {
                batch: sequences.len(),
                query_lengths: lengths(&case.query_lengths),
                key_lengths: lengths(&case.key_lengths),
                bias: case.bias.as_ref().map(|bias| select_scores(bias, sequences)),
                mask: case.mask.as_ref().map(|mask| select_scores(mask, sequences)),
                slopes: case.slopes.as_ref().map(slopes),
                ..case.clone()
            },
            q: chunks(q),
            k: chunks(k),
            v: chunks(v),
            d_output: chunks(d_output),
            d_lse: chunks(d_lse),
        }
    }

    /// One of the packed sequences as a problem without padding and without lengths.
    pub fn alone(&self, sequence: usize) -> Numbers {
        let one = self.select(&[sequence]);
        let (len_q, len_kv) = (one.case.query_len(0), one.case.key_len(0));
        let heads = 0..one.case.heads_q;
        let mut one = one.narrow(heads, 0..len_q, len_kv);
        (one.case.query_lengths, one.case.key_lengths) = (None, None);
        one
    }

    /// One query of one head as a problem of its own: it stays at its position.
    pub fn query(&self, sequence: usize, head: usize, i: usize) -> Numbers {
        let position = self.case.position(sequence, i);
        let one = self.select(&[sequence]);
        assert!(i < one.case.query_len(0), "the query is one of the sequence's");
        let is_packed = one.case.query_lengths.is_some();
        let len_kv = if is_packed { one.case.key_len(0) } else { one.case.len_kv };
        let mut one = one.narrow(head..head + 1, i..i + 1, len_kv);
        if is_packed {
            (one.case.query_lengths, one.case.key_lengths) = (None, None);
        }
        one.case.alignment = Alignment::Offset(position);
        one
    }

    /// Some heads and queries and the first keys of a single sequence; the alignment is the caller's affair.
    fn narrow(&self, heads: Range<usize>, queries: Range<usize>, len_kv: usize) -> Numbers {
        let Numbers { case, q, k, v, d_output, d_lse } = self;
        assert_eq!(case.batch, 1, "one sequence");
        let group = case.heads_q / case.heads_kv;
        let key_heads = heads.start / group..(heads.end - 1) / group + 1;
        let rows =
            |values: &[f64], width: usize| narrow_rows(values, [case.len_q, width], heads.clone(), queries.clone());
        let key_rows =
            |values: &[f64], width: usize| narrow_rows(values, [case.len_kv, width], key_heads.clone(), 0..len_kv);
        let sizes = [1, case.heads_q, case.len_q, case.len_kv];
        let ranges = [0..1, heads.clone(), queries.clone(), 0..len_kv];
        Numbers {
            q: rows(q, case.head_dim),
            k: key_rows(k, case.head_dim),
            v: key_rows(v, case.head_dim_v),
            d_output: rows(d_output, case.head_dim_v),
            d_lse: rows(d_lse, 1),
            case: AttentionCase {
                heads_q: heads.len(),
                heads_kv: key_heads.len(),
                len_q: queries.len(),
                len_kv,
                key_range: case.key_range.as_ref().map(|range| range.start.min(len_kv)..range.end.min(len_kv)),
                bias: case.bias.as_ref().map(|bias| narrow_scores(bias, sizes, &ranges)),
                mask: case.mask.as_ref().map(|mask| narrow_scores(mask, sizes, &ranges)),
                slopes: case.slopes.as_ref().map(|slopes| slopes[heads.clone()].to_vec()),
                sinks: case.sinks.as_ref().map(|sinks| sinks[heads.clone()].to_vec()),
                ..case.clone()
            },
        }
    }
}

fn hide_rows(values: &mut [f64], [heads, len, width]: [usize; 3], is_valid: impl Fn(usize, usize) -> bool) {
    for (row, values) in values.chunks_mut(width).enumerate() {
        if !is_valid(row / len / heads, row % len) {
            values.fill(f64::NAN);
        }
    }
}

/// Some of `count` equal parts.
fn chunks<T: Clone>(values: &[T], count: usize, wanted: &[usize]) -> Vec<T> {
    let size = values.len() / count;
    wanted.iter().flat_map(|index| values[index * size..][..size].iter().cloned()).collect()
}

/// Some heads and rows of `[heads, len, width]`.
fn narrow_rows(values: &[f64], [len, width]: [usize; 2], heads: Range<usize>, rows: Range<usize>) -> Vec<f64> {
    let row = |head: usize, row: usize| values[(head * len + row) * width..][..width].iter().copied();
    heads.flat_map(|head| rows.clone().flat_map(move |index| row(head, index))).collect()
}

fn select_scores<T: Clone>(tensor: &Broadcast<T>, sequences: &[usize]) -> Broadcast<T> {
    let [batch, rest @ ..] = tensor.shape;
    match batch {
        1 => tensor.clone(),
        _ => Broadcast {
            shape: [sequences.len(), rest[0], rest[1], rest[2]],
            values: chunks(&tensor.values, batch, sequences),
        },
    }
}

/// A part of a tensor; broadcast dimensions stay.
fn narrow_scores<T: Clone>(tensor: &Broadcast<T>, sizes: [usize; 4], ranges: &[Range<usize>; 4]) -> Broadcast<T> {
    let [batch, heads, queries, keys]: [Range<usize>; 4] =
        std::array::from_fn(|axis| if tensor.shape[axis] < sizes[axis] { 0..1 } else { ranges[axis].clone() });
    let shape = [batch.len(), heads.len(), queries.len(), keys.len()];
    let mut values = Vec::with_capacity(shape.iter().product());
    for sequence in batch {
        for head in heads.clone() {
            for i in queries.clone() {
                let row = element(tensor.shape, [sequence, head, i, 0]);
                values.extend_from_slice(&tensor.values[row + keys.start..row + keys.end]);
            }
        }
    }
    Broadcast { shape, values }
}

/// Where the element for `[sequence, head, i, j]` stands.
pub fn element(shape: [usize; 4], at: [usize; 4]) -> usize {
    shape.into_iter().zip(at).fold(0, |index, (size, at)| index * size + if size == 1 { 0 } else { at })
}
