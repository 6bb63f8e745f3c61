//! Where credentials come from: profile files, a node's metadata and web identity, each of a small fake. The usual places
//! of credentials are of the process, so the cases run in processes of their own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use moodify_aws::{ApiConfig, DocumentDbBackups, DocumentDbConfig};
use moodify_core::backend::BackupStore;
use moodify_core::{CallContext, ErrorKind, IdempotencyKey, RunId};

/// AWS as far as credentials matter: an API that notes which were used, a node's metadata, and a token service.
#[derive(Debug, Clone, Default)]
struct Aws {
    /// The ids of the access keys, and the session tokens, of the requests to the API.
    used: Arc<Mutex<Vec<(String, String)>>>,
    /// What the metadata and the token service refuse with, if they do.
    refuses: Option<u16>,
}

impl Aws {
    async fn start(refuses: Option<u16>) -> (Self, String) {
        let aws = Self { refuses, ..Self::default() };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = axum::Router::new().fallback(answer).with_state(aws.clone());
        tokio::spawn(async { axum::serve(listener, router).await.unwrap() });
        (aws, url)
    }

    fn used(&self) -> Vec<(String, String)> {
        std::mem::take(&mut *self.used.lock().unwrap())
    }
}

const ROLE: &str = "/latest/meta-data/iam/security-credentials/";

async fn answer(State(aws): State<Aws>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let header = |name: &str| head.headers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
    let refused = || StatusCode::from_u16(aws.refuses.unwrap_or(404)).unwrap();
    match (&head.method, head.uri.path()) {
        (&Method::PUT, "/latest/api/token") => {
            ([("x-aws-ec2-metadata-token-ttl-seconds", "21600")], "a-metadata-token").into_response()
        }
        (&Method::GET, path)
            if path.starts_with("/latest/") && header("x-aws-ec2-metadata-token") != "a-metadata-token" =>
        {
            StatusCode::UNAUTHORIZED.into_response()
        }
        (&Method::GET, ROLE) if aws.refuses.is_none() => "moodify-node".into_response(),
        (&Method::GET, path) if path.strip_prefix(ROLE) == Some("moodify-node") => {
            r#"{"Code": "Success", "LastUpdated": "2026-11-24T15:00:00Z", "Type": "AWS-HMAC", "AccessKeyId": "AKIANODE",
                "SecretAccessKey": "a-node-secret", "Token": "a-node-session", "Expiration": "2999-01-01T00:00:00Z"}"#
                .into_response()
        }
        (&Method::GET, _) => refused().into_response(),
        _ if header("authorization").is_empty() => sts(body, aws.refuses).await,
        _ => {
            let login = header("authorization");
            let id = login.split_once("Credential=").and_then(|(_, rest)| rest.split_once('/')).unwrap().0.to_owned();
            aws.used.lock().unwrap().push((id, header("x-amz-security-token")));
            "<DescribeDBClusterSnapshotsResponse><DescribeDBClusterSnapshotsResult/></DescribeDBClusterSnapshotsResponse>"
                .into_response()
        }
    }
}

/// What is asked without a signature is a token of somebody else's for one of AWS's.
async fn sts(body: Body, refuses: Option<u16>) -> Response {
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let form: Vec<(String, String)> = url::form_urlencoded::parse(&body).into_owned().collect();
    let given = |name: &str, value: &str| form.iter().any(|(other, is)| other == name && is == value);
    assert!(given("Action", "AssumeRoleWithWebIdentity"), "{form:?}");
    assert!(given("WebIdentityToken", "a-web-token") && given("RoleArn", "arn:aws:iam::123456789012:role/moodify"));
    match refuses {
        Some(status) => {
            let body = "<ErrorResponse><Error><Code>ExpiredTokenException</Code><Message>Token expired: a-web-token\
                        </Message></Error></ErrorResponse>";
            (StatusCode::from_u16(status).unwrap(), body).into_response()
        }
        None => "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
                 <AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>AKIAWEB</AccessKeyId>\
                 <SecretAccessKey>a-web-secret</SecretAccessKey><SessionToken>a-web-session</SessionToken>\
                 <Expiration>2999-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleWithWebIdentityResult>\
                 </AssumeRoleWithWebIdentityResponse>"
            .into_response(),
    }
}

/// A process with nothing of the surroundings' credentials, which lists backups there.
fn child(home: &Path, api: &str) -> Command {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "with_the_usual_places", "--ignored", "--nocapture"]);
    child.env_clear().env("HOME", home).env("TEST_URL", api).env("AWS_EC2_METADATA_DISABLED", "true");
    child
}

/// What a process told, after it was seen to end well.
fn told(mut child: Command) -> String {
    let ran = child.output().unwrap();
    let text = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(ran.status.success(), "{text}{}", String::from_utf8_lossy(&ran.stderr));
    text.lines().find_map(|line| line.strip_prefix("TOLD ")).unwrap().to_owned()
}

fn pair(id: &str, session: &str) -> Vec<(String, String)> {
    vec![(id.to_owned(), session.to_owned())]
}

// The servers answer while a process is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_profile_is_read() {
    let (aws, url) = Aws::start(None).await;
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join(".aws")).unwrap();
    let profiles = "[default]\naws_access_key_id = AKIADEFAULT\naws_secret_access_key = a-secret\n\
                    [releases]\naws_access_key_id = AKIARELEASES\naws_secret_access_key = a-secret\n\
                    aws_session_token = a-session\n";
    std::fs::write(home.path().join(".aws/credentials"), profiles).unwrap();
    assert_eq!(told(child(home.path(), &url)), "listed 0");
    assert_eq!(aws.used(), pair("AKIADEFAULT", ""));
    let mut named = child(home.path(), &url);
    named.env("AWS_PROFILE", "releases");
    assert_eq!(told(named), "listed 0");
    assert_eq!(aws.used(), pair("AKIARELEASES", "a-session"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_s_metadata_is_asked() {
    let nowhere = tempfile::tempdir().unwrap();
    for refuses in [None, Some(404)] {
        let (aws, url) = Aws::start(refuses).await;
        let mut node = child(nowhere.path(), &url);
        node.env_remove("AWS_EC2_METADATA_DISABLED").env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &url);
        let told = told(node);
        match refuses {
            None => assert_eq!((told.as_str(), aws.used()), ("listed 0", pair("AKIANODE", "a-node-session"))),
            Some(_) => {
                assert!(
                    told.contains("Unauthenticated false") && told.contains("no AWS credentials were found"),
                    "{told}"
                );
                assert!(aws.used().is_empty());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_identity_becomes_credentials() {
    let home = tempfile::tempdir().unwrap();
    let token = home.path().join("token");
    std::fs::write(&token, "a-web-token").unwrap();
    for refuses in [None, Some(400)] {
        let (aws, url) = Aws::start(refuses).await;
        let mut pod = child(home.path(), &url);
        pod.env("AWS_WEB_IDENTITY_TOKEN_FILE", &token).env("AWS_ENDPOINT_URL_STS", &url);
        pod.env("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/moodify");
        let told = told(pod);
        match refuses {
            None => assert_eq!((told.as_str(), aws.used()), ("listed 0", pair("AKIAWEB", "a-web-session"))),
            Some(_) => {
                assert!(told.contains("Unauthenticated false") && told.contains("no usable AWS credentials"), "{told}");
                assert!(!told.contains("a-web-token"), "{told}");
            }
        }
    }
}

#[tokio::test]
#[ignore = "needs an environment; the tests above make it"]
async fn with_the_usual_places() {
    let Ok(url) = std::env::var("TEST_URL") else { return };
    let store = DocumentDbBackups::new(DocumentDbConfig::new(ApiConfig::new("eu-central-1").endpoint(url), "moods"));
    let cx = CallContext::new(RunId::new("r1").unwrap(), IdempotencyKey::new("x"), Duration::from_secs(60));
    match store.unwrap().list(&cx).await {
        Ok(listed) => println!("\nTOLD listed {}", listed.len()),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error:?}");
            println!("\nTOLD {:?} {} {error}", error.kind(), error.is_transient());
        }
    }
}
