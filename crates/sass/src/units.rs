//! Which unit executes an instruction, and for how long.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::listing::Instruction;

/// The kinds of instruction that a mix tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Matrix multiply-accumulate: HMMA, HGMMA, IMMA, ...
    Tensor,
    /// `ldmatrix`.
    LoadMatrix,
    /// `stmatrix`.
    StoreMatrix,
    /// `cp.async`.
    AsyncCopy,
    /// Loads from shared memory.
    LoadShared,
    /// Stores to shared memory, atomics among them.
    StoreShared,
    /// Loads from global memory.
    LoadGlobal,
    /// Stores to global memory, atomics among them.
    StoreGlobal,
    /// Local memory: spills.
    Local,
    /// Shuffles between a warp's lanes.
    Shuffle,
    /// Exponential, logarithm, reciprocal, ...
    Mufu,
    /// Conversions that are no packing.
    Convert,
    /// Conversions that pack two floats into 16 bits each.
    Pack,
    /// Additions, multiplications and both in one, 32 bits.
    Fp32,
    /// Integer multiplication, which also moves registers: `IMAD.MOV`.
    IntegerMultiply,
    /// Arithmetic on pairs of 16-bit floats.
    Half,
    /// 64-bit floats.
    Fp64,
    /// Integers, logic, comparisons, selections, minima and maxima.
    Alu,
    /// Work that is the same for a whole warp, in the uniform datapath.
    Uniform,
    /// Barriers, fences and waits.
    Barrier,
    /// Branches, and what brings parted lanes together again.
    Branch,
    /// Whatever is guarded by a predicate that is never true: `@!PT LDS RZ, [RZ]`, which ptxas puts before copies. It
    /// takes an issue slot and reaches no unit.
    Never,
    /// The rest.
    Other,
}

impl Class {
    /// All of them, in the order of tables.
    pub const ALL: [Class; 23] = [
        Class::Tensor,
        Class::LoadMatrix,
        Class::StoreMatrix,
        Class::AsyncCopy,
        Class::LoadShared,
        Class::StoreShared,
        Class::LoadGlobal,
        Class::StoreGlobal,
        Class::Local,
        Class::Shuffle,
        Class::Mufu,
        Class::Convert,
        Class::Pack,
        Class::Fp32,
        Class::IntegerMultiply,
        Class::Half,
        Class::Fp64,
        Class::Alu,
        Class::Uniform,
        Class::Barrier,
        Class::Branch,
        Class::Never,
        Class::Other,
    ];

    /// A short name for the head of a column.
    pub const fn name(self) -> &'static str {
        match self {
            Class::Tensor => "mma",
            Class::LoadMatrix => "ldsm",
            Class::StoreMatrix => "stsm",
            Class::AsyncCopy => "ldgsts",
            Class::LoadShared => "lds",
            Class::StoreShared => "sts",
            Class::LoadGlobal => "ldg",
            Class::StoreGlobal => "stg",
            Class::Local => "local",
            Class::Shuffle => "shfl",
            Class::Mufu => "mufu",
            Class::Convert => "f2f",
            Class::Pack => "f2fp",
            Class::Fp32 => "fp32",
            Class::IntegerMultiply => "imad",
            Class::Half => "fp16",
            Class::Fp64 => "fp64",
            Class::Alu => "alu",
            Class::Uniform => "unif",
            Class::Barrier => "bar",
            Class::Branch => "bra",
            Class::Never => "never",
            Class::Other => "other",
        }
    }

    /// The kind of an instruction.
    pub fn of(instruction: &Instruction) -> Class {
        if instruction.is_never_executed() {
            return Class::Never;
        }
        match instruction.base() {
            "HMMA" | "IMMA" | "DMMA" | "BMMA" | "HGMMA" | "QGMMA" | "IGMMA" | "BGMMA" => Class::Tensor,
            "LDSM" => Class::LoadMatrix,
            "STSM" => Class::StoreMatrix,
            "LDGSTS" => Class::AsyncCopy,
            "LDS" => Class::LoadShared,
            "STS" | "ATOMS" => Class::StoreShared,
            "LDG" | "LD" => Class::LoadGlobal,
            "STG" | "ST" | "ATOM" | "ATOMG" | "RED" | "REDG" => Class::StoreGlobal,
            "LDL" | "STL" => Class::Local,
            "SHFL" => Class::Shuffle,
            "MUFU" => Class::Mufu,
            "F2F" | "F2I" | "I2F" | "FRND" | "POPC" | "FLO" | "BREV" => Class::Convert,
            "F2FP" => Class::Pack,
            "FFMA" | "FADD" | "FMUL" | "FFMA32I" | "FADD32I" | "FMUL32I" | "FSWZADD" => Class::Fp32,
            "IMAD" | "IMUL" | "IMUL32I" | "IDP" => Class::IntegerMultiply,
            "HADD2" | "HMUL2" | "HFMA2" | "HMNMX2" | "HSET2" | "HSETP2" | "HADD2_32I" | "HMUL2_32I" | "HFMA2_32I" => {
                Class::Half
            }
            "DADD" | "DMUL" | "DFMA" | "DSETP" | "DMNMX" => Class::Fp64,
            "BMSK" | "FMNMX" | "FSEL" | "FSET" | "FSETP" | "I2I" | "I2IP" | "I2FP" | "F2IP" | "IABS" | "IADD"
            | "IADD3" | "IADD32I" | "IMNMX" | "ISCADD" | "ISETP" | "LEA" | "LOP" | "LOP3" | "LOP32I" | "MOV"
            | "MOV32I" | "P2R" | "PLOP3" | "PRMT" | "PSETP" | "R2P" | "SEL" | "SGXT" | "SHF" | "SHL" | "SHR"
            | "VABSDIFF" | "VABSDIFF4" | "VIADD" | "VIADDMNMX" | "VIMNMX" | "VIMNMX3" | "VOTE" => Class::Alu,
            "BAR" | "DEPBAR" | "LDGDEPBAR" | "MEMBAR" | "ERRBAR" | "SYNCS" | "ARRIVES" | "WARPSYNC" | "WARPGROUP"
            | "FENCE" | "CCTL" | "NANOSLEEP" => Class::Barrier,
            "BRA" | "BRX" | "BRXU" | "JMP" | "JMX" | "CALL" | "RET" | "EXIT" | "KILL" | "BSSY" | "BSYNC" | "BREAK"
            | "BMOV" | "BPT" | "YIELD" => Class::Branch,
            "R2UR" | "S2UR" | "VOTEU" => Class::Uniform,
            base if base.starts_with('U') => Class::Uniform,
            _ => Class::Other,
        }
    }
}

/// How many instructions of each kind there are.
pub type Mix = BTreeMap<Class, u32>;

/// How long each unit of an SM's sub-partition is busy with one instruction of a warp, in cycles.
///
/// Sources. *Guide*: CUDA C++ Programming Guide, "Arithmetic Instructions", the table of results per clock cycle and SM;
/// a quarter of them belongs to a sub-partition, and a warp has 32. *Nsight*: the pipelines in Nsight Compute's
/// documentation, which say where an instruction runs. *Whitepaper*: NVIDIA's A100 and H100 whitepapers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// The GPU.
    pub gpu: &'static str,
    /// FP32 addition and multiplication. Guide: 64 results on compute capability 8.0, 128 on 9.0.
    pub fp32: u32,
    /// Integer multiplication, in the same pipeline (Nsight). Guide: 64 on both.
    pub integer_multiply: u32,
    /// Integers, logic, comparisons, minima and maxima. Guide: 64 on both. Packing conversions run here as well (Nsight:
    /// "the ALU pipeline performs fast FP32-to-FP16 conversion"), and the guide has no row for them.
    pub alu: u32,
    /// Pairs of f16. Guide: 256 results, which are 128 pairs, on both.
    pub half: u32,
    /// Pairs of bf16. Guide: 128 results on 8.0, 256 on 9.0.
    pub half_bf16: u32,
    /// 64-bit floats. Guide: 32 on 8.0, 64 on 9.0.
    pub fp64: u32,
    /// MUFU. Guide: 16 on both. Conversions that are no packing run in the same pipeline (Nsight: XU).
    pub special: u32,
    /// A pass of 128 bytes through the shared memory's banks, and a shuffle. An SM makes one pass a cycle (Guide, "Shared
    /// Memory": 32 banks of 32 bits; shuffles: 32 results), so where all four sub-partitions want it, each has a quarter.
    pub wavefront: u32,
    /// Multiply-adds of 16-bit operands in a cycle of a sub-partition's tensor core. Whitepaper: 1024 an SM on the A100,
    /// 2048 on the H100. 8-bit operands go twice as fast, TF32 half as fast.
    pub tensor_macs: u32,
    /// The same of 64-bit operands. Whitepaper: 64 an SM on the A100, 128 on the H100.
    pub tensor_macs_fp64: u32,
}

impl Rates {
    /// The A100: machine code for sm_80.
    pub const A100: Rates = Rates {
        gpu: "A100",
        fp32: 2,
        integer_multiply: 2,
        alu: 2,
        half: 1,
        half_bf16: 2,
        fp64: 4,
        special: 8,
        wavefront: 4,
        tensor_macs: 256,
        tensor_macs_fp64: 16,
    };

    /// The H100: machine code for sm_90. Its `mma.sync` is known not to reach the rate of its tensor cores, which are
    /// made for `wgmma`; the figure is that rate all the same.
    pub const H100: Rates =
        Rates { gpu: "H100", fp32: 1, half_bf16: 1, fp64: 2, tensor_macs: 512, tensor_macs_fp64: 32, ..Rates::A100 };

    /// Tensor-core cycles of an instruction; `None` for a shape that is not known here. An instruction of a whole
    /// warpgroup (HGMMA) keeps all four sub-partitions busy.
    fn tensor(&self, instruction: &Instruction) -> Option<u32> {
        let shape = instruction.opcode.split('.').nth(1)?;
        let (macs, warps) = match shape {
            "1684" => (16 * 8 * 4, 1),
            "1688" => (16 * 8 * 8, 1),
            "16816" => (16 * 8 * 16, 1),
            "16832" => (16 * 8 * 32, 1),
            "16864" => (16 * 8 * 64, 1),
            "8816" => (8 * 8 * 16, 1),
            "884" if instruction.base() == "DMMA" => (8 * 8 * 4, 1),
            _ => {
                let sizes: Vec<u32> = shape.split('x').map(str::parse).collect::<Result<_, _>>().ok()?;
                let [m, n, k] = sizes.try_into().ok()?;
                (m * n * k, 4)
            }
        };
        let macs_cycle = match instruction.base() {
            "HMMA" | "HGMMA" if instruction.has("TF32") => self.tensor_macs / 2,
            "HMMA" | "HGMMA" => self.tensor_macs,
            // 4-bit operands would be twice as fast again; no one here uses them.
            "IMMA" | "IGMMA" | "QGMMA" => self.tensor_macs * 2,
            "DMMA" => self.tensor_macs_fp64,
            _ => return None,
        };
        Some(u32::div_ceil(macs, warps * macs_cycle))
    }
}

/// Passes through the shared memory's banks that an instruction needs without conflicts: each moves 128 bytes. Fewer
/// suffice where several lanes want the same bytes; the emulator counts those exactly.
fn wavefronts(instruction: &Instruction, class: Class) -> u32 {
    match class {
        // A warpgroup reads its operands once for all four sub-partitions, so that a warp has a quarter of it.
        Class::Tensor => instruction.shared_operand_bytes().div_ceil(4 * 128),
        // One 8 x 8 matrix of 16-bit elements is 128 bytes.
        Class::LoadMatrix | Class::StoreMatrix if instruction.has("4") => 4,
        Class::LoadMatrix | Class::StoreMatrix if instruction.has("2") => 2,
        Class::LoadShared | Class::StoreShared | Class::AsyncCopy if instruction.has("128") => 4,
        Class::LoadShared | Class::StoreShared | Class::AsyncCopy if instruction.has("64") => 2,
        Class::LoadMatrix | Class::StoreMatrix | Class::LoadShared | Class::StoreShared => 1,
        Class::AsyncCopy | Class::Shuffle => 1,
        _ => 0,
    }
}

/// How long the units of a sub-partition are busy with a warp's instructions. Each is a lower bound of the time that one
/// warp for each sub-partition needs; they run at the same time as far as the code's dependences let them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cycles {
    /// Tensor cores. What a warpgroup multiplies (HGMMA) keeps those of all four sub-partitions busy, for N / 2 cycles of
    /// 64 x N x 16: as long as each warp of it would its own quarter.
    pub tensor: u32,
    /// The scheduler, which issues one instruction a cycle.
    pub issue: u32,
    /// FP32 arithmetic and integer multiplication.
    pub fma: u32,
    /// Integers, logic, comparisons and packing.
    pub alu: u32,
    /// Pairs of 16-bit floats.
    pub half: u32,
    /// MUFU and conversions.
    pub special: u32,
    /// The shared memory's banks and the shuffles, of which an SM has one for all four sub-partitions. Copies from
    /// global memory (`cp.async`) write through them too.
    pub shared: u32,
    /// 64-bit floats.
    pub fp64: u32,
}

impl Cycles {
    /// Adds an instruction of a kind; `false` where its time on the tensor cores is not known.
    pub fn add(&mut self, instruction: &Instruction, class: Class, rates: &Rates) -> bool {
        self.issue += 1;
        self.shared += wavefronts(instruction, class) * rates.wavefront;
        match class {
            Class::Tensor => {
                let cycles = rates.tensor(instruction);
                self.tensor += cycles.unwrap_or(0);
                return cycles.is_some();
            }
            Class::Fp32 => self.fma += rates.fp32,
            Class::IntegerMultiply => self.fma += rates.integer_multiply,
            Class::Alu | Class::Pack => self.alu += rates.alu,
            Class::Half if instruction.opcode.contains("BF16") => self.half += rates.half_bf16,
            Class::Half => self.half += rates.half,
            Class::Mufu | Class::Convert => self.special += rates.special,
            Class::Fp64 => self.fp64 += rates.fp64,
            _ => {}
        }
        true
    }

    /// The units besides tensor cores and scheduler, by name.
    pub const fn others(&self) -> [(&'static str, u32); 6] {
        [
            ("fma", self.fma),
            ("alu", self.alu),
            ("half", self.half),
            ("special", self.special),
            ("shared", self.shared),
            ("fp64", self.fp64),
        ]
    }

    /// The busiest unit besides tensor cores and scheduler.
    pub fn longest_other(&self) -> (&'static str, u32) {
        // The first of equals.
        self.others().into_iter().rev().max_by_key(|(_, cycles)| *cycles).unwrap_or_default()
    }

    /// Issue slots for 100 cycles of the tensor cores, rounded up; `None` without tensor work.
    pub fn issue_percent(&self) -> Option<u32> {
        percent(self.issue, self.tensor)
    }

    /// Cycles of the busiest other unit for 100 cycles of the tensor cores, rounded up; `None` without tensor work.
    pub fn other_unit_percent(&self) -> Option<u32> {
        percent(self.longest_other().1, self.tensor)
    }
}

fn percent(part: u32, whole: u32) -> Option<u32> {
    (whole > 0).then(|| (part * 100).div_ceil(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instruction(opcode: &str) -> Instruction {
        Instruction { address: 0, guard: None, opcode: opcode.to_string(), operands: String::new() }
    }

    fn cycles(opcode: &str, rates: &Rates) -> Cycles {
        let instruction = instruction(opcode);
        let mut cycles = Cycles::default();
        assert!(cycles.add(&instruction, Class::of(&instruction), rates), "{opcode}");
        cycles
    }

    #[test]
    fn tensor_cores_take_as_long_as_their_multiplications() {
        let tensor = |opcode| [&Rates::A100, &Rates::H100].map(|rates| cycles(opcode, rates).tensor);
        assert_eq!(tensor("HMMA.16816.F32"), [8, 4]);
        assert_eq!(tensor("HMMA.16816.F32.BF16"), [8, 4]);
        assert_eq!(tensor("HMMA.1688.F32"), [4, 2]);
        assert_eq!(tensor("HMMA.1688.F32.TF32"), [8, 4]);
        assert_eq!(tensor("IMMA.16832.S8.S8"), [8, 4]);
        assert_eq!(tensor("DMMA.884"), [16, 8]);
        assert_eq!(cycles("HGMMA.64x128x16.F32.BF16", &Rates::H100).tensor, 64);
        assert_eq!(cycles("QGMMA.64x256x32.F32.E4M3.E4M3", &Rates::H100).tensor, 128);
        assert_eq!(cycles("HGMMA.64x80x16.F32", &Rates::H100).tensor, 40);
        assert!(!Cycles::default().add(&instruction("HMMA.SP.F32"), Class::Tensor, &Rates::A100));
    }

    /// B of 16 x N from shared memory, and A of 64 x 16 where it is not in registers: 128 bytes a cycle and SM.
    #[test]
    fn a_warpgroup_reads_its_operands_from_shared_memory_once() {
        let shared = |opcode: &str, operands: &str| {
            let instruction = Instruction { operands: operands.to_string(), ..instruction(opcode) };
            let mut cycles = Cycles::default();
            assert!(cycles.add(&instruction, Class::of(&instruction), &Rates::H100), "{opcode}");
            cycles.shared
        };
        assert_eq!(shared("HGMMA.64x128x16.F32.BF16", "R24, gdesc[UR16], RZ, !UPT"), 48);
        assert_eq!(shared("HGMMA.64x128x16.F32.BF16", "R24, R88, gdesc[UR16].tnspB, R24"), 32);
        assert_eq!(shared("HGMMA.64x64x16.F32", "R24, gdesc[UR4], R24, gsb0"), 32);
        assert_eq!(shared("HMMA.16816.F32", "R12, R4, R8, R12"), 0);
    }

    #[test]
    fn other_units_take_as_long_as_the_guide_says() {
        let spent = |opcode| {
            let cycles = cycles(opcode, &Rates::A100);
            (cycles.longest_other(), cycles.issue)
        };
        assert_eq!(spent("FFMA.FTZ"), (("fma", 2), 1));
        assert_eq!(spent("IMAD.MOV.U32"), (("fma", 2), 1));
        assert_eq!(spent("FMNMX"), (("alu", 2), 1));
        assert_eq!(spent("F2FP.PACK_AB"), (("alu", 2), 1));
        assert_eq!(spent("HFMA2.MMA"), (("half", 1), 1));
        assert_eq!(spent("HFMA2.MMA.BF16_V2"), (("half", 2), 1));
        assert_eq!(spent("MUFU.EX2"), (("special", 8), 1));
        assert_eq!(spent("LDSM.16.MT88.4"), (("shared", 16), 1));
        assert_eq!(spent("LDSM.16.M88.2"), (("shared", 8), 1));
        assert_eq!(spent("LDSM.16.M88"), (("shared", 4), 1));
        assert_eq!(spent("LDS.U.128"), (("shared", 16), 1));
        assert_eq!(spent("STS.U16"), (("shared", 4), 1));
        assert_eq!(spent("LDGSTS.E.BYPASS.LTC128B.128"), (("shared", 16), 1));
        assert_eq!(spent("SHFL.BFLY"), (("shared", 4), 1));
        // Only a slot of the scheduler.
        assert_eq!(spent("UIADD3").0.1, 0);
        assert_eq!(spent("BAR.SYNC.DEFER_BLOCKING").0.1, 0);
        assert_eq!(Class::of(&instruction("UIADD3")), Class::Uniform);
        assert_eq!(Class::of(&instruction("BAR.SYNC")), Class::Barrier);
    }

    #[test]
    fn what_is_never_executed_takes_an_issue_slot_and_no_unit() {
        for guard in ["!PT", "!UPT"] {
            let instruction = Instruction { guard: Some(guard.to_string()), ..instruction("LDS.128") };
            let mut cycles = Cycles::default();
            assert!(cycles.add(&instruction, Class::of(&instruction), &Rates::A100));
            assert_eq!(cycles, Cycles { issue: 1, ..Cycles::default() });
        }
        let guarded = Instruction { guard: Some("!P0".to_string()), ..instruction("LDS.128") };
        assert_eq!(Class::of(&guarded), Class::LoadShared);
    }

    #[test]
    fn every_class_is_in_the_order_of_tables_once() {
        assert!(Class::ALL.is_sorted());
        let mut names = Class::ALL.map(Class::name).to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Class::ALL.len());
    }
}
