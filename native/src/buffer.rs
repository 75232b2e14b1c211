//! The memory that a thread reads into and writes from.

use crate::blocks::LARGEST_BLOCK;
use std::cell::Cell;

/// Size of a thread's buffer in bytes: the largest block. What is not used of it takes no memory.
const BUFFER_LENGTH: usize = LARGEST_BLOCK as usize;

const PAGE: usize = 4096;

thread_local! {
    static MEMORY: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Runs `work` with this thread's buffer, which is page-aligned, allocated once and holds anything.
pub fn with_buffer<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    let mut memory = MEMORY.take();
    if memory.is_empty() {
        memory = vec![0; BUFFER_LENGTH + PAGE];
    }
    let aligned = memory.as_ptr().align_offset(PAGE).min(PAGE);
    let result = work(&mut memory[aligned..aligned + BUFFER_LENGTH]);
    MEMORY.set(memory);
    result
}
