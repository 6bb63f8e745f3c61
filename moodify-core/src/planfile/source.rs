use std::collections::BTreeMap;
use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::decode::{self, Mistake};
use super::tree::{Spot, Tree};
use crate::error::{Error, ErrorKind};

/// A place in a text: line and column, both from 1, the column in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// A YAML or JSON text that was read, and where everything in it stands. Kept beside what was made of it, so that a
/// problem found later is still told with its place.
///
/// ```
/// use moodify_core::planfile::Source;
/// let source = Source::read("backends:\n  prometheus:\n    url: nowhere\n", "plan.yaml").unwrap();
/// let problem = source.problem("/backends/prometheus/url", "not a URL");
/// assert_eq!(problem.to_string().lines().next(), Some("plan.yaml:3:10: not a URL"));
/// ```
#[derive(Debug, Clone)]
pub struct Source {
    file: String,
    text: String,
    value: Value,
    spots: BTreeMap<String, Spot>,
}

impl Source {
    /// Reads `text`, YAML or JSON; `file` is its name for messages.
    ///
    /// # Errors
    /// If it is neither, or a key is written twice.
    pub fn read(text: &str, file: &str) -> Result<Self, PlanErrors> {
        let (source, problems) = Self::parse(text, file)?;
        if problems.is_empty() { Ok(source) } else { Err(PlanErrors::new(problems)) }
    }

    /// As [`read`](Self::read), but keys that are written twice (the first one counts) end nothing yet.
    pub(super) fn parse(text: &str, file: &str) -> Result<(Self, Vec<Problem>), PlanErrors> {
        let mut source =
            Self { file: file.to_owned(), text: text.to_owned(), value: Value::Null, spots: BTreeMap::new() };
        let tree = Tree::parse(text).map_err(|e| {
            let place = e.place.unwrap_or(Place { line: 1, column: 1 });
            PlanErrors::new(vec![source.problem_at(place, e.message)])
        })?;
        let twice = tree.twice.into_iter().map(|twice| {
            let problem = source.problem_at(twice.second, format!("the key {:?} is there twice", twice.key));
            Problem { notes: vec![format!("first at {file}:{}", source.clamp(twice.first))], ..problem }
        });
        let problems = twice.collect();
        source.value = tree.value;
        source.spots = tree.spots;
        Ok((source, problems))
    }

    /// The file's name, as given.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// What the text says, as a plain value.
    #[must_use]
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// Where the value with this JSON pointer stands.
    ///
    /// ```
    /// # use moodify_core::planfile::{Place, Source};
    /// let source = Source::read(r#"{"weights": [10, 50]}"#, "plan.json").unwrap();
    /// assert_eq!(source.locate("/weights/1"), Some(Place { line: 1, column: 18 }));
    /// assert_eq!(source.locate("/bake"), None);
    /// ```
    #[must_use]
    pub fn locate(&self, pointer: &str) -> Option<Place> {
        self.spots.get(pointer).map(|spot| self.clamp(spot.value))
    }

    /// A problem with the value at `pointer`; if there is none, at the nearest one around it.
    #[must_use]
    pub fn problem(&self, pointer: &str, message: impl Into<String>) -> Problem {
        self.problem_at(self.nearest(pointer, false), message.into())
    }

    /// A mistake found in the value at `base`, with its place.
    #[must_use]
    pub fn explain(&self, base: &str, mistake: &Mistake) -> Problem {
        let place = self.nearest(&format!("{base}{}", mistake.pointer), mistake.on_key);
        let mut notes: Vec<String> = mistake.note.iter().cloned().collect();
        if let Some(other) = &mistake.also {
            notes.push(format!("first at {}:{}", self.file, self.nearest(&format!("{base}{other}"), false)));
        }
        Problem { hint: mistake.hint.clone(), notes, ..self.problem_at(place, mistake.message.clone()) }
    }

    /// The value at `pointer` as a `T`, for parts of the file that only the application knows: its backends' settings,
    /// or the parameters of its own steps. An empty pointer is the whole file. A value that is absent reads as null.
    ///
    /// # Errors
    /// All problems that were found, each with its place.
    pub fn read_at<T: DeserializeOwned>(&self, pointer: &str) -> Result<T, PlanErrors> {
        let value = self.value.pointer(pointer).unwrap_or(&Value::Null);
        decode::from_value(value)
            .map_err(|mistakes| PlanErrors::new(mistakes.iter().map(|m| self.explain(pointer, m)).collect()))
    }

    fn nearest(&self, pointer: &str, on_key: bool) -> Place {
        let mut pointer = pointer;
        loop {
            if let Some(spot) = self.spots.get(pointer) {
                let place = if on_key { spot.key.unwrap_or(spot.value) } else { spot.value };
                return self.clamp(place);
            }
            match pointer.rfind('/') {
                Some(end) => pointer = &pointer[..end],
                None => return Place { line: 1, column: 1 },
            }
        }
    }

    /// A parser may report the end of the text as a line after the last one.
    fn clamp(&self, place: Place) -> Place {
        let last = self.text.lines().count().max(1);
        if place.line > last {
            return Place { line: last, column: self.line(last).chars().count() + 1 };
        }
        let line = place.line.max(1);
        Place { line, column: place.column.clamp(1, self.line(line).chars().count() + 1) }
    }

    fn line(&self, number: usize) -> &str {
        self.text.lines().nth(number.saturating_sub(1)).unwrap_or_default()
    }

    fn problem_at(&self, place: Place, message: String) -> Problem {
        let place = self.clamp(place);
        let text = self.line(place.line).to_owned();
        Problem { file: self.file.clone(), place, message, hint: None, notes: Vec::new(), text }
    }
}

/// Something wrong in a file, with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// The file's name.
    pub file: String,
    /// Where.
    pub place: Place,
    /// What is wrong.
    pub message: String,
    /// What was probably meant.
    pub hint: Option<String>,
    /// What else there is to know: the known keys, or where the other one is.
    pub notes: Vec<String>,
    /// The line that it is in.
    pub text: String,
}

/// The longest piece of a line that is shown, in characters.
const SHOWN: usize = 100;

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.place, self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "; {hint}")?;
        }
        // A long line (a whole plan as one line of JSON) is cut around the place.
        let skipped = (self.place.column + SHOWN / 4).saturating_sub(SHOWN);
        let visible = |c: char| if c.is_control() { ' ' } else { c };
        let shown: String = self.text.chars().skip(skipped).take(SHOWN).map(visible).collect();
        let number = self.place.line.to_string();
        let margin = " ".repeat(number.len());
        let caret = " ".repeat(self.place.column - 1 - skipped);
        write!(f, "\n{margin} |\n{number} | {}\n{margin} | {caret}^", shown.trim_end())?;
        for note in &self.notes {
            write!(f, "\n{margin} = {note}")?;
        }
        Ok(())
    }
}

/// Everything that is wrong with a file, in the order of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanErrors(Vec<Problem>);

impl PlanErrors {
    /// Problems as one error.
    #[must_use]
    pub fn new(mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| problem.place);
        problems.dedup();
        Self(problems)
    }

    /// The problems, in the order of the text.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.0
    }
}

impl fmt::Display for PlanErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for PlanErrors {}

impl From<PlanErrors> for Error {
    fn from(errors: PlanErrors) -> Self {
        let file = errors.0.first().map(|problem| problem.file.clone()).unwrap_or_default();
        Self::new(ErrorKind::Invalid, "moodify", "read the plan", errors.to_string()).on(file)
    }
}
