//! Ctrl-C and its kin: first politely, then at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::exit::Exit;

/// From now on the first SIGINT or SIGTERM cancels `stop`, and the second ends the process.
///
/// They are watched on a thread of their own: a second one must work also while everything else waits for a terminal
/// or a pipe that nobody reads.
pub(crate) fn watch(stop: CancellationToken) {
    let spawned = std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        match runtime {
            Ok(runtime) => runtime.block_on(obey(&stop)),
            Err(e) => unwatched(&e),
        }
    });
    if let Err(e) = spawned {
        unwatched(&e);
    }
}

fn unwatched(error: &std::io::Error) {
    tracing::warn!(%error, "signals cannot be watched; an interruption is a crash, which is resumable too");
}

async fn obey(stop: &CancellationToken) {
    let (mut interrupt, mut terminate) = match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(interrupt), Ok(terminate)) => (interrupt, terminate),
        (Err(e), _) | (_, Err(e)) => return unwatched(&e),
    };
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if stop.is_cancelled() {
            std::process::exit(Exit::Interrupted as i32);
        }
        tracing::info!("stopping at the next safe point; once more to stop at once");
        stop.cancel();
    }
}
