//! Control flow.

use crate::Error;
use crate::decode::{Decoder, Form, Inst};
use crate::hazard::HazardKind;
use crate::machine::{Step, each_lane};
use crate::module::Operand;
use crate::module::ScalarType::U32;

pub(super) fn decode(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    match f.base {
        "bra" => {
            f.accept("uni");
            f.expect_operands(1..=1)?;
            let mut inst = Inst::new(|_, i, _| Step::Jump(i.a));
            inst.a = label(f, f.operand(0)?)?;
            Ok(inst)
        }
        "brx" => indexed(d, f),
        "ret" | "exit" => {
            f.accept("uni");
            f.expect_operands(0..=0)?;
            Ok(Inst::new(|_, _, _| Step::Exit))
        }
        "trap" => Ok(Inst::new(|x, _, mask| x.report(Some(mask.trailing_zeros()), None, HazardKind::Trap))),
        "nanosleep" => {
            let ty = f.ty()?;
            f.expect_operands(1..=1)?;
            let mut inst = Inst::new(|x, i, mask| {
                x.word(i.a, mask);
                Step::Yield
            });
            inst.a = d.source(f, f.operand(0)?, ty)?;
            Ok(inst)
        }
        "pmevent" => {
            f.accept("mask");
            f.constant(0)?;
            Ok(Inst::new(|_, _, _| Step::Next))
        }
        _ => Err(f.unsupported("a breakpoint needs a debugger")),
    }
}

fn label(f: &Form<'_>, operand: &Operand) -> Result<u32, Error> {
    match operand {
        Operand::Label(index) => Ok(*index),
        Operand::Symbol(name, _) => Err(Error::UnknownSymbol { line: f.instruction.line, name: name.clone() }),
        _ => Err(f.unsupported("the target must be a label")),
    }
}

/// `brx.idx index, table`
fn indexed(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    f.require("the form", &[("idx", ())])?;
    f.accept("uni");
    f.expect_operands(2..=2)?;
    let Operand::Symbol(name, _) = f.operand(1)? else {
        return Err(f.unsupported("the second operand must name a .branchtargets list"));
    };
    let unknown = || Error::UnknownSymbol { line: f.instruction.line, name: name.clone() };
    let table = d.kernel.branch_targets.get(name).ok_or_else(unknown)?.clone();
    let mut inst = Inst::new(|x, i, mask| {
        let index = x.word(i.a, mask);
        let table = &x.launch.program.tables[i.b as usize];
        let wrong = each_lane(mask).find(|lane| index[*lane] as usize >= table.len());
        if let Some(lane) = wrong {
            let nearest = format!("beyond a jump table of {} entries", table.len());
            let kind =
                HazardKind::OutOfBounds { space: crate::Space::Const, access: crate::Access::Read, bytes: 4, nearest };
            return x.report(Some(lane as u32), Some(u64::from(index[lane])), kind);
        }
        for lane in each_lane(mask) {
            x.warp.targets[lane] = table[index[lane] as usize];
        }
        Step::Scatter
    });
    inst.a = d.source(f, f.operand(0)?, U32)?;
    inst.b = d.program.tables.len() as u32;
    d.program.tables.push(table);
    Ok(inst)
}
