//! `setmaxnreg`: registers that one warpgroup gives up and another takes.

use super::matrix::whole_warp;
use crate::Error;
use crate::decode::{Decoder, Form, Inst, Sync};
use crate::machine::Step;

/// `setmaxnreg.action.sync.aligned.u32 count`
pub(super) fn decode(_: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    let increase = f.require("the action", &[("inc", true), ("dec", false)])?;
    f.require("the convergence", &[("sync", ())])?;
    f.require("the convergence", &[("aligned", ())])?;
    f.require("the type", &[("u32", ())])?;
    f.expect_operands(1..=1)?;
    let count = f.constant(0)?;
    if !(24..=256).contains(&count) || count % 8 != 0 {
        return Err(f.unsupported("the number of registers must be a multiple of 8 from 24 to 256"));
    }
    let mut inst = Inst::new(|x, i, mask| {
        whole_warp(x, mask);
        x.set_registers(i.a, i.b != 0);
        Step::Next
    });
    inst.a = count as u32;
    inst.b = u32::from(increase);
    inst.sync = Sync::Aligned;
    Ok(inst)
}
