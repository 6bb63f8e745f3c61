//! What the process says at its end: the one place that decides exit codes.

use std::fmt;
use std::process::ExitCode;

use moodify_core::engine::Ending;
use moodify_core::journal::Outcome;
use moodify_core::planfile::PlanErrors;
use moodify_core::{Error, ErrorKind};

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All new; or what was asked for was done.
    Completed = 0,
    /// The plan or the arguments are wrong.
    Invalid = 2,
    /// Something stood in the way before anything was changed.
    Refused = 3,
    /// All old.
    RolledBack = 4,
    /// A person is needed.
    NeedsAttention = 5,
    /// Stopped on the way, resumable.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl From<&Ending> for Exit {
    fn from(ending: &Ending) -> Self {
        match ending {
            Ending::Ended(outcome, _) => Self::from(*outcome),
            Ending::Interrupted => Self::Interrupted,
        }
    }
}

impl From<Outcome> for Exit {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Completed => Self::Completed,
            Outcome::RolledBack => Self::RolledBack,
            Outcome::Refused => Self::Refused,
            Outcome::NeedsAttention => Self::NeedsAttention,
        }
    }
}

impl Exit {
    /// After a failure before a run began: nothing was changed.
    fn before(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Invalid | ErrorKind::Unsupported | ErrorKind::NotFound | ErrorKind::AlreadyExists => {
                Self::Invalid
            }
            _ => Self::Refused,
        }
    }

    /// After a failure of the driving itself. What a step cannot do ends the run instead.
    fn during(kind: ErrorKind) -> Self {
        match kind {
            // Another engine has it.
            ErrorKind::Refused => Self::Refused,
            ErrorKind::Fenced => Self::Interrupted,
            ErrorKind::NotFound | ErrorKind::Invalid | ErrorKind::Unsupported => Self::Invalid,
            _ => Self::NeedsAttention,
        }
    }
}

/// An end before the end: what to say, and the code.
#[derive(Debug)]
pub(crate) struct Stop {
    pub(crate) exit: Exit,
    message: String,
}

impl Stop {
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self { exit: Exit::Invalid, message: message.into() }
    }

    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self { exit: Exit::Refused, message: message.into() }
    }

    /// Several failures before a run began; the worst of them counts: what is wrong in the plan, before what stands in
    /// its way.
    pub(crate) fn before(errors: &[Error]) -> Self {
        let invalid = errors.iter().any(|e| Exit::before(e.kind()) == Exit::Invalid);
        let message: Vec<String> = errors.iter().map(ToString::to_string).collect();
        Self { exit: if invalid { Exit::Invalid } else { Exit::Refused }, message: message.join("\n") }
    }

    pub(crate) fn during(error: &Error) -> Self {
        Self { exit: Exit::during(error.kind()), message: error.to_string() }
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::before(&[error])
    }
}

impl From<PlanErrors> for Stop {
    fn from(errors: PlanErrors) -> Self {
        Self::invalid(errors.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_that_scripts_rely_on() {
        let code = |exit: Exit| exit as u8;
        let ended = |outcome| Exit::from(&Ending::Ended(outcome, String::new()));
        assert_eq!(code(ended(Outcome::Completed)), 0);
        assert_eq!(code(ended(Outcome::Refused)), 3);
        assert_eq!(code(ended(Outcome::RolledBack)), 4);
        assert_eq!(code(ended(Outcome::NeedsAttention)), 5);
        assert_eq!(code(Exit::from(&Ending::Interrupted)), 130);
        assert_eq!(code(Exit::Invalid), 2);
    }

    #[test]
    fn failures_before_a_run_changed_nothing() {
        let exit = |kind| Stop::from(Error::new(kind, "b", "o", "m")).exit;
        for kind in [ErrorKind::Invalid, ErrorKind::Unsupported, ErrorKind::NotFound] {
            assert_eq!(exit(kind), Exit::Invalid);
        }
        for kind in [ErrorKind::Unavailable, ErrorKind::Forbidden, ErrorKind::Unauthenticated, ErrorKind::Storage] {
            assert_eq!(exit(kind), Exit::Refused);
        }
    }

    #[test]
    fn a_run_that_cannot_be_recorded_needs_a_person_and_one_that_is_lost_goes_on_elsewhere() {
        let exit = |kind| Stop::during(&Error::new(kind, "b", "o", "m")).exit;
        assert_eq!(exit(ErrorKind::Storage), Exit::NeedsAttention);
        assert_eq!(exit(ErrorKind::Fenced), Exit::Interrupted);
        assert_eq!(exit(ErrorKind::Refused), Exit::Refused);
    }
}
