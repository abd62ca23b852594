//! A credential in one file, so that certificate and key cannot be torn apart, and when it has to be renewed. It asks nobody
//! for a new one.

use crate::{Credential, Error, files};
use std::{net::IpAddr, path::Path};

/// Reads a credential (both in PEM, one after the other), if there is one.
pub fn read(path: &Path) -> Result<Option<Credential>, Error> {
    let Some(text) = files::read(path)? else { return Ok(None) };
    let key = text.find("-----BEGIN PRIVATE KEY-----");
    let Some((certificate, key)) = key.map(|at| text.split_at(at)) else {
        return Err(Error::certificate("reading a credential", format!("{} has no key", path.display())));
    };
    Ok(Some(Credential { certificate: certificate.into(), key: key.into() }))
}

/// Writes a credential so that only root can read it, atomically.
pub fn write(path: &Path, credential: &Credential) -> Result<(), Error> {
    if let Some(folder) = path.parent() {
        files::private_dir(folder)?;
    }
    files::write_private(path, &format!("{}{}", credential.certificate, credential.key))
}

/// From when until when a certificate is valid, in seconds since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Its first second.
    pub from: i64,
    /// Its last second.
    pub until: i64,
}

impl Validity {
    /// Of a credential's certificate.
    pub fn of(credential: &Credential) -> Result<Self, Error> {
        let chain = credential.chain()?;
        let first =
            chain.first().ok_or_else(|| Error::certificate("reading a certificate", "there is none"))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(first)
            .map_err(|e| Error::certificate("reading a certificate", e))?;
        let validity = parsed.validity();
        Ok(Self { from: validity.not_before.timestamp(), until: validity.not_after.timestamp() })
    }

    /// Whether it is over.
    pub fn is_over(&self, now: i64) -> bool {
        now > self.until
    }

    /// When it should be renewed: after 70 to 90 percent of its time, as the kubelet does; `spread` (0 to 1) says where in
    /// between, so that nodes that joined together do not come together again.
    pub fn renew_at(&self, spread: f64) -> i64 {
        let length = (self.until - self.from) as f64;
        self.from + (length * (0.7 + 0.2 * spread.clamp(0.0, 1.0))).round() as i64
    }
}

/// Whether a certificate names all these names and addresses.
pub fn names(credential: &Credential, dns_names: &[String], addresses: &[IpAddr]) -> bool {
    let Ok(chain) = credential.chain() else { return false };
    let Some(first) = chain.first() else { return false };
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(first) else { return false };
    let (its_names, its_addresses) = crate::authority::alternative_names(&parsed);
    dns_names.iter().all(|n| its_names.contains(n)) && addresses.iter().all(|a| its_addresses.contains(a))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Authority, signing_request};

    const NOW: i64 = 1_790_000_000;

    fn credential(authority: &Authority, seconds: i64) -> Credential {
        let addresses = ["192.0.2.1".parse().expect("an address")];
        let (request, key) =
            signing_request::make("system:node:a", "system:nodes", &["a".into()], &addresses)
                .expect("a request");
        let usages = ["digital signature".into(), "server auth".into()];
        let certificate = authority.sign(&request, &usages, seconds, NOW).expect("signed");
        Credential { certificate, key }
    }

    #[test]
    fn a_credential_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().expect("a folder");
        let authority = Authority::open_or_create(dir.path(), NOW).expect("made");
        let path = dir.path().join("node/client.pem");
        assert!(read(&path).expect("looked").is_none());
        let written = credential(&authority, 3600);
        write(&path, &written).expect("written");
        let kept = read(&path).expect("read").expect("there");
        assert_eq!((kept.certificate, kept.key), (written.certificate.clone(), written.key));
        std::fs::write(&path, &written.certificate).expect("written");
        assert!(read(&path).is_err(), "a file without a key");
    }

    #[test]
    fn it_is_renewed_well_before_it_ends() {
        let dir = tempfile::tempdir().expect("a folder");
        let authority = Authority::open_or_create(dir.path(), NOW).expect("made");
        let validity = Validity::of(&credential(&authority, 10_000)).expect("a validity");
        assert_eq!(validity.until, NOW + 10_000);
        assert!(!validity.is_over(NOW + 10_000) && validity.is_over(NOW + 10_001));
        let length = validity.until - validity.from;
        assert_eq!(validity.renew_at(0.0), validity.from + length * 7 / 10);
        assert_eq!(validity.renew_at(1.0), validity.from + length * 9 / 10);
    }

    #[test]
    fn a_certificate_says_which_names_it_is_for() {
        let dir = tempfile::tempdir().expect("a folder");
        let authority = Authority::open_or_create(dir.path(), NOW).expect("made");
        let one = credential(&authority, 3600);
        let (here, other) =
            ("192.0.2.1".parse().expect("an address"), "192.0.2.2".parse().expect("an address"));
        assert!(names(&one, &["a".into()], &[here]));
        assert!(!names(&one, &["a".into()], &[here, other]));
        assert!(!names(&one, &["b".into()], &[here]));
    }
}
