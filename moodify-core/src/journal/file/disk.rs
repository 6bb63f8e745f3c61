//! What is between the journal and the file system, so that tests can let a disk fail, fill up and lose its power.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Everything that changes the directory of a journal. Reading and locking are not in the way of a fault.
pub(crate) trait Disk: Send + Sync + fmt::Debug {
    /// Makes a directory, which must not exist.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Opens a file for reading and writing, and makes it if need be.
    fn create(&self, path: &Path) -> io::Result<File>;
    /// Opens a file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<File>;
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()>;
    fn set_len(&self, file: &File, length: u64) -> io::Result<()>;
    /// Makes a file's content durable, or the entries of a directory.
    fn sync(&self, file: &File) -> io::Result<()>;
    /// Makes everything durable on the file system that the file is on.
    fn sync_all(&self, file: &File) -> io::Result<()>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.sync(&File::open(path)?)
    }
}

/// The machine's own.
#[derive(Debug)]
pub(crate) struct RealDisk;

impl Disk for RealDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(path)
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    fn set_len(&self, file: &File, length: u64) -> io::Result<()> {
        file.set_len(length)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    #[cfg(target_os = "linux")]
    fn sync_all(&self, file: &File) -> io::Result<()> {
        Ok(rustix::fs::syncfs(file)?)
    }

    #[cfg(not(target_os = "linux"))]
    fn sync_all(&self, _: &File) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }
}
