//! Secrets of a backup, encrypted as age does it (<https://age-encryption.org/v1>): `age --decrypt` reads them too.

use std::io::{Read as _, Write as _};
use std::path::Path;

use age::armor::{ArmoredReader, ArmoredWriter, Format};
use age::x25519::Recipient;
use age::{DecryptError, Decryptor, EncryptError, Encryptor, IdentityFile};
use moodify_core::backend::ConfigurationFile;
use moodify_core::{Error, ErrorKind, Result};

use crate::error::BACKEND;

const SEAL: &str = "encrypt the Secrets";
const OPEN: &str = "decrypt the Secrets";

/// Refuses what is no public key.
pub(crate) fn check(keys: &[String]) -> Result<()> {
    recipients(keys).map(drop)
}

/// The public keys, or all that are none.
fn recipients(keys: &[String]) -> Result<Vec<Recipient>> {
    let mut wrong = Vec::new();
    let mut read = |key: &String| key.trim().parse().map_err(|why| wrong.push(format!("{key:?}: {why}"))).ok();
    let all: Vec<Recipient> = keys.iter().filter_map(&mut read).collect();
    if wrong.is_empty() {
        return Ok(all);
    }
    let why = format!("no public keys of age: {}", wrong.join("; "));
    let hint = "nothing was written; a public key begins with age1, and `age-keygen -y KEYFILE` tells it";
    Err(Error::new(ErrorKind::Invalid, BACKEND, SEAL, why).hint(hint))
}

/// The file, so that only who has the private key of one of these can read it.
pub(crate) fn seal(keys: &[String], file: &ConfigurationFile) -> Result<ConfigurationFile> {
    let keys = recipients(keys)?;
    let fails = |why: EncryptError| Error::new(ErrorKind::Internal, BACKEND, SEAL, why.to_string());
    let keys = keys.iter().map(|key| key as &dyn age::Recipient);
    let encryptor = Encryptor::with_recipients(keys).map_err(fails)?;
    let armored = || {
        let mut writer = encryptor.wrap_output(ArmoredWriter::wrap_output(Vec::new(), Format::AsciiArmor)?)?;
        writer.write_all(file.text.as_bytes())?;
        writer.finish()?.finish()
    };
    let text = String::from_utf8(armored().map_err(|e| fails(e.into()))?).unwrap_or_default();
    Ok(ConfigurationFile { name: format!("{}.age", file.name), objects: file.objects.clone(), text, sealed: true })
}

/// What was encrypted, by one of the private keys in a file.
pub(crate) async fn open(keys: Option<&Path>, file: &ConfigurationFile) -> Result<String> {
    let Some(path) = keys.map(Path::to_owned) else {
        let hint =
            "nothing was restored; name the file of the private key by `age-identity` or MOODIFY_KUBE_AGE_IDENTITY";
        return Err(closed(file, "it is encrypted, and no private key is configured".into()).hint(hint));
    };
    let file = file.clone();
    let opened = tokio::task::spawn_blocking(move || opened(&path, &file));
    opened.await.unwrap_or_else(|e| Err(Error::new(ErrorKind::Internal, BACKEND, OPEN, e.to_string())))
}

fn closed(file: &ConfigurationFile, why: String) -> Error {
    Error::new(ErrorKind::Invalid, BACKEND, OPEN, why).on(file.name.as_str())
}

fn opened(path: &Path, file: &ConfigurationFile) -> Result<String> {
    let unusable = |why: String| {
        let hint = "nothing was restored; the file is one that `age-keygen` writes";
        closed(file, format!("the private key in {} cannot be used: {why}", path.display())).hint(hint)
    };
    let keys = IdentityFile::from_file(path.display().to_string()).map_err(|e| unusable(e.to_string()))?;
    let keys = keys.into_identities().map_err(|e| unusable(e.to_string()))?;
    let read = || {
        let decryptor = Decryptor::new_buffered(ArmoredReader::new(file.text.as_bytes()))?;
        let mut text = String::new();
        decryptor.decrypt(keys.iter().map(AsRef::as_ref))?.read_to_string(&mut text)?;
        Ok(text)
    };
    read().map_err(|why: DecryptError| {
        let hint =
            format!("nothing was restored; {} must have the private key of one of its public keys", path.display());
        closed(file, why.to_string()).hint(hint)
    })
}

#[cfg(test)]
mod tests {
    use age::secrecy::ExposeSecret as _;
    use age::x25519;

    use super::*;

    #[tokio::test]
    async fn only_the_private_keys_open_it() {
        let dir = std::env::temp_dir().join(format!("moodify-age-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let key = |name: &str| {
            let (key, path) = (x25519::Identity::generate(), dir.join(name));
            std::fs::write(&path, format!("# a comment\n{}\n", key.to_string().expose_secret())).unwrap();
            (key.to_public().to_string(), path)
        };
        let [one, other, nobody] = ["one", "other", "nobody"].map(key);
        let plain = ConfigurationFile {
            name: "secrets.yaml".into(),
            objects: vec!["a".into()],
            text: "k: hunter2".into(),
            sealed: false,
        };
        let sealed = seal(&[one.0.clone(), other.0], &plain).unwrap();
        assert_eq!((sealed.name.as_str(), &sealed.objects), ("secrets.yaml.age", &plain.objects));
        assert!(sealed.text.starts_with("-----BEGIN AGE ENCRYPTED FILE-----") && !sealed.text.contains("hunter2"));
        for path in [&one.1, &other.1] {
            assert_eq!(open(Some(path), &sealed).await.unwrap(), plain.text);
        }
        let damaged = ConfigurationFile { text: sealed.text.replacen('A', "B", 9), ..sealed.clone() };
        for (path, file) in [(Some(nobody.1.as_path()), &sealed), (None, &sealed), (Some(&one.1), &damaged)] {
            let error = open(path, file).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains("nothing was restored"), "{error}");
        }
        std::fs::write(&one.1, "AGE-SECRET-KEY-NONE").unwrap();
        let error = open(Some(&one.1), &sealed).await.unwrap_err().to_string();
        assert!(error.contains("one") && !error.contains("AGE-SECRET"), "{error}");
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn all_that_are_no_keys_are_told() {
        let error = recipients(&["age1".into(), x25519::Identity::generate().to_public().to_string(), "x".into()]);
        let error = error.err().unwrap().to_string();
        assert!(error.contains("\"age1\"") && error.contains("\"x\""), "{error}");
    }
}
