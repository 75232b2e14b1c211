//! Every interleaving of threads that overwrite what a snapshot needs, through `native/src/pre_images.rs`, the very file, and
//! of the copy loop or a reader of the snapshot.

use cofferdam_copier_proof::bitmap::SharedBitmap;
use cofferdam_copier_proof::blocks::Blocks;
use cofferdam_copier_proof::copy::{CopyJob, copy};
use cofferdam_copier_proof::file::{BLOCK, OpenFile};
use cofferdam_copier_proof::hash::Algorithm;
use cofferdam_copier_proof::job::{Cancel, Progress, Records, state};
use cofferdam_copier_proof::pre_images::{Limits, Marks, Outcome, Patience, PreImages, Shape};
use cofferdam_copier_proof::segment::{Memory, Sink};
use cofferdam_copier_proof::source::Source;
use cofferdam_copier_proof::sync::{AtomicU32, take_fences_out};
use loom::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64, AtomicUsize};

const ALGORITHM: Algorithm = Algorithm::Xxh64;

/// What the one block of the device, which is one unit, has as of the cut.
const AT_THE_CUT: u8 = 1;

/// How often threads are interrupted in one run, besides where they wait: with more there are too many orders to try.
const INTERRUPTIONS: usize = 2;

/// What a writer does in a wrong order.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Nothing,
    WriteBeforeBits,
}

/// Where there is room for the pre-image.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    InMemory,
    InFile,
}

/// A server with a device, and all that its threads share.
struct Server {
    device: OpenFile,
    copied: SharedBitmap<'static>,
    preserved: SharedBitmap<'static>,
    pre_images: PreImages<'static>,
    wrong: Wrong,
}

impl Server {
    fn new(wrong: Wrong, keep: Keep) -> Self {
        // Nobody knows how long they are used; a model has few of them.
        let words = || SharedBitmap::new(Box::leak(Box::new([AtomicU32::new(0)])));
        let marks = Marks {
            preserved: words(),
            copied: words(),
            saved: words(),
        };
        let shape = Shape {
            device_size: BLOCK as u64,
            units_per_block: 1,
        };
        let limits = Limits {
            units_in_memory: if keep == Keep::InMemory { 1 } else { 0 },
            // Two threads may have it on their way there.
            units_spilled: if keep == Keep::InFile { 2 } else { 0 },
            directory: std::env::temp_dir(),
        };
        Server {
            device: OpenFile::of(&[AT_THE_CUT]),
            copied: marks.copied,
            preserved: marks.preserved,
            pre_images: PreImages::new(shape, marks, limits),
            wrong,
        }
    }

    /// What a thread does with a client's write to one half of the unit.
    fn write(&self, half: usize) {
        let mut buffer = [0; BLOCK];
        let outcome =
            self.pre_images
                .preserve(&(0..1), Patience::Spilling, &mut buffer, |_, into| {
                    // Its own half it knows: see `Writer` in `interleavings.rs`.
                    let mut halves: Vec<_> = into.chunks_mut(BLOCK / 2).collect();
                    halves[half].fill(AT_THE_CUT);
                    halves[1 - half].fill(self.device.half(0, 1 - half));
                    if self.wrong == Wrong::WriteBeforeBits {
                        self.device.put_half(0, half, 2);
                    }
                    Ok(Outcome::Done)
                });
        assert_eq!(outcome, Ok(Outcome::Done));
        self.device.put_half(0, half, 2);
    }

    /// What a reader of the snapshot sees.
    fn read(&self) -> [u8; 2] {
        let mut bytes = [0; BLOCK];
        self.device.read(0, &mut bytes);
        self.pre_images
            .restore(0, &mut bytes)
            .expect("a store in memory");
        [bytes[0], bytes[BLOCK - 1]]
    }

    /// What the copier takes for the content of the block, as `src/backup/leaf-copy.ts` has it done.
    fn copy(&self) -> [u8; 2] {
        let blocks = Blocks::new(BLOCK as u64, BLOCK as u64, 0, 1).expect("one block");
        let states = [0.into()];
        let offsets: [AtomicU64; 1] = [0.into()];
        let hashes: Vec<_> = (0..ALGORITHM.length()).map(|_| 0.into()).collect();
        let mut target = vec![0; BLOCK];
        let job = CopyJob {
            blocks,
            algorithm: ALGORITHM,
            source: Source::Device(self.device.clone()),
            selected: None,
            preserved: Some(self.preserved),
            copied: Some(self.copied),
            barrier: None,
            // SAFETY: `target` outlives the job, and nothing looks at it meanwhile.
            sink: Sink::Memory(unsafe { Memory::new(target.as_mut_ptr(), target.len()) }),
            cancel: Cancel(&0.into()),
            progress: Progress {
                dealt_with: &0.into(),
                read: &0.into(),
            },
            records: Records::new(&blocks, ALGORITHM, &states, &offsets, &hashes).expect("room"),
        };
        copy(&job).expect("a device that never fails");
        if states[0].load(Relaxed) != state::PRESERVED {
            return [target[0], target[BLOCK - 1]];
        }
        let seen = self.read();
        self.copied.add(0);
        self.pre_images.free(0..1);
        seen
    }
}

fn explore(name: &str, (wrong, keep): (Wrong, Keep), writers: usize, look: fn(&Server) -> [u8; 2]) {
    let runs = std::sync::Arc::new(AtomicUsize::new(0));
    let counted = runs.clone();
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(INTERRUPTIONS);
    model.check(move || {
        counted.fetch_add(1, Relaxed);
        let server = Arc::new(Server::new(wrong, keep));
        for half in 0..writers {
            let server = server.clone();
            loom::thread::spawn(move || server.write(half));
        }
        // Last, as what loom tries first is one thread after the other: it finds out what else there is by what a thread
        // has in common with those before it.
        let server = server.clone();
        let seen = loom::thread::spawn(move || look(&server)).join();
        let seen = seen.expect("a reader that never fails");
        assert_eq!(seen, [AT_THE_CUT; 2], "not as of the cut");
    });
    println!("{name}: {} interleavings", runs.load(Relaxed));
}

#[test]
fn a_write_and_a_copy() {
    explore(
        "a write and a copy",
        (Wrong::Nothing, Keep::InMemory),
        1,
        Server::copy,
    );
}

#[test]
fn a_write_and_a_read() {
    explore(
        "a write and a read",
        (Wrong::Nothing, Keep::InMemory),
        1,
        Server::read,
    );
}

#[test]
fn two_writes_and_a_copy() {
    explore(
        "two writes and a copy",
        (Wrong::Nothing, Keep::InMemory),
        2,
        Server::copy,
    );
}

#[test]
fn two_writes_and_a_read() {
    explore(
        "two writes and a read",
        (Wrong::Nothing, Keep::InMemory),
        2,
        Server::read,
    );
}

#[test]
fn two_spilled_writes_and_a_copy() {
    explore(
        "two spilled writes and a copy",
        (Wrong::Nothing, Keep::InFile),
        2,
        Server::copy,
    );
}

#[test]
fn two_spilled_writes_and_a_read() {
    explore(
        "two spilled writes and a read",
        (Wrong::Nothing, Keep::InFile),
        2,
        Server::read,
    );
}

#[test]
#[should_panic(expected = "not as of the cut")]
fn wrong_with_a_write_before_the_bits() {
    explore(
        "",
        (Wrong::WriteBeforeBits, Keep::InMemory),
        1,
        Server::copy,
    );
}

#[test]
#[should_panic(expected = "not as of the cut")]
fn wrong_if_nothing_orders_the_bits_and_the_write() {
    take_fences_out();
    explore("", (Wrong::Nothing, Keep::InMemory), 1, Server::read);
}
