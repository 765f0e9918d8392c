//! The loops of a function.
//!
//! A loop is a natural one: a jump back to an instruction that every way to the jump leads through. A block that the
//! compiler moved out of the way and that jumps back into the code is therefore no loop.

use serde::Serialize;

use crate::listing::{Function, Instruction};
use crate::units::{Class, Cycles, Mix, Rates};

/// One loop: an iteration's instructions, and how long each unit is busy with them.
///
/// All instructions between its first and its last are counted, whatever branches skip some of them, and those of inner
/// loops once. Code that is expected to run rarely is counted apart (`cold_instructions`). That is what the compiler
/// moved out of that range, and what kernels mark by a performance-monitor trigger (`pmevent` in PTX, `PMTRIG` in
/// machine code): the basic block with the trigger, and every block that it dominates. Where the marked code meets the
/// way around it, the common code begins again.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Loop {
    /// The address of its first instruction, in bytes.
    pub first: u32,
    /// The address of its last instruction.
    pub last: u32,
    /// How many loops are around it.
    pub depth: usize,
    /// Whether no loop is inside.
    pub is_innermost: bool,
    /// Whether it has tensor work and no loop with tensor work is inside.
    pub is_innermost_tensor: bool,
    /// Instructions of an iteration.
    pub instructions: u32,
    /// The fewest that an iteration can issue.
    pub instructions_min: u32,
    /// Instructions of the loop that are expected to run rarely.
    pub cold_instructions: u32,
    /// Those of the tensor cores.
    pub tensor_instructions: u32,
    /// The instructions by kind.
    pub mix: Mix,
    /// What the units have to do.
    pub cycles: Cycles,
    /// Tensor-core instructions whose time is not known: `cycles` lacks them.
    pub unrated: Vec<String>,
}

impl Loop {
    /// Instructions for each one of the tensor cores.
    pub fn instructions_per_tensor(&self) -> Option<f64> {
        (self.tensor_instructions > 0).then(|| f64::from(self.instructions) / f64::from(self.tensor_instructions))
    }
}

/// The loop that a kernel's time goes to: of the innermost ones with tensor work, the one that needs the fewest
/// instructions for it. Masked tiles, say, have a loop of their own that needs more.
pub fn main_loop(loops: &[Loop]) -> Option<&Loop> {
    let tensor = loops.iter().filter(|candidate| candidate.is_innermost_tensor);
    tensor.min_by_key(|candidate| {
        (u64::from(candidate.instructions) << 32) / u64::from(candidate.tensor_instructions.max(1))
    })
}

/// Of the innermost loops with tensor work, the one that needs the most instructions for it; `None` where there is only one.
pub fn costliest_loop(loops: &[Loop]) -> Option<&Loop> {
    let main = main_loop(loops)?;
    let others = loops.iter().filter(|candidate| candidate.is_innermost_tensor && candidate.first != main.first);
    others.max_by_key(|candidate| {
        (u64::from(candidate.instructions) << 32) / u64::from(candidate.tensor_instructions.max(1))
    })
}

/// The loops of a function, in the order of their addresses, outer ones first.
pub fn loops(function: &Function, rates: &Rates) -> Vec<Loop> {
    let graph = Graph::of(function);
    let natural = graph.natural_loops();
    let is_inside = |inner: &Natural, outer: &Natural| {
        inner.header != outer.header && inner.body.iter().all(|block| outer.body.contains(block))
    };
    let mut loops: Vec<Loop> = natural
        .iter()
        .map(|candidate| {
            let range = graph.hot_range(candidate);
            let (hot, cold): (Vec<usize>, Vec<usize>) = candidate
                .body
                .iter()
                .partition(|&&block| (range.0..=range.1).contains(&block) && !graph.is_rare(function, block));
            let mut found = graph.summary(function, &hot, rates);
            found.cold_instructions = cold.iter().map(|&block| graph.blocks[block].len()).sum();
            found.instructions_min = graph.shortest_iteration(candidate);
            found.depth = natural.iter().filter(|outer| is_inside(candidate, outer)).count();
            let inner: Vec<&Natural> = natural.iter().filter(|inner| is_inside(inner, candidate)).collect();
            found.is_innermost = inner.is_empty();
            let has_tensor = |inner: &&&Natural| graph.summary(function, &inner.body, rates).tensor_instructions > 0;
            found.is_innermost_tensor = found.tensor_instructions > 0 && inner.iter().find(has_tensor).is_none();
            found
        })
        .collect();
    loops.sort_by_key(|found| (found.first, found.depth));
    loops
}

/// A run of instructions that only its last one leaves.
struct BasicBlock {
    /// Indices of instructions.
    start: usize,
    end: usize,
    successors: Vec<usize>,
}

impl BasicBlock {
    fn len(&self) -> u32 {
        (self.end - self.start) as u32
    }
}

/// A loop as a set of blocks.
struct Natural {
    header: usize,
    /// Blocks that end an iteration.
    latches: Vec<usize>,
    /// Sorted.
    body: Vec<usize>,
}

struct Graph {
    blocks: Vec<BasicBlock>,
    predecessors: Vec<Vec<usize>>,
    /// The blocks that can run, each before its successors as far as there are no loops.
    order: Vec<usize>,
    /// The immediate dominator of each block in `order`; a root is its own.
    dominators: Vec<Option<usize>>,
}

/// Where an instruction may lead.
struct Exits {
    targets: Vec<usize>,
    falls_through: bool,
}

/// `None` for an instruction that only the next one follows.
fn exits(instruction: &Instruction, function: &Function) -> Option<Exits> {
    let is_guarded = instruction.guard.as_deref().is_some_and(|guard| guard != "PT" && guard != "UPT");
    let targets = || instruction.labels().filter_map(|label| function.labels.get(label).copied()).collect();
    match instruction.base() {
        // Further conditions stand before the target: `BRA.DIV ~URZ, `(.L_x_1)`.
        "BRA" | "JMP" => {
            let is_conditional = is_guarded || !instruction.operands.starts_with('`');
            Some(Exits { targets: targets(), falls_through: is_conditional })
        }
        "BRX" | "BRXU" | "JMX" | "JMXU" => Some(Exits { targets: targets(), falls_through: is_guarded }),
        // The compiler also writes jumps this way. A called function is no label of the code and comes back.
        "CALL" => Some(Exits { targets: targets(), falls_through: true }),
        "EXIT" | "RET" | "KILL" => Some(Exits { targets: Vec::new(), falls_through: is_guarded }),
        _ => None,
    }
}

impl Graph {
    fn of(function: &Function) -> Graph {
        let count = function.instructions.len();
        let mut is_start = vec![false; count + 1];
        is_start[0] = true;
        function.labels.values().for_each(|&label| is_start[label.min(count)] = true);
        for (index, instruction) in function.instructions.iter().enumerate() {
            is_start[index + 1] |= exits(instruction, function).is_some();
        }
        let starts: Vec<usize> = (0..count).filter(|&index| is_start[index]).collect();
        let block_at = |instruction: usize| starts.binary_search(&instruction).ok();
        let blocks: Vec<BasicBlock> = starts
            .iter()
            .enumerate()
            .map(|(index, &start)| {
                let end = starts.get(index + 1).copied().unwrap_or(count);
                let exits = exits(&function.instructions[end - 1], function);
                let exits = exits.unwrap_or(Exits { targets: Vec::new(), falls_through: true });
                let next = if exits.falls_through { block_at(end) } else { None };
                let mut successors: Vec<usize> = exits.targets.into_iter().filter_map(block_at).chain(next).collect();
                successors.sort_unstable();
                successors.dedup();
                BasicBlock { start, end, successors }
            })
            .collect();
        let mut predecessors = vec![Vec::new(); blocks.len()];
        for (index, block) in blocks.iter().enumerate() {
            block.successors.iter().for_each(|&successor| predecessors[successor].push(index));
        }
        let mut graph = Graph { blocks, predecessors, order: Vec::new(), dominators: Vec::new() };
        graph.order = graph.reverse_postorder();
        graph.dominators = graph.immediate_dominators();
        graph
    }

    /// The first block, and those of called functions.
    fn is_root(&self, block: usize) -> bool {
        block == 0 || self.predecessors[block].is_empty()
    }

    fn reverse_postorder(&self) -> Vec<usize> {
        let mut is_seen = vec![false; self.blocks.len()];
        let mut postorder = Vec::new();
        for root in (0..self.blocks.len()).filter(|&block| self.is_root(block)) {
            if std::mem::replace(&mut is_seen[root], true) {
                continue;
            }
            let mut stack = vec![(root, 0)];
            while let Some((block, next)) = stack.last_mut() {
                match self.blocks[*block].successors.get(*next) {
                    Some(&successor) => {
                        *next += 1;
                        if !std::mem::replace(&mut is_seen[successor], true) {
                            stack.push((successor, 0));
                        }
                    }
                    None => {
                        postorder.push(*block);
                        stack.pop();
                    }
                }
            }
        }
        postorder.reverse();
        postorder
    }

    /// Source: Cooper, Harvey and Kennedy, "A Simple, Fast Dominance Algorithm". All roots hang below one that is not
    /// among the blocks; `blocks.len()` stands for it.
    fn immediate_dominators(&self) -> Vec<Option<usize>> {
        let above_all = self.blocks.len();
        let mut position = vec![usize::MAX; self.blocks.len() + 1];
        position[above_all] = 0;
        self.order.iter().enumerate().for_each(|(index, &block)| position[block] = index + 1);
        let mut dominators: Vec<Option<usize>> = vec![None; self.blocks.len() + 1];
        dominators[above_all] = Some(above_all);
        let mut changed = true;
        while changed {
            changed = false;
            for &block in &self.order {
                let mut common = self.is_root(block).then_some(above_all);
                for &predecessor in &self.predecessors[block] {
                    if dominators[predecessor].is_none() {
                        continue;
                    }
                    common = Some(match common {
                        None => predecessor,
                        Some(mut other) => {
                            let mut walker = predecessor;
                            while walker != other {
                                let deeper = if position[walker] > position[other] { &mut walker } else { &mut other };
                                *deeper = dominators[*deeper].unwrap_or(above_all);
                            }
                            walker
                        }
                    });
                }
                if dominators[block] != common {
                    dominators[block] = common;
                    changed = true;
                }
            }
        }
        dominators
    }

    fn dominates(&self, above: usize, block: usize) -> bool {
        let mut walker = Some(block);
        while let Some(current) = walker.filter(|&current| current < self.blocks.len()) {
            if current == above {
                return true;
            }
            walker = self.dominators[current];
        }
        false
    }

    /// Whether a block is one that a kernel marked as rare, or runs only after one.
    fn is_rare(&self, function: &Function, block: usize) -> bool {
        let is_marked = |block: &usize| {
            let BasicBlock { start, end, .. } = self.blocks[*block];
            function.instructions[start..end].iter().any(|instruction| instruction.base() == "PMTRIG")
        };
        let above = std::iter::successors(Some(block), |&block| self.dominators[block].filter(|&above| above != block));
        above.take_while(|&block| block < self.blocks.len()).any(|block| is_marked(&block))
    }

    fn natural_loops(&self) -> Vec<Natural> {
        let mut loops: Vec<Natural> = Vec::new();
        for &header in &self.order {
            let is_latch = |&block: &usize| self.dominators[block].is_some() && self.dominates(header, block);
            let latches: Vec<usize> = self.predecessors[header].iter().copied().filter(is_latch).collect();
            // Behind the last instruction, the compiler leaves one that jumps to itself.
            let is_trap = latches == [header] && self.blocks[header].len() == 1;
            if latches.is_empty() || is_trap {
                continue;
            }
            let mut body = vec![header];
            let mut pending = latches.clone();
            while let Some(block) = pending.pop() {
                if !body.contains(&block) {
                    body.push(block);
                    let reached = self.predecessors[block].iter().filter(|&&block| self.dominators[block].is_some());
                    pending.extend(reached);
                }
            }
            body.sort_unstable();
            loops.push(Natural { header, latches, body });
        }
        loops
    }

    /// The first and the last block of a loop's range. Usually these are its header and its last latch; a loop that is
    /// entered in its middle has its latch before its header.
    fn hot_range(&self, natural: &Natural) -> (usize, usize) {
        let latches = || natural.latches.iter().copied();
        let mut first = latches().min().unwrap_or(natural.header).min(natural.header);
        let mut last = latches().max().unwrap_or(natural.header).max(natural.header);
        while first > 0 && natural.body.contains(&(first - 1)) {
            first -= 1;
        }
        while last == natural.header && !natural.latches.contains(&last) && natural.body.contains(&(last + 1)) {
            last += 1;
        }
        (first, last)
    }

    /// Instructions on the shortest way from a loop's header to its end.
    fn shortest_iteration(&self, natural: &Natural) -> u32 {
        let mut distance = vec![u32::MAX; self.blocks.len()];
        distance[natural.header] = self.blocks[natural.header].len();
        let mut pending = vec![natural.header];
        while let Some(block) = pending.pop() {
            for &successor in &self.blocks[block].successors {
                let through = distance[block] + self.blocks[successor].len();
                if natural.body.contains(&successor) && through < distance[successor] {
                    distance[successor] = through;
                    pending.push(successor);
                }
            }
        }
        natural.latches.iter().map(|&latch| distance[latch]).min().unwrap_or(0)
    }

    /// Counts the instructions of some blocks.
    fn summary(&self, function: &Function, blocks: &[usize], rates: &Rates) -> Loop {
        let mut mix = Mix::new();
        let mut cycles = Cycles::default();
        let mut unrated = Vec::new();
        let indices = || blocks.iter().flat_map(|&block| self.blocks[block].start..self.blocks[block].end);
        for instruction in indices().map(|index| &function.instructions[index]) {
            let class = Class::of(instruction);
            *mix.entry(class).or_default() += 1;
            if !cycles.add(instruction, class, rates) && !unrated.contains(&instruction.opcode) {
                unrated.push(instruction.opcode.clone());
            }
        }
        let address = |index: Option<usize>| index.map_or(0, |index| function.instructions[index].address);
        Loop {
            first: address(indices().min()),
            last: address(indices().max()),
            depth: 0,
            is_innermost: true,
            is_innermost_tensor: false,
            instructions: cycles.issue,
            instructions_min: 0,
            cold_instructions: 0,
            tensor_instructions: mix.get(&Class::Tensor).copied().unwrap_or(0),
            mix,
            cycles,
            unrated,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::functions;

    fn loops_of(name: &str) -> Vec<Loop> {
        let functions = functions(include_str!("../tests/listing.sass"));
        let function = functions.iter().find(|function| function.name == name).expect("the listing has it");
        loops(function, &Rates::A100)
    }

    #[test]
    fn nested_loops_are_told_apart() {
        let loops = loops_of("tiles");
        let ranges: Vec<_> = loops.iter().map(|found| (found.first, found.last, found.depth)).collect();
        assert_eq!(ranges, [(0x50, 0x110, 0), (0x70, 0xf0, 1)]);
        let [outer, inner] = loops.as_slice() else { unreachable!() };
        assert!(!outer.is_innermost && !outer.is_innermost_tensor);
        assert!(inner.is_innermost && inner.is_innermost_tensor);
        assert_eq!((outer.instructions, inner.instructions), (13, 9));
        assert_eq!(main_loop(&loops), Some(inner));
    }

    #[test]
    fn code_that_was_moved_away_is_counted_apart() {
        let inner = &loops_of("tiles")[1];
        assert_eq!((inner.instructions, inner.cold_instructions, inner.instructions_min), (9, 3, 9));
        assert!(!inner.mix.contains_key(&Class::Local), "the spill's reload is in the part that was moved away");
    }

    /// The trigger's block, a branch within and the code that both of its ways lead to are rare; what the way around
    /// leads to is not.
    #[test]
    fn code_that_is_marked_as_rare_is_counted_apart() {
        let loops = loops_of("marked");
        let [found] = loops.as_slice() else { panic!("{loops:?}") };
        assert_eq!((found.first, found.last), (0x00, 0x90));
        assert_eq!((found.instructions, found.cold_instructions, found.instructions_min), (6, 4, 6));
        let mix: Vec<_> = found.mix.iter().map(|(class, count)| (class.name(), *count)).collect();
        assert_eq!(mix, [("mma", 1), ("ldgsts", 1), ("fp32", 1), ("bra", 2), ("never", 1)]);
        let expected = Cycles { tensor: 8, issue: 6, fma: 2, shared: 16, ..Cycles::default() };
        assert_eq!(found.cycles, expected);
        assert_eq!(main_loop(&loops), Some(found));
    }

    #[test]
    fn a_loop_has_its_mix_and_its_cycles() {
        let inner = &loops_of("tiles")[1];
        let mix: Vec<_> = inner.mix.iter().map(|(class, count)| (class.name(), *count)).collect();
        assert_eq!(mix, [("mma", 2), ("mufu", 1), ("f2fp", 1), ("fp32", 1), ("unif", 1), ("bra", 3)]);
        let expected = Cycles { tensor: 16, issue: 9, fma: 2, alu: 2, special: 8, ..Cycles::default() };
        assert_eq!(inner.cycles, expected);
        assert_eq!((inner.cycles.issue_percent(), inner.cycles.other_unit_percent()), (Some(57), Some(50)));
        assert_eq!(inner.cycles.longest_other(), ("special", 8));
        assert_eq!(inner.instructions_per_tensor(), Some(4.5));
    }

    /// A block behind the code that jumps back into it is no loop, nor is the jump to itself at the very end.
    #[test]
    fn a_loop_that_is_entered_in_its_middle_is_one_and_a_jump_back_is_none() {
        let loops = loops_of("rows");
        assert_eq!(loops.len(), 1, "{loops:?}");
        assert_eq!((loops[0].first, loops[0].last, loops[0].instructions), (0x20, 0x50, 4));
        assert_eq!(loops[0].cycles.issue_percent(), None);
        assert_eq!(main_loop(&loops), None);
    }

    #[test]
    fn code_without_loops_has_none() {
        let listing = ".section .text.k,\"ax\"\n /*0000*/ @P0 EXIT ;\n /*0010*/ EXIT ;\n";
        assert_eq!(loops(&functions(listing)[0], &Rates::A100), []);
        assert_eq!(loops(&Function::default(), &Rates::A100), []);
    }
}
