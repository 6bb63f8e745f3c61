//! Releases whose process is killed at every point, on a real API server: another process carries each to its end.

use moodify_tests::crash::sweep;
use moodify_tests::rig::Rig;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_every_record_and_every_request_it_still_ends_as_it_should() {
    let Some(rig) = Rig::shared().await else { return };
    sweep(rig).await;
}
