//! Stands in for `native/src/extents.rs`: a block of zeros is a hole.

use crate::file::{BLOCK, OpenFile};

pub enum Extent {
    Hole { end: u64 },
    Data { end: u64 },
}

pub struct Extents<'f>(&'f OpenFile);

impl<'f> Extents<'f> {
    pub fn new(file: &'f OpenFile, _block_size: u64) -> Self {
        Extents(file)
    }

    pub fn at(&mut self, offset: u64, _limit: u64) -> Extent {
        let end = offset + BLOCK as u64;
        match self.0.halves(offset as usize / BLOCK) {
            [0, 0] => Extent::Hole { end },
            _ => Extent::Data { end },
        }
    }
}
