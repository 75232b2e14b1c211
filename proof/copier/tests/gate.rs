//! Every interleaving of changes that pass the gate of `native/src/gate.rs` and a server that shuts it, waits until nobody
//! is inside, and then relies on the device, as `src/servers/barrier.ts` and `src/servers/native-gate.ts` do.

use cofferdam_copier_proof::gate::{Entry, Wake, Way};
use cofferdam_copier_proof::sync::{AtomicI32, take_fences_out};
use loom::cell::UnsafeCell;
use loom::sync::atomic::fence;
use loom::sync::{Arc, Notify};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

const THREADS: usize = 2;

/// How often threads are interrupted in one run, besides where they wait.
const INTERRUPTIONS: usize = 3;

/// What one side does in a wrong order.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Nothing,
    LookBeforeCount,
    LookBeforeLeaving,
    CountBeforeBit,
}

struct Server {
    shut: AtomicI32,
    inside: AtomicI32,
    /// A place on the device for each thread. loom finds out when two use one at a time, or one does not know of another.
    device: [UnsafeCell<u8>; THREADS],
    bell: Notify,
}

impl Server {
    fn new() -> Self {
        Server {
            shut: AtomicI32::new(0),
            inside: AtomicI32::new(0),
            device: [UnsafeCell::new(0), UnsafeCell::new(0)],
            bell: Notify::new(),
        }
    }

    fn way(&self) -> Way<'_> {
        Way {
            shut: &self.shut,
            inside: &self.inside,
        }
    }

    /// What a native thread does with a write. Answers whether it was made.
    fn write(&self, place: usize, wrong: Wrong) -> bool {
        let entry = match wrong {
            Wrong::LookBeforeCount if self.shut.load(SeqCst) != 0 => Entry::Shut(Wake::Needless),
            Wrong::LookBeforeCount => {
                self.inside.fetch_add(1, SeqCst);
                Entry::In
            }
            _ => self.way().enter(),
        };
        let wake = match entry {
            Entry::In => {
                // SAFETY: loom checks that nobody else uses it.
                self.device[place].with_mut(|byte| unsafe { *byte += 1 });
                self.leave(wrong)
            }
            Entry::Shut(wake) => wake,
        };
        if wake == Wake::Needed {
            self.bell.notify();
        }
        entry == Entry::In
    }

    fn leave(&self, wrong: Wrong) -> Wake {
        if wrong != Wrong::LookBeforeLeaving {
            return self.way().leave();
        }
        let is_shut = self.shut.load(SeqCst) != 0;
        fence(SeqCst);
        let before = self.inside.fetch_sub(1, SeqCst);
        if is_shut && before == 1 {
            Wake::Needed
        } else {
            Wake::Needless
        }
    }

    /// What JavaScript does at a cut.
    fn cut(&self, wrong: Wrong) {
        if wrong == Wrong::CountBeforeBit {
            self.drain();
            self.shut.fetch_or(1, SeqCst);
        } else {
            self.shut.fetch_or(1, SeqCst);
            fence(SeqCst);
            self.drain();
        }
        // Nobody changes it until the gate is opened.
        let fixed = self.content();
        loom::thread::yield_now();
        assert_eq!(self.content(), fixed, "changed under the barrier");
        self.shut.fetch_and(!1, SeqCst);
    }

    fn drain(&self) {
        while self.inside.load(SeqCst) != 0 {
            self.bell.wait();
        }
    }

    fn content(&self) -> [u8; THREADS] {
        // SAFETY: loom checks that nobody changes it meanwhile.
        [0, 1].map(|place| self.device[place].with(|byte| unsafe { *byte }))
    }
}

fn explore(name: &str, wrong: Wrong) {
    let orders = std::sync::Arc::new(AtomicUsize::new(0));
    let passed = std::sync::Arc::new(AtomicUsize::new(0));
    let (counted, made) = (orders.clone(), passed.clone());
    // Without a bound on how often a thread is interrupted there are too many orders to try; no weakening needs more.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(INTERRUPTIONS);
    model.check(move || {
        let server = Arc::new(Server::new());
        let writers: Vec<_> = (0..THREADS)
            .map(|place| {
                let server = server.clone();
                loom::thread::spawn(move || server.write(place, wrong))
            })
            .collect();
        server.cut(wrong);
        let written = writers.into_iter().map(|writer| writer.join().unwrap());
        let written: Vec<u8> = written.map(u8::from).collect();
        assert_eq!(server.content()[..], written, "made and not counted");
        assert_eq!(server.inside.load(SeqCst), 0);
        orders.fetch_add(1, Relaxed);
        passed.fetch_add(written.iter().map(|one| usize::from(*one)).sum(), Relaxed);
    });
    let (orders, passed) = (counted.load(Relaxed), made.load(Relaxed));
    println!("{name}: {orders} orders");
    // Some writes come before or after the barrier, and some find it up.
    assert!(passed > 0 && passed < orders * THREADS);
}

#[test]
fn under_a_barrier_nothing_changes_and_nobody_waits_for_ever() {
    explore("two changes at a barrier", Wrong::Nothing);
}

#[test]
#[should_panic(expected = "ausality violation")]
fn wrong_with_a_look_before_the_count() {
    explore("", Wrong::LookBeforeCount);
}

#[test]
#[should_panic(expected = "deadlock")]
fn wrong_with_a_look_before_leaving() {
    explore("", Wrong::LookBeforeLeaving);
}

#[test]
#[should_panic(expected = "ausality violation")]
fn wrong_with_a_count_before_the_bit() {
    explore("", Wrong::CountBeforeBit);
}

#[test]
#[should_panic(expected = "ausality violation")]
fn wrong_if_nothing_orders_the_count_and_the_look() {
    take_fences_out();
    explore("", Wrong::Nothing);
}
