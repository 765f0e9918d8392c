//! What one attention problem is: its shapes, its options, and which query sees which key.

use std::ops::Range;

use super::philox::philox_4x32_10;

/// Where the queries sit among the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alignment {
    /// The last query at the last key.
    BottomRight,
    /// Query i at position i + offset.
    Offset(i64),
}

/// A tensor `[batch, heads_q, len_q, len_kv]` in which any dimension may be 1 and is then broadcast.
#[derive(Clone, Debug, PartialEq)]
pub struct Broadcast<T> {
    /// Each dimension is 1 or that of the problem.
    pub shape: [usize; 4],
    /// The elements in row-major order of this shape.
    pub values: Vec<T>,
}

impl<T> Broadcast<T> {
    /// Where the element for `[sequence, head, i, j]` stands in the values.
    pub(in crate::reference) fn index(&self, at: [usize; 4]) -> usize {
        let mut index = 0;
        for (size, coordinate) in self.shape.into_iter().zip(at) {
            index = index * size + if size == 1 { 0 } else { coordinate };
        }
        index
    }

    /// The element for `[sequence, head, i, j]`.
    pub fn get(&self, at: [usize; 4]) -> T
    where
        T: Copy,
    {
        self.values[self.index(at)]
    }
}

/// Dropout of probabilities.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DropoutCase {
    /// The chance that a probability becomes 0; the others are divided by one minus it.
    pub probability: f64,
    /// Key of the random generator.
    pub seed: u64,
    /// Last word of the generator's counter.
    pub offset: u32,
}

/// Shapes and options of one attention problem.
///
/// Tensors are padded to `len_q` and `len_kv` whatever the lengths of the sequences are.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionCase {
    /// Sequences.
    pub batch: usize,
    /// Query heads.
    pub heads_q: usize,
    /// Key and value heads; divides `heads_q`.
    pub heads_kv: usize,
    /// Queries of a sequence.
    pub len_q: usize,
    /// Keys of a sequence.
    pub len_kv: usize,
    /// Size of a query and of a key.
    pub head_dim: usize,
    /// Size of a value.
    pub head_dim_v: usize,
    /// Factor of the scores; `None` is `1 / sqrt(head_dim)`.
    pub scale: Option<f64>,
    /// A query sees keys up to its position only.
    pub causal: bool,
    /// A query sees keys from `position - left` to `position + right` only, both included; `None` is unbounded.
    pub window: (Option<usize>, Option<usize>),
    /// Keys below it are seen by every query, whatever `causal` and `window` say.
    pub prefix: usize,
    /// The positions of queries among the keys.
    pub alignment: Alignment,
    /// Valid keys of each sequence, if not all. Moves the positions only if `query_lengths` is given.
    pub key_lengths: Option<Vec<usize>>,
    /// Sequences of different lengths: the queries of each, whose last is aligned with the sequence's own last key.
    /// Queries past the length have output 0, lse `-inf` and zero gradients.
    pub query_lengths: Option<Vec<usize>>,
    /// Only these keys take part. Does not move the positions.
    pub key_range: Option<Range<usize>>,
    /// Which keys are seen: true = visible.
    pub mask: Option<Broadcast<bool>>,
    /// Added to the capped scores.
    pub bias: Option<Broadcast<f64>>,
    /// `cap * tanh(score / cap)`, after the scale.
    pub softcap: Option<f64>,
    /// `-slope * |position - j|` is added to the capped scores: `heads_q` slopes, or `batch * heads_q`.
    pub slopes: Option<Vec<f64>>,
    /// A logit for each query head that joins the sum of the row and has no value.
    pub sinks: Option<Vec<f64>>,
    /// Dropout of probabilities, which the lse does not see.
    pub dropout: Option<DropoutCase>,
}

impl AttentionCase {
    /// A case without options, with equal head counts and head dims.
    pub fn new(batch: usize, heads: usize, len_q: usize, len_kv: usize, head_dim: usize) -> AttentionCase {
        AttentionCase {
            batch,
            heads_q: heads,
            heads_kv: heads,
            len_q,
            len_kv,
            head_dim,
            head_dim_v: head_dim,
            scale: None,
            causal: false,
            window: (None, None),
            prefix: 0,
            alignment: Alignment::BottomRight,
            key_lengths: None,
            query_lengths: None,
            key_range: None,
            mask: None,
            bias: None,
            softcap: None,
            slopes: None,
            sinks: None,
            dropout: None,
        }
    }

    /// Queries of a sequence that count.
    pub fn query_len(&self, sequence: usize) -> usize {
        self.query_lengths.as_ref().map_or(self.len_q, |lengths| lengths[sequence])
    }

    /// Keys of a sequence that count.
    pub fn key_len(&self, sequence: usize) -> usize {
        self.key_lengths.as_ref().map_or(self.len_kv, |lengths| lengths[sequence])
    }

    /// The place of query i among the keys.
    pub fn position(&self, sequence: usize, i: usize) -> i64 {
        let offset = match self.alignment {
            Alignment::Offset(offset) => offset,
            Alignment::BottomRight if self.query_lengths.is_some() => {
                self.key_len(sequence) as i64 - self.query_len(sequence) as i64
            }
            Alignment::BottomRight => self.len_kv as i64 - self.len_q as i64,
        };
        i as i64 + offset
    }

    /// Whether query i of a sequence sees key j, as far as positions and lengths say.
    pub fn visible(&self, sequence: usize, i: usize, j: usize) -> bool {
        if i >= self.query_len(sequence) || j >= self.key_len(sequence) {
            return false;
        }
        if let Some(range) = &self.key_range
            && !range.contains(&j)
        {
            return false;
        }
        if j < self.prefix {
            return true;
        }
        // How many keys before the query's position key j stands.
        let before = i128::from(self.position(sequence, i)) - j as i128;
        let (left, right) = self.window;
        (!self.causal || before >= 0)
            && left.is_none_or(|left| before <= left as i128)
            && right.is_none_or(|right| -before <= right as i128)
    }

    /// Whether query i of a sequence and query head sees key j: [`AttentionCase::visible`] and the boolean mask.
    pub fn visible_to_head(&self, sequence: usize, head: usize, i: usize, j: usize) -> bool {
        self.visible(sequence, i, j) && self.mask.as_ref().is_none_or(|mask| mask.get([sequence, head, i, j]))
    }

    /// What is added to the capped score of query i and key j: the bias and ALiBi.
    pub(in crate::reference) fn added(&self, sequence: usize, head: usize, i: usize, j: usize) -> f64 {
        let mut added = 0.0;
        if let Some(bias) = &self.bias {
            added += bias.get([sequence, head, i, j]);
        }
        if let Some(slope) = self.slope(sequence, head) {
            added -= slope * (self.position(sequence, i) - j as i64).abs() as f64;
        }
        added
    }

    /// The ALiBi slope of a query head.
    pub(in crate::reference) fn slope(&self, sequence: usize, head: usize) -> Option<f64> {
        let slopes = self.slopes.as_ref()?;
        Some(if slopes.len() == self.heads_q { slopes[head] } else { slopes[sequence * self.heads_q + head] })
    }

    /// Whether dropout keeps the probability of query i and key j.
    pub fn keeps(&self, sequence: usize, head: usize, i: usize, j: usize) -> bool {
        let Some(dropout) = self.dropout else { return true };
        let key = [dropout.seed as u32, (dropout.seed >> 32) as u32];
        let counter = [(j / 4) as u32, i as u32, (sequence * self.heads_q + head) as u32, dropout.offset];
        let word = philox_4x32_10(counter, key)[j % 4];
        u64::from(word) >= (dropout.probability * 2f64.powi(32)).floor() as u64
    }

    /// The factor that dropout puts on a probability: 0, or what keeps the expectation.
    pub(in crate::reference) fn dropout_factor(&self, sequence: usize, head: usize, i: usize, j: usize) -> f64 {
        match self.dropout {
            None => 1.0,
            Some(_) if !self.keeps(sequence, head, i, j) => 0.0,
            Some(dropout) => 1.0 / (1.0 - dropout.probability),
        }
    }

    /// The factor of the scores.
    pub fn scale(&self) -> f64 {
        self.scale.unwrap_or(1.0 / (self.head_dim as f64).sqrt())
    }

    /// Elements of q.
    pub fn q_elements(&self) -> usize {
        self.batch * self.heads_q * self.len_q * self.head_dim
    }

    /// Elements of k.
    pub fn k_elements(&self) -> usize {
        self.batch * self.heads_kv * self.len_kv * self.head_dim
    }

    /// Elements of v.
    pub fn v_elements(&self) -> usize {
        self.batch * self.heads_kv * self.len_kv * self.head_dim_v
    }

    /// Rows of the result: one a query and query head.
    pub fn rows(&self) -> usize {
        self.batch * self.heads_q * self.len_q
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One string a query, one character a key: 1 where the query sees the key.
    fn draw(case: &AttentionCase, sequence: usize) -> Vec<String> {
        let cell = |i, j| if case.visible(sequence, i, j) { '1' } else { '0' };
        (0..case.len_q).map(|i| (0..case.len_kv).map(|j| cell(i, j)).collect()).collect()
    }

    fn causal(len_q: usize, len_kv: usize) -> AttentionCase {
        AttentionCase { causal: true, ..AttentionCase::new(1, 1, len_q, len_kv, 1) }
    }

    #[test]
    fn causal_rows_match_the_drawing() {
        let mut case = causal(3, 5);
        assert_eq!(draw(&case, 0), ["11100", "11110", "11111"]);
        case.alignment = Alignment::Offset(0);
        assert_eq!(draw(&case, 0), ["10000", "11000", "11100"]);
        case.alignment = Alignment::Offset(-1);
        case.key_lengths = Some(vec![1]);
        assert_eq!(draw(&case, 0), ["00000", "10000", "10000"]);
        assert_eq!(draw(&causal(4, 2), 0), ["00", "00", "10", "11"]);
    }

    #[test]
    fn window_rows_match_the_drawing() {
        let window = |left, right| AttentionCase { window: (left, right), ..AttentionCase::new(1, 1, 4, 6, 1) };
        assert_eq!(draw(&window(None, None), 0), ["111111"; 4]);
        assert_eq!(draw(&window(Some(1), Some(1)), 0), ["011100", "001110", "000111", "000011"]);
        assert_eq!(draw(&window(Some(0), Some(0)), 0), ["001000", "000100", "000010", "000001"]);
        assert_eq!(draw(&window(Some(1), None), 0), ["011111", "001111", "000111", "000011"]);
        assert_eq!(draw(&window(None, Some(0)), 0), draw(&causal(4, 6), 0));
        let both = AttentionCase { causal: true, ..window(Some(1), Some(1)) };
        assert_eq!(draw(&both, 0), ["011000", "001100", "000110", "000011"]);
        let moved = AttentionCase { alignment: Alignment::Offset(5), ..window(Some(1), Some(0)) };
        assert_eq!(draw(&moved, 0), ["000011", "000001", "000000", "000000"]);
    }

    #[test]
    fn the_prefix_is_seen_whatever_causal_and_window_say() {
        let mut case = AttentionCase { prefix: 2, alignment: Alignment::Offset(0), ..causal(4, 5) };
        assert_eq!(draw(&case, 0), ["11000", "11000", "11100", "11110"]);
        case.window = (Some(0), None);
        assert_eq!(draw(&case, 0), ["11000", "11000", "11100", "11010"]);
        case.key_range = Some(1..3);
        assert_eq!(draw(&case, 0), ["01000", "01000", "01100", "01000"]);
        case.key_lengths = Some(vec![1]);
        assert_eq!(draw(&case, 0), ["00000"; 4]);
        case =
            AttentionCase { mask: Some(Broadcast { shape: [1; 4], values: vec![false] }), prefix: 2, ..causal(1, 2) };
        assert!(case.visible(0, 0, 0) && !case.visible_to_head(0, 0, 0, 0));
    }

    #[test]
    fn only_query_lengths_let_key_lengths_move_the_alignment() {
        let mut case = AttentionCase { key_lengths: Some(vec![5, 3]), batch: 2, ..causal(3, 5) };
        assert_eq!(draw(&case, 0), ["11100", "11110", "11111"]);
        assert_eq!(draw(&case, 1), ["11100", "11100", "11100"]);
        assert_eq!(case.position(1, 0), 2);
        case.query_lengths = Some(vec![2, 3]);
        assert_eq!(draw(&case, 0), ["11110", "11111", "00000"]);
        assert_eq!(draw(&case, 1), ["10000", "11000", "11100"]);
        assert_eq!((case.position(0, 0), case.position(1, 0)), (3, 0));
        case.key_lengths = None;
        assert_eq!(draw(&case, 0), ["11110", "11111", "00000"]);
        case.alignment = Alignment::Offset(1);
        assert_eq!(draw(&case, 0), ["11000", "11100", "00000"]);
    }

    #[test]
    fn a_key_range_moves_nothing() {
        let case = AttentionCase { key_range: Some(1..3), ..causal(3, 4) };
        assert_eq!(draw(&case, 0), ["0100", "0110", "0110"]);
    }

    #[test]
    fn dimensions_of_one_are_broadcast() {
        let tensor = Broadcast { shape: [2, 1, 3, 1], values: (0..6).collect() };
        assert_eq!(tensor.get([0, 5, 0, 9]), 0);
        assert_eq!(tensor.get([1, 0, 2, 0]), 5);
        assert_eq!(tensor.get([1, 7, 0, 1]), 3);
        let full = Broadcast { shape: [2, 3, 4, 5], values: (0..120).collect() };
        assert_eq!(full.get([1, 2, 3, 4]), 119);
        assert_eq!(full.get([0, 1, 0, 1]), 21);
    }

    #[test]
    fn dropout_takes_the_words_in_the_order_of_keys() {
        let dropout = |probability, seed, offset| AttentionCase {
            dropout: Some(DropoutCase { probability, seed, offset }),
            ..AttentionCase::new(1, 1, 1, 4, 1)
        };
        // Counter and key 0: the words' shares of 2^32 are 0.3990, 0.8815, 0.7357 and 0.6055.
        let kept = |probability| (0..4).map(|j| dropout(probability, 0, 0).keeps(0, 0, 0, j)).collect::<Vec<_>>();
        assert_eq!(kept(0.0), [true; 4]);
        assert_eq!(kept(0.39), [true; 4]);
        assert_eq!(kept(0.4), [false, true, true, true]);
        assert_eq!(kept(0.7), [false, true, true, false]);
        assert_eq!(kept(0.88), [false, true, false, false]);
        assert_eq!(kept(1.0), [false; 4]);
        // Digits of pi: which number goes into which word.
        let mut case = dropout(0.0, 0x299f_31d0_a409_3822, 0x0370_7344);
        let (sequence, head) = (0x1319_8a2e / 2, 0);
        (case.batch, case.heads_q, case.heads_kv) = (sequence + 1, 2, 2);
        for (word_idx, word) in [0xd16c_fe09u32, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1].into_iter().enumerate() {
            for (above, keeps) in [(0, true), (1, false)] {
                let probability = (f64::from(word) + f64::from(above)) / 2f64.powi(32);
                case.dropout = case.dropout.map(|dropout| DropoutCase { probability, ..dropout });
                assert_eq!(case.keeps(sequence, head, 0x85a3_08d3, 4 * 0x243f_6a88 + word_idx), keeps);
            }
        }
    }

    #[test]
    fn dropout_keeps_the_share_that_it_is_asked_for() {
        for probability in [0.1, 0.5, 0.83] {
            let dropout = Some(DropoutCase { probability, seed: 7 << 40 | 3, offset: 5 });
            let case = AttentionCase { dropout, ..AttentionCase::new(2, 3, 50, 201, 1) };
            let mut kept = 0;
            for (sequence, head) in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)] {
                kept += (0..50 * 201).filter(|at| case.keeps(sequence, head, at / 201, at % 201)).count();
            }
            let draws = 6.0 * 50.0 * 201.0;
            let deviation = (probability * (1.0 - probability) / draws).sqrt();
            assert!((kept as f64 / draws - (1.0 - probability)).abs() < 4.0 * deviation);
        }
    }
}
