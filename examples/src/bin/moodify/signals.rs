//! Ctrl-C and its kin: first politely, then at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::exit::Exit;

/// Cancels `stop` on the first SIGINT or SIGTERM, ends the process on the second. Ends never.
pub(crate) async fn watch(stop: CancellationToken) {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        tracing::warn!("signals cannot be watched; an interruption is a crash, which is resumable too");
        return std::future::pending().await;
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
