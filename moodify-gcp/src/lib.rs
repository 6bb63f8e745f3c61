//! Google Cloud backend of moodify: Cloud Storage artifacts, Firestore backups.
