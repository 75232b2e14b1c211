//! Every interleaving, and every order in which one thread may see what another wrote, of the copy loop of `native/` and
//! a writer that does what `src/servers/snapshot.ts` and `src/servers/barrier.ts` do before a device changes.

use cofferdam_copier_proof::bitmap::SharedBitmap;
use cofferdam_copier_proof::blocks::Blocks;
use cofferdam_copier_proof::copy::{CopyJob, copy};
use cofferdam_copier_proof::error::Failure;
use cofferdam_copier_proof::file::{BLOCK, OpenFile};
use cofferdam_copier_proof::hash::Algorithm;
use cofferdam_copier_proof::job::{Cancel, JobEnd, Progress, Records, state};
use cofferdam_copier_proof::segment::{Memory, Sink};
use cofferdam_copier_proof::source::Source;
use cofferdam_copier_proof::sync::{AtomicI32, AtomicU32, take_fences_out};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU8, fence};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicU64, AtomicUsize};

const ALGORITHM: Algorithm = Algorithm::Xxh64;

/// What the blocks of the device have as of the cut. Zeros are a hole.
const AT_THE_CUT: [u8; 2] = [1, 0];

/// A server with a device, and all that its threads share.
struct Server {
    device: OpenFile,
    preserved: [AtomicU32; 1],
    copied: [AtomicU32; 1],
    barrier: AtomicI32,
    pre_images: Vec<AtomicU8>,
}

/// What a writer or a copier does in a wrong order, or not at all.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Nothing,
    BitAfterWrite,
    BitBeforePreImage,
    NoOrderBeforeWrite,
    NoSecondLook,
    CopiedBeforeRead,
    BarrierAfterWrite,
}

impl Server {
    fn new() -> Self {
        Server {
            device: OpenFile::of(&AT_THE_CUT),
            preserved: [AtomicU32::new(0)],
            copied: [AtomicU32::new(0)],
            barrier: AtomicI32::new(1),
            pre_images: AT_THE_CUT.iter().map(|_| AtomicU8::new(u8::MAX)).collect(),
        }
    }

    fn preserved(&self) -> SharedBitmap<'_> {
        SharedBitmap::new(&self.preserved)
    }

    fn copied(&self) -> SharedBitmap<'_> {
        SharedBitmap::new(&self.copied)
    }

    /// Copies the blocks and says how the job ended and what it made of each.
    fn copy(
        &self,
        preserved: Option<SharedBitmap<'_>>,
        barrier: Option<&AtomicI32>,
    ) -> Result<(JobEnd, Vec<Copied>), Failure> {
        let count = AT_THE_CUT.len();
        let blocks = Blocks::new((count * BLOCK) as u64, BLOCK as u64, 0, count as u64)?;
        let states: Vec<_> = (0..count).map(|_| 0.into()).collect();
        let offsets: Vec<AtomicU64> = (0..count).map(|_| 0.into()).collect();
        let hashes: Vec<_> = (0..count * ALGORITHM.length()).map(|_| 0.into()).collect();
        let records = Records::new(&blocks, ALGORITHM, &states, &offsets, &hashes)?;
        let mut target = vec![0; blocks.total()];
        let job = CopyJob {
            blocks,
            algorithm: ALGORITHM,
            source: Source::Device(self.device.clone()),
            selected: None,
            preserved,
            copied: Some(self.copied()),
            barrier,
            // SAFETY: `target` outlives the job, and nothing looks at it meanwhile.
            sink: Sink::Memory(unsafe { Memory::new(target.as_mut_ptr(), target.len()) }),
            cancel: Cancel(&0.into()),
            progress: Progress {
                dealt_with: &0.into(),
                read: &0.into(),
            },
            records,
        };
        let end = copy(&job)?.end;
        let copied = (0..count).map(|block| match records.state(block) {
            state::PRESERVED => Copied::PreImage(self.pre_images[block].load(Relaxed)),
            state::ZERO => Copied::Content(Some(0)),
            state::STORED => Copied::Content(
                (0..=u8::MAX)
                    .find(|value| records.has_hash(block, &ALGORITHM.hash(&[*value; BLOCK]))),
            ),
            _ => Copied::Nothing,
        });
        Ok((end, copied.collect()))
    }

    /// The copy under a snapshot.
    fn copy_snapshot(&self, wrong: Wrong) -> Result<(JobEnd, Vec<Copied>), Failure> {
        if wrong == Wrong::CopiedBeforeRead {
            self.copied().add(0);
        }
        if wrong == Wrong::NoSecondLook && !self.preserved().has(0) {
            return self.copy(None, None);
        }
        self.copy(Some(self.preserved()), None)
    }
}

/// The thread of a server that changes the device.
///
/// Only it sets `preserved` and only it changes the device, so it knows both without a look. It has to: loom keeps one
/// last access to each word, so a thread that reads a word before it writes it hides from loom that its write and another
/// thread's reads might come in the other order.
struct Writer<'a> {
    server: &'a Server,
    contents: [u8; AT_THE_CUT.len()],
    saved: [bool; AT_THE_CUT.len()],
    wrong: Wrong,
}

impl<'a> Writer<'a> {
    fn new(server: &'a Server, wrong: Wrong) -> Self {
        Writer {
            server,
            contents: AT_THE_CUT,
            saved: [false; AT_THE_CUT.len()],
            wrong,
        }
    }

    /// A client's write under a snapshot.
    fn write(&mut self, block: usize, value: u8) {
        let needs_pre_image = !self.server.copied().has(block) && !self.saved[block];
        if needs_pre_image {
            self.save(block);
        }
        self.put(block, value);
        if needs_pre_image && self.wrong == Wrong::BitAfterWrite {
            self.server.preserved().add(block);
        }
    }

    fn save(&mut self, block: usize) {
        self.saved[block] = true;
        if self.wrong == Wrong::BitBeforePreImage {
            self.server.preserved().add(block);
        }
        self.server.pre_images[block].store(self.contents[block], Relaxed);
        if !matches!(self.wrong, Wrong::BitBeforePreImage | Wrong::BitAfterWrite) {
            self.server.preserved().add(block);
        }
    }

    /// A client's write that waited for the barrier to come down.
    fn write_after_barrier(&mut self, block: usize, value: u8) {
        if self.wrong != Wrong::BarrierAfterWrite {
            self.server.barrier.store(0, SeqCst);
        }
        self.put(block, value);
        if self.wrong == Wrong::BarrierAfterWrite {
            self.server.barrier.store(0, SeqCst);
        }
    }

    /// The system call, which another thread makes: what came before it in its own thread comes before it in all.
    fn put(&mut self, block: usize, value: u8) {
        if self.wrong != Wrong::NoOrderBeforeWrite {
            fence(SeqCst);
        }
        self.contents[block] = value;
        self.server.device.put(block, value);
    }
}

/// What a job made of a block.
#[derive(Debug, PartialEq, Eq)]
enum Copied {
    Nothing,
    PreImage(u8),
    /// The value of its bytes; `None` if not all are the same.
    Content(Option<u8>),
}

/// Runs two threads in every way that there is, and `judge` after each; prints how many these were.
fn explore(
    name: &str,
    copier: impl Fn(&Server) -> Result<(JobEnd, Vec<Copied>), Failure> + Sync + Send + 'static,
    writer: impl Fn(&Server) + Sync + Send + Copy + 'static,
    judge: impl Fn(JobEnd, Vec<Copied>) + Sync + Send + 'static,
) {
    let runs = std::sync::Arc::new(AtomicUsize::new(0));
    let counted = runs.clone();
    loom::model::Builder::new().check(move || {
        counted.fetch_add(1, Relaxed);
        let server = Arc::new(Server::new());
        let writing = loom::thread::spawn({
            let server = server.clone();
            move || writer(&server)
        });
        let (end, copied) = copier(&server).expect("a device that never fails");
        writing.join().expect("a writer that never fails");
        judge(end, copied);
    });
    println!("{name}: {} interleavings", runs.load(Relaxed));
}

fn is_as_of_the_cut(copied: Vec<Copied>) {
    for (block, what) in copied.into_iter().enumerate() {
        let right = AT_THE_CUT[block];
        assert!(
            what == Copied::Content(Some(right)) || what == Copied::PreImage(right),
            "block {block} is not as of the cut: {what:?}"
        );
    }
}

fn explore_snapshot(name: &str, wrong: Wrong, writes: &'static [(usize, u8)]) {
    explore(
        name,
        move |server| server.copy_snapshot(wrong),
        move |server| {
            let mut writer = Writer::new(server, wrong);
            for (block, value) in writes {
                writer.write(*block, *value);
            }
        },
        |end, copied| {
            assert_eq!(end, JobEnd::Done);
            is_as_of_the_cut(copied);
        },
    );
}

fn explore_barrier(name: &str, wrong: Wrong) {
    explore(
        name,
        |server| server.copy(None, Some(&server.barrier)),
        move |server| Writer::new(server, wrong).write_after_barrier(0, 2),
        |end, copied| match end {
            JobEnd::Done => is_as_of_the_cut(copied),
            end => assert_eq!(end, JobEnd::BarrierLost),
        },
    );
}

#[test]
fn a_write_to_data() {
    explore_snapshot("a write to data", Wrong::Nothing, &[(0, 2)]);
}

#[test]
fn a_write_to_a_hole() {
    explore_snapshot("a write to a hole", Wrong::Nothing, &[(1, 2)]);
}

#[test]
fn a_write_after_another() {
    explore_snapshot("a write after another", Wrong::Nothing, &[(0, 2), (0, 3)]);
}

#[test]
fn a_barrier_that_comes_down() {
    explore_barrier("a barrier that comes down", Wrong::Nothing);
}

#[test]
fn bits_of_one_word() {
    loom::model(|| {
        let server = Arc::new(Server::new());
        let other = loom::thread::spawn({
            let server = server.clone();
            move || server.copied().add(1)
        });
        server.copied().add(0);
        other.join().expect("a thread that never fails");
        assert_eq!(server.copied().first_clear(0, 2), 2);
    });
}

#[test]
#[should_panic(expected = "not as of the cut")]
fn wrong_if_preserved_is_set_after_the_write() {
    explore_snapshot("", Wrong::BitAfterWrite, &[(0, 2)]);
}

#[test]
#[should_panic(expected = "not as of the cut")]
fn wrong_if_preserved_is_set_before_the_pre_image() {
    explore_snapshot("", Wrong::BitBeforePreImage, &[(0, 2)]);
}

#[test]
#[should_panic(expected = "not as of the cut")]
fn wrong_if_the_copier_does_not_look_again() {
    explore_snapshot("", Wrong::NoSecondLook, &[(0, 2)]);
}

#[test]
#[should_panic(expected = "not as of the cut")]
fn wrong_if_copied_is_set_before_the_read() {
    explore_snapshot("", Wrong::CopiedBeforeRead, &[(0, 2)]);
}

#[test]
#[should_panic(expected = "not as of the cut")]
fn wrong_if_nothing_orders_the_bit_and_the_write() {
    explore_snapshot("", Wrong::NoOrderBeforeWrite, &[(0, 2)]);
}

#[test]
#[should_panic(expected = "not as of the cut")]
fn wrong_if_nothing_orders_the_read_and_the_second_look() {
    take_fences_out();
    explore_snapshot("", Wrong::Nothing, &[(0, 2)]);
}

#[test]
#[should_panic(expected = "not as of the cut")]
fn wrong_if_the_barrier_comes_down_after_the_write() {
    explore_barrier("", Wrong::BarrierAfterWrite);
}
