# The steps of .ci/run, one by one. `just` alone lists them.

_list:
    @just --list

# Everything that must hold before a change goes in
ci:
    .ci/run

# Install what the tests need and run them; arguments go to cargo test
test *arguments:
    tests/run {{arguments}}

# Random releases in simulated worlds, and moodify broken on purpose
sweep:
    .ci/run sweep

# Half a minute of each fuzz target
fuzz:
    .ci/run fuzz

# Check the formatting
fmt:
    .ci/run fmt

# Lint, with no warning left
clippy:
    .ci/run clippy

# Build the documentation, with no warning left
doc:
    .ci/run doc

# Check licences, sources and banned crates
deny:
    .ci/run deny
