//! What threads share words by. `proof/` compiles the modules that use it with loom's in their place.

pub use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, fence};
pub use std::sync::{Mutex, MutexGuard};
