//! A component of the rig: a child process that is stopped by its id, also when a test panics.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A running component; dropping it stops it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its output in `logs/NAME.log`.
    ///
    /// # Errors
    ///
    /// When the log cannot be written or the program cannot be started.
    pub fn start(name: &str, command: &mut Command, logs: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(logs)?;
        let log = logs.join(format!("{name}.log"));
        let output = File::options().create(true).append(true).open(&log)?;
        // A group of its own: an interrupt from the terminal must reach the supervisor alone, which stops the rest.
        std::os::unix::process::CommandExt::process_group(command, 0);
        let command = command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        Ok(Self { name: name.to_owned(), child: command.spawn()?, log })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its name in the rig.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is still there.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The last lines of its output.
    pub fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Asks it to end; [`Process::stop`] then waits.
    pub fn end(&self) {
        // A stopped process would not hear the request.
        send(self.pid(), Signal::CONT);
        send(self.pid(), Signal::TERM);
    }

    /// Ends it, by force when it takes too long.
    pub fn stop(&mut self) {
        if !self.is_running() {
            return;
        }
        self.end();
        let deadline = Instant::now() + Duration::from_secs(3);
        while self.is_running() {
            if Instant::now() > deadline {
                // It may be gone by now; either way it is.
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            pause(Duration::from_millis(20));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

#[expect(clippy::disallowed_methods, reason = "drop cannot wait in any other way, and waits for real processes")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Sends a signal to a process of the rig; one that is gone needs none.
pub(super) fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// A port that is free now.
///
/// # Errors
///
/// When the machine has none.
pub fn free_port() -> io::Result<u16> {
    // Below the ports that outgoing connections and NodePorts take, and in this process none twice.
    const FIRST: u32 = 12_000;
    const COUNT: u32 = 18_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let begin = std::process::id().wrapping_mul(37);
    for _ in 0..COUNT {
        let number = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(FIRST + number % COUNT).map_err(io::Error::other)?;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, "no port is free"))
}
