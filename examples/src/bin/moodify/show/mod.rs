//! Showing a run while it goes on. It is done on a thread of its own, so that a slow terminal or a closed pipe stops
//! nothing.

mod json;
mod plain;
mod progress;
mod view;
mod words;

use std::io::{IsTerminal, Write};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use moodify_core::backend::{Notification, Notifier};
use moodify_core::clock::Clock;
use moodify_core::event::{Event, Signal, Subscription};
use moodify_core::model::Plan;
use moodify_core::{CallContext, RunId};

use crate::args::Output;
pub(crate) use progress::beside_the_picture;
pub(crate) use words::{ending, length, phase_name, step_words};

/// Something to show, and when it was.
#[derive(Debug)]
pub(crate) enum Shown {
    /// What happened before this process took the run.
    Past(Box<Event>),
    /// What the engine says.
    Signal(Box<Signal>),
    /// A message to people.
    Message(Notification),
    /// It is over, or interrupted; last words, if there are any.
    End(String),
}

/// One way of showing.
pub(crate) trait Display: Send {
    /// Takes something in.
    fn show(&mut self, time: Timestamp, shown: &Shown);
    /// A moment to draw; called several times a second.
    fn draw(&mut self) {}
}

/// What is known of a run before anything is shown of it.
#[derive(Debug, Clone)]
pub(crate) struct Header {
    pub(crate) plan: Arc<Plan>,
    /// `simulated, 120 times as fast`, if it is.
    pub(crate) world: Option<String>,
    /// The flag that names where the run is kept, if one was given.
    pub(crate) place: Option<String>,
}

impl Header {
    /// Whether another process can reach the run.
    fn answerable(&self) -> bool {
        self.world.is_none() || self.place.is_some()
    }
}

/// The way that was asked for, or fits.
pub(crate) fn choose(asked: Option<Output>) -> Output {
    let terminal = std::io::stdout().is_terminal() && console::Term::stdout().size_checked().is_some();
    match asked {
        Some(Output::Progress) if !terminal => Output::Plain,
        Some(output) => output,
        None if terminal => Output::Progress,
        None => Output::Plain,
    }
}

/// Whether colours are wanted.
pub(crate) fn colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// A line on stdout. That nobody reads it is no failure of the run.
pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// How often a picture may change.
const FRAME: Duration = Duration::from_millis(70);

/// The thread that shows.
#[derive(Debug)]
pub(crate) struct Screen {
    sender: mpsc::Sender<(Timestamp, Shown)>,
    clock: Arc<dyn Clock>,
    thread: JoinHandle<()>,
}

impl Screen {
    pub(crate) fn open(output: Output, progress: bool, header: Header, clock: Arc<dyn Clock>) -> Self {
        let (sender, receiver) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut display: Box<dyn Display> = match output {
                Output::Plain => Box::new(plain::Plain::new(header)),
                Output::Json => Box::new(json::Json::new(progress)),
                Output::Progress => Box::new(progress::Picture::new(header)),
            };
            run(display.as_mut(), &receiver);
        });
        Self { sender, clock, thread }
    }

    /// Shows what happened before anybody listened.
    pub(crate) fn event(&self, event: Event) {
        let _ = self.sender.send((event.time, Shown::Signal(Box::new(Signal::Event(event)))));
    }

    pub(crate) fn past(&self, event: Event) {
        let _ = self.sender.send((event.time, Shown::Past(Box::new(event))));
    }

    /// A notifier that tells whoever watches.
    pub(crate) fn notifier(&self) -> Arc<dyn Notifier> {
        Arc::new(Console { sender: self.sender.clone(), clock: self.clock.clone() })
    }

    /// Shows all that an engine says, until the engine is gone.
    pub(crate) fn follow(&self, mut subscription: Subscription) -> tokio::task::JoinHandle<()> {
        let (sender, clock) = (self.sender.clone(), self.clock.clone());
        tokio::spawn(async move {
            while let Some(signal) = subscription.next().await {
                let time = match &signal {
                    Signal::Event(event) => event.time,
                    Signal::Progress(_) => clock.now(),
                };
                let _ = sender.send((time, Shown::Signal(Box::new(signal))));
            }
        })
    }

    /// Shows the end, and waits until all is shown.
    pub(crate) fn close(self, last_words: String) {
        let _ = self.sender.send((self.clock.now(), Shown::End(last_words)));
        // A display that panicked has nothing more to show.
        let _ = self.thread.join();
    }
}

fn run(display: &mut dyn Display, receiver: &mpsc::Receiver<(Timestamp, Shown)>) {
    let mut drawn = std::time::Instant::now();
    loop {
        match receiver.recv_timeout(FRAME.saturating_sub(drawn.elapsed())) {
            Ok((time, shown)) => {
                display.show(time, &shown);
                if matches!(shown, Shown::End(_)) {
                    return;
                }
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
        if drawn.elapsed() >= FRAME {
            display.draw();
            drawn = std::time::Instant::now();
        }
    }
}

/// Tells whoever watches this process: `notify` works without any setup.
#[derive(Debug)]
struct Console {
    sender: mpsc::Sender<(Timestamp, Shown)>,
    clock: Arc<dyn Clock>,
}

#[async_trait]
impl Notifier for Console {
    async fn notify(&self, _: &CallContext, notification: &Notification) -> moodify_core::Result<()> {
        // A display that is gone is like a terminal that nobody looks at.
        let _ = self.sender.send((self.clock.now(), Shown::Message(notification.clone())));
        Ok(())
    }
}

/// What to type to go on with a run.
pub(crate) fn how_to_resume(run: &RunId, place: Option<&str>) -> String {
    format!("go on with it: moodify resume {run}{}", words::place_flag(place))
}
