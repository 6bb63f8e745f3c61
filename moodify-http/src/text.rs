//! Messages as channels want them.

use moodify_core::backend::Notification;

/// What stands where a text was cut.
const CUT: &str = "... (cut)";

/// At most so many characters, [`CUT`] included.
pub(crate) fn cut(text: &str, limit: usize) -> String {
    if text.chars().nth(limit).is_none() {
        return text.to_owned();
    }
    let end = text.char_indices().nth(limit - CUT.len()).map_or(text.len(), |(end, _)| end);
    format!("{}{CUT}", &text[..end])
}

/// At most so many bytes, cut between characters.
#[cfg(feature = "smtp")]
pub(crate) fn cut_bytes(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    format!("{}{CUT}", &text[..text.floor_char_boundary(limit - CUT.len())])
}

/// A text in one line, without what a terminal or a mail header would act on.
pub(crate) fn one_line(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

/// Body and link, as text of so many characters; the link is always whole.
pub(crate) fn body(notification: &Notification, limit: usize) -> String {
    let Some(link) = &notification.link else { return cut(&notification.body, limit) };
    let link = link.as_str();
    if notification.body.is_empty() {
        return link.to_owned();
    }
    format!("{}\n{link}", cut(&notification.body, limit.saturating_sub(link.len() + 1).max(CUT.len())))
}

#[cfg(test)]
mod tests {
    use moodify_core::backend::Link;

    use super::*;

    #[test]
    fn a_text_is_cut_between_characters_and_says_so() {
        assert_eq!(cut("ääää", 4), "ääää");
        assert_eq!(cut(&"ä".repeat(20), 12), "äää... (cut)");
        assert_eq!(one_line("a\r\nBcc: b\u{7}c"), "a Bcc: b c");
    }

    #[test]
    fn the_link_is_whole() {
        let link = Link::new("https://host/run").unwrap();
        let long = Notification::new("t").with_body("x".repeat(100)).with_link(link.clone());
        assert_eq!(body(&long, 40), format!("{}... (cut)\nhttps://host/run", "x".repeat(14)));
        assert_eq!(body(&Notification::new("t").with_link(link), 5), "https://host/run");
    }
}
