//! Places for pre-images that have no room in memory: a file without a name, which vanishes with the process.

use crate::error::{Code, Failure};
use std::fs::{File, OpenOptions, remove_file};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub struct Spill {
    directory: PathBuf,
    slot_length: u64,
    /// Opened when it is first needed.
    file: OnceLock<Result<File, Failure>>,
}

impl Spill {
    pub fn new(directory: PathBuf, slot_length: usize) -> Self {
        Spill {
            directory,
            slot_length: slot_length as u64,
            file: OnceLock::new(),
        }
    }

    pub fn write(&self, slot: u32, bytes: &[u8]) -> Result<(), Failure> {
        let offset = u64::from(slot) * self.slot_length;
        self.file()?
            .write_all_at(bytes, offset)
            .map_err(|error| self.failure("could not be written", &error))
    }

    pub fn read(&self, slot: u32, skip: usize, into: &mut [u8]) -> Result<(), Failure> {
        let offset = u64::from(slot) * self.slot_length + skip as u64;
        self.file()?
            .read_exact_at(into, offset)
            .map_err(|error| self.failure("could not be read", &error))
    }

    fn file(&self) -> Result<&File, Failure> {
        let opened = self.file.get_or_init(|| {
            open_nameless(&self.directory)
                .map_err(|error| self.failure("could not be made", &error))
        });
        opened.as_ref().map_err(Failure::clone)
    }

    fn failure(&self, what: &str, error: &io::Error) -> Failure {
        let directory = self.directory.display();
        let message = format!("the spill file of pre-images in {directory} {what}: {error}");
        Failure::new(Code::SnapshotBroken, message)
    }
}

fn open_nameless(directory: &Path) -> io::Result<File> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    loop {
        let (process, count) = (std::process::id(), COUNT.fetch_add(1, Relaxed));
        let path = directory.join(format!(".cofferdam-pre-images-{process}-{count}"));
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        match opened {
            // Left behind by a process of this number that ended between these two calls.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
            Ok(file) => {
                remove_file(&path)?;
                return Ok(file);
            }
        }
    }
}
