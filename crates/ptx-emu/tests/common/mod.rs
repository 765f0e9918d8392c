//! Running small kernels.
#![allow(dead_code, reason = "each test file uses a part of it")]

use ptx_emu::{Architecture, Hazard, Launch, Memory, Module, Options, Report};

/// The text of a file under `tests/ptx`.
pub fn ptx(path: &str) -> String {
    let full = format!("{}/tests/ptx/{path}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&full).unwrap_or_else(|error| panic!("{full}: {error}"))
}

/// A kernel of a test file with memory to work on.
pub struct Bench {
    module: Module,
    pub memory: Memory,
    pub options: Options,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub cluster: [u32; 3],
    pub registers: u32,
    /// Size of the last parameter; the others have 8 bytes.
    pub last_parameter_bytes: usize,
}

impl Bench {
    /// One block of 64 threads.
    pub fn new(path: &str) -> Self {
        Bench::from_text(&ptx(path))
    }

    pub fn from_text(text: &str) -> Self {
        Bench {
            module: Module::parse(text).expect("the test's PTX is well formed"),
            memory: Memory::new(),
            options: Options::new(Architecture::Sm80),
            grid: [1; 3],
            block: [64, 1, 1],
            cluster: [1; 3],
            registers: 0,
            last_parameter_bytes: 8,
        }
    }

    pub fn threads(mut self, threads: u32) -> Self {
        self.block = [threads, 1, 1];
        self
    }

    pub fn blocks(mut self, blocks: u32) -> Self {
        self.grid = [blocks, 1, 1];
        self
    }

    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Memory with these words in it.
    pub fn words(&self, words: &[u32]) -> u64 {
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        let address = self.memory.allocate(bytes.len() as u64, 256).unwrap();
        self.memory.write(address, &bytes).unwrap();
        address
    }

    /// Memory that nothing has written.
    pub fn blank(&self, bytes: u64) -> u64 {
        self.memory.allocate(bytes, 256).unwrap()
    }

    pub fn read_words(&self, address: u64, count: usize) -> Vec<u32> {
        let mut bytes = vec![0; count * 4];
        self.memory.read(address, &mut bytes).unwrap();
        bytes.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect()
    }

    pub fn try_run(&self, kernel: &str, params: &[u64]) -> Result<Report, ptx_emu::Error> {
        let bytes: Vec<[u8; 8]> = params.iter().map(|p| p.to_le_bytes()).collect();
        let mut params: Vec<&[u8]> = bytes.iter().map(|b| &b[..]).collect();
        if let Some(last) = params.last_mut() {
            *last = &last[..self.last_parameter_bytes];
        }
        self.launch(kernel, &params)
    }

    /// Runs with parameters of any size.
    pub fn launch(&self, kernel: &str, params: &[&[u8]]) -> Result<Report, ptx_emu::Error> {
        let launch = Launch {
            kernel: self.module.kernel(kernel)?,
            grid: self.grid,
            block: self.block,
            cluster: self.cluster,
            registers: self.registers,
            dynamic_shared_bytes: 0,
            params,
        };
        ptx_emu::run(&launch, &self.memory, &self.options)
    }

    pub fn run(&self, kernel: &str, params: &[u64]) -> Report {
        self.try_run(kernel, params).unwrap_or_else(|error| panic!("{kernel}: {error}"))
    }

    /// Runs and expects no hazard.
    pub fn clean(&self, kernel: &str, params: &[u64]) -> Report {
        let report = self.run(kernel, params);
        assert!(report.hazards.is_empty(), "{kernel}: {}", list(&report));
        report
    }

    /// Runs and expects hazards of exactly these kinds, in any order.
    pub fn hazards(&self, kernel: &str, params: &[u64], kinds: &[&str]) -> Vec<Hazard> {
        let report = self.run(kernel, params);
        let mut found: Vec<&str> = report.hazards.iter().map(|h| h.kind.name()).collect();
        found.sort_unstable();
        found.dedup();
        let mut wanted = kinds.to_vec();
        wanted.sort_unstable();
        assert_eq!(found, wanted, "{kernel}: {}", list(&report));
        report.hazards
    }

    /// Runs and expects a hazard of this kind. Who comes too early may also read what is not there yet.
    pub fn racy(&self, kernel: &str, params: &[u64], kind: &str) -> Hazard {
        let report = self.run(kernel, params);
        let expected = |h: &&Hazard| h.kind.name() == kind;
        let known = report.hazards.iter().all(|h| expected(&h) || h.kind.name() == "uninitialized memory");
        assert!(known && report.hazards.iter().any(|h| expected(&h)), "{kernel}: {}", list(&report));
        report.hazards.iter().rfind(expected).unwrap().clone()
    }
}

fn list(report: &Report) -> String {
    report.hazards.iter().map(|h| format!("\n  {h}")).collect()
}
