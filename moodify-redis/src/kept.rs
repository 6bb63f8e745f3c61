//! Keeps what was written to primaries until their replicas have it too: who takes over may lack it.

use std::collections::VecDeque;

use moodify_core::backend::CacheEntry;

use crate::info::{Fields, Point};

/// So many bytes are much: then the replicas are waited for.
const MUCH: usize = 4 << 20;

/// The most bytes that are kept.
const MOST: usize = 16 << 20;

/// What an entry takes beside its key and value.
const OVERHEAD: usize = 96;

/// An entry on its way.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) entry: CacheEntry,
    /// It was missing, and a primary said that it wrote it.
    pub(crate) written: bool,
}

/// Part of what was written, in the order in which it was.
#[derive(Debug)]
struct Page {
    /// Where the primary's data was right after it.
    after: Point,
    entries: Vec<Item>,
    bytes: usize,
}

/// What a failover has undone.
#[derive(Debug, Default)]
pub(crate) struct Lost {
    pub(crate) entries: Vec<Item>,
    /// Entries that may be among it, and are not known any more.
    pub(crate) forgotten: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Kept {
    pages: VecDeque<Page>,
    bytes: usize,
    /// How many entries up to a point were let go of unconfirmed.
    forgotten: Vec<(Point, u64)>,
}

impl Kept {
    pub(crate) fn keep(&mut self, after: Point, entries: Vec<Item>) {
        let size = |item: &Item| item.entry.key.len() + item.entry.value.len() + OVERHEAD;
        let bytes = entries.iter().map(size).sum();
        self.bytes += bytes;
        self.pages.push_back(Page { after, entries, bytes });
    }

    /// Drops what all replicas of a primary have, as it says.
    pub(crate) fn confirm(&mut self, primary: &Fields) {
        let Some(confirmed) = primary.confirmed() else { return };
        self.pages.retain(|page| !page.after.is_in_history_of(&confirmed));
        self.forgotten.retain(|(after, _)| !after.is_in_history_of(&confirmed));
        self.bytes = self.pages.iter().map(|page| page.bytes).sum();
    }

    pub(crate) fn is_much(&self) -> bool {
        self.bytes > MUCH
    }

    /// Forgets the oldest entries of too many.
    pub(crate) fn let_go(&mut self) {
        while self.bytes > MOST {
            let Some(page) = self.pages.pop_front() else { return };
            self.bytes -= page.bytes;
            let entries = page.entries.len() as u64;
            match self.forgotten.iter_mut().find(|(before, _)| before.is_in_history_of(&page.after)) {
                Some((after, count)) => (*after, *count) = (page.after, *count + entries),
                None => self.forgotten.push((page.after, entries)),
            }
        }
    }

    /// Hands out what none of these primaries has, and tells the rest in their words.
    pub(crate) fn settle(&mut self, primaries: &[&Fields]) -> Lost {
        let has = |point: &mut Point| {
            let now = primaries.iter().find_map(|primary| primary.has(point));
            now.map(|now| *point = now).is_some()
        };
        let mut lost = Lost::default();
        for mut page in std::mem::take(&mut self.pages) {
            if has(&mut page.after) {
                self.pages.push_back(page);
            } else {
                self.bytes -= page.bytes;
                lost.entries.extend(page.entries);
            }
        }
        self.forgotten.retain_mut(|(after, count)| {
            let there = has(after);
            lost.forgotten += if there { 0 } else { *count };
            there
        });
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn primary(history: &str, offset: u64, more: &str) -> Fields {
        Fields::parse(&format!("master_replid:{history}\nmaster_repl_offset:{offset}\n{more}"))
    }

    fn items(keys: std::ops::Range<u32>, value: usize) -> Vec<Item> {
        let item = |n| Item { entry: CacheEntry::new(format!("mood:{n}"), vec![b'x'; value]), written: n % 2 == 0 };
        keys.map(item).collect()
    }

    fn keys(lost: &Lost) -> Vec<String> {
        lost.entries.iter().map(|item| String::from_utf8_lossy(&item.entry.key).into_owned()).collect()
    }

    #[test]
    fn what_did_not_get_to_the_replica_that_takes_over_is_handed_out() {
        let mut kept = Kept::default();
        kept.keep(primary("a", 10, "").point(), items(0..2, 1));
        kept.keep(primary("a", 20, "").point(), items(2..4, 1));
        kept.keep(primary("b", 15, "").point(), items(4..6, 1));
        kept.keep(primary("a", 30, "").point().unconfirmed(), items(6..7, 1));
        kept.confirm(&primary("a", 30, "slave0:ip=h,port=1,state=online,offset=10,lag=0"));
        let over = primary("c", 40, "master_replid2:a\nsecond_repl_offset:21");
        let lost = kept.settle(&[&over, &primary("b", 16, "")]);
        assert_eq!((keys(&lost), lost.forgotten), (vec!["mood:6".to_owned()], 0));
        // The page that it has may still be lost with it.
        let again = primary("d", 40, "master_replid2:c\nsecond_repl_offset:20");
        let lost = kept.settle(&[&again, &primary("b", 16, "")]);
        assert_eq!(keys(&lost), ["mood:2", "mood:3"]);
        let lost = kept.settle(&[&again]);
        assert_eq!((keys(&lost), kept.bytes), (vec!["mood:4".to_owned(), "mood:5".to_owned()], 0));
    }

    #[test]
    fn what_is_too_much_to_be_kept_is_counted_if_it_may_be_lost() {
        let mut kept = Kept::default();
        for n in 0..20 {
            kept.keep(primary("a", u64::from(n), "").point(), items(n..n + 1, 1 << 20));
            assert_eq!(kept.is_much(), n >= 3, "{n}");
            kept.let_go();
            assert!(kept.bytes <= MOST);
        }
        assert_eq!((kept.pages.len(), kept.forgotten.len()), (15, 1));
        assert_eq!(kept.settle(&[&primary("a", 20, "")]).forgotten, 0, "it is still primary");
        let over = primary("b", 30, "master_replid2:a\nsecond_repl_offset:3");
        let lost = kept.settle(&[&over]);
        assert_eq!(
            (lost.entries.len(), lost.forgotten),
            (15, 5),
            "some of those five are there, and nobody knows which"
        );
        assert_eq!(kept.settle(&[&over]).forgotten, 0, "told once");
    }
}
