//! AWS backend of moodify: DocumentDB backups, ElastiCache administration.
