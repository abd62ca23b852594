//! Certificate signing requests (PKCS #10, RFC 2986): what they ask for, and the certificates that the authority makes of them.
//! Whether a request should be granted is for others to decide.

use crate::{Authority, Error};
use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    SanType, SigningKey, SubjectPublicKeyInfo, date_time_ymd,
};
use rustls::pki_types::{CertificateSigningRequestDer, pem::PemObject};
use std::{net::IpAddr, time::Duration};
use x509_parser::{
    certification_request::X509CertificationRequest, extensions::GeneralName, extensions::ParsedExtension,
    prelude::FromDer, x509::AlgorithmIdentifier,
};

/// DER tags.
const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;
/// The subject of a certificate before it gets the one that was asked for.
const PLACEHOLDER: &str = "orlop placeholder of a subject";

/// Certificates start this long before they are made, so that clocks may differ a little.
pub(crate) const BACKDATE: i64 = 300;

/// What a request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// CN.
    pub common_name: String,
    /// O, in the order of the request.
    pub organizations: Vec<String>,
    /// DNS names.
    pub dns_names: Vec<String>,
    /// IP addresses.
    pub addresses: Vec<IpAddr>,
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
                    GeneralName::DNSName(name) => subject.dns_names.push((*name).to_string()),
                    GeneralName::IPAddress(octets) => match address(octets) {
                        Ok(address) => subject.addresses.push(address),
                        Err(_) => subject.other_names += 1,
                    },
                    _ => subject.other_names += 1,
                }
            }
        }
    }
    Ok(subject)
}

/// Makes a request (PEM) with a new key, and the key (PEM).
///
/// # Errors
/// Where a name cannot be put into a certificate.
pub fn make(
    common_name: &str,
    organization: &str,
    dns_names: &[String],
    addresses: &[IpAddr],
) -> Result<(String, String), Error> {
    let failed = |e: rcgen::Error| Error::certificate("making a request", e);
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::new(dns_names.to_vec()).map_err(failed)?;
    params.subject_alt_names.extend(addresses.iter().map(|ip| SanType::IpAddress(*ip)));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, organization);
    params.distinguished_name.push(DnType::CommonName, common_name);
    let request = params.serialize_request(&key).and_then(|r| r.pem()).map_err(failed)?;
    Ok((request, key.serialize_pem()))
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
        let der = der(request)?;
        let (_, request) = X509CertificationRequest::from_der(&der)
            .map_err(|e| Error::certificate("reading a request", e))?;
        request.verify_signature().map_err(|e| Error::certificate("checking a request", e))?;
        let info = &request.certification_request_info;
        let key = SubjectPublicKeyInfo::from_der(info.subject_pki.raw).map_err(failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, PLACEHOLDER);
        params.subject_alt_names = alternative_names(&request).map_err(failed)?;
        params.is_ca = IsCa::NoCa;
        params.key_usages = usages.iter().filter_map(|u| key_usage(u)).collect();
        params.extended_key_usages = usages.iter().filter_map(|u| extended_key_usage(u)).collect();
        params.use_authority_key_identifier_extension = true;
        // Nobody's clock stands before 1970.
        let at = |unix: i64| date_time_ymd(1970, 1, 1) + Duration::from_secs(unix.try_into().unwrap_or(0));
        params.not_before = at(now - BACKDATE);
        params.not_after = at(now + seconds);
        let signing = |e: rcgen::Error| Error::certificate("signing a request", e);
        let certificate = params.signed_by(&key, self.issuer()).map_err(signing)?;
        let signed = with_subject(certificate.der(), info.subject.as_raw(), self.issuer().key())?;
        Ok(pem(&signed))
    }
}

/// The names besides the subject that a request asks for.
fn alternative_names(request: &X509CertificationRequest<'_>) -> Result<Vec<SanType>, rcgen::Error> {
    let mut all = Vec::new();
    for extension in request.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
        for name in &names.general_names {
            all.push(match name {
                GeneralName::DNSName(name) => SanType::DnsName((*name).try_into()?),
                GeneralName::RFC822Name(name) => SanType::Rfc822Name((*name).try_into()?),
                GeneralName::URI(name) => SanType::URI((*name).try_into()?),
                GeneralName::IPAddress(octets) => SanType::IpAddress(address(octets)?),
                _ => return Err(rcgen::Error::InvalidNameType),
            });
        }
    }
    Ok(all)
}

fn address(octets: &[u8]) -> Result<IpAddr, rcgen::Error> {
    if let Ok(v4) = <[u8; 4]>::try_from(octets) {
        return Ok(v4.into());
    }
    let v6 = <[u8; 16]>::try_from(octets);
    v6.map(IpAddr::from).map_err(|_| rcgen::Error::InvalidIpAddressOctetLength(octets.len()))
}

/// The certificate (DER) with that subject (DER) instead of the placeholder, signed anew. The subject is taken over as it is
/// asked for: `rcgen` knows no names with several values of one type, as those of who is in several groups are.
fn with_subject(certificate: &[u8], subject: &[u8], key: &impl SigningKey) -> Result<Vec<u8>, Error> {
    let failed = |why: String| Error::certificate("signing a request", why);
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|e| failed(e.to_string()))?;
    let body = parsed.tbs_certificate.as_ref();
    let placeholder = parsed.tbs_certificate.subject.as_raw();
    let fields = contents(body);
    let at = fields.windows(placeholder.len()).position(|w| w == placeholder);
    let Some((before, after)) = at.map(|at| (&fields[..at], &fields[at + placeholder.len()..])) else {
        return Err(failed("the certificate has no subject".into()));
    };
    let body_now = element(SEQUENCE, &[before, subject, after].concat());
    // Behind the body: the algorithm, which stays, and the signature.
    let rest = contents(certificate).get(body.len()..).unwrap_or_default();
    let (signature, _) = AlgorithmIdentifier::from_der(rest).map_err(|e| failed(e.to_string()))?;
    let algorithm = &rest[..rest.len() - signature.len()];
    let signature = key.sign(&body_now).map_err(|e| failed(e.to_string()))?;
    let signature = element(BIT_STRING, &[&[0], signature.as_slice()].concat());
    Ok(element(SEQUENCE, &[&body_now, algorithm, signature.as_slice()].concat()))
}

/// What is in a DER element, behind its tag and length.
fn contents(element: &[u8]) -> &[u8] {
    let more = element.get(1).map_or(0, |n| if n & 0x80 == 0 { 0 } else { usize::from(n & 0x7f) });
    element.get(2 + more..).unwrap_or_default()
}

/// A DER element (X.690, 8.1).
fn element(tag: u8, contents: &[u8]) -> Vec<u8> {
    let length = contents.len().to_be_bytes();
    let digits = &length[length.iter().take_while(|b| **b == 0).count()..];
    let mut out = vec![tag];
    match contents.len() {
        short @ 0..=0x7f => out.push(short as u8),
        _ => {
            out.push(0x80 | digits.len() as u8);
            out.extend_from_slice(digits);
        }
    }
    out.extend_from_slice(contents);
    out
}

fn pem(certificate: &[u8]) -> String {
    let mut out = "-----BEGIN CERTIFICATE-----\n".to_string();
    let text = STANDARD.encode(certificate);
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = more;
    }
    out + "-----END CERTIFICATE-----\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_790_000_000;

    fn request(common_name: &str, organizations: &[&str], names: &[&str]) -> String {
        let names: Vec<String> = names.iter().map(|n| n.to_string()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name = DistinguishedName::new();
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
                dns_names: vec!["a.example".into()],
                addresses: vec!["10.0.0.1".parse().expect("an address")],
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

    #[test]
    fn who_is_in_several_groups_gets_them_all() {
        let dir = tempfile::tempdir().expect("a folder");
        let authority = Authority::open_or_create(dir.path(), NOW).expect("an authority");
        let usages = ["client auth".to_string()];
        let groups = include_str!("../tests-data/groups.csr");
        let in_one = include_str!("../tests-data/groups-in-one.csr");
        for (request, wanted) in [(groups, vec!["dev", "ops", "qa"]), (in_one, vec!["dev", "ops"])] {
            let pem = authority.sign(request, &usages, 3600, NOW).expect("signed");
            let der = rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM");
            let (name, has) = crate::tls::identity(&der).expect("an identity");
            assert_eq!((name.as_str(), has), ("jane", wanted.iter().map(ToString::to_string).collect()));
            let (_, parsed) = x509_parser::parse_x509_certificate(&der).expect("a certificate");
            let ca = rustls::pki_types::CertificateDer::from_pem_slice(authority.certificate().as_bytes());
            let ca = ca.expect("PEM");
            let (_, ca) = x509_parser::parse_x509_certificate(&ca).expect("a certificate");
            parsed.verify_signature(Some(ca.public_key())).expect("signed by the authority");
        }
        let names = authority.sign(groups, &usages, 3600, NOW).expect("signed");
        let der = rustls::pki_types::CertificateDer::from_pem_slice(names.as_bytes()).expect("PEM");
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).expect("a certificate");
        let names = parsed.subject_alternative_name().expect("readable").expect("there").value;
        assert_eq!(names.general_names.len(), 2);
        // Nobody gets a certificate for a key that is not theirs.
        let forged = request("jane", &["dev"], &[]);
        let mut der = der_of(&forged);
        let last = der.len() - 1;
        der[last] ^= 1;
        let forged = pem(&der).replace("CERTIFICATE", "CERTIFICATE REQUEST");
        assert!(authority.sign(&forged, &usages, 3600, NOW).is_err());
    }

    fn der_of(request: &str) -> Vec<u8> {
        der(request).expect("DER").to_vec()
    }
}
