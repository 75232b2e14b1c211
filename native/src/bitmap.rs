//! One bit per block in words that all threads share; the layout is that of `src/core/bitmap.ts`.

use crate::sync::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;

#[derive(Clone, Copy)]
pub struct SharedBitmap<'a> {
    words: &'a [AtomicU32],
}

impl<'a> SharedBitmap<'a> {
    pub fn new(words: &'a [AtomicU32]) -> Self {
        SharedBitmap { words }
    }

    /// How many bits there is room for.
    pub fn capacity(&self) -> usize {
        self.words.len().saturating_mul(32)
    }

    pub fn has(&self, bit: usize) -> bool {
        self.words[bit / 32].load(SeqCst) & (1 << (bit % 32)) != 0
    }

    pub fn add(&self, bit: usize) {
        self.words[bit / 32].fetch_or(1 << (bit % 32), SeqCst);
    }

    /// The first set bit in [from, to), or `to`.
    pub fn first_set(&self, from: usize, to: usize) -> usize {
        self.first(from, to, 0)
    }

    /// The first clear bit in [from, to), or `to`.
    pub fn first_clear(&self, from: usize, to: usize) -> usize {
        self.first(from, to, u32::MAX)
    }

    fn first(&self, from: usize, to: usize, flip: u32) -> usize {
        let mut bit = from;
        while bit < to {
            let rest = (self.words[bit / 32].load(SeqCst) ^ flip) >> (bit % 32);
            if rest != 0 {
                return to.min(bit + rest.trailing_zeros() as usize);
            }
            bit = (bit / 32 + 1) * 32;
        }
        to
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_a_plain_search_finds() {
        let words = [0x8000_0001, 0, u32::MAX, 0x0000_ff00].map(AtomicU32::new);
        let bitmap = SharedBitmap::new(&words);
        for from in 0..=128 {
            for to in from..=128 {
                let set = (from..to).find(|bit| bitmap.has(*bit)).unwrap_or(to);
                let clear = (from..to).find(|bit| !bitmap.has(*bit)).unwrap_or(to);
                assert_eq!(bitmap.first_set(from, to), set, "{from}..{to}");
                assert_eq!(bitmap.first_clear(from, to), clear, "{from}..{to}");
            }
        }
    }

    #[test]
    fn adds_one_bit() {
        let words = [0, 0].map(AtomicU32::new);
        let bitmap = SharedBitmap::new(&words);
        bitmap.add(33);
        assert!(bitmap.has(33));
        assert_eq!(words[0].load(SeqCst), 0);
        assert_eq!(words[1].load(SeqCst), 2);
    }
}
