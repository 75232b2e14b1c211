//! The binding of the data path of NBD connections: `NativeConnection` of `src/core/core.ts`.

use super::connection::{Connection, Event, Export, Gate};
use super::orders::{Desk, Orders};
use super::socket::{Bell, Socket};
use super::wire::Format;
use crate::arguments::{file, whole};
use crate::error::{Code, Failure};
use crate::memory::TypedArray;
use crate::watch::{NativeWatch, Watchers};
use crate::{Answer, answer};
use napi::bindgen_prelude::{Buffer, ClassInstance, FnArgs, Function, Uint8Array};
use napi::threadsafe_function::ThreadsafeFunctionCallMode::NonBlocking;
use napi_derive::napi;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU8};
use std::thread::{Builder, JoinHandle};

#[napi(object, object_to_js = false)]
pub struct ConnectionArguments {
    pub socket_fd: f64,
    pub device_fd: f64,
    pub size_bytes: f64,
    pub read_only: bool,
    pub structured_replies: bool,
    pub gate: TypedArray<AtomicI32>,
    pub received: TypedArray<AtomicU8>,
}

/// What JavaScript is called with: the number of an event, and the bytes that were handed over with the first.
type EventArguments = FnArgs<(u32, Option<Buffer>)>;

#[napi(catch_unwind)]
pub fn serve_connection(
    arguments: ConnectionArguments,
    watch: Option<ClassInstance<NativeWatch>>,
    on_event: Function<EventArguments, ()>,
) -> Answer<NativeConnection> {
    let watchers = watch.map(|watch| watch.watchers());
    answer(serve(&arguments, watchers, &on_event))
}

const STACK_BYTES: usize = 256 * 1024;

/// Room for some long replies, so that they are seldom sent in pieces.
const SENDING_BYTES: i32 = 320 * 1024;

/// A connection that a thread serves. JavaScript keeps the words of its gate alive until it is told that the thread
/// has ended.
#[napi]
pub struct NativeConnection {
    running: Option<Running>,
}

struct Running {
    desk: Arc<Desk>,
    thread: JoinHandle<()>,
}

#[napi]
impl NativeConnection {
    #[napi]
    pub fn send(&self, replies: Vec<Uint8Array>) {
        self.order(|orders| {
            let replies = replies.iter().map(|reply| reply.to_vec());
            orders.replies.extend(replies);
        });
    }

    #[napi]
    pub fn consumed(&self, count: u32) {
        self.order(|orders| orders.consumed += count as usize);
    }

    #[napi]
    pub fn refuse(&self) {
        self.order(|orders| orders.refuse = true);
    }

    #[napi]
    pub fn end(&self) {
        self.order(|orders| orders.end = true);
    }

    #[napi]
    pub fn cut(&self) {
        if let Some(running) = &self.running {
            running.desk.cut();
        }
    }

    /// Cuts the connection, waits for the thread and closes what was open for it.
    #[napi]
    pub fn close(&mut self) {
        let Some(running) = self.running.take() else {
            return;
        };
        running.desk.cut();
        // A panic of the thread was caught in it.
        let _ = running.thread.join();
    }

    fn order(&self, change: impl FnOnce(&mut Orders)) {
        if let Some(running) = &self.running {
            running.desk.order(change);
        }
    }
}

impl Drop for NativeConnection {
    /// Does something only where JavaScript itself ends before its connections, and is about to take the gate with it.
    fn drop(&mut self) {
        self.close();
    }
}

fn serve(
    arguments: &ConnectionArguments,
    watchers: Option<Arc<Watchers>>,
    on_event: &Function<EventArguments, ()>,
) -> Result<NativeConnection, Failure> {
    let words = arguments.gate.shared();
    if words.len() < Gate::WORDS {
        return Err(Failure::bad_argument("gate: too few words"));
    }
    let export = Export {
        file: file(arguments.device_fd, "deviceFd")?
            .reopen()
            .map_err(|error| failure(&error))?,
        size: whole(arguments.size_bytes, "sizeBytes")?,
        read_only: arguments.read_only,
        format: if arguments.structured_replies {
            Format::Structured
        } else {
            Format::Simple
        },
        // SAFETY: there are enough words, and JavaScript keeps them until the thread has ended or `Drop` waited for it.
        gate: unsafe { Gate::new(NonNull::from(&words[0])) },
        watchers,
    };
    let socket = file(arguments.socket_fd, "socketFd")?;
    let socket = Socket::duplicate(socket.fd()).map_err(|error| failure(&error))?;
    socket.widen(SENDING_BYTES);
    let bell = Bell::new().map_err(|error| failure(&error))?;
    let desk = Arc::new(Desk::new(socket, bell));
    let function = on_event
        .build_threadsafe_function::<Event>()
        .build_callback(|context| Ok(event_arguments(context.value)))
        .map_err(|error| Failure::new(Code::DeviceIo, error.reason.to_string()))?;
    let tell = move |event| {
        // It fails only when JavaScript has ended, and then `Drop` ends the thread.
        function.call(event, NonBlocking);
    };
    let received = arguments.received.bytes().to_vec();
    let own = Arc::clone(&desk);
    let thread = Builder::new()
        .name("cofferdam-nbd".into())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            let run = || {
                // However it ends, the connection is over.
                let _ = Connection::new(export, &received, Arc::clone(&own), &tell).run();
            };
            let _ = catch_unwind(AssertUnwindSafe(run));
            own.socket.cut();
            drop(own);
            tell(Event::Closed);
        })
        .map_err(|error| failure(&error))?;
    Ok(NativeConnection {
        running: Some(Running { desk, thread }),
    })
}

fn event_arguments(event: Event) -> EventArguments {
    let arguments = match event {
        Event::Handed(bytes) => (0, Some(Buffer::from(bytes))),
        Event::Sent => (1, None),
        Event::End => (2, None),
        Event::Left => (3, None),
        Event::Closed => (4, None),
    };
    FnArgs::from(arguments)
}

fn failure(error: &io::Error) -> Failure {
    Failure::new(
        Code::DeviceIo,
        format!("serving a connection failed: {error}"),
    )
}
