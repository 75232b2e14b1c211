//! One way through the gate of a served device: how native code learns whether a request may go past JavaScript, and how
//! JavaScript learns that nothing is past it any more. `src/servers/native-gate.ts` is the other side, and has the
//! invariants. `proof/copier/tests/gate.rs` runs this file against it.

use crate::sync::{AtomicI32, fence};
use std::sync::atomic::Ordering::SeqCst;

/// The two words of a way.
#[derive(Clone, Copy)]
pub struct Way<'w> {
    /// Not 0: every request goes through JavaScript, for one reason per bit.
    pub shut: &'w AtomicI32,
    /// How many requests are past JavaScript.
    pub inside: &'w AtomicI32,
}

/// Whether a request was let in. Whoever was calls [`Way::leave`] once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    In,
    Shut(Wake),
}

/// Whether JavaScript has to be told that nobody is inside: it may wait for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    Needed,
    Needless,
}

impl Way<'_> {
    pub fn enter(&self) -> Entry {
        // 1. Turn back before anyone could wait for it: a way that is shut for long is not worth the count.
        if self.is_shut() {
            return Entry::Shut(Wake::Needless);
        }
        // 2. Be counted.
        self.inside.fetch_add(1, SeqCst);
        // 3. Only then look. Who shuts the way looks at the count after that, so at least one sees the other.
        fence(SeqCst);
        if self.is_shut() {
            return Entry::Shut(self.leave());
        }
        Entry::In
    }

    pub fn leave(&self) -> Wake {
        // 1. Be counted no more.
        let before = self.inside.fetch_sub(1, SeqCst);
        // 2. Only then look. Who saw this one counted has shut the way before that.
        fence(SeqCst);
        if before == 1 && self.is_shut() {
            Wake::Needed
        } else {
            Wake::Needless
        }
    }

    fn is_shut(&self) -> bool {
        self.shut.load(SeqCst) != 0
    }
}
