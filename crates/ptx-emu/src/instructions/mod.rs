//! The instruction set, one file per family as in the PTX ISA manual. Each family turns the parsed
//! form of its instructions into a handler and rows. Other architectures add their families here:
//! bulk and tensor copies next to [`async_copy`], wgmma next to [`matrix`], mbarriers next to [`sync`].

mod address;
mod async_copy;
mod atomic;
mod bits;
mod bulk;
mod cluster;
mod compare;
mod control;
mod convert;
mod float;
mod global;
mod half;
mod integer;
mod local;
mod matrix;
mod mbarrier;
mod memory;
mod mma;
mod movement;
mod setmaxnreg;
mod sync;
mod warp;
mod wgmma;

use crate::Error;
use crate::decode::{Decoder, Form, Inst};
use crate::machine::Handler;
use crate::module::{Operand, ScalarType};

/// Gives one instruction its meaning.
pub(crate) fn decode(d: &mut Decoder<'_>, f: &mut Form<'_>) -> Result<Inst, Error> {
    let ty = f.peek_ty();
    let half = matches!(ty, Some(ScalarType::F16 | ScalarType::F16x2 | ScalarType::Bf16 | ScalarType::Bf16x2));
    let float = matches!(ty, Some(ScalarType::F32 | ScalarType::F64));
    let pure = |inst: Result<Inst, Error>| inst.map(|inst| Inst { is_pure: true, ..inst });
    match f.base {
        "add" | "sub" | "mul" | "fma" | "abs" | "neg" | "min" | "max" | "ex2" | "tanh" if half => {
            pure(half::decode(d, f))
        }
        "add" | "sub" | "mul" | "div" | "abs" | "neg" | "min" | "max" if float => pure(float::decode(d, f)),
        "fma" | "rcp" | "sqrt" | "rsqrt" | "sin" | "cos" | "lg2" | "ex2" | "tanh" | "copysign" | "testp" => {
            pure(float::decode(d, f))
        }
        "mad" if float => pure(float::decode(d, f)),
        "add" | "sub" | "mul" | "mad" | "mul24" | "mad24" | "div" | "rem" | "abs" | "neg" | "min" | "max" | "sad" => {
            pure(integer::decode(d, f))
        }
        "popc" | "clz" | "bfind" | "brev" | "bfe" | "bfi" | "and" | "or" | "xor" | "not" | "cnot" | "lop3" | "shf"
        | "shl" | "shr" | "prmt" => pure(bits::decode(d, f)),
        "setp" | "set" | "selp" | "slct" => pure(compare::decode(d, f)),
        "cvt" => pure(convert::decode(d, f)),
        "mov" | "cvta" | "isspacep" => pure(movement::decode(d, f)),
        "ld" | "ldu" | "st" | "prefetch" | "prefetchu" | "discard" | "applypriority" => memory::decode(d, f),
        "atom" | "red" => atomic::decode(d, f),
        "cp" => async_copy::decode(d, f),
        "ldmatrix" | "stmatrix" | "movmatrix" => matrix::decode(d, f),
        "mma" => mma::decode(d, f),
        "bra" | "brx" | "ret" | "exit" | "trap" | "brkpt" | "nanosleep" | "pmevent" => control::decode(d, f),
        "barrier" if f.accept("cluster") => cluster::barrier(f),
        "bar" | "barrier" | "membar" | "fence" => sync::decode(d, f),
        "mbarrier" => mbarrier::decode(d, f),
        "mapa" => cluster::map_address(d, f),
        "getctarank" => cluster::rank(d, f),
        "griddepcontrol" => sync::grid_dependency(f),
        "shfl" | "vote" | "match" | "activemask" | "redux" | "elect" => warp::decode(d, f),
        "wgmma" | "setmaxnreg" => {
            d.program.has_warpgroups = true;
            if f.base == "wgmma" { wgmma::decode(d, f) } else { setmaxnreg::decode(d, f) }
        }
        _ => Err(f.unsupported("the opcode is unknown or belongs to a part that is not modelled")),
    }
}

/// `op d, a`
fn unary(d: &mut Decoder<'_>, f: &Form<'_>, handler: Handler, to: ScalarType, from: ScalarType) -> Result<Inst, Error> {
    f.expect_operands(2..=2)?;
    let mut inst = Inst::new(handler);
    inst.d = d.destination(f, f.operand(0)?, to)?;
    inst.a = d.source(f, f.operand(1)?, from)?;
    Ok(inst)
}

/// `op d, a, b` with all operands of one type.
fn binary(d: &mut Decoder<'_>, f: &Form<'_>, handler: Handler, ty: ScalarType) -> Result<Inst, Error> {
    binary_mixed(d, f, handler, [ty; 3])
}

/// `op d, a, b` with a type for each operand.
fn binary_mixed(d: &mut Decoder<'_>, f: &Form<'_>, handler: Handler, types: [ScalarType; 3]) -> Result<Inst, Error> {
    f.expect_operands(3..=3)?;
    let mut inst = Inst::new(handler);
    inst.d = d.destination(f, f.operand(0)?, types[0])?;
    inst.a = d.source(f, f.operand(1)?, types[1])?;
    inst.b = d.source(f, f.operand(2)?, types[2])?;
    Ok(inst)
}

/// `op d, a, b, c` with a type for each operand.
fn ternary_mixed(d: &mut Decoder<'_>, f: &Form<'_>, handler: Handler, types: [ScalarType; 4]) -> Result<Inst, Error> {
    f.expect_operands(4..=4)?;
    let mut inst = Inst::new(handler);
    inst.d = d.destination(f, f.operand(0)?, types[0])?;
    inst.a = d.source(f, f.operand(1)?, types[1])?;
    inst.b = d.source(f, f.operand(2)?, types[2])?;
    inst.c = d.source(f, f.operand(3)?, types[3])?;
    Ok(inst)
}

/// `op d, a, b, c` with all operands of one type.
fn ternary(d: &mut Decoder<'_>, f: &Form<'_>, handler: Handler, ty: ScalarType) -> Result<Inst, Error> {
    ternary_mixed(d, f, handler, [ty; 4])
}

/// The two destinations of `d|p`; the second may be missing.
fn pair(operand: &Operand) -> (&Operand, Option<&Operand>) {
    match operand {
        Operand::Pair(first, second) => (first, Some(second)),
        single => (single, None),
    }
}
