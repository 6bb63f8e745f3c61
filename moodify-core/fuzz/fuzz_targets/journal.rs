//! A journal's text is read, or the line that is damaged is named. Seeds: `tests/fixtures/journal-1.0/*/journal`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use moodify_core::testing::journal::{decode, encode};

fuzz_target!(|text: &[u8]| {
    match decode(text) {
        Ok(entries) => {
            let again = decode(&encode(&entries).expect("what was read can be written")).expect("and read again");
            assert_eq!(again, entries);
        }
        Err(e) => assert!(e.message().starts_with("line "), "it names the line: {e}"),
    }
});
