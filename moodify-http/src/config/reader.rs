use moodify_core::secret::{ExposeSecret, Secret};
use moodify_core::{Error, ErrorKind, Result};

use crate::endpoint::Endpoint;

/// Reads a configuration and collects what is wrong with it.
pub(super) struct Reader<'a> {
    pub(super) lookup: &'a dyn Fn(&str) -> Option<String>,
    pub(super) problems: Vec<Error>,
}

impl Reader<'_> {
    /// An address without secrets in it.
    pub(super) fn address<'u>(&mut self, place: &str, url: &'u str) -> Option<&'u str> {
        let endpoint = match Endpoint::public(url) {
            Ok(endpoint) => endpoint,
            Err(why) => {
                self.problem(place, &why, "mend the address");
                return None;
            }
        };
        if endpoint.has_password() {
            let hint = "secrets stay out of configuration: use `token-env`";
            self.problem(place, "the address holds a user or a password", hint);
            return None;
        }
        Some(url)
    }

    /// A setting without which there is nothing to set up.
    pub(super) fn required<'t>(&mut self, place: &str, given: Option<&'t str>) -> Option<&'t str> {
        let given = given.filter(|text| !text.trim().is_empty());
        if given.is_none() {
            self.problem(place, "it is missing, or empty", "name it");
        }
        given
    }

    /// `None` is a problem; `Some(None)` is no secret.
    pub(super) fn optional_secret(&mut self, place: &str, variable: Option<&str>) -> Option<Option<Secret>> {
        match variable {
            None => Some(None),
            Some(variable) => self.secret(place, variable).map(Some),
        }
    }

    pub(super) fn secret(&mut self, place: &str, variable: &str) -> Option<Secret> {
        // `var` panics on some names, and whoever writes the secret itself here should not see it printed.
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if variable.is_empty() || !variable.chars().all(is_name) {
            let hint = "write the variable's name, not the secret itself";
            self.problem(place, "this is not the name of an environment variable", hint);
            return None;
        }
        let found = (self.lookup)(variable).map(Secret::from);
        // Files and shells like to end in a newline, which no header can carry.
        let trimmed = found.map(|secret| Secret::from(secret.expose_secret().trim()));
        let secret = trimmed.filter(|secret| !secret.expose_secret().is_empty());
        if secret.is_none() {
            let hint = "set it where moodify runs";
            self.problem(place, &format!("the environment variable {variable} is not set, or empty"), hint);
        }
        secret
    }

    pub(super) fn problem(&mut self, place: &str, message: &str, hint: &str) {
        let error = Error::new(ErrorKind::Invalid, "http", "read configuration", message).on(place).hint(hint);
        self.problems.push(error);
    }

    pub(super) fn keep<T>(&mut self, place: &str, result: Result<T>) -> Option<T> {
        result.map_err(|e| self.problems.push(e.on(place))).ok()
    }
}
