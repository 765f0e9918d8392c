//! Element types and placements as words: the library and the rest of the tests do without serde.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use warpfold::DType;

use crate::common::Placement;

/// What JSON has a word for. The first word is what shrinking ends at, and what a tensor has that is not named.
pub trait Word: Copy + PartialEq + 'static {
    const WHAT: &'static str;
    const WORDS: &'static [(Self, &'static str)];

    fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(value, _)| *value == self).map_or("", |(_, word)| word)
    }

    fn of_word(word: &str) -> Result<Self, String> {
        Self::WORDS.iter().find(|(_, known)| *known == word).map(|(value, _)| *value).ok_or_else(|| {
            let known: Vec<&str> = Self::WORDS.iter().map(|(_, word)| *word).collect();
            format!("{word:?} is no {}; there are {}", Self::WHAT, known.join(", "))
        })
    }
}

impl Word for DType {
    const WHAT: &'static str = "element type";
    const WORDS: &'static [(DType, &'static str)] = &[(DType::F32, "f32"), (DType::F16, "f16"), (DType::BF16, "bf16")];
}

impl Word for Placement {
    const WHAT: &'static str = "placement";
    const WORDS: &'static [(Placement, &'static str)] = &[
        (Placement::Contiguous, "contiguous"),
        (Placement::Transposed, "transposed"),
        (Placement::Padded, "padded"),
        (Placement::Misaligned, "misaligned"),
    ];
}

pub fn serialize<T: Word, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(value.word())
}

pub fn deserialize<'de, T: Word, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    T::of_word(&String::deserialize(deserializer)?).map_err(de::Error::custom)
}

/// The names of an operation's tensors, in the order of its attempt's arrays.
pub trait Tensors {
    const NAMES: &'static [&'static str];
}

/// A value for each tensor of an operation. In JSON one word, or `{"q": "padded", ...}` with the first word for all others.
#[derive(Clone, Debug, PartialEq)]
pub struct PerTensor<O, T> {
    values: Vec<T>,
    operation: PhantomData<O>,
}

impl<O: Tensors, T: Word> PerTensor<O, T> {
    pub fn all(value: T) -> PerTensor<O, T> {
        PerTensor { values: vec![value; O::NAMES.len()], operation: PhantomData }
    }

    pub fn array<const N: usize>(&self) -> [T; N] {
        std::array::from_fn(|index| self.values[index])
    }

    pub fn is_default(&self) -> bool {
        *self.values == *Self::default().values
    }
}

impl<O: Tensors, T: Word> Default for PerTensor<O, T> {
    fn default() -> PerTensor<O, T> {
        PerTensor::all(T::WORDS[0].0)
    }
}

impl<O: Tensors, T: Word, const N: usize> From<[T; N]> for PerTensor<O, T> {
    fn from(values: [T; N]) -> PerTensor<O, T> {
        assert_eq!(N, O::NAMES.len(), "one for each tensor");
        PerTensor { values: values.to_vec(), operation: PhantomData }
    }
}

impl<O: Tensors, T: Word> Serialize for PerTensor<O, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if *self.values == *PerTensor::<O, T>::all(self.values[0]).values {
            return serializer.serialize_str(self.values[0].word());
        }
        let named = O::NAMES.iter().zip(&self.values).filter(|(_, value)| **value != T::WORDS[0].0);
        serializer.collect_map(named.map(|(name, value)| (name, value.word())))
    }
}

impl<'de, O: Tensors, T: Word> Deserialize<'de> for PerTensor<O, T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PerTensor<O, T>, D::Error> {
        deserializer.deserialize_any(WordOrMap(PhantomData))
    }
}

struct WordOrMap<O, T>(PhantomData<(O, T)>);

impl<'de, O: Tensors, T: Word> Visitor<'de> for WordOrMap<O, T> {
    type Value = PerTensor<O, T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a word for all tensors, or an object with words for some of {}", O::NAMES.join(", "))
    }

    fn visit_str<E: de::Error>(self, word: &str) -> Result<PerTensor<O, T>, E> {
        T::of_word(word).map(PerTensor::all).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<PerTensor<O, T>, A::Error> {
        let mut each = PerTensor::default();
        let mut seen = BTreeMap::new();
        while let Some((name, word)) = map.next_entry::<String, String>()? {
            let index = O::NAMES.iter().position(|known| *known == name).ok_or_else(|| {
                de::Error::custom(format!("{name:?} is no tensor here; there are {}", O::NAMES.join(", ")))
            })?;
            each.values[index] = T::of_word(&word).map_err(de::Error::custom)?;
            if seen.insert(index, word).is_some() {
                return Err(de::Error::custom(format!("{name:?} is there twice")));
            }
        }
        Ok(each)
    }
}
