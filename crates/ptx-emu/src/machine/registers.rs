//! The register file of one warp: a row of 32 lanes per register, and which lanes of each row hold
//! something.

use crate::decode::Program;
use crate::decode::special::Place;

pub(crate) type Words = [u32; 32];
pub(crate) type Longs = [u64; 32];

#[derive(Debug)]
pub(crate) struct Registers {
    pub words: Vec<Words>,
    pub longs: Vec<Longs>,
    pub predicates: Vec<u32>,
    pub words_defined: Vec<u32>,
    pub longs_defined: Vec<u32>,
    pub predicates_defined: Vec<u32>,
}

impl Registers {
    pub fn new(program: &Program) -> Self {
        Registers {
            words: vec![[0; 32]; program.word_rows as usize],
            longs: vec![[0; 32]; program.long_rows as usize],
            predicates: vec![0; program.predicate_rows as usize],
            words_defined: vec![0; program.word_rows as usize],
            longs_defined: vec![0; program.long_rows as usize],
            predicates_defined: vec![0; program.predicate_rows as usize],
        }
    }

    /// Bytes that the register file of one warp takes.
    pub fn bytes(program: &Program) -> u64 {
        u64::from(program.word_rows) * 132 + u64::from(program.long_rows) * 260 + u64::from(program.predicate_rows) * 8
    }

    /// Forgets all values and sets constants and special registers for a block.
    pub fn reset(&mut self, program: &Program, place: &Place) {
        self.words_defined.fill(0);
        self.longs_defined.fill(0);
        self.predicates_defined.fill(0);
        for (row, value) in &program.word_constants {
            self.words[*row as usize] = [*value; 32];
            self.words_defined[*row as usize] = u32::MAX;
        }
        for (row, value) in &program.long_constants {
            self.longs[*row as usize] = [*value; 32];
            self.longs_defined[*row as usize] = u32::MAX;
        }
        for (row, value) in &program.predicate_constants {
            self.predicates[*row as usize] = if *value { u32::MAX } else { 0 };
            self.predicates_defined[*row as usize] = u32::MAX;
        }
        for (row, special) in &program.word_specials {
            self.words[*row as usize] = std::array::from_fn(|lane| special.value(place, lane as u32));
            self.words_defined[*row as usize] = u32::MAX;
        }
        for (row, special) in &program.long_specials {
            self.longs[*row as usize] = std::array::from_fn(|lane| u64::from(special.value(place, lane as u32)));
            self.longs_defined[*row as usize] = u32::MAX;
        }
    }
}

/// Replaces the lanes of `mask`.
#[inline]
pub(crate) fn blend<T: Copy>(row: &mut [T; 32], mask: u32, values: &[T; 32]) {
    if mask == u32::MAX {
        *row = *values;
    } else {
        for lane in 0..32 {
            if mask >> lane & 1 != 0 {
                row[lane] = values[lane];
            }
        }
    }
}
