use jiff::Timestamp;
use moodify_core::clock::{Clock as _, SystemClock};

/// How to show rows.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Look {
    /// All columns, as with `-o wide`.
    pub wide: bool,
    /// With the namespaces, as with `--all-namespaces`.
    pub namespaces: bool,
    /// What ages count from.
    pub now: Timestamp,
}

impl Look {
    /// The columns that kubectl shows by itself, at this time.
    #[must_use]
    pub fn plain() -> Self {
        Self { wide: false, namespaces: false, now: SystemClock.now() }
    }

    /// All columns.
    #[must_use]
    pub fn wide() -> Self {
        Self { wide: true, ..Self::plain() }
    }

    /// With the namespaces.
    #[must_use]
    pub fn namespaces(mut self) -> Self {
        self.namespaces = true;
        self
    }

    /// With ages that count from `now`.
    #[must_use]
    pub fn at(mut self, now: Timestamp) -> Self {
        self.now = now;
        self
    }
}

/// What can be a line of a [`table`].
pub trait Row {
    /// The titles of the columns.
    fn columns(wide: bool) -> &'static [&'static str];

    /// The texts under them.
    fn cells(&self, wide: bool, now: Timestamp) -> Vec<String>;

    /// The namespace of the object; empty if it is in none.
    fn namespace(&self) -> &str;
}

/// Rows as text, as kubectl shows them. No rows are no text.
///
/// ```no_run
/// # async fn show(verbs: moodify_k8s::verbs::Verbs, cx: moodify_core::CallContext) -> moodify_core::Result<()> {
/// use moodify_k8s::verbs::{Look, Select, table};
/// let everywhere = verbs.pods(&cx, &Select::all().all_namespaces()).await?;
/// print!("{}", table(&everywhere, &Look::wide().namespaces()));
/// # Ok(())
/// # }
/// ```
#[must_use]
pub fn table<R: Row>(rows: &[R], look: &Look) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let titles = R::columns(look.wide).iter().map(|title| (*title).to_owned()).collect();
    let mut lines: Vec<Vec<String>> = vec![titles];
    // The cell would break the line, or hide what comes before it.
    let plain = |cell: String| match cell.find(['\n', '\r', '\x0c']) {
        Some(end) => format!("{}...", visible(&cell[..end])),
        None => visible(&cell),
    };
    lines.extend(rows.iter().map(|row| row.cells(look.wide, look.now).into_iter().map(plain).collect()));
    if look.namespaces {
        lines[0].insert(0, "NAMESPACE".to_owned());
        lines.iter_mut().skip(1).zip(rows).for_each(|(line, row)| line.insert(0, row.namespace().to_owned()));
    }
    columns(&lines, 6, 3)
}

/// What others wrote must not command the terminal.
fn visible(text: &str) -> String {
    text.replace('\u{1b}', "^[")
}

/// Lines of cells, one under the other: columns at least so wide, with so much space between them.
pub(super) fn columns(lines: &[Vec<String>], narrowest: usize, space: usize) -> String {
    let count = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let longest = lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
        (longest.unwrap_or(0) + space).max(narrowest)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let mut end = text.len();
        for (cell, width) in line.iter().zip(&widths) {
            text.push_str(cell);
            end = text.len();
            text.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
        }
        text.truncate(end);
        text.push('\n');
    }
    text
}

/// What stands for nothing.
pub(super) fn or_none(text: Option<&str>) -> String {
    text.filter(|text| !text.is_empty()).unwrap_or("<none>").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Line(&'static str, &'static str);

    impl Row for Line {
        fn columns(wide: bool) -> &'static [&'static str] {
            if wide { &["NAME", "STATUS"] } else { &["NAME"] }
        }

        fn cells(&self, wide: bool, _now: Timestamp) -> Vec<String> {
            let cells = [self.0, self.1].map(str::to_owned);
            if wide { cells.to_vec() } else { cells[..1].to_vec() }
        }

        fn namespace(&self) -> &str {
            "shop"
        }
    }

    #[test]
    fn columns_stand_below_each_other() {
        let rows = [Line("web", "Running"), Line("a-longer-name", "bad\nvery bad")];
        let expected = "NAME            STATUS\nweb             Running\na-longer-name   bad...\n";
        assert_eq!(table(&rows, &Look::wide()), expected);
        let expected = "NAMESPACE   NAME\nshop        web\n";
        assert_eq!(table(&rows[..1], &Look::plain().namespaces()), expected);
        assert_eq!(table::<Line>(&[], &Look::plain()), "");
        assert_eq!(table(&[Line("\u{1b}[2J", "")], &Look::plain()), "NAME\n^[[2J\n");
    }
}
