//! What moodify reaches over plain HTTP: metrics, probes, status pages, notifiers.
