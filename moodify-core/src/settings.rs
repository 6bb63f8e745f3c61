//! Settings of backends from environment variables: what every provider's `from_vars` shares.

use std::fmt::Display;
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};

/// Reads variables with a common prefix, and keeps every problem, so that all are told at once.
///
/// ```
/// use moodify_core::model::Period;
/// use moodify_core::settings::Vars;
/// let given = |name: &str| (name == "MOODIFY_DEMO_TIMEOUT").then(|| "soon".to_owned());
/// let mut vars = Vars::new("MOODIFY_DEMO", &given);
/// let name = vars.required("NAME");
/// let mut timeout = Period::from_secs(5);
/// vars.parse("TIMEOUT", &mut timeout);
/// let error = vars.finish("demo", Vec::new()).unwrap_err();
/// assert!(error.to_string().contains("MOODIFY_DEMO_NAME is not set"), "{error}");
/// assert!(error.to_string().contains("MOODIFY_DEMO_TIMEOUT: \"soon\" is not a length of time"), "{error}");
/// # assert!(name.is_empty());
/// ```
#[derive(Debug)]
pub struct Vars<'a, F> {
    prefix: &'static str,
    var: &'a F,
    problems: Vec<String>,
}

impl<'a, F: Fn(&str) -> Option<String>> Vars<'a, F> {
    /// Variables that begin with `prefix` and an underscore; `var` looks one up, as [`std::env::var`] does.
    pub fn new(prefix: &'static str, var: &'a F) -> Self {
        Self { prefix, var, problems: Vec::new() }
    }

    /// A variable that may be left out; an empty one is left out.
    #[must_use]
    pub fn get(&self, part: &str) -> Option<String> {
        (self.var)(&format!("{}_{part}", self.prefix)).filter(|text| !text.is_empty())
    }

    /// A variable that must be there; empty, and a problem, if it is not.
    pub fn required(&mut self, part: &str) -> String {
        let found = self.get(part);
        if found.is_none() {
            self.problem(format!("{}_{part} is not set", self.prefix));
        }
        found.unwrap_or_default()
    }

    /// Replaces `value` if the variable is there; a problem if it cannot be read.
    pub fn parse<T: FromStr<Err: Display>>(&mut self, part: &str, value: &mut T) {
        match self.get(part).map(|text| text.parse()) {
            Some(Ok(parsed)) => *value = parsed,
            Some(Err(problem)) => self.problem(format!("{}_{part}: {problem}", self.prefix)),
            None => {}
        }
    }

    /// Notes a problem.
    pub fn problem(&mut self, problem: String) {
        self.problems.push(problem);
    }

    /// Everything that is wrong: with the variables, and with the settings made of them.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], with all problems at once.
    pub fn finish(mut self, backend: &'static str, settings: Vec<String>) -> Result<()> {
        // A required one that is not set was already said; it is not said again as empty.
        let missing = self.problems.iter().any(|p| p.ends_with("is not set"));
        self.problems.extend(settings.into_iter().filter(|p| !missing || !p.ends_with("is empty")));
        check(backend, &self.problems)
    }
}

/// Fails if there are problems with a backend's settings.
///
/// # Errors
/// [`ErrorKind::Invalid`], with all problems at once.
pub fn check(backend: &'static str, problems: &[String]) -> Result<()> {
    if problems.is_empty() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Invalid, backend, "read configuration", problems.join("; ")))
}
