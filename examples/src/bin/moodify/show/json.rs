//! One event a line, exactly as the library writes it.

use jiff::Timestamp;
use moodify_core::event::Signal;

use super::{Display, Shown, say};

/// Events, and if wanted progress, as JSON.
#[derive(Debug)]
pub(super) struct Json {
    progress: bool,
}

impl Json {
    pub(super) fn new(progress: bool) -> Self {
        Self { progress }
    }
}

impl Display for Json {
    fn show(&mut self, _: Timestamp, shown: &Shown) {
        let line = match shown {
            Shown::Signal(signal) => match &**signal {
                Signal::Event(event) => serde_json::to_string(event),
                Signal::Progress(progress) if self.progress => serde_json::to_string(progress),
                Signal::Progress(_) => return,
            },
            Shown::Message(message) => return eprintln_quietly(&format!("{}: {}", message.title, message.body)),
            Shown::End(words) => return eprintln_quietly(words),
            Shown::Past(_) => return,
        };
        if let Ok(line) = line {
            say(&line);
        }
    }
}

fn eprintln_quietly(line: &str) {
    use std::io::Write;
    if !line.is_empty() {
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}
