//! Mail through a real mail server: `aiosmtpd`.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use moodify_core::backend::{Notification, Notifier, Urgency};
use moodify_core::testing::conformance::{NotifierHarness, notifier};
use moodify_core::{CallContext, Effect, Error, ErrorKind, IdempotencyKey, RunId};
use moodify_http::{SmtpNotifier, SmtpSecurity};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

const PATIENCE: Duration = Duration::from_secs(30);

const TO: [&str; 2] = ["team@example.com", "on-call@example.com"];

/// A mail server that stops with this value, whatever becomes of the test.
struct Server {
    port: u16,
    dir: tempfile::TempDir,
    child: Child,
}

/// The Python that has aiosmtpd: beside the command of that name.
fn python() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&path).find(|dir| dir.join("aiosmtpd").is_file()).map(|dir| dir.join("python3"));
    if found.is_none() {
        let message = "SKIPPED: there is no `aiosmtpd` on PATH; pip install aiosmtpd";
        assert!(std::env::var_os("CI").is_none(), "{message}");
        eprintln!("{message}");
    }
    found
}

impl Server {
    /// `None` without the program, loudly; a panic in CI, where a skipped test must not look like a passed one.
    async fn start(tls: Option<(&Path, &Path)>) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut command = Command::new(python()?);
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/smtp_server.py")).arg(dir.path());
        if let Some((certificate, key)) = tls {
            command.args([certificate, key]);
        }
        let stderr = std::fs::File::create(&log).unwrap();
        let mut child = command.stdout(Stdio::null()).stderr(stderr).kill_on_drop(true).spawn().unwrap();
        let patience = Instant::now() + PATIENCE;
        loop {
            if let Ok(port) = std::fs::read_to_string(dir.path().join("port")) {
                return Some(Self { port: port.parse().unwrap(), dir, child });
            }
            let said = || std::fs::read_to_string(&log).unwrap_or_default();
            assert!(child.try_wait().unwrap().is_none(), "it ended: {}", said());
            assert!(Instant::now() < patience, "it does not listen: {}", said());
            sleep(Duration::from_millis(50)).await;
        }
    }

    fn mails(&self) -> Vec<String> {
        let mails = (1..).map(|number| self.dir.path().join(format!("{number}.eml")));
        mails.map_while(|path| std::fs::read_to_string(path).ok()).collect()
    }

    fn refuse(&self, answer: &str) {
        std::fs::write(self.dir.path().join("refuse"), answer).unwrap();
    }

    fn plain(&self) -> SmtpNotifier {
        SmtpNotifier::new("127.0.0.1", self.port, SmtpSecurity::None, "deploy@example.com", &TO).unwrap()
    }
}

/// A header's value, its lines and encoded words joined.
fn header(mail: &str, name: &str) -> Option<String> {
    let head = mail.split("\r\n\r\n").next().unwrap().replace("\r\n ", " ");
    let line = head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")))?.to_owned();
    let words =
        line.split(' ').map(|word| match word.strip_prefix("=?utf-8?B?").and_then(|word| word.strip_suffix("?=")) {
            Some(word) => String::from_utf8(STANDARD.decode(word).unwrap()).unwrap(),
            None => word.to_owned(),
        });
    Some(words.collect::<Vec<_>>().concat())
}

fn body(mail: &str) -> String {
    let (_, body) = mail.split_once("\r\n\r\n").unwrap();
    String::from_utf8(STANDARD.decode(body.replace("\r\n", "")).unwrap()).unwrap()
}

struct Harness(Server);

#[async_trait]
impl NotifierHarness for Harness {
    fn notifier(&self) -> Arc<dyn Notifier> {
        Arc::new(self.0.plain())
    }

    async fn received(&self) -> Vec<String> {
        self.0.mails().iter().map(|mail| format!("{}\n{}", header(mail, "Subject").unwrap(), body(mail))).collect()
    }

    async fn keys(&self) -> Option<Vec<String>> {
        Some(self.0.mails().iter().map(|mail| header(mail, "Message-ID").unwrap()).collect())
    }

    async fn alerts(&self) -> Option<Vec<String>> {
        None
    }

    async fn refuse(&self) {
        self.0.refuse("550 nobody of that name");
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }
}

fn cx(key: &str) -> CallContext {
    CallContext::new(RunId::new("r1").unwrap(), IdempotencyKey::new(key), PATIENCE)
}

#[tokio::test]
async fn it_keeps_the_contract_of_every_notifier() {
    let Some(server) = Server::start(None).await else { return };
    notifier(&Harness(server)).await;
}

#[tokio::test]
async fn one_topic_is_one_thread_and_nothing_in_a_title_is_a_header() {
    let Some(server) = Server::start(None).await else { return };
    let mail = server.plain();
    let burns =
        Notification::new("it burns\r\nBcc: all@example.com").with_urgency(Urgency::Critical).on_topic("release");
    mail.notify(&cx("r1/one"), &burns).await.unwrap();
    mail.notify(&cx("r1/two"), &Notification::new("over").on_topic("release").resolved()).await.unwrap();
    let mails = server.mails();
    let [first, second] = mails.as_slice() else { panic!("{mails:?}") };
    assert_eq!(header(first, "Subject").unwrap(), "[critical] it burns Bcc: all@example.com");
    assert_eq!((header(first, "Bcc"), header(first, "Importance").unwrap()), (None, "high".to_owned()));
    assert_eq!(header(second, "Subject").unwrap(), "[resolved] over");
    assert_eq!(header(first, "References"), header(second, "References"));
    assert!(header(first, "References").is_some() && header(first, "Message-ID") != header(second, "Message-ID"));
    assert_eq!(header(first, "From").unwrap(), "deploy@example.com");
    assert_eq!(header(first, "To").unwrap(), TO.join(","));
}

#[tokio::test]
async fn what_the_server_says_is_told() {
    let Some(mut server) = Server::start(None).await else { return };
    let mail = server.plain();
    let send = async || -> Error { mail.notify(&cx("r1/x"), &Notification::new("x")).await.unwrap_err() };
    server.refuse("550 nobody of that name");
    let refused = send().await;
    assert_eq!(
        (refused.kind(), refused.effect_of(), refused.is_transient()),
        (ErrorKind::Invalid, Effect::None, false)
    );
    assert!(refused.to_string().contains("550") && refused.to_string().contains("nobody of that name"), "{refused}");
    server.refuse("451 try again later");
    let busy = send().await;
    assert_eq!((busy.kind(), busy.effect_of(), busy.is_transient()), (ErrorKind::Unavailable, Effect::None, true));
    server.child.kill().await.unwrap();
    let gone = send().await;
    assert_eq!((gone.kind(), gone.effect_of()), (ErrorKind::Unavailable, Effect::None), "{gone:?}");
}

#[tokio::test]
async fn tls_is_verified_and_people_log_in() {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (dir.path().join("certificate.pem"), dir.path().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let Some(server) = Server::start(Some((&certificate, &key))).await else { return };
    let to = |name: &str, security| SmtpNotifier::new(name, server.port, security, "deploy@example.com", &TO).unwrap();
    let hello = Notification::new("hello");

    let stranger = to("localhost", SmtpSecurity::Starttls).notify(&cx("r1/x"), &hello).await.unwrap_err();
    assert_eq!((stranger.kind(), stranger.effect_of()), (ErrorKind::Unavailable, Effect::None), "{stranger:?}");
    let trusting = || to("localhost", SmtpSecurity::Starttls).with_ca_file(&certificate).unwrap();
    let nobody = trusting().notify(&cx("r1/x"), &hello).await.unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::Unauthenticated, "{nobody}");
    let wrong = trusting().with_credentials("deploy", "planted-password".into());
    let wrong = wrong.notify(&cx("r1/x"), &hello).await.unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::Unauthenticated, "{wrong}");
    assert!(!format!("{wrong:?}").contains("planted"), "{wrong:?}");
    let open = to("localhost", SmtpSecurity::None).notify(&cx("r1/x"), &hello).await.unwrap_err();
    assert_ne!(open.effect_of(), Effect::Unknown, "{open}");
    assert!(server.mails().is_empty());
    trusting().with_credentials("deploy", "pa55-of-deploy".into()).notify(&cx("r1/x"), &hello).await.unwrap();
    assert_eq!(server.mails().len(), 1);
}
