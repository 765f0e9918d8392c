//! nvdisasm's text as functions and instructions.

use std::collections::HashMap;

/// The code of one kernel, with the functions that the compiler put beside it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Function {
    /// The kernel's name.
    pub name: String,
    /// Registers of a thread; `None` where the listing does not say.
    pub registers: Option<u32>,
    /// Shared memory that the code declares, in bytes: what a launch adds is not among it.
    pub shared_static_bytes: u32,
    /// In the order of their addresses.
    pub instructions: Vec<Instruction>,
    /// The instruction that each label stands before.
    pub labels: HashMap<String, usize>,
}

/// One machine instruction: `@!P0 HMMA.16816.F32 R4, R8, R12, R4`.
#[derive(Clone, Debug, PartialEq)]
pub struct Instruction {
    /// Its place in the function, in bytes.
    pub address: u32,
    /// The predicate that it depends on, without the `@`: `!P0`, `UP1`.
    pub guard: Option<String>,
    /// With all modifiers: `HMMA.16816.F32`.
    pub opcode: String,
    /// All that follows.
    pub operands: String,
}

impl Instruction {
    fn parse(line: &str) -> Option<Instruction> {
        let (address, text) = line.trim_start().strip_prefix("/*")?.split_once("*/")?;
        let address = u32::from_str_radix(address.trim(), 16).ok()?;
        let text = text.trim();
        // Data looks alike: `/*0000*/ .byte 0x04, 0x2f`.
        let text = text.rfind(';').map(|end| text[..end].trim())?;
        let (guard, text) = match text.strip_prefix('@') {
            Some(guarded) => {
                let (guard, text) = guarded.split_once(char::is_whitespace)?;
                (Some(guard.to_string()), text.trim_start())
            }
            None => (None, text),
        };
        let (opcode, operands) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let is_opcode = opcode.starts_with(|first: char| first.is_ascii_uppercase());
        is_opcode.then(|| Instruction {
            address,
            guard,
            opcode: opcode.to_string(),
            operands: operands.trim().to_string(),
        })
    }

    /// The opcode without modifiers: `HMMA`.
    pub fn base(&self) -> &str {
        self.opcode.split('.').next().unwrap_or(&self.opcode)
    }

    /// Whether a modifier is among the opcode's.
    pub fn has(&self, modifier: &str) -> bool {
        self.opcode.split('.').skip(1).any(|word| word == modifier)
    }

    /// Whether its predicate is the constant one, negated.
    pub fn is_never_executed(&self) -> bool {
        matches!(self.guard.as_deref(), Some("!PT" | "!UPT"))
    }

    /// What an instruction of a warpgroup's tensor cores reads from shared memory, for all of its warps: B, and A where it is
    /// not in registers. 0 for everything else, and for shapes that are not known here.
    pub(crate) fn shared_operand_bytes(&self) -> u32 {
        let element_bits = match self.base() {
            "HGMMA" if self.has("TF32") => 32,
            "HGMMA" => 16,
            "QGMMA" | "IGMMA" => 8,
            _ => return 0,
        };
        let shape = self.opcode.split('.').nth(1).unwrap_or_default();
        let sizes: Vec<u32> = shape.split('x').filter_map(|size| size.parse().ok()).collect();
        let [m, n, k] = sizes[..] else { return 0 };
        // `R24, gdesc[UR16], R24`, or with A in registers `R24, R88, gdesc[UR16], R24`.
        let a_is_shared = self.operands.split(',').nth(1).is_some_and(|operand| operand.trim().starts_with("gdesc"));
        (n + if a_is_shared { m } else { 0 }) * k * element_bits / 8
    }

    /// The labels that it names: `.L_x_3` of `` `(.L_x_3) `` and of `(*"BRANCH_TARGETS .L_x_3,.L_x_4"*)`.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        let is_end = |c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '$');
        self.operands.match_indices(".L_").map(move |(start, _)| {
            let rest = &self.operands[start + 1..];
            &self.operands[start..start + 1 + rest.find(is_end).unwrap_or(rest.len())]
        })
    }
}

impl Function {
    /// How many of its instructions have one of these opcodes, modifiers aside.
    pub fn count(&self, opcodes: &[&str]) -> usize {
        self.instructions.iter().filter(|instruction| opcodes.contains(&instruction.base())).count()
    }

    /// Accesses to local memory: spilled registers, and arrays that are indexed at run time.
    pub fn local_accesses(&self) -> usize {
        self.count(&["LDL", "STL"])
    }
}

/// The section about shared memory that the driver keeps for itself.
const RESERVED: &str = "reserved.0";

/// How much of it there is in every block.
pub(crate) const RESERVED_BYTES: u32 = 1 << 10;

/// The functions in what nvdisasm prints without options, in the listing's order.
pub fn functions(listing: &str) -> Vec<Function> {
    /// The section that a line lies in.
    enum Section {
        Text(usize),
        Shared(String),
        Other,
    }
    let mut functions: Vec<Function> = Vec::new();
    let mut shared: HashMap<String, u32> = HashMap::new();
    let mut registers: HashMap<&str, u32> = HashMap::new();
    // The name in an entry about register counts; the count is in the line after it.
    let (mut is_register_count, mut counted) = (false, None);
    let mut section = Section::Other;
    for line in listing.lines() {
        let trimmed = line.trim();
        // Not `.sectioninfo`.
        if let Some(rest) = trimmed.strip_prefix(".section").filter(|rest| rest.starts_with(char::is_whitespace)) {
            let name = rest.trim_start().split(',').next().unwrap_or_default().trim_matches('"');
            section = if let Some(name) = name.strip_prefix(".text.") {
                functions.push(Function { name: name.to_string(), ..Function::default() });
                Section::Text(functions.len() - 1)
            } else if let Some(name) = name.strip_prefix(".nv.shared.") {
                Section::Shared(name.to_string())
            } else {
                Section::Other
            };
            continue;
        }
        match &section {
            Section::Text(index) => {
                let function = &mut functions[*index];
                if let Some(instruction) = Instruction::parse(line) {
                    function.instructions.push(instruction);
                } else if let Some(label) = trimmed.strip_suffix(':') {
                    function.labels.insert(label.to_string(), function.instructions.len());
                } else if let Some((_, count)) = trimmed.split_once("SHI_REGISTERS=") {
                    function.registers = count.trim_end_matches('"').parse().ok();
                }
            }
            Section::Shared(name) => {
                let bytes = trimmed.strip_prefix(".zero").and_then(|count| count.trim().parse::<u32>().ok());
                *shared.entry(name.clone()).or_default() += bytes.unwrap_or(0);
            }
            Section::Other => {
                if let Some((_, attribute)) = trimmed.split_once("nvinfo : ") {
                    is_register_count = attribute == "EIATTR_REGCOUNT";
                } else if let Some((_, word)) = trimmed.split_once(".word").filter(|_| is_register_count) {
                    match (word.trim().strip_prefix("index@("), counted.take()) {
                        (Some(name), _) => counted = Some(name.trim_end_matches(')')),
                        (None, Some(name)) => {
                            let digits = word.trim().trim_start_matches("0x");
                            registers.extend(u32::from_str_radix(digits, 16).ok().map(|count| (name, count)));
                        }
                        (None, None) => {}
                    }
                }
            }
        }
    }
    // From sm_90 on, the section of a kernel holds the driver's kilobyte too, and another section says so.
    let reserved_bytes = if shared.contains_key(RESERVED) { RESERVED_BYTES } else { 0 };
    for function in &mut functions {
        let declared = shared.get(&function.name).copied().unwrap_or(0);
        function.shared_static_bytes = declared.saturating_sub(reserved_bytes);
        function.registers = registers.get(function.name.as_str()).copied().or(function.registers);
    }
    functions
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = include_str!("../tests/listing.sass");

    #[test]
    fn functions_have_their_registers_and_shared_memory() {
        let functions = functions(LISTING);
        let facts: Vec<_> = functions.iter().map(|f| (f.name.as_str(), f.registers, f.shared_static_bytes)).collect();
        assert_eq!(facts, [("tiles", Some(168), 1152), ("rows", Some(40), 0), ("marked", Some(24), 0)]);
        assert_eq!(functions[0].local_accesses(), 2);
        assert_eq!(functions[1].local_accesses(), 0);
    }

    /// As for sm_90: counts of registers stand in a table, and the driver's kilobyte counts as the kernel's.
    #[test]
    fn later_listings_are_understood() {
        let listing = "\
\t.section\t.nv.info,\"\",@\"SHT_CUDA_INFO\"
\t//----- nvinfo : EIATTR_REGCOUNT
        /*0000*/ \t.byte\t0x04, 0x2f
        /*0004*/ \t.word\tindex@(one)
        /*0008*/ \t.word\t0x000000fe
\t//----- nvinfo : EIATTR_FRAME_SIZE
        /*0014*/ \t.word\tindex@(one)
        /*0018*/ \t.word\t0x00000000
\t//----- nvinfo : EIATTR_REGCOUNT
        /*0004*/ \t.word\tindex@(two)
        /*0008*/ \t.word\t0x00000010
\t.section\t.text.one,\"ax\",@progbits
        /*0000*/                   EXIT ;
\t.section\t.text.two,\"ax\",@progbits
        /*0000*/                   EXIT ;
\t.section\t.nv.shared.one,\"aw\",@nobits
\t.zero\t\t1152
\t.section\t.nv.shared.reserved.0,\"aw\",@nobits
\t.zero\t\t0
";
        let functions = functions(listing);
        let facts: Vec<_> = functions.iter().map(|f| (f.name.as_str(), f.registers, f.shared_static_bytes)).collect();
        assert_eq!(facts, [("one", Some(254), 128), ("two", Some(16), 0)]);
    }

    #[test]
    fn instructions_are_taken_apart() {
        let functions = functions(LISTING);
        let at = |address: u32| {
            let found = functions[0].instructions.iter().find(|instruction| instruction.address == address);
            found.unwrap_or_else(|| panic!("no instruction at {address:#x}"))
        };
        assert_eq!(at(0).opcode, "IMAD.MOV.U32");
        assert_eq!((at(0x20).base(), at(0x20).guard.as_deref()), ("LDGSTS", Some("!P2")));
        assert!(at(0x20).has("128") && !at(0x20).has("64"));
        assert_eq!((at(0x30).base(), at(0x30).guard.as_deref()), ("UIADD3", Some("UP0")));
        assert_eq!((at(0x40).base(), at(0x40).guard.as_deref()), ("ULDC", Some("!UPT")));
        assert!(at(0x40).is_never_executed() && !at(0x30).is_never_executed() && !at(0).is_never_executed());
        assert_eq!(at(0x80).labels().collect::<Vec<_>>(), [".L_x_2"]);
        assert_eq!(functions[0].labels[".L_x_1"], 7);
        assert_eq!(functions[0].instructions.len(), 29);
    }

    #[test]
    fn every_target_of_an_indirect_branch_is_seen() {
        let line = "        /*0010*/    BRX R2 -0x10  (*\"BRANCH_TARGETS .L_x_15,.L_x_16\"*);";
        let instruction = Instruction::parse(line).expect("an instruction");
        assert_eq!(instruction.labels().collect::<Vec<_>>(), [".L_x_15", ".L_x_16"]);
        assert_eq!(Instruction::parse("        /*0000*/ \t.byte\t0x04, 0x2f"), None);
    }
}
