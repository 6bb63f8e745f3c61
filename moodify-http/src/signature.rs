use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;
use moodify_core::clock::since;
use moodify_core::secret::{ExposeSecret, Secret};
use moodify_core::{Error, ErrorKind, Result};
use ring::hmac;

/// The header that carries the signature of a webhook's request.
pub const SIGNATURE_HEADER: &str = "x-moodify-signature";

/// The value of the [header](SIGNATURE_HEADER) for this body, sent now.
pub(crate) fn sign(secret: &Secret, now: Timestamp, body: &[u8]) -> String {
    let time = now.as_second().to_string();
    let tag = hmac::sign(&key(secret), &signed(&time, body));
    let mut header = format!("t={time},v1=");
    for byte in tag.as_ref() {
        // Writing to a String cannot fail.
        let _ = write!(header, "{byte:02x}");
    }
    header
}

/// Whether a request to a webhook came from who holds the secret, and lately: for who receives what a
/// [`WebhookNotifier`](crate::WebhookNotifier) sends.
///
/// `header` is the value of [`x-moodify-signature`](SIGNATURE_HEADER): `t=SECONDS,v1=HEX`, in which `SECONDS` is the time of
/// sending in seconds since 1970, and `HEX` is HMAC-SHA256 under the secret over the text `SECONDS`, a dot, and the body as
/// it came. There may be several `v1`, as while a secret is replaced; one that is right is enough. `body` has to be
/// the bytes themselves, before anything reads them as JSON. A request that is older than `tolerance`, or as much in
/// the future, is refused, so that nobody can send it again much later: five minutes are usual.
///
/// # Errors
/// [`ErrorKind::Unauthenticated`] if the request is not to be believed, with the reason; it does not repeat the signature.
///
/// ```
/// use std::time::Duration;
/// use moodify_http::verify_signature;
/// let (secret, body) = ("it is between us".into(), br#"{"title":"released"}"#);
/// let header = "t=1795000000,v1=0123";
/// let now = "2026-11-18T20:26:45Z".parse().unwrap();
/// assert!(verify_signature(&secret, header, body, now, Duration::from_secs(300)).is_err());
/// ```
pub fn verify_signature(secret: &Secret, header: &str, body: &[u8], now: Timestamp, tolerance: Duration) -> Result<()> {
    let refuse = |why: &str| Err(Error::new(ErrorKind::Unauthenticated, "webhook", "verify the signature", why));
    let parts = || header.split(',').filter_map(|part| part.trim().split_once('='));
    let Some(time) = parts().find(|(name, _)| *name == "t").map(|(_, time)| time) else {
        return refuse("the header tells no time");
    };
    let sent = time.parse().ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    let Some(sent) = sent else { return refuse("the header's time is no number of seconds") };
    let message = signed(time, body);
    let right = |hex: &str| bytes(hex).is_some_and(|tag| hmac::verify(&key(secret), &message, &tag).is_ok());
    if !parts().any(|(name, hex)| name == "v1" && right(hex)) {
        return refuse("the signature is not that of this body under this secret");
    }
    if since(sent, now).max(since(now, sent)) > tolerance {
        return refuse("the request is too old, or the clocks differ");
    }
    Ok(())
}

fn key(secret: &Secret) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes())
}

fn signed(time: &str, body: &[u8]) -> Vec<u8> {
    [time.as_bytes(), b".", body].concat()
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = hex.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Test case 2 of RFC 4231, whose message begins with what is here the time: `what do ya want for nothing?`.
    #[test]
    fn it_is_hmac_sha256() {
        let tag = hmac::sign(&key(&"Jefe".into()), b"what do ya want for nothing?");
        let known = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(bytes(known).unwrap(), tag.as_ref());
    }

    #[test]
    fn only_the_right_secret_body_and_time_are_believed() {
        let (secret, body) = (Secret::from("it is between us"), b"{}".as_slice());
        let now = Timestamp::from_second(1_795_000_000).unwrap();
        let header = sign(&secret, now, body);
        let check = |secret: &Secret, header: &str, body: &[u8], at: i64| {
            let at = Timestamp::from_second(1_795_000_000 + at).unwrap();
            verify_signature(secret, header, body, at, Duration::from_secs(300))
        };
        for at in [-300, 0, 300] {
            check(&secret, &header, body, at).unwrap();
        }
        check(&secret, &header.replace("v1=", "v1=00,v1=zz,v1=ä,v1="), body, 0).unwrap();
        let moved = header.replace("t=1795000000", "t=1795000300");
        for (why, refused) in [
            ("too old", check(&secret, &header, body, 301)),
            ("too old", check(&secret, &header, body, -301)),
            ("not that of this body", check(&"another".into(), &header, body, 0)),
            ("not that of this body", check(&secret, &header, b"{ }", 0)),
            ("not that of this body", check(&secret, &moved, body, 300)),
            ("not that of this body", check(&secret, "t=1795000000", body, 0)),
            ("tells no time", check(&secret, "v1=00", body, 0)),
            ("no number", check(&secret, "t=soon,v1=00", body, 0)),
        ] {
            let error = refused.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unauthenticated);
            assert!(error.message().contains(why), "{error}");
        }
    }
}
