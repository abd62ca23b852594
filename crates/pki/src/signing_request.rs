//! Certificate signing requests (PKCS #10, RFC 2986): what they ask for, and the certificates that the authority makes of them.
//! Whether a request should be granted is for others to decide.

use crate::{Authority, Error};
use rcgen::{CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, date_time_ymd};
use rustls::pki_types::{CertificateSigningRequestDer, pem::PemObject};
use std::time::Duration;
use x509_parser::{
    certification_request::X509CertificationRequest, extensions::GeneralName, extensions::ParsedExtension,
    prelude::FromDer,
};

/// Certificates start this long before they are made, so that clocks may differ a little.
const BACKDATE: i64 = 300;

/// What a request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// CN.
    pub common_name: String,
    /// O, in the order of the request.
    pub organizations: Vec<String>,
    /// DNS names.
    pub dns_names: usize,
    /// IP addresses.
    pub addresses: usize,
    /// Other names: mail addresses, URIs and whatever else there may be.
    pub other_names: usize,
}

fn der(pem: &str) -> Result<CertificateSigningRequestDer<'static>, Error> {
    CertificateSigningRequestDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| Error::certificate("reading a request", "PEM block type must be CERTIFICATE REQUEST"))
}

/// Reads a request (PEM).
///
/// # Errors
/// Where it cannot be read.
pub fn subject(pem: &str) -> Result<Subject, Error> {
    let der = der(pem)?;
    let (_, request) =
        X509CertificationRequest::from_der(&der).map_err(|e| Error::certificate("reading a request", e))?;
    let name = &request.certification_request_info.subject;
    let text = |a: &x509_parser::x509::AttributeTypeAndValue<'_>| a.as_str().unwrap_or_default().to_string();
    let mut subject = Subject {
        common_name: name.iter_common_name().next().map(text).unwrap_or_default(),
        organizations: name.iter_organization().map(text).collect(),
        ..Subject::default()
    };
    for extension in request.requested_extensions().into_iter().flatten() {
        if let ParsedExtension::SubjectAlternativeName(names) = extension {
            for name in &names.general_names {
                match name {
                    GeneralName::DNSName(_) => subject.dns_names += 1,
                    GeneralName::IPAddress(_) => subject.addresses += 1,
                    _ => subject.other_names += 1,
                }
            }
        }
    }
    Ok(subject)
}

/// Whether `certificate` (PEM) is no longer valid; one that cannot be read counts as valid for ever.
pub fn is_over(certificate: &str, now: i64) -> bool {
    let Ok(der) = rustls::pki_types::CertificateDer::from_pem_slice(certificate.as_bytes()) else {
        return false;
    };
    x509_parser::parse_x509_certificate(&der)
        .is_ok_and(|(_, parsed)| parsed.validity().not_after.timestamp() < now)
}

fn key_usage(name: &str) -> Option<KeyUsagePurpose> {
    Some(match name {
        "signing" | "digital signature" => KeyUsagePurpose::DigitalSignature,
        "content commitment" => KeyUsagePurpose::ContentCommitment,
        "key encipherment" => KeyUsagePurpose::KeyEncipherment,
        "key agreement" => KeyUsagePurpose::KeyAgreement,
        "data encipherment" => KeyUsagePurpose::DataEncipherment,
        "cert sign" => KeyUsagePurpose::KeyCertSign,
        "crl sign" => KeyUsagePurpose::CrlSign,
        "encipher only" => KeyUsagePurpose::EncipherOnly,
        "decipher only" => KeyUsagePurpose::DecipherOnly,
        _ => return None,
    })
}

fn extended_key_usage(name: &str) -> Option<ExtendedKeyUsagePurpose> {
    Some(match name {
        "any" => ExtendedKeyUsagePurpose::Any,
        "server auth" => ExtendedKeyUsagePurpose::ServerAuth,
        "client auth" => ExtendedKeyUsagePurpose::ClientAuth,
        "code signing" => ExtendedKeyUsagePurpose::CodeSigning,
        "email protection" | "s/mime" => ExtendedKeyUsagePurpose::EmailProtection,
        "timestamping" => ExtendedKeyUsagePurpose::TimeStamping,
        "ocsp signing" => ExtendedKeyUsagePurpose::OcspSigning,
        _ => return None,
    })
}

impl Authority {
    /// Makes the certificate that a request (PEM) asks for, for `usages` in the words of certificates.k8s.io and for so many
    /// seconds. The request must be signed with its own key.
    ///
    /// # Errors
    /// Where the request cannot be read, is badly signed, or asks for what cannot be put into a certificate.
    pub fn sign(&self, request: &str, usages: &[String], seconds: i64, now: i64) -> Result<String, Error> {
        let failed = |e: rcgen::Error| Error::certificate("reading a request", e);
        if subject(request)?.organizations.len() > 1 {
            let why = "a subject with several organizations cannot be signed";
            return Err(Error::certificate("signing a request", why));
        }
        let mut wanted = CertificateSigningRequestParams::from_der(&der(request)?).map_err(failed)?;
        let params = &mut wanted.params;
        params.is_ca = IsCa::NoCa;
        params.key_usages = usages.iter().filter_map(|u| key_usage(u)).collect();
        params.extended_key_usages = usages.iter().filter_map(|u| extended_key_usage(u)).collect();
        params.use_authority_key_identifier_extension = true;
        // Nobody's clock stands before 1970.
        let at = |unix: i64| date_time_ymd(1970, 1, 1) + Duration::from_secs(unix.try_into().unwrap_or(0));
        params.not_before = at(now - BACKDATE);
        params.not_after = at(now + seconds);
        let certificate =
            wanted.signed_by(self.issuer()).map_err(|e| Error::certificate("signing a request", e))?;
        Ok(certificate.pem())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair};

    const NOW: i64 = 1_790_000_000;

    fn request(common_name: &str, organizations: &[&str], names: &[&str]) -> String {
        let names: Vec<String> = names.iter().map(|n| n.to_string()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        for organization in organizations {
            params.distinguished_name.push(DnType::OrganizationName, *organization);
        }
        let key = KeyPair::generate().expect("a key");
        params.serialize_request(&key).expect("a request").pem().expect("PEM")
    }

    #[test]
    fn a_request_tells_what_it_asks_for() {
        let read =
            subject(&request("system:node:a", &["system:nodes"], &["a.example", "10.0.0.1"])).expect("read");
        assert_eq!(
            read,
            Subject {
                common_name: "system:node:a".into(),
                organizations: vec!["system:nodes".into()],
                dns_names: 1,
                addresses: 1,
                other_names: 0,
            }
        );
        assert!(subject("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").is_err());
        assert!(subject("nothing").is_err());
    }

    #[test]
    fn a_signed_request_is_a_certificate_of_the_authority_for_its_time() {
        let dir = tempfile::tempdir().expect("a folder");
        let authority = Authority::open_or_create(dir.path(), NOW).expect("an authority");
        let usages = ["digital signature".to_string(), "client auth".to_string()];
        let pem = authority.sign(&request("jane", &["dev"], &[]), &usages, 3600, NOW).expect("signed");
        let der = rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM");
        assert_eq!(crate::tls::identity(&der).expect("an identity"), ("jane".into(), vec!["dev".into()]));
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).expect("a certificate");
        assert_eq!(parsed.validity().not_after.timestamp(), NOW + 3600);
        assert!(!parsed.is_ca());
        let extended = parsed.extended_key_usage().expect("readable").expect("there").value;
        assert!(extended.client_auth && !extended.server_auth);
        assert!(!is_over(&pem, NOW + 3600) && is_over(&pem, NOW + 3601));
    }
}
