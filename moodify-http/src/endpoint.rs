use std::fmt;

use moodify_core::secret::{ExposeSecret, Secret};
use url::Url;

/// An address, and what of it people may read.
#[derive(Clone)]
pub(crate) struct Endpoint {
    url: Url,
    secret: bool,
}

impl Endpoint {
    /// An address that people may read, except for its user, password and query values.
    pub(crate) fn public(url: &str) -> Result<Self, String> {
        Ok(Self { url: parse(url)?, secret: false })
    }

    /// An address that is a secret itself, as those of chat webhooks: people read its host only.
    pub(crate) fn secret(url: &Secret) -> Result<Self, String> {
        Ok(Self { url: parse(url.expose_secret().trim())?, secret: true })
    }

    /// The address `path` segments below this one. Every segment is one segment, whatever is in it.
    pub(crate) fn below(&self, segments: &[&str]) -> Self {
        let mut below = self.clone();
        below.url.set_query(None);
        // Every address with a host has a path, so this never fails.
        if let Ok(mut path) = below.url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        below
    }

    /// The same address with this question.
    pub(crate) fn with_query(&self, pairs: &[(&str, &str)]) -> Self {
        let mut asked = self.clone();
        asked.url.query_pairs_mut().clear().extend_pairs(pairs);
        asked
    }

    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    pub(crate) fn has_password(&self) -> bool {
        !self.url.username().is_empty() || self.url.password().is_some()
    }

    /// Where a redirect from here leads, for people.
    pub(crate) fn redirect(&self, location: &str) -> String {
        match self.url.join(location) {
            Ok(url) => Self { url, secret: self.secret }.to_string(),
            Err(_) => "an address that cannot be read".to_owned(),
        }
    }

    /// What of this address may appear nowhere, also not in a server's own message.
    pub(crate) fn secrets(&self) -> Vec<String> {
        let mut secrets: Vec<String> = self.url.password().map(str::to_owned).into_iter().collect();
        secrets.extend(self.url.query_pairs().map(|(_, value)| value.into_owned()));
        if self.secret {
            secrets.extend(self.url.path_segments().into_iter().flatten().map(str::to_owned));
        }
        // Shorter ones are words like `5m`, and hide nothing.
        secrets.retain(|secret| secret.len() >= 6);
        secrets
    }
}

fn parse(text: &str) -> Result<Url, String> {
    let example = "an address is like https://host/path";
    let url = Url::parse(text).map_err(|e| format!("{e}; {example}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("the scheme is neither http nor https; {example}"));
    }
    Ok(url)
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = &self.url;
        write!(f, "{}://{}", url.scheme(), url.host_str().unwrap_or_default())?;
        if let Some(port) = url.port() {
            write!(f, ":{port}")?;
        }
        if self.secret {
            return f.write_str("/...");
        }
        f.write_str(url.path())?;
        for (at, (name, _)) in url.query_pairs().enumerate() {
            write!(f, "{}{name}=...", if at == 0 { '?' } else { '&' })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_no_secret() {
        let shown = Endpoint::public("https://me:hunter2@host:8443/a/b?token=planted&x=1#frag").unwrap();
        assert_eq!(shown.to_string(), "https://host:8443/a/b?token=...&x=...");
        let hook = Endpoint::secret(&"https://hooks.example/services/T0/planted".into()).unwrap();
        assert_eq!(format!("{hook} {hook:?}"), "https://hooks.example/... Endpoint(https://hooks.example/...)");
        assert_eq!(shown.redirect("/login?next=planted"), "https://host:8443/login?next=...");
    }

    #[test]
    fn what_is_no_address_is_refused_without_repeating_it() {
        for bad in ["", "planted", "ftp://planted/", "http://", "mailto:planted"] {
            let why = Endpoint::public(bad).unwrap_err();
            assert!(!why.contains("planted"), "{why}");
        }
    }

    #[test]
    fn one_segment_stays_one_segment() {
        let page = Endpoint::public("https://status.example/base/?q=1").unwrap();
        let incident = page.below(&["api", "incidents", "a/../b?c"]);
        assert_eq!(incident.url().as_str(), "https://status.example/base/api/incidents/a%2F..%2Fb%3Fc");
    }
}
