//! What registries and archives hold, and what asks for certificates and tokens.

use crate::sections::{sections, text};
use orlop_runtime::image::{
    Digest, ImageConfig, Reference,
    manifest::{Document, Platform, choose},
    unpack::{Limits, unpack},
};
use std::path::Path;

/// A layer's tar stream, unpacked where nothing outside may change.
pub(super) fn archives(input: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder");
    let layer = folder.path().join("layer");
    std::fs::create_dir(&layer).expect("made");
    let limits = Limits { entries: 200, bytes: 1 << 20 };
    if let Ok(unpacked) = unpack(input, &layer, limits) {
        assert!(unpacked.bytes <= limits.bytes);
    }
    let beside: Vec<_> =
        std::fs::read_dir(folder.path()).expect("a folder").flatten().map(|e| e.path()).collect();
    assert_eq!(beside, [layer], "nothing is written outside");
    assert!(!Path::new("/orlop-escaped").exists());
}

/// References, digests, manifests, indexes and configurations.
pub(super) fn documents(input: &[u8]) {
    let words = text(input);
    if let Ok(reference) = Reference::parse(words.trim()) {
        let name = reference.name();
        assert_eq!(Reference::parse(&name).expect("its name is a reference").name(), name);
        let _ = (reference.registry(), reference.repository(), reference.tag(), reference.tagged());
    }
    if let Ok(digest) = Digest::parse(words.trim()) {
        assert_eq!(digest.as_str(), words.trim());
        let _ = (digest.algorithm(), digest.hex(), digest.matches(input));
    }
    match Document::parse(input) {
        Ok(Document::Manifest(manifest)) => {
            let _ = manifest.check(&[]);
        }
        Ok(Document::Index(entries)) => {
            let _ = choose(&entries, &Platform::host());
        }
        Err(_) => {}
    }
    if let Ok(config) = ImageConfig::parse(input) {
        let _ = (config.uid(), config.username());
    }
    let parts = sections(input, 3);
    if let [user, passwd, group] = parts[..] {
        let _ = orlop_runtime::user::resolve(&Default::default(), &text(user), &text(passwd), &text(group));
    }
}

/// Requests for certificates, and certificates.
pub(super) fn certificates(input: &[u8]) {
    let pem = text(input);
    let _ = orlop_pki::signing_request::subject(&pem);
    let _ = orlop_pki::signing_request::is_over(&pem, 0);
}
