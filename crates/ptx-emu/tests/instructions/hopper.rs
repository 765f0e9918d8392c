//! What the tests of Hopper's asynchronous instructions share: a kernel around a body, memory for it, and all the orders in
//! which it may run.

use crate::common::Bench;
use ptx_emu::tensor_map::{Element, Swizzle, TensorMap};
use ptx_emu::{Architecture, Checks, Completion, Limits, Options, Report, Schedule};

/// Shared memory for data, in every kernel here; mbarriers come behind it.
pub const DATA_BYTES: usize = 32 << 10;

/// Which buffer a tensor map describes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Of {
    Input,
    Output,
}

/// A kernel and its memory. In the body, `%p0` is true for thread 0, `%r0` is the thread, `%r1` the data in shared memory,
/// `%r2` the first mbarrier, `%r3` the rank in the cluster, `%r4` the block, `%d0` the input, `%d1` the output and `%d2` the
/// tensor map. Registers from 30 on belong to [`fill`] and [`dump`].
#[derive(Debug, Clone)]
pub struct Bed {
    pub body: String,
    pub threads: u32,
    pub grid: [u32; 3],
    pub cluster: [u32; 3],
    pub registers: u32,
    pub input: Vec<u8>,
    /// Bytes of the input that nothing wrote.
    pub unwritten: std::ops::Range<usize>,
    pub output: Vec<u8>,
    /// Its address counts from the start of the buffer.
    pub map: Option<(Of, TensorMap)>,
    /// Instead of the map.
    pub map_bytes: Option<[u8; 128]>,
    pub checks: Checks,
    pub resident: usize,
    /// The most warp instructions of a block.
    pub limit: u64,
}

pub fn bed(body: impl Into<String>) -> Bed {
    Bed {
        body: body.into(),
        threads: 64,
        grid: [1; 3],
        cluster: [1; 3],
        registers: 0,
        input: (0..8192u32).map(|at| (at * 7 + (at >> 8) * 13) as u8).collect(),
        unwritten: 0..0,
        output: vec![0xaa; 8192],
        map: None,
        map_bytes: None,
        checks: Checks::ALL,
        resident: 64,
        limit: 3_000_000,
    }
}

pub const SCHEDULES: [Schedule; 6] = [
    Schedule::InOrder,
    Schedule::Reverse,
    Schedule::Random,
    Schedule::Diverged,
    Schedule::LowestStarved,
    Schedule::HighestStarved,
];
pub const COMPLETIONS: [Completion; 3] = [Completion::Latest, Completion::Earliest, Completion::Random];

impl Bed {
    pub fn cluster_of(mut self, blocks: u32) -> Self {
        (self.grid, self.cluster) = ([blocks, 1, 1], [blocks, 1, 1]);
        self
    }

    pub fn text(&self) -> String {
        format!(
            ".version 8.0\n.target sm_90a\n.address_size 64\n\
             .visible .entry k(.param .u64 in, .param .u64 out, .param .align 64 .b8 map[128]) {{\n\
             .reg .pred %p<10>; .reg .b16 %h<4>; .reg .b32 %r<60>; .reg .b64 %d<40>;\n\
             .shared .align 1024 .b8 data[{DATA_BYTES}]; .shared .align 8 .b8 bars[128];\n\
             ld.param.u64 %d0, [in]; ld.param.u64 %d1, [out]; mov.b64 %d2, map; cvta.param.u64 %d2, %d2;\n\
             mov.u32 %r0, %tid.x; mov.u32 %r1, data; mov.u32 %r2, bars; mov.u32 %r3, %cluster_ctarank;\n\
             mov.u32 %r4, %ctaid.x; setp.eq.u32 %p0, %r0, 0;\n{}\nret;\n}}",
            self.body
        )
    }

    pub fn try_run(&self, schedule: Schedule, completion: Completion) -> (Result<Report, ptx_emu::Error>, Vec<u8>) {
        let mut limits = Limits::default();
        limits.block_instructions = self.limit;
        let options = Options::new(Architecture::Sm90a)
            .schedule(schedule)
            .completion(completion)
            .seed(11)
            .threads(1)
            .checks(self.checks)
            .limits(limits)
            .resident_blocks(self.resident);
        let mut bench = Bench::from_text(&self.text()).threads(self.threads).options(options);
        (bench.grid, bench.cluster, bench.registers) = (self.grid, self.cluster, self.registers);
        let input = bench.memory.allocate(self.input.len() as u64, 256).unwrap();
        let (first, last) = (&self.input[..self.unwritten.start], &self.input[self.unwritten.end..]);
        bench.memory.write(input, first).unwrap();
        bench.memory.write(input + self.unwritten.end as u64, last).unwrap();
        let output = bench.memory.allocate(self.output.len() as u64, 256).unwrap();
        bench.memory.write(output, &self.output).unwrap();
        let mut map = self.map_bytes.unwrap_or([0; 128]);
        if let Some((of, tensor)) = &self.map {
            let mut tensor = tensor.clone();
            tensor.address += if *of == Of::Input { input } else { output };
            map = tensor.encode().unwrap();
        }
        let report = bench.launch("k", &[&input.to_le_bytes(), &output.to_le_bytes(), &map]);
        let mut bytes = vec![0; self.output.len()];
        bench.memory.read(output, &mut bytes).unwrap();
        (report, bytes)
    }

    pub fn run(&self, schedule: Schedule, completion: Completion) -> (Report, Vec<u8>) {
        let (report, bytes) = self.try_run(schedule, completion);
        (report.unwrap_or_else(|error| panic!("{schedule:?}, {completion:?}: {error}\n{}", self.body)), bytes)
    }

    /// One run, without hazards.
    pub fn output(&self) -> Vec<u8> {
        let (report, bytes) = self.run(Schedule::InOrder, Completion::Latest);
        assert!(report.hazards.is_empty(), "{}\n{}", list(&report), self.body);
        bytes
    }

    /// The output, which must be the same in all orders, and no hazard in any.
    pub fn every(&self) -> Vec<u8> {
        let mut all: Option<Vec<u8>> = None;
        for schedule in SCHEDULES {
            for completion in COMPLETIONS {
                let (report, bytes) = self.run(schedule, completion);
                assert!(report.hazards.is_empty(), "{schedule:?}, {completion:?}: {}\n{}", list(&report), self.body);
                match &all {
                    None => all = Some(bytes),
                    Some(first) => assert!(*first == bytes, "{schedule:?}, {completion:?}: another result"),
                }
            }
        }
        all.unwrap()
    }

    /// In every order there is a hazard of this kind, whose text says this.
    pub fn faulty(&self, kind: &str, says: &str) {
        for schedule in SCHEDULES {
            for completion in COMPLETIONS {
                self.faulty_in(schedule, completion, kind, says);
            }
        }
    }

    /// In this order there is such a hazard.
    pub fn faulty_in(&self, schedule: Schedule, completion: Completion, kind: &str, says: &str) {
        let (report, _) = self.run(schedule, completion);
        let found = report.hazards.iter().any(|h| h.kind.name() == kind && h.to_string().contains(says));
        let list = list(&report);
        assert!(found, "{schedule:?}, {completion:?}: not `{kind}: {says}` but {list}\n{}", self.body);
    }

    /// In the first order, with copies as late as can be.
    pub fn faulty_late(&self, kind: &str, says: &str) {
        self.faulty_in(Schedule::InOrder, Completion::Latest, kind, says);
    }
}

fn list(report: &Report) -> String {
    report.hazards.iter().map(|h| format!("\n  {h}")).collect()
}

/// A map without gaps that matter to the caller.
pub fn map(element: Element, dims: &[u64], strides: &[u64], box_dims: &[u32]) -> TensorMap {
    TensorMap {
        element,
        address: 0,
        dims: dims.to_vec(),
        strides_bytes: strides.to_vec(),
        box_dims: box_dims.to_vec(),
        swizzle: Swizzle::None,
        fills_with_nan: false,
    }
}

/// Thread 0 initialises the mbarrier at `%r2` plus that, for all to use.
pub fn init(offset: u32, count: u32) -> String {
    format!(
        "@%p0 mbarrier.init.shared::cta.b64 [%r2+{offset}], {count};\n\
         @%p0 fence.mbarrier_init.release.cluster;\nbar.sync 0;\n"
    )
}

/// Thread 0 arrives and expects bytes.
pub fn expect(offset: u32, bytes: u32) -> String {
    format!("@%p0 mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%r2+{offset}], {bytes};\n")
}

/// All wait for a parity of an mbarrier.
pub fn wait(offset: u32, parity: u32) -> String {
    format!(
        "{{ WAIT: mbarrier.try_wait.parity.shared::cta.b64 %p9, [%r2+{offset}], {parity};\n\
         @%p9 bra DONE; bra WAIT; DONE: }}\n"
    )
}

/// Thread 0 copies bytes from the input to the data in shared memory.
pub fn load(bytes: u32) -> String {
    format!("@%p0 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%d0], {bytes}, [%r2];\n")
}

/// Thread 0 copies bytes from the data in shared memory to the output, commits and waits.
pub fn store(bytes: u32) -> String {
    format!("@%p0 cp.async.bulk.global.shared::cta.bulk_group [%d1], [%r1], {bytes};\n{COMMIT}{WAIT_GROUP}")
}

pub const COMMIT: &str = "@%p0 cp.async.bulk.commit_group;\n";
pub const WAIT_GROUP: &str = "@%p0 cp.async.bulk.wait_group 0;\n";
pub const FENCE: &str = "fence.proxy.async.shared::cta;\n";
pub const BAR: &str = "bar.sync 0;\n";
pub const CLUSTER_SYNC: &str = "barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;\n";

/// All threads write the first bytes of the input to the data in shared memory.
pub fn fill(bytes: u32) -> String {
    words(bytes, "ld.global.u32 %r33, [%d30]; st.shared.u32 [%r32], %r33;", "%d0")
}

/// All threads write the first bytes of the data in shared memory to the output.
pub fn dump(bytes: u32) -> String {
    words(bytes, "ld.shared.u32 %r33, [%r32]; st.global.u32 [%d30], %r33;", "%d1")
}

/// Does something for each word of as many bytes: its address in shared memory is `%r32`, in global memory `%d30`.
pub fn words(bytes: u32, work: &str, global: &str) -> String {
    format!(
        "shl.b32 %r30, %r0, 2; mov.u32 %r34, %ntid.x; shl.b32 %r34, %r34, 2;\n\
         {{ NEXT: setp.ge.u32 %p8, %r30, {bytes}; @%p8 bra END;\n\
         add.u32 %r32, %r1, %r30; cvt.u64.u32 %d30, %r30; add.s64 %d30, {global}, %d30;\n{work}\n\
         add.u32 %r30, %r30, %r34; bra NEXT; END: }}\n"
    )
}

/// All threads write a word register to `output[block * threads + thread]`.
pub fn put(register: &str) -> String {
    format!(
        "mov.u32 %r34, %ntid.x; mad.lo.u32 %r34, %r34, %r4, %r0; mul.wide.u32 %d30, %r34, 4; add.s64 %d30, %d1, %d30;\n\
         st.global.u32 [%d30], {register};\n"
    )
}

pub fn to_words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]])).collect()
}
