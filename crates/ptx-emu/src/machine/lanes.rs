//! Handlers for instructions that treat each lane alike, made from one scalar expression.

/// A handler `d = f(a)` on word rows.
macro_rules! word1 {
    (|$a:ident| $body:expr) => {{
        fn handler(x: &mut $crate::machine::Exec<'_>, i: &$crate::decode::Inst, mask: u32) -> $crate::machine::Step {
            let a = x.word(i.a, mask);
            let mut out = [0u32; 32];
            for lane in 0..32 {
                let $a: u32 = a[lane];
                out[lane] = $body;
            }
            x.set_word(i.d, mask, &out);
            $crate::machine::Step::Next
        }
        handler as $crate::machine::Handler
    }};
}

/// A handler `d = f(a, b)` on word rows.
macro_rules! word2 {
    (|$a:ident, $b:ident| $body:expr) => {{
        fn handler(x: &mut $crate::machine::Exec<'_>, i: &$crate::decode::Inst, mask: u32) -> $crate::machine::Step {
            let a = x.word(i.a, mask);
            let b = x.word(i.b, mask);
            let mut out = [0u32; 32];
            for lane in 0..32 {
                let ($a, $b): (u32, u32) = (a[lane], b[lane]);
                out[lane] = $body;
            }
            x.set_word(i.d, mask, &out);
            $crate::machine::Step::Next
        }
        handler as $crate::machine::Handler
    }};
}

/// A handler `d = f(a, b, c)` on word rows.
macro_rules! word3 {
    (|$a:ident, $b:ident, $c:ident| $body:expr) => {{
        fn handler(x: &mut $crate::machine::Exec<'_>, i: &$crate::decode::Inst, mask: u32) -> $crate::machine::Step {
            let a = x.word(i.a, mask);
            let b = x.word(i.b, mask);
            let c = x.word(i.c, mask);
            let mut out = [0u32; 32];
            for lane in 0..32 {
                let ($a, $b, $c): (u32, u32, u32) = (a[lane], b[lane], c[lane]);
                out[lane] = $body;
            }
            x.set_word(i.d, mask, &out);
            $crate::machine::Step::Next
        }
        handler as $crate::machine::Handler
    }};
}

/// A handler `d = f(a)` on long rows.
macro_rules! long1 {
    (|$a:ident| $body:expr) => {{
        fn handler(x: &mut $crate::machine::Exec<'_>, i: &$crate::decode::Inst, mask: u32) -> $crate::machine::Step {
            let a = x.long(i.a, mask);
            let mut out = [0u64; 32];
            for lane in 0..32 {
                let $a: u64 = a[lane];
                out[lane] = $body;
            }
            x.set_long(i.d, mask, &out);
            $crate::machine::Step::Next
        }
        handler as $crate::machine::Handler
    }};
}

/// A handler `d = f(a, b)` on long rows.
macro_rules! long2 {
    (|$a:ident, $b:ident| $body:expr) => {{
        fn handler(x: &mut $crate::machine::Exec<'_>, i: &$crate::decode::Inst, mask: u32) -> $crate::machine::Step {
            let a = x.long(i.a, mask);
            let b = x.long(i.b, mask);
            let mut out = [0u64; 32];
            for lane in 0..32 {
                let ($a, $b): (u64, u64) = (a[lane], b[lane]);
                out[lane] = $body;
            }
            x.set_long(i.d, mask, &out);
            $crate::machine::Step::Next
        }
        handler as $crate::machine::Handler
    }};
}

/// A handler `d = f(a, b, c)` on long rows.
macro_rules! long3 {
    (|$a:ident, $b:ident, $c:ident| $body:expr) => {{
        fn handler(x: &mut $crate::machine::Exec<'_>, i: &$crate::decode::Inst, mask: u32) -> $crate::machine::Step {
            let a = x.long(i.a, mask);
            let b = x.long(i.b, mask);
            let c = x.long(i.c, mask);
            let mut out = [0u64; 32];
            for lane in 0..32 {
                let ($a, $b, $c): (u64, u64, u64) = (a[lane], b[lane], c[lane]);
                out[lane] = $body;
            }
            x.set_long(i.d, mask, &out);
            $crate::machine::Step::Next
        }
        handler as $crate::machine::Handler
    }};
}

/// A handler with a source and a destination of different widths:
/// `mixed!(word => long, |a| ..)`.
macro_rules! mixed {
    (word => long, |$a:ident| $body:expr) => {
        mixed!(word, set_long, u32, u64, |$a| $body)
    };
    (long => word, |$a:ident| $body:expr) => {
        mixed!(long, set_word, u64, u32, |$a| $body)
    };
    ($get:ident, $set:ident, $from:ty, $to:ty, |$a:ident| $body:expr) => {{
        fn handler(x: &mut $crate::machine::Exec<'_>, i: &$crate::decode::Inst, mask: u32) -> $crate::machine::Step {
            let a = x.$get(i.a, mask);
            let mut out = [0 as $to; 32];
            for lane in 0..32 {
                let $a: $from = a[lane];
                out[lane] = $body;
            }
            x.$set(i.d, mask, &out);
            $crate::machine::Step::Next
        }
        handler as $crate::machine::Handler
    }};
}

pub(crate) use {long1, long2, long3, mixed, word1, word2, word3};
