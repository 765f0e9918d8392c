//! The shapes of problems, as they are typed and as records name them: both are the same text.

use std::fmt;
use std::str::FromStr;

use warpfold::reference::AttentionCase;
use warpfold::{Attention, Mask};

/// What is typed after `--shapes`.
pub const GRAMMAR: &str = "\
a shape is that of rows or that of attention:
  ROWSxCOLUMNS                      4096x4096
  FIELD,FIELD,...                   b1,h8/2,s2048,d128,causal
fields of attention, separated by commas (or by spaces within quotes):
  bN        sequences (1)           hN or hN/N   heads, or query heads and key heads (8)
  sN or sN/N  queries and keys, or queries / keys: the one field that must be there
  lN+N+...  instead of b and s: packed sequences of these lengths
  dN        head_dim (64)           causal or dense (dense)
  wN        with causal: a query sees N keys before its own, and no others";

/// A text that is no shape.
#[derive(Debug, PartialEq)]
pub struct BadShape {
    text: String,
    reason: String,
}

impl fmt::Display for BadShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is no shape: {}\n{GRAMMAR}", self.text, self.reason)
    }
}

impl std::error::Error for BadShape {}

#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    Attention(AttentionShape),
    Rows(RowShape),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowShape {
    pub rows: usize,
    pub columns: usize,
}

impl RowShape {
    pub fn elements(&self) -> usize {
        self.rows * self.columns
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct AttentionShape {
    pub batch: usize,
    pub heads_q: usize,
    pub heads_kv: usize,
    pub len_q: usize,
    pub len_kv: usize,
    pub head_dim: usize,
    pub is_causal: bool,
    /// With a causal mask: how many keys before its own a query sees.
    pub window: Option<usize>,
    /// The lengths of packed sequences; then `batch` is their number, and `len_q` and `len_kv` are the longest.
    pub packed: Option<Vec<usize>>,
}

impl AttentionShape {
    /// As many keys as queries, and as many key heads as query heads.
    pub fn new(batch: usize, heads: usize, len: usize, head_dim: usize) -> AttentionShape {
        AttentionShape {
            batch,
            heads_q: heads,
            heads_kv: heads,
            len_q: len,
            len_kv: len,
            head_dim,
            is_causal: false,
            window: None,
            packed: None,
        }
    }

    pub fn causal(self) -> AttentionShape {
        AttentionShape { is_causal: true, ..self }
    }

    /// Sequences of these lengths, one after the other.
    pub fn packed(self, lengths: &[usize]) -> AttentionShape {
        let longest = lengths.iter().copied().max().unwrap_or(0);
        AttentionShape { batch: lengths.len(), len_q: longest, len_kv: longest, packed: Some(lengths.to_vec()), ..self }
    }

    pub fn attention(&self) -> Attention {
        match self.is_causal {
            true => Attention::new().mask(Mask::causal().window(self.window, None)),
            false => Attention::new(),
        }
    }

    /// The same for the oracle, which has its own idea of what is visible.
    pub fn case(&self) -> AttentionCase {
        AttentionCase {
            heads_kv: self.heads_kv,
            causal: self.is_causal,
            window: (self.window, None),
            query_lengths: self.packed.clone(),
            key_lengths: self.packed.clone(),
            ..AttentionCase::new(self.batch, self.heads_q, self.len_q, self.len_kv, self.head_dim)
        }
    }

    /// The dimensions of q and of k: `[batch, heads, len, head_dim]`, or packed `[total, heads, head_dim]`.
    pub fn dims(&self) -> [Vec<usize>; 2] {
        match &self.packed {
            Some(lengths) => {
                let total = lengths.iter().sum();
                [self.heads_q, self.heads_kv].map(|heads| vec![total, heads, self.head_dim])
            }
            None => [(self.heads_q, self.len_q), (self.heads_kv, self.len_kv)]
                .map(|(heads, len)| vec![self.batch, heads, len, self.head_dim]),
        }
    }

    /// A few queries on many keys are bound by memory: their rate is one of bytes.
    pub fn is_decoding(&self) -> bool {
        self.len_q < 16
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shape::Attention(shape) => shape.fmt(f),
            Shape::Rows(RowShape { rows, columns }) => write!(f, "{rows}x{columns}"),
        }
    }
}

impl fmt::Display for AttentionShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AttentionShape { batch, heads_q, heads_kv, len_q, len_kv, head_dim, .. } = self;
        let mask = if self.is_causal { "causal" } else { "dense" };
        match &self.packed {
            Some(lengths) => {
                let lengths: Vec<String> = lengths.iter().map(usize::to_string).collect();
                write!(f, "l{} h{heads_q}/{heads_kv} d{head_dim} {mask}", lengths.join("+"))?;
            }
            None => write!(f, "b{batch} h{heads_q}/{heads_kv} s{len_q}/{len_kv} d{head_dim} {mask}")?,
        }
        match self.window {
            Some(left) => write!(f, " w{left}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Shape {
    type Err = BadShape;

    fn from_str(text: &str) -> Result<Shape, BadShape> {
        let bad = |reason: String| BadShape { text: text.to_string(), reason };
        let fields: Vec<&str> = text.split([',', ' ']).filter(|field| !field.is_empty()).collect();
        match fields.as_slice() {
            [] => Err(bad("it is empty".to_string())),
            [one] if one.starts_with(|first: char| first.is_ascii_digit()) => match one.split_once('x') {
                Some((rows, columns)) => {
                    Ok(Shape::Rows(RowShape { rows: size(rows).map_err(bad)?, columns: size(columns).map_err(bad)? }))
                }
                None => Err(bad("rows have columns: ROWSxCOLUMNS".to_string())),
            },
            fields => attention(fields).map(Shape::Attention).map_err(bad),
        }
    }
}

/// A number from 1 on.
fn size(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("a size is 0".to_string()),
        Ok(value) => Ok(value),
        Err(_) => Err(format!("`{text}` is no number")),
    }
}

/// `N` or `N/N`.
fn pair(text: &str) -> Result<(usize, usize), String> {
    let (first, second) = text.split_once('/').unwrap_or((text, text));
    Ok((size(first)?, size(second)?))
}

fn attention(fields: &[&str]) -> Result<AttentionShape, String> {
    let mut shape = AttentionShape::new(1, 8, 0, 64);
    let mut seen: Vec<&str> = Vec::new();
    for field in fields {
        let name = match *field {
            "causal" | "dense" => "mask",
            // The first letter, whatever its size in bytes.
            field => &field[..field.chars().next().map_or(0, char::len_utf8)],
        };
        if seen.contains(&name) {
            return Err(format!("`{field}` says again what was said"));
        }
        seen.push(name);
        let value = &field[name.len().min(field.len())..];
        match name {
            "mask" => shape.is_causal = *field == "causal",
            "b" => shape.batch = size(value)?,
            "h" => (shape.heads_q, shape.heads_kv) = pair(value)?,
            "s" => (shape.len_q, shape.len_kv) = pair(value)?,
            "d" => shape.head_dim = size(value)?,
            "w" => shape.window = Some(value.parse().map_err(|_| format!("`{value}` is no number"))?),
            "l" => shape = shape.packed(&value.split('+').map(size).collect::<Result<Vec<_>, _>>()?),
            _ => return Err(format!("there is no field `{field}`")),
        }
    }
    let has = |name: &str| seen.contains(&name);
    if has("l") && (has("s") || has("b")) {
        return Err("packed lengths (l) take the place of b and s".to_string());
    }
    if !has("l") && !has("s") {
        return Err("the lengths are missing (s or l)".to_string());
    }
    if shape.window.is_some() && !shape.is_causal {
        return Err("a window (w) goes with causal".to_string());
    }
    if !shape.heads_q.is_multiple_of(shape.heads_kv) {
        return Err(format!("{} query heads do not share {} key heads evenly", shape.heads_q, shape.heads_kv));
    }
    Ok(shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Shape {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn shapes_are_read_as_they_are_written() {
        for text in [
            "b1 h8/2 s2048/2048 d128 causal",
            "b32 h32/8 s1/8192 d128 dense",
            "b2 h4/4 s7/9 d64 causal w0",
            "l512+1024+3 h16/16 d64 causal",
            "4096x1",
        ] {
            assert_eq!(parsed(text).to_string(), text);
            assert_eq!(parsed(&text.replace(' ', ",")), parsed(text));
        }
        assert_eq!(parsed("s512"), Shape::Attention(AttentionShape::new(1, 8, 512, 64)));
        assert_eq!(
            parsed("causal,d128,s2048,h8/2"),
            Shape::Attention(AttentionShape { heads_kv: 2, ..AttentionShape::new(1, 8, 2048, 128).causal() })
        );
    }

    #[test]
    fn packed_lengths_give_batch_and_longest() {
        let Shape::Attention(shape) = parsed("l5+9+2,h4/2,d8") else { panic!("it is attention") };
        assert_eq!((shape.batch, shape.len_q, shape.len_kv), (3, 9, 9));
        assert_eq!(shape.dims(), [vec![16, 4, 8], vec![16, 2, 8]]);
        assert_eq!(parsed("b2,h4,s3/5,d8").to_string(), "b2 h4/4 s3/5 d8 dense");
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_reason_and_the_grammar() {
        for (text, reason) in [
            ("", "empty"),
            ("4096", "ROWSxCOLUMNS"),
            ("64x", "no number"),
            ("0x64", "is 0"),
            ("b2,h4", "lengths are missing"),
            ("s512,x3", "no field `x3`"),
            ("s512,é", "no field `é`"),
            ("s512,s513", "says again"),
            ("s512,causal,dense", "says again"),
            ("l5+6,s7", "take the place"),
            ("s512,w4", "goes with causal"),
            ("s512,h8/3", "evenly"),
            ("s512/0", "is 0"),
            ("s5.5", "no number"),
        ] {
            let error = text.parse::<Shape>().expect_err(text).to_string();
            assert!(error.contains(reason), "{text}: {error}");
            assert!(error.contains("ROWSxCOLUMNS") && error.contains("h8/2"), "{error}");
        }
    }

    #[test]
    fn the_oracle_sees_what_the_mask_shows() {
        let Shape::Attention(shape) = parsed("s4/6,causal,w1") else { panic!("it is attention") };
        let case = shape.case();
        // Query 0 sits at key 2, and sees one before it.
        let seen = |query: usize| (0..6).filter(|key| case.visible(0, query, *key)).collect::<Vec<_>>();
        assert_eq!((seen(0), seen(3)), (vec![1, 2], vec![4, 5]));
    }
}
