//! What something restored was asked to be, kept in its tags: another process may go on with the restore, and what was
//! backed up may be gone by then.

use crate::names::tag_text;

const PREFIX: &str = "moodify:asked-";

const KMS_KEY: &str = "kms-key";
const ENGINE_VERSION: &str = "engine-version";

/// A property by its name, as text; `None` is what is left to AWS, or not told by it.
pub(crate) type Property = (&'static str, Option<String>);

/// The tags that keep what was asked for: name and value.
pub(crate) fn tags(asked: Vec<Property>) -> impl Iterator<Item = (String, String)> {
    let given = |(name, value): (&str, Option<String>)| Some((format!("{PREFIX}{name}"), tag_text(&value?)));
    asked.into_iter().filter_map(given)
}

/// What of that which was asked for, by the tags, it has not become.
pub(crate) fn problems<'a>(tags: impl Iterator<Item = (&'a str, &'a str)>, is: &[Property]) -> Vec<String> {
    let tags: Vec<_> = tags.collect();
    let problem = |(name, is): &Property| {
        let (_, asked) = tags.iter().find(|(tag, _)| tag.strip_prefix(PREFIX) == Some(*name))?;
        let is = is.as_deref().map(tag_text);
        let told = is.as_deref().unwrap_or("not told");
        (!same(name, asked, is.as_deref())).then(|| format!("{} {told} instead of {asked}", name.replace('-', " ")))
    };
    is.iter().filter_map(problem).collect()
}

fn same(name: &str, asked: &str, is: Option<&str>) -> bool {
    let Some(is) = is else { return false };
    match name {
        _ if is == asked => true,
        // A key may be asked for by its id or by an alias, and is told by its ARN. Of what key an alias is, is not to be
        // known here.
        KMS_KEY => asked.contains("alias/") || is.ends_with(&format!("/{asked}")),
        // AWS may be asked for less of a version than it tells.
        ENGINE_VERSION => is.starts_with(&format!("{asked}.")),
        _ => false,
    }
}

/// A list as one text, in which the order does not matter. Names in it have no spaces.
pub(crate) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let mut names: Vec<&str> = names.into_iter().collect();
    names.sort_unstable();
    Some(names.join(" ")).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(asked: &[(&'static str, &str)], is: &[(&'static str, &str)]) -> String {
        let properties = |all: &[(&'static str, &str)]| -> Vec<Property> {
            all.iter().map(|(name, value)| (*name, Some((*value).to_owned()))).collect()
        };
        let tags: Vec<(String, String)> = tags(properties(asked)).collect();
        problems(tags.iter().map(|(name, value)| (name.as_str(), value.as_str())), &properties(is)).join("; ")
    }

    #[test]
    fn what_is_another_than_asked_for_is_told_with_both_values() {
        let arn = "arn:aws:kms:eu-central-1:123456789012:key/1";
        for (name, asked, is, same) in [
            ("encryption", "true", "true", true),
            ("encryption", "true", "false", false),
            ("kms-key", arn, arn, true),
            ("kms-key", "1", arn, true),
            ("kms-key", "2", arn, false),
            ("kms-key", "alias/moods", arn, true),
            ("engine-version", "7.1", "7.1.0", true),
            ("engine-version", "7.1", "7.10.0", false),
            ("engine-version", "5.0.0", "4.0.0", false),
            ("subnet-group", "private", "private-2", false),
        ] {
            let found = found(&[(name, asked)], &[(name, is)]);
            assert_eq!(found.is_empty(), same, "{found}");
        }
        let found = found(&[("subnet-group", "private"), ("port", "1")], &[("subnet-group", "public"), ("port", "1")]);
        assert_eq!(found, "subnet group public instead of private");
    }

    #[test]
    fn what_is_not_told_is_a_problem_and_what_was_not_asked_for_is_none() {
        let tags = tags(vec![("encryption", Some("true".to_owned())), ("kms-key", None)]).collect::<Vec<_>>();
        let tags = tags.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let found = problems(tags, &[("encryption", None), ("kms-key", Some("1".to_owned())), ("port", None)]);
        assert_eq!(found, ["encryption not told instead of true"]);
    }

    #[test]
    fn the_order_of_a_list_does_not_matter() {
        assert_eq!(listed(["sg-2", "sg-1"]), listed(["sg-1", "sg-2"]));
        assert_eq!(listed([]), None);
    }
}
