//! A segment of a write-ahead log is read, or the line that is damaged is named.

#![no_main]

use libfuzzer_sys::fuzz_target;
use moodify_core::testing::journal::read_log;

fuzz_target!(|text: &[u8]| {
    if let Err(e) = read_log(text) {
        assert!(e.message().starts_with("line "), "it names the line: {e}");
    }
});
