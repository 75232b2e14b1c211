//! The copy loop of `native/` and the gate that its connections pass, the very files, on top of loom: shared words are
//! loom's, and the device is made of them.

#[path = "../../../native/src/bitmap.rs"]
pub mod bitmap;
#[path = "../../../native/src/blocks.rs"]
pub mod blocks;
#[path = "../../../native/src/buffer.rs"]
pub mod buffer;
#[path = "../../../native/src/copy.rs"]
pub mod copy;
#[path = "../../../native/src/error.rs"]
pub mod error;
pub mod extents;
pub mod file;
#[path = "../../../native/src/gate.rs"]
pub mod gate;
#[path = "../../../native/src/hash.rs"]
pub mod hash;
#[path = "../../../native/src/job.rs"]
pub mod job;
#[path = "../../../native/src/pre_images.rs"]
pub mod pre_images;
#[path = "../../../native/src/segment.rs"]
pub mod segment;
#[path = "../../../native/src/source.rs"]
pub mod source;
#[path = "../../../native/src/spill.rs"]
pub mod spill;
pub mod sync;
#[path = "../../../native/src/zero.rs"]
pub mod zero;
