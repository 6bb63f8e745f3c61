use std::fmt::Write as _;
use std::path::Path;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lettre::address::{Address, Envelope};
use lettre::transport::smtp::AsyncSmtpTransport;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters, TlsParametersBuilder};
use lettre::{AsyncTransport, Tokio1Executor};
use moodify_core::backend::{Notification, Notifier, Urgency};
use moodify_core::clock::{Clock, SystemClock};
use moodify_core::secret::{ExposeSecret, Secret};
use moodify_core::{CallContext, Effect, Error, ErrorKind, IdempotencyKey, Result};
use ring::digest;

use crate::config::SmtpSecurity;
use crate::error;
use crate::text::{cut_bytes, one_line};

pub(crate) const BACKEND: &str = "e-mail";

/// Servers take megabytes; nobody reads as much.
const BODY_LIMIT: usize = 200_000;

/// The longest text in one encoded word of a header: with its frame it stays below 76 characters.
const WORD: usize = 42;

/// Tells people by e-mail.
///
/// The idempotency key is the `Message-ID`, so that a message that came twice is seen to be the same, and all messages on one
/// topic of a run are one thread. Texts are plain, in UTF-8.
///
/// ```
/// # fn main() -> moodify_core::Result<()> {
/// use moodify_http::{SmtpNotifier, SmtpSecurity};
/// let mail = SmtpNotifier::new("mail.moodify.com", 465, SmtpSecurity::Tls, "deploy@moodify.com", &["team@moodify.com"])?
///     .with_credentials("deploy", "the password".into());
/// assert!(!format!("{mail:?}").contains("the password"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct SmtpNotifier {
    server: String,
    port: u16,
    security: SmtpSecurity,
    envelope: Envelope,
    credentials: Option<(String, Secret)>,
    authority: Option<Certificate>,
}

impl SmtpNotifier {
    /// A notifier that hands its mail to `server`.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if `from` or one of `to` is not an address, or nobody is told.
    pub fn new(server: &str, port: u16, security: SmtpSecurity, from: &str, to: &[&str]) -> Result<Self> {
        let address = |text: &str| {
            text.parse::<Address>().map_err(|e| {
                Error::new(ErrorKind::Invalid, BACKEND, "set up", format!("{text:?} is not an address: {e}"))
            })
        };
        let from = address(from).map_err(|e| e.on("from"))?;
        let to = to.iter().map(|text| address(text)).collect::<Result<Vec<_>>>().map_err(|e| e.on("to"))?;
        let envelope = Envelope::new(Some(from), to)
            .map_err(|_| Error::new(ErrorKind::Invalid, BACKEND, "set up", "there is nobody to write to").on("to"))?;
        Ok(Self { server: server.to_owned(), port, security, envelope, credentials: None, authority: None })
    }

    /// The same, which logs in.
    #[must_use]
    pub fn with_credentials(mut self, user: &str, password: Secret) -> Self {
        self.credentials = Some((user.to_owned(), password));
        self
    }

    /// The same, which trusts the certificate in a PEM file too: a company's own authority.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the file cannot be read or holds no certificate.
    pub fn with_ca_file(mut self, path: &Path) -> Result<Self> {
        let bad =
            |why: String| Error::new(ErrorKind::Invalid, BACKEND, "read CA file", why).on(path.display().to_string());
        let pem = std::fs::read(path).map_err(|e| bad(e.to_string()))?;
        self.authority = Some(Certificate::from_pem(&pem).map_err(|e| bad(e.to_string()))?);
        Ok(self)
    }

    fn place(&self) -> String {
        format!("{}:{}", self.server, self.port)
    }

    fn transport(&self) -> Result<AsyncSmtpTransport<Tokio1Executor>> {
        let tls = || -> Result<TlsParameters> {
            let mut tls = TlsParametersBuilder::new(self.server.clone());
            if let Some(authority) = &self.authority {
                tls = tls.add_root_certificate(authority.clone());
            }
            tls.build_rustls().map_err(|e| error::from_smtp("set up TLS", &self.place(), e))
        };
        let tls = match self.security {
            SmtpSecurity::Tls => Tls::Wrapper(tls()?),
            SmtpSecurity::Starttls => Tls::Required(tls()?),
            SmtpSecurity::None => Tls::None,
        };
        // The call's context ends it: no time of its own.
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&*self.server)
            .port(self.port)
            .tls(tls)
            .timeout(None);
        if let Some((user, password)) = &self.credentials {
            builder = builder.credentials(Credentials::new(user.clone(), password.expose_secret().to_owned()));
        }
        Ok(builder.build())
    }

    /// The message as it goes over the wire.
    fn message(&self, cx: &CallContext, notification: &Notification, date: &str) -> String {
        let mut mail = String::new();
        let mut header = |name: &str, value: &str| {
            // Writing to a String cannot fail.
            let _ = write!(mail, "{name}: {value}\r\n");
        };
        let domain = self.envelope.from().map_or("localhost", |from| from.domain());
        let to: Vec<&str> = self.envelope.to().iter().map(AsRef::as_ref).collect();
        header("From", self.envelope.from().map_or("", AsRef::as_ref));
        header("To", &to.join(",\r\n "));
        header("Date", date);
        header("Subject", &encoded(&subject(notification)));
        header("Message-ID", &id(cx.key(), domain));
        if notification.topic.is_some() {
            header("References", &id(&IdempotencyKey::new(notification.alert(cx)), domain));
        }
        if notification.urgency == Urgency::Critical {
            header("Importance", "high");
        }
        header("Auto-Submitted", "auto-generated");
        header("MIME-Version", "1.0");
        header("Content-Type", "text/plain; charset=utf-8");
        header("Content-Transfer-Encoding", "base64");
        mail.push_str("\r\n");
        let title = &notification.title;
        let body = match (&notification.body, &notification.link) {
            (body, Some(link)) => format!("{title}\n\n{}\n\n{link}\n", cut_bytes(body, BODY_LIMIT)),
            (body, None) => format!("{title}\n\n{}\n", cut_bytes(body, BODY_LIMIT)),
        };
        let text = STANDARD.encode(body.replace("\r\n", "\n").replace('\n', "\r\n"));
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let (line, after) = rest.split_at(rest.len().min(76));
            mail.push_str(line);
            mail.push_str("\r\n");
            rest = after;
        }
        mail
    }
}

#[async_trait]
impl Notifier for SmtpNotifier {
    async fn notify(&self, cx: &CallContext, notification: &Notification) -> Result<()> {
        const OPERATION: &str = "notify";
        let place = self.place();
        let transport = self.transport()?;
        let now = SystemClock.now().to_zoned(jiff::tz::TimeZone::UTC);
        let date = jiff::fmt::rfc2822::to_string(&now).map_err(|e| {
            Error::new(ErrorKind::Internal, BACKEND, OPERATION, format!("the date cannot be written: {e}"))
        })?;
        let mail = self.message(cx, notification, &date);
        if cx.cancel().is_cancelled() || cx.remaining().is_zero() {
            let (kind, why) = if cx.cancel().is_cancelled() {
                (ErrorKind::Cancelled, "cancelled before anything was sent")
            } else {
                (ErrorKind::Timeout, "the deadline passed before anything was sent")
            };
            return Err(Error::new(kind, BACKEND, OPERATION, why).effect(Effect::None).on(place));
        }
        let sending = async {
            let sent = transport.send_raw(&self.envelope, mail.as_bytes()).await;
            sent.map(drop).map_err(|e| error::from_smtp(OPERATION, &place, e))
        };
        cx.run(BACKEND, OPERATION, sending).await.map_err(|e| e.on(&*place))
    }
}

fn subject(notification: &Notification) -> String {
    let mark = match notification.urgency {
        _ if notification.resolved => "[resolved] ",
        Urgency::Info => "",
        Urgency::Warning => "[warning] ",
        Urgency::Critical => "[critical] ",
    };
    format!("{mark}{}", one_line(&notification.title))
}

/// A header's text in words of ASCII (RFC 2047), one a line.
fn encoded(text: &str) -> String {
    let mut words = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (word, after) = rest.split_at(rest.floor_char_boundary(WORD));
        words.push(format!("=?utf-8?B?{}?=", STANDARD.encode(word)));
        rest = after;
    }
    words.join("\r\n ")
}

/// The `Message-ID` that stands for a key: the same for the same.
fn id(key: &IdempotencyKey, domain: &str) -> String {
    let hash = digest::digest(&digest::SHA256, key.as_str().as_bytes());
    let mut hex = String::new();
    for byte in hash.as_ref().iter().take(16) {
        let _ = write!(hex, "{byte:02x}");
    }
    format!("<{hex}@{domain}>")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use moodify_core::RunId;

    use super::*;

    #[test]
    fn nothing_in_a_title_becomes_a_header() {
        let run = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _clock = run.enter();
        let mail = SmtpNotifier::new("localhost", 25, SmtpSecurity::None, "a@example.com", &["b@example.com"]).unwrap();
        let cx = CallContext::new(RunId::new("r1").unwrap(), IdempotencyKey::new("r1/x"), Duration::from_secs(1));
        let bad = Notification::new("x\r\nBcc: all@example.com").with_body("\r\n.\r\nDATA");
        let text = mail.message(&cx, &bad, "Tue, 24 Nov 2026 15:00:00 +0000");
        assert!(text.is_ascii() && !text.contains("Bcc") && !text.contains("\r\n.\r\n"), "{text}");
        assert!(text.lines().all(|line| line.len() <= 76), "{text}");
    }

    #[test]
    fn whom_nobody_can_write_to_is_refused() {
        let to = |from: &str, to: &[&str]| SmtpNotifier::new("localhost", 25, SmtpSecurity::None, from, to);
        assert_eq!(to("nobody", &["b@example.com"]).unwrap_err().target(), "from");
        assert_eq!(to("a@example.com", &["b@example.com", "b c@example.com"]).unwrap_err().target(), "to");
        assert_eq!(to("a@example.com", &[]).unwrap_err().target(), "to");
    }
}
