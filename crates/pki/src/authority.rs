//! The cluster's certificate authority and the certificates it issues (X.509, RFC 5280; ECDSA P-256).

use crate::{Error, files};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

const DAY: i64 = 86_400;
/// Certificates start this long before they are made, so that clocks may differ a little.
const BACKDATE: i64 = 300;

/// What a certificate may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// To prove a server's name.
    Server,
    /// To prove a client's identity.
    Client,
    /// Both.
    Both,
}

/// A certificate to issue.
#[derive(Clone, Debug)]
pub struct CertificateRequest {
    /// Subject CN: the user name, for clients.
    pub common_name: String,
    /// Subject O: the group, for clients.
    pub organization: Option<String>,
    /// DNS names that a server answers to.
    pub dns_names: Vec<String>,
    /// Addresses that a server answers on.
    pub addresses: Vec<IpAddr>,
    /// What it is for.
    pub usage: Usage,
    /// Days that it is valid from now.
    pub days: i64,
}

/// A certificate with its key, both in PEM.
#[derive(Clone)]
pub struct Credential {
    /// The certificate.
    pub certificate: String,
    /// The private key (PKCS #8).
    pub key: String,
}

impl Credential {
    /// The certificate chain for rustls.
    pub fn chain(&self) -> Result<Vec<CertificateDer<'static>>, Error> {
        CertificateDer::pem_slice_iter(self.certificate.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|e| Error::certificate("reading a certificate", e))
    }

    /// The key for rustls.
    pub fn private_key(&self) -> Result<PrivateKeyDer<'static>, Error> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(|e| Error::certificate("reading a key", e))
    }
}

/// The authority: its certificate is what all members of the cluster trust.
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
    dir: PathBuf,
}

impl Authority {
    /// Reads the authority from `dir` (`ca.crt`, `ca.key`), or makes it where there is none yet.
    pub fn open_or_create(dir: &Path, now: i64) -> Result<Self, Error> {
        files::private_dir(dir)?;
        let (cert_path, key_path) = (dir.join("ca.crt"), dir.join("ca.key"));
        let (certificate, key) = match (files::read(&cert_path)?, files::read(&key_path)?) {
            (Some(certificate), Some(key)) => {
                (certificate, KeyPair::from_pem(&key).map_err(|e| Error::certificate("reading ca.key", e))?)
            }
            _ => {
                let key =
                    KeyPair::generate().map_err(|e| Error::certificate("making the authority's key", e))?;
                let mut params = CertificateParams::default();
                params.distinguished_name.push(DnType::CommonName, "orlop-ca");
                params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
                params.key_usages = vec![
                    KeyUsagePurpose::KeyCertSign,
                    KeyUsagePurpose::DigitalSignature,
                    KeyUsagePurpose::CrlSign,
                ];
                validity(&mut params, now, 3650)?;
                let certificate = params
                    .self_signed(&key)
                    .map_err(|e| Error::certificate("signing the authority", e))?
                    .pem();
                // The key first: a key without a certificate is made anew, the other way round would be stuck.
                files::write_private(&key_path, &key.serialize_pem())?;
                files::write_private(&cert_path, &certificate)?;
                (certificate, key)
            }
        };
        let issuer = Issuer::from_ca_cert_pem(&certificate, key)
            .map_err(|e| Error::certificate("reading ca.crt", e))?;
        Ok(Self { certificate, issuer, dir: dir.to_path_buf() })
    }

    /// The authority's certificate in PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    pub(crate) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// Issues a certificate with a new key.
    pub fn issue(&self, request: &CertificateRequest, now: i64) -> Result<Credential, Error> {
        let key = KeyPair::generate().map_err(|e| Error::certificate("making a key", e))?;
        let mut params = CertificateParams::new(request.dns_names.clone())
            .map_err(|e| Error::certificate("reading the names of a certificate", e))?;
        params.subject_alt_names.extend(request.addresses.iter().map(|ip| SanType::IpAddress(*ip)));
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, request.common_name.as_str());
        if let Some(organization) = &request.organization {
            params.distinguished_name.push(DnType::OrganizationName, organization.as_str());
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match request.usage {
            Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Usage::Both => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        };
        params.use_authority_key_identifier_extension = true;
        validity(&mut params, now, request.days)?;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .map_err(|e| Error::certificate("signing a certificate", e))?;
        Ok(Credential { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// The credential kept as `NAME.crt` and `NAME.key` beside the authority. It is issued anew where there is none, where it
    /// does not cover what the request asks for, or where less than a third of its time is left.
    pub fn keep(&self, name: &str, request: &CertificateRequest, now: i64) -> Result<Credential, Error> {
        let (cert_path, key_path) =
            (self.dir.join(format!("{name}.crt")), self.dir.join(format!("{name}.key")));
        if let (Some(certificate), Some(key)) = (files::read(&cert_path)?, files::read(&key_path)?) {
            let kept = Credential { certificate, key };
            // A pair torn by a crash between the two writes does not fit together and is made anew as well.
            if covers(&kept, request, now).unwrap_or(false) {
                return Ok(kept);
            }
        }
        let issued = self.issue(request, now)?;
        files::write_private(&key_path, &issued.key)?;
        files::write_private(&cert_path, &issued.certificate)?;
        Ok(issued)
    }
}

fn validity(params: &mut CertificateParams, now: i64, days: i64) -> Result<(), Error> {
    let at = |unix: i64| {
        jiff::Timestamp::from_second(unix)
            .map_err(|e| Error::certificate("computing a certificate's validity", e))
    };
    let date = |unix: i64| -> Result<_, Error> {
        let day = at(unix)?.to_zoned(jiff::tz::TimeZone::UTC).date();
        Ok(rcgen::date_time_ymd(day.year().into(), day.month() as u8, day.day() as u8))
    };
    // Whole days: the start is rounded down, the end up.
    params.not_before = date(now - BACKDATE)?;
    params.not_after = date(now + (days + 1) * DAY)?;
    Ok(())
}

/// The DNS names and addresses that a certificate is for.
pub(crate) fn alternative_names(
    parsed: &x509_parser::certificate::X509Certificate<'_>,
) -> (Vec<String>, Vec<IpAddr>) {
    let mut names = Vec::new();
    let mut addresses = Vec::new();
    if let Ok(Some(san)) = parsed.subject_alternative_name() {
        for name in &san.value.general_names {
            match name {
                x509_parser::extensions::GeneralName::DNSName(n) => names.push((*n).to_string()),
                x509_parser::extensions::GeneralName::IPAddress(bytes) => {
                    if let Ok(v4) = <[u8; 4]>::try_from(*bytes) {
                        addresses.push(IpAddr::from(v4));
                    } else if let Ok(v6) = <[u8; 16]>::try_from(*bytes) {
                        addresses.push(IpAddr::from(v6));
                    }
                }
                _ => {}
            }
        }
    }
    (names, addresses)
}

fn covers(kept: &Credential, request: &CertificateRequest, now: i64) -> Result<bool, Error> {
    let chain = kept.chain()?;
    let Some(first) = chain.first() else { return Ok(false) };
    let (_, parsed) = x509_parser::parse_x509_certificate(first)
        .map_err(|e| Error::certificate("reading a kept certificate", e))?;
    let key = KeyPair::from_pem(&kept.key).map_err(|e| Error::certificate("reading a kept key", e))?;
    let fits = key.public_key_raw() == parsed.public_key().subject_public_key.data.as_ref();
    let fresh = parsed.validity().not_after.timestamp() - now > request.days * DAY / 3;
    let (names, addresses) = alternative_names(&parsed);
    let (user, groups) = crate::tls::subject(&parsed);
    Ok(fits
        && fresh
        && user == request.common_name
        && groups == request.organization.iter().cloned().collect::<Vec<_>>()
        && request.dns_names.iter().all(|n| names.contains(n))
        && request.addresses.iter().all(|a| addresses.contains(a)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_790_000_000;

    fn request() -> CertificateRequest {
        CertificateRequest {
            common_name: "kube-apiserver".into(),
            organization: None,
            dns_names: vec!["localhost".into()],
            addresses: vec!["127.0.0.1".parse().expect("an address")],
            usage: Usage::Both,
            days: 365,
        }
    }

    #[test]
    fn an_authority_is_the_same_when_opened_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let first = Authority::open_or_create(dir.path(), NOW).expect("made");
        let second = Authority::open_or_create(dir.path(), NOW + DAY).expect("opened");
        assert_eq!(first.certificate(), second.certificate());
    }

    #[test]
    fn a_kept_certificate_is_reused_until_it_no_longer_covers_what_is_asked() {
        let dir = tempfile::tempdir().expect("a folder");
        let authority = Authority::open_or_create(dir.path(), NOW).expect("made");
        let first = authority.keep("server", &request(), NOW).expect("issued");
        let again = authority.keep("server", &request(), NOW + 30 * DAY).expect("kept");
        assert_eq!(first.certificate, again.certificate);

        let mut wider = request();
        wider.addresses.push("10.0.0.1".parse().expect("an address"));
        let wide = authority.keep("server", &wider, NOW).expect("issued");
        assert_ne!(first.certificate, wide.certificate);

        let renewed = authority.keep("server", &wider, NOW + 300 * DAY).expect("issued");
        assert_ne!(wide.certificate, renewed.certificate, "less than a third of its time was left");
    }

    #[test]
    fn a_key_that_does_not_fit_its_certificate_is_replaced() {
        let dir = tempfile::tempdir().expect("a folder");
        let authority = Authority::open_or_create(dir.path(), NOW).expect("made");
        authority.keep("server", &request(), NOW).expect("issued");
        let other = authority.issue(&request(), NOW).expect("issued");
        std::fs::write(dir.path().join("server.key"), &other.key).expect("written");
        let kept = authority.keep("server", &request(), NOW).expect("issued");
        assert_ne!(kept.key, other.key);
    }
}
