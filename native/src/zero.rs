//! The zero test.

/// Bytes that are tested together; long enough for the widest vectors, short enough to give up early.
const STRIDE: usize = 256;

pub fn is_zero(bytes: &[u8]) -> bool {
    let mut strides = bytes.chunks_exact(STRIDE);
    // The inner fold has no branch, so that the compiler turns it into vector instructions.
    strides.all(|stride| stride.iter().fold(0, |all, byte| all | byte) == 0)
        && strides.remainder().iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_one_set_bit_anywhere() {
        for length in [0, 1, 7, 255, 256, 257, 511, 512, 4097] {
            let mut bytes = vec![0; length];
            assert!(is_zero(&bytes));
            for place in 0..length {
                bytes[place] = 0x80;
                assert!(!is_zero(&bytes), "{place} of {length}");
                bytes[place] = 0;
            }
        }
    }
}
