//! Redis backend of moodify: cache administration for single, sentinel and cluster.
