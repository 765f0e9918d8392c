//! The threads that compute: rayon's global pool, and how they wait for the next call.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, OnceLock, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// How long the pool's threads look for work after a call, before they sleep: longer than a program needs from one call to the next.
/// A thread that has to be woken comes too late for half of a norm. OpenMP's threads wait the same way.
const AWAKE: Duration = Duration::from_micros(200);
/// Calls that take less are computed by one thread.
const CALL_MIN: Duration = Duration::from_micros(50);

/// The main thread, if it takes part in the pool.
static MAIN_THREAD: OnceLock<ThreadId> = OnceLock::new();

/// Computes without holding Python's lock, and if wanted keeps the pool's threads awake for the next call.
pub fn run<T: Send>(py: Python<'_>, stays_awake: bool, work: impl FnOnce() -> T + Send) -> PyResult<T> {
    start_pool(py)?;
    Ok(py.detach(|| in_pool(stays_awake, work)))
}

/// Starts rayon's global pool, once. The main thread takes part in it: where its own calls come from another thread's point of view
/// outside of the pool, it would sleep while they are computed, and each call would begin and end with waiting for a thread to wake.
/// A pool of one thread has a thread of its own, as another thread's calls would wait for the main thread otherwise.
fn start_pool(py: Python<'_>) -> PyResult<()> {
    static STARTED: PyOnceLock<()> = PyOnceLock::new();
    let start = || {
        let threading = py.import(intern!(py, "threading"))?;
        let ident = |thread: &str| threading.call_method0(thread)?.getattr(intern!(py, "ident"));
        let is_main = ident("current_thread")?.eq(ident("main_thread")?)?;
        let wanted = std::env::var("RAYON_NUM_THREADS").ok().and_then(|count| count.parse().ok()).unwrap_or(0);
        let threads = match wanted {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let builder = rayon::ThreadPoolBuilder::new().num_threads(threads);
        let builder = if is_main && threads > 1 { builder.use_current_thread() } else { builder };
        let takes_part = is_main && threads > 1;
        // It fails where there is a pool already, which is as good.
        if builder.build_global().is_ok() && takes_part {
            let _ = MAIN_THREAD.set(std::thread::current().id());
        }
        Ok(())
    };
    STARTED.get_or_try_init(py, start).copied()
}

/// Runs on rayon's global pool; but in a process that was forked off one that has used it, whose threads the fork did not
/// take along, on a new one.
fn in_pool<T: Send>(stays_awake: bool, work: impl FnOnce() -> T + Send) -> T {
    static FIRST_PROCESS: OnceLock<u32> = OnceLock::new();
    static POOLS: Mutex<Option<(u32, &'static rayon::ThreadPool)>> = Mutex::new(None);
    let process = std::process::id();
    if *FIRST_PROCESS.get_or_init(|| process) == process {
        let start = Instant::now();
        let result = work();
        if stays_awake && start.elapsed() >= CALL_MIN {
            stay_awake();
        }
        return result;
    }
    let pool = {
        let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
        match *pools {
            Some((of, pool)) if of == process => Some(pool),
            _ => {
                // It is never dropped: it lives as long as the process, as the global pool does.
                let pool = rayon::ThreadPoolBuilder::new().build().ok().map(|pool| &*Box::leak(Box::new(pool)));
                *pools = pool.map(|pool| (process, pool));
                pool
            }
        }
    };
    match pool {
        Some(pool) => pool.install(work),
        None => work(),
    }
}

/// Has the pool's threads look for work until some time after the last call.
fn stay_awake() {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    /// When the last call ended, in microseconds.
    static LAST: AtomicU64 = AtomicU64::new(0);
    /// Threads that have not yet given up.
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    let now = || START.elapsed().as_micros() as u64;
    let main = MAIN_THREAD.get();
    if main.is_some_and(|main| *main != std::thread::current().id()) {
        // Of what is broadcast, the main thread's part would stay in its queue until it calls something itself.
        return;
    }
    LAST.store(now(), Ordering::Relaxed);
    let threads = rayon::current_num_threads() - usize::from(main.is_some());
    if THREADS.compare_exchange(0, threads, Ordering::Relaxed, Ordering::Relaxed).is_err() {
        return;
    }
    rayon::spawn_broadcast(move |_| {
        if main == Some(&std::thread::current().id()) {
            return;
        }
        while now().saturating_sub(LAST.load(Ordering::Relaxed)) < AWAKE.as_micros() as u64 {
            if rayon::yield_now() != Some(rayon::Yield::Executed) {
                std::thread::yield_now();
            }
        }
        THREADS.fetch_sub(1, Ordering::Relaxed);
    });
    // The main thread's part of the broadcast, which is nothing to do, does not stay in its queue.
    rayon::yield_now();
}
