//! Which part of the PTX ISA manual describes an instruction, for error messages. Section titles
//! rather than numbers: the numbers move between versions of the manual.

/// The manual's section for an opcode.
pub(crate) fn of(base: &str, opcode: &str) -> &'static str {
    if opcode.starts_with("cp.async.bulk") || opcode.starts_with("cp.reduce.async") || base == "tensormap" {
        return "Data Movement and Conversion Instructions: Asynchronous copy, bulk and tensor";
    }
    if opcode.starts_with("cp.async") {
        return "Data Movement and Conversion Instructions: Asynchronous copy, non-bulk";
    }
    match base {
        "add" | "sub" | "mul" | "mad" | "mul24" | "mad24" | "sad" | "div" | "rem" | "abs" | "neg" | "min" | "max"
        | "popc" | "clz" | "bfind" | "fns" | "brev" | "bfe" | "bfi" | "szext" | "bmsk" | "dp4a" | "dp2a" => {
            "Integer Arithmetic Instructions / Floating Point Instructions"
        }
        "addc" | "subc" | "madc" => "Extended-Precision Integer Arithmetic Instructions",
        "fma" | "rcp" | "sqrt" | "rsqrt" | "sin" | "cos" | "lg2" | "ex2" | "tanh" | "testp" | "copysign" => {
            "Floating Point Instructions / Half Precision Floating Point Instructions"
        }
        "set" | "setp" | "selp" | "slct" => "Comparison and Selection Instructions",
        "and" | "or" | "xor" | "not" | "cnot" | "lop3" | "shf" | "shl" | "shr" => "Logic and Shift Instructions",
        "mov" | "shfl" | "prmt" | "ld" | "ldu" | "st" | "prefetch" | "prefetchu" | "applypriority" | "discard"
        | "createpolicy" | "isspacep" | "cvta" | "cvt" | "mapa" | "getctarank" | "multimem" => {
            "Data Movement and Conversion Instructions"
        }
        "tex" | "tld4" | "txq" => "Texture Instructions",
        "suld" | "sust" | "sured" | "suq" => "Surface Instructions",
        "bra" | "brx" | "call" | "ret" | "exit" => "Control Flow Instructions",
        "bar"
        | "barrier"
        | "membar"
        | "fence"
        | "atom"
        | "red"
        | "vote"
        | "match"
        | "activemask"
        | "redux"
        | "griddepcontrol"
        | "elect"
        | "mbarrier"
        | "clusterlaunchcontrol" => "Parallel Synchronization and Communication Instructions",
        "wmma" | "mma" | "ldmatrix" | "stmatrix" | "movmatrix" => "Warp Level Matrix Multiply-Accumulate Instructions",
        "wgmma" => "Asynchronous Warpgroup Level Matrix Multiply-Accumulate Instructions",
        "tcgen05" => "TensorCore 5th Generation Family Instructions",
        "stacksave" | "stackrestore" | "alloca" => "Stack Manipulation Instructions",
        "vadd" | "vsub" | "vabsdiff" | "vmin" | "vmax" | "vshl" | "vshr" | "vmad" | "vset" => "Video Instructions",
        "brkpt" | "nanosleep" | "pmevent" | "trap" | "setmaxnreg" => "Miscellaneous Instructions",
        _ => "Instruction Set",
    }
}
