//! What is different between two texts, as `diff -u` says it. Pure.

/// Lines around a difference.
const CONTEXT: usize = 3;
/// Differences from which the shortest way from one text to the other is not looked for any more.
const MOST: usize = 2_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Edit {
    Keep,
    Remove,
    Add,
}

/// The hunks of the difference, after headers with these names; empty if there is none.
pub(super) fn unified(before: &str, after: &str, names: [&str; 2]) -> String {
    let (a, b): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let edits = edits(&a, &b);
    if edits.iter().all(|edit| *edit == Edit::Keep) {
        return String::new();
    }
    let mut text = format!("--- {}\n+++ {}\n", names[0], names[1]);
    for (from, to) in hunks(&edits) {
        let count = |edits: &[Edit], without: Edit| edits.iter().filter(|edit| **edit != without).count();
        let (mut x, mut y) = (count(&edits[..from], Edit::Add), count(&edits[..from], Edit::Remove));
        let hunk = &edits[from..to];
        let range = |begin: usize, length: usize| match length {
            0 => format!("{begin},0"),
            1 => (begin + 1).to_string(),
            _ => format!("{},{length}", begin + 1),
        };
        let (old, new) = (range(x, count(hunk, Edit::Add)), range(y, count(hunk, Edit::Remove)));
        text.push_str(&format!("@@ -{old} +{new} @@\n"));
        for edit in hunk {
            let (sign, line) = match edit {
                Edit::Keep => (' ', a[x]),
                Edit::Remove => ('-', a[x]),
                Edit::Add => ('+', b[y]),
            };
            x += usize::from(*edit != Edit::Add);
            y += usize::from(*edit != Edit::Remove);
            text.push(sign);
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// Where differences stand, with the lines around them; those that touch are one.
fn hunks(edits: &[Edit]) -> Vec<(usize, usize)> {
    let mut hunks: Vec<(usize, usize)> = Vec::new();
    for (index, _) in edits.iter().enumerate().filter(|(_, edit)| **edit != Edit::Keep) {
        let (from, to) = (index.saturating_sub(CONTEXT), (index + 1 + CONTEXT).min(edits.len()));
        match hunks.last_mut() {
            Some(last) if from <= last.1 => last.1 = to,
            _ => hunks.push((from, to)),
        }
    }
    hunks
}

/// A shortest way from `a` to `b` (Myers' greedy algorithm), between what they begin and end with alike.
fn edits(a: &[&str], b: &[&str]) -> Vec<Edit> {
    let head = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let tail = a[head..].iter().rev().zip(b[head..].iter().rev()).take_while(|(x, y)| x == y).count();
    let (inner_a, inner_b) = (&a[head..a.len() - tail], &b[head..b.len() - tail]);
    let mut all = vec![Edit::Keep; head];
    all.extend(shortest(inner_a, inner_b).unwrap_or_else(|| {
        let mut all = vec![Edit::Remove; inner_a.len()];
        all.extend(vec![Edit::Add; inner_b.len()]);
        all
    }));
    all.extend(vec![Edit::Keep; tail]);
    all
}

/// `None` if the two have too little in common.
fn shortest(a: &[&str], b: &[&str]) -> Option<Vec<Edit>> {
    // furthest[k]: how far of `a` is reached with `k - offset` more lines of `a` than of `b` used up.
    let most = (a.len() + b.len()).min(MOST);
    let offset = most + 1;
    let mut furthest = vec![0_usize; 2 * offset + 1];
    let mut steps = Vec::new();
    for changes in 0..=most {
        steps.push(furthest.clone());
        for k in (offset - changes..=offset + changes).step_by(2) {
            let down = k == offset - changes || (k != offset + changes && furthest[k - 1] < furthest[k + 1]);
            let mut x = if down { furthest[k + 1] } else { furthest[k - 1] + 1 };
            let Some(mut y) = (x + offset).checked_sub(k) else { continue };
            while x < a.len() && y < b.len() && a[x] == b[y] {
                (x, y) = (x + 1, y + 1);
            }
            furthest[k] = x;
            if x >= a.len() && y >= b.len() {
                return Some(way_back(a.len(), b.len(), &steps, offset));
            }
        }
    }
    None
}

fn way_back(mut x: usize, mut y: usize, steps: &[Vec<usize>], offset: usize) -> Vec<Edit> {
    let mut all = Vec::new();
    for (changes, furthest) in steps.iter().enumerate().rev() {
        let k = x + offset - y;
        let down = k == offset - changes || (k != offset + changes && furthest[k - 1] < furthest[k + 1]);
        let from = if down { k + 1 } else { k - 1 };
        let before_x = if changes == 0 { 0 } else { furthest[from] };
        let before_y = if changes == 0 { 0 } else { before_x + offset - from };
        while x > before_x && y > before_y {
            all.push(Edit::Keep);
            (x, y) = (x - 1, y - 1);
        }
        if changes > 0 {
            all.push(if down { Edit::Add } else { Edit::Remove });
            (x, y) = (before_x, before_y);
        }
    }
    all.reverse();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_diff_says() {
        let before = "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\nk\nl\nm\n";
        let after = "a\nB\nc\nd\ne\nf\ng\nh\ni\nj\nl\nm\nn\n";
        let expected = "--- live\n+++ merged\n@@ -1,5 +1,5 @@\n a\n-b\n+B\n c\n d\n e\n\
            @@ -8,6 +8,6 @@\n h\n i\n j\n-k\n l\n m\n+n\n";
        assert_eq!(unified(before, after, ["live", "merged"]), expected);
        assert_eq!(unified(before, before, ["a", "b"]), "");
        assert_eq!(unified("", "x\n", ["a", "b"]), "--- a\n+++ b\n@@ -0,0 +1 @@\n+x\n");
        assert_eq!(unified("x\ny\n", "", ["a", "b"]), "--- a\n+++ b\n@@ -1,2 +0,0 @@\n-x\n-y\n");
    }

    #[test]
    fn the_edits_lead_from_one_text_to_the_other_in_the_fewest_steps() {
        let mut seed = 7_u32;
        let mut next = |n: u32| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 16) % n
        };
        for _ in 0..300 {
            let mut text = |letters: &[&'static str]| -> Vec<&'static str> {
                (0..next(12)).map(|_| letters[next(3) as usize]).collect()
            };
            let (a, b) = (text(&["a", "b", "c"]), text(&["a", "b", "c"]));
            let edits = edits(&a, &b);
            let (mut x, mut made) = (0, Vec::new());
            let (mut y, mut kept) = (0, 0);
            for edit in edits {
                match edit {
                    Edit::Keep => {
                        assert_eq!(a[x], b[y]);
                        made.push(a[x]);
                        (x, y, kept) = (x + 1, y + 1, kept + 1);
                    }
                    Edit::Remove => x += 1,
                    Edit::Add => {
                        made.push(b[y]);
                        y += 1;
                    }
                }
            }
            assert_eq!((x, y, &made), (a.len(), b.len(), &b));
            assert_eq!(kept, longest_common(&a, &b), "{a:?} {b:?}");
        }
    }

    fn longest_common(a: &[&str], b: &[&str]) -> usize {
        let mut row = vec![0; b.len() + 1];
        for x in a {
            let mut before = 0;
            for (j, y) in b.iter().enumerate() {
                let here = if x == y { before + 1 } else { row[j].max(row[j + 1]) };
                before = row[j + 1];
                row[j + 1] = here;
            }
        }
        row[b.len()]
    }
}
