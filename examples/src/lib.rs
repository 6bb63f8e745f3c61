//! Small programs, each showing one way to embed moodify; and the reference application moodify.
