//! AMX, the tile registers of Intel's processors since 2023, beside AVX-512 with bf16.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::cell::Cell;
use std::marker::PhantomData;

use super::avx512::Avx512;
use super::product::{Left, Right, Update};
use super::tiles::{self, Rows, SIDE, Tiles};

/// Exists only where the processor has AMX with bf16, Linux lets this process use it, and AVX-512 has bf16 too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Amx(Avx512<true>);

impl Amx {
    pub fn detect() -> Option<Amx> {
        /// Of CPUID leaf 7, EDX: AMX with bf16, and tiles.
        const FEATURES: u32 = 1 << 22 | 1 << 24;
        let avx512 = Avx512::detect()?;
        let has_it = __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & FEATURES == FEATURES;
        (has_it && may_use_tiles()).then_some(Amx(avx512))
    }

    /// [`super::product`] of pairs.
    pub fn product(
        self,
        a: Left<'_>,
        b: Right<'_>,
        c: &mut [f32],
        c_stride: usize,
        update: Update<'_>,
        size: [usize; 3],
    ) {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma,f16c")]
        fn compiled(
            amx: Amx,
            a: Left<'_>,
            b: Right<'_>,
            c: &mut [f32],
            c_stride: usize,
            update: Update<'_>,
            size: [usize; 3],
        ) {
            tiles::product(amx, a, b, c, c_stride, update, size);
        }
        // SAFETY: a value of this type exists only where the processor has these instructions.
        unsafe { compiled(self, a, b, c, c_stride, update, size) }
    }

    /// The vector instructions.
    pub fn avx512(self) -> Avx512<true> {
        self.0
    }
}

/// Asks Linux for the tile registers, which threads have no memory for until their process asks; every thread has them from then on.
#[cfg(target_os = "linux")]
fn may_use_tiles() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const XFEATURE_XTILEDATA: i64 = 18;
    let mut result = ARCH_PRCTL;
    // SAFETY: the call changes nothing but what it is for, and fails where the kernel or the processor has no tiles.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn may_use_tiles() -> bool {
    false
}

/// What `ldtilecfg` reads: all eight tiles are whole.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

const WHOLE_TILES: Configuration = Configuration {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// A loop over groups in depth: c's tiles are cleared or loaded, a step's tiles loaded and multiplied, c's tiles stored. Tiles 0 to 3
/// are those of c, 4 and 5 those of a, 6 and 7 those of b.
macro_rules! multiply {
    ($a:ident, $b:ident, $groups:ident, $c:ident, $stride:ident, $adds:ident,
     clear: [$($clear:literal),*], load: [$($load:literal),*], step: [$($step:literal),*], store: [$($store:literal),*]) => {
        asm!(
            "test {adds}, {adds}",
            "jnz 2f",
            $($clear,)*
            "jmp 3f",
            "2:",
            $($load,)*
            "3:",
            $($step,)*
            "add {a0}, {a_step}",
            "add {a1}, {a_step}",
            "add {b}, {b_step}",
            "dec {groups}",
            "jnz 3b",
            $($store,)*
            adds = in(reg) u64::from($adds),
            a0 = inout(reg) $a.at[0] => _,
            a1 = inout(reg) $a.at[1] => _,
            a_stride = in(reg) 4 * $a.stride,
            a_step = in(reg) 4 * $a.step,
            b = inout(reg) $b.at[0] => _,
            b_stride = in(reg) 4 * $b.stride,
            b_step = in(reg) 4 * $b.step,
            groups = inout(reg) $groups => _,
            c0 = in(reg) $c,
            c1 = in(reg) $c.wrapping_add(SIDE * $stride),
            c_stride = in(reg) 4 * $stride,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        )
    };
}

thread_local! {
    /// Whether the tiles of this thread are configured.
    static ARE_CONFIGURED: Cell<bool> = const { Cell::new(false) };
}

/// The tiles of a thread, configured as [`WHOLE_TILES`] says until this is dropped. To configure and to release them takes as long as
/// a product of a few tiles.
#[must_use]
pub(crate) struct Held {
    /// Whether this one configured them.
    is_first: bool,
    /// They are those of one thread.
    of_thread: PhantomData<*mut ()>,
}

impl Held {
    fn new(_: Amx) -> Held {
        let is_first = !ARE_CONFIGURED.replace(true);
        if is_first {
            // SAFETY: an `Amx` proves that this thread has tile registers. Nobody else keeps something in them: by the ABI,
            // calls do not preserve them.
            unsafe { asm!("ldtilecfg [{}]", in(reg) &WHOLE_TILES, options(nostack, readonly)) };
        }
        Held { is_first, of_thread: PhantomData }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.is_first {
            // SAFETY: as above. Whoever else held them was dropped before.
            unsafe { asm!("tilerelease", options(nostack, nomem)) };
            ARE_CONFIGURED.set(false);
        }
    }
}

impl Tiles for Amx {
    type Vectors = Avx512<true>;

    #[inline(always)]
    fn vectors(self) -> Avx512<true> {
        self.0
    }

    type Held = Held;

    #[inline(always)]
    fn hold(self) -> Held {
        Held::new(self)
    }

    #[inline(always)]
    unsafe fn multiply<const R: usize, const C: usize>(
        self,
        a: Rows,
        b: Rows,
        groups: usize,
        c: *mut f32,
        stride: usize,
        adds: bool,
    ) {
        debug_assert!(groups > 0 && b.at[1] == b.at[0].wrapping_add(SIDE));
        // SAFETY: as the caller promises, and the tiles are configured.
        unsafe {
            match (R, C) {
                (1, 1) => multiply!(a, b, groups, c, stride, adds,
                    clear: ["tilezero tmm0"],
                    load: ["tileloadd tmm0, [{c0} + {c_stride}*1]"],
                    step: ["tileloadd tmm4, [{a0} + {a_stride}*1]", "tileloadd tmm6, [{b} + {b_stride}*1]",
                           "tdpbf16ps tmm0, tmm4, tmm6"],
                    store: ["tilestored [{c0} + {c_stride}*1], tmm0", "/* {c1} */"]),
                (1, _) => multiply!(a, b, groups, c, stride, adds,
                    clear: ["tilezero tmm0", "tilezero tmm1"],
                    load: ["tileloadd tmm0, [{c0} + {c_stride}*1]", "tileloadd tmm1, [{c0} + {c_stride}*1 + 64]"],
                    step: ["tileloadd tmm4, [{a0} + {a_stride}*1]", "tileloadd tmm6, [{b} + {b_stride}*1]",
                           "tdpbf16ps tmm0, tmm4, tmm6", "tileloadd tmm7, [{b} + {b_stride}*1 + 64]",
                           "tdpbf16ps tmm1, tmm4, tmm7"],
                    store: ["tilestored [{c0} + {c_stride}*1], tmm0", "tilestored [{c0} + {c_stride}*1 + 64], tmm1", "/* {c1} */"]),
                (_, 1) => multiply!(a, b, groups, c, stride, adds,
                    clear: ["tilezero tmm0", "tilezero tmm2"],
                    load: ["tileloadd tmm0, [{c0} + {c_stride}*1]", "tileloadd tmm2, [{c1} + {c_stride}*1]"],
                    step: ["tileloadd tmm6, [{b} + {b_stride}*1]", "tileloadd tmm4, [{a0} + {a_stride}*1]",
                           "tdpbf16ps tmm0, tmm4, tmm6", "tileloadd tmm5, [{a1} + {a_stride}*1]",
                           "tdpbf16ps tmm2, tmm5, tmm6"],
                    store: ["tilestored [{c0} + {c_stride}*1], tmm0", "tilestored [{c1} + {c_stride}*1], tmm2"]),
                _ => multiply!(a, b, groups, c, stride, adds,
                    clear: ["tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3"],
                    load: ["tileloadd tmm0, [{c0} + {c_stride}*1]", "tileloadd tmm1, [{c0} + {c_stride}*1 + 64]",
                           "tileloadd tmm2, [{c1} + {c_stride}*1]", "tileloadd tmm3, [{c1} + {c_stride}*1 + 64]"],
                    step: ["tileloadd tmm4, [{a0} + {a_stride}*1]", "tileloadd tmm6, [{b} + {b_stride}*1]",
                           "tdpbf16ps tmm0, tmm4, tmm6", "tileloadd tmm7, [{b} + {b_stride}*1 + 64]",
                           "tdpbf16ps tmm1, tmm4, tmm7", "tileloadd tmm5, [{a1} + {a_stride}*1]",
                           "tdpbf16ps tmm2, tmm5, tmm6", "tdpbf16ps tmm3, tmm5, tmm7"],
                    store: ["tilestored [{c0} + {c_stride}*1], tmm0", "tilestored [{c0} + {c_stride}*1 + 64], tmm1",
                            "tilestored [{c1} + {c_stride}*1], tmm2", "tilestored [{c1} + {c_stride}*1 + 64], tmm3"]),
            }
        }
    }
}
