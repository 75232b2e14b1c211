//! The two hashes that a block may have.

use crate::error::Failure;

/// The longest hash, in bytes.
const LONGEST: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Xxh64,
    Blake3,
}

impl Algorithm {
    pub fn parse(name: &str) -> Result<Self, Failure> {
        match name {
            "xxh64" => Ok(Algorithm::Xxh64),
            "blake3" => Ok(Algorithm::Blake3),
            _ => Err(Failure::bad_argument(format!(
                "\"{name}\" is not a hash algorithm; use xxh64 or blake3"
            ))),
        }
    }

    /// Length of a hash in bytes.
    pub fn length(self) -> usize {
        match self {
            Algorithm::Xxh64 => 8,
            Algorithm::Blake3 => LONGEST,
        }
    }

    /// xxh64 with seed 0 in its canonical big-endian form, or BLAKE3 with its default 32 bytes.
    pub fn hash(self, bytes: &[u8]) -> Hash {
        let mut hash = Hash {
            bytes: [0; LONGEST],
            length: self.length(),
        };
        match self {
            Algorithm::Xxh64 => {
                let value = xxhash_rust::xxh64::xxh64(bytes, 0);
                hash.bytes[..8].copy_from_slice(&value.to_be_bytes());
            }
            Algorithm::Blake3 => hash.bytes = *blake3::hash(bytes).as_bytes(),
        }
        hash
    }
}

pub struct Hash {
    bytes: [u8; LONGEST],
    length: usize,
}

impl Hash {
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(hash: &Hash) -> String {
        hash.as_bytes().iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn xxh64_is_canonical() {
        assert_eq!(hex(&Algorithm::Xxh64.hash(b"")), "ef46db3751d8e999");
        assert_eq!(hex(&Algorithm::Xxh64.hash(b"abc")), "44bc2cf5ad770999");
    }

    #[test]
    fn blake3_matches_its_published_vector() {
        assert_eq!(
            hex(&Algorithm::Blake3.hash(b"")),
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
        );
    }

    #[test]
    fn other_names_are_refused() {
        assert!(Algorithm::parse("md5").is_err());
    }
}
