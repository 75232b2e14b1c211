//! Stands in for `native/src/sync.rs`.

pub use loom::sync::atomic::{AtomicBool, AtomicI32, AtomicU32};
pub use loom::sync::{Mutex, MutexGuard};
use std::cell::Cell;
use std::sync::atomic::Ordering;

thread_local! {
    // All threads of a model run on the thread of its test.
    static WITHOUT_FENCES: Cell<bool> = const { Cell::new(false) };
}

/// Takes all fences out of the copy loop, in models that this thread runs from now on.
pub fn take_fences_out() {
    WITHOUT_FENCES.set(true);
}

pub fn fence(order: Ordering) {
    if !WITHOUT_FENCES.get() {
        loom::sync::atomic::fence(order);
    }
}
