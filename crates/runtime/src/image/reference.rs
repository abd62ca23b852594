//! Image references, parsed and normalized as Docker and Kubernetes do (github.com/distribution/reference): what
//! people write (`nginx`) becomes what everything inside uses (`docker.io/library/nginx:latest`).

use super::digest::Digest;
use crate::Error;

/// The registry of names that name none.
pub const DEFAULT_REGISTRY: &str = "docker.io";

/// A normalized image reference. It always has a tag or a digest, and may have both.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Parses and normalizes. A reference with neither tag nor digest gets the tag `latest`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        parse(text)
            .map_err(|why| Error::InvalidReference { reference: text.to_string(), why: why.to_string() })
    }

    /// Host and, where given, port: `docker.io`, `localhost:5000`, `[::1]:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Path within the registry: `library/nginx`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, if there is one.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The manifest digest, if it is pinned.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Registry and repository: `docker.io/library/nginx`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// `docker.io/library/nginx:1.27`, if there is a tag.
    pub fn tagged(&self) -> Option<String> {
        self.tag.as_ref().map(|tag| format!("{}:{tag}", self.name()))
    }

    /// `docker.io/library/nginx@sha256:…` with the given manifest digest.
    pub fn pinned(&self, digest: &Digest) -> String {
        format!("{}@{digest}", self.name())
    }
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl std::str::FromStr for Reference {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

fn parse(text: &str) -> Result<Reference, String> {
    if text.is_empty() {
        return Err("it is empty".into());
    }
    if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err("64 hexadecimal digits are an image id, not a name".into());
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(Digest::parse(digest)?)),
        None => (text, None),
    };
    // A colon after the last slash starts a tag; one before it belongs to a host's port.
    let (name, tag) = match rest.rfind(':') {
        Some(colon) if !rest[colon..].contains('/') => (&rest[..colon], Some(&rest[colon + 1..])),
        _ => (rest, None),
    };
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    let (registry, repository) = match name.split_once('/') {
        Some((host, path)) if is_host(host) => (host, path.to_string()),
        Some(_) => (DEFAULT_REGISTRY, name.to_string()),
        None => (DEFAULT_REGISTRY, format!("library/{name}")),
    };
    let (registry, repository) = match registry {
        "index.docker.io" | DEFAULT_REGISTRY if !repository.contains('/') => {
            (DEFAULT_REGISTRY, format!("library/{repository}"))
        }
        "index.docker.io" => (DEFAULT_REGISTRY, repository),
        other => (other, repository),
    };
    check_host(registry)?;
    check_repository(&repository, name)?;
    if registry.len() + 1 + repository.len() > 255 {
        return Err("the name is longer than 255 characters".into());
    }
    let tag = match (tag, &digest) {
        (Some(tag), _) => Some(tag.to_string()),
        (None, Some(_)) => None,
        (None, None) => Some("latest".to_string()),
    };
    Ok(Reference { registry: registry.to_string(), repository, tag, digest })
}

/// Whether the part before the first slash names a host (Docker's rule: a dot, a port, an IPv6 bracket, upper case,
/// or `localhost`), not the first part of a path on the default registry.
fn is_host(part: &str) -> bool {
    part == "localhost" || part.contains(['.', ':', '[']) || part.bytes().any(|b| b.is_ascii_uppercase())
}

fn check_host(host: &str) -> Result<(), String> {
    let (name, port) = if let Some(rest) = host.strip_prefix('[') {
        let Some((address, after)) = rest.split_once(']') else {
            return Err(format!("host {host:?} has no closing bracket"));
        };
        if address.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(format!("{address:?} is not an IPv6 address"));
        }
        match after {
            "" => return Ok(()),
            _ => (None, Some(after.strip_prefix(':').ok_or_else(|| format!("host {host:?} is malformed"))?)),
        }
    } else {
        match host.split_once(':') {
            Some((name, port)) => (Some(name), Some(port)),
            None => (Some(host), None),
        }
    };
    if let Some(name) = name {
        let good = name.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        });
        if !good {
            return Err(format!("{name:?} is not a host name"));
        }
    }
    match port {
        Some(port) if !port.bytes().all(|b| b.is_ascii_digit()) || port.parse::<u16>().is_err() => {
            Err(format!("{port:?} is not a port"))
        }
        _ => Ok(()),
    }
}

fn check_repository(repository: &str, as_given: &str) -> Result<(), String> {
    if repository.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(format!("repository name {as_given:?} must be lower case"));
    }
    for part in repository.split('/') {
        if !is_path_component(part) {
            return Err(format!(
                "repository name {as_given:?} may hold lower-case letters and digits, separated by '.', '_', '__', \
                 any number of '-', or '/'"
            ));
        }
    }
    Ok(())
}

/// `alphanumeric (separator alphanumeric)*` with the separators `.`, `_`, `__` and any run of `-`.
fn is_path_component(part: &str) -> bool {
    let alphanumeric = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9');
    let bytes = part.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else { return false };
    if !alphanumeric(first) || !alphanumeric(last) {
        return false;
    }
    part.split(|c: char| c.is_ascii() && alphanumeric(c as u8))
        .filter(|run| !run.is_empty())
        .all(|run| matches!(run, "." | "_" | "__") || run.bytes().all(|b| b == b'-'))
}

fn check_tag(tag: &str) -> Result<(), String> {
    let good = (1..=128).contains(&tag.len())
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        && !tag.starts_with(['.', '-']);
    if good {
        Ok(())
    } else {
        Err(format!(
            "tag {tag:?} must be 1 to 128 letters, digits, '_', '.' and '-', not starting with '.' or '-'"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SUM: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn what_people_write_is_normalized_as_docker_does() {
        for (given, expected) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27"),
            ("docker.io/nginx", "docker.io/library/nginx:latest"),
            ("index.docker.io/nginx", "docker.io/library/nginx:latest"),
            ("bitnami/redis", "docker.io/bitnami/redis:latest"),
            ("docker.io/bitnami/redis:7", "docker.io/bitnami/redis:7"),
            ("localhost/x", "localhost/x:latest"),
            ("localhost:5000/x", "localhost:5000/x:latest"),
            ("localhost:5000/x:1", "localhost:5000/x:1"),
            ("127.0.0.1:5000/a/b/c:v1", "127.0.0.1:5000/a/b/c:v1"),
            ("[::1]:5000/x", "[::1]:5000/x:latest"),
            ("[::1]/x", "[::1]/x:latest"),
            ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"),
            ("HOST/x", "HOST/x:latest"),
            ("a__b/c--d.e_f", "docker.io/a__b/c--d.e_f:latest"),
            ("x:V1.2-rc_3", "docker.io/library/x:V1.2-rc_3"),
        ] {
            assert_eq!(Reference::parse(given).unwrap().to_string(), expected, "{given}");
        }
        let pinned = Reference::parse(&format!("nginx@{SUM}")).unwrap();
        assert_eq!((pinned.tag(), pinned.to_string()), (None, format!("docker.io/library/nginx@{SUM}")));
        let both = Reference::parse(&format!("quay.io/a/b:1@{SUM}")).unwrap();
        assert_eq!(both.tag(), Some("1"));
        assert_eq!(both.digest().unwrap().as_str(), SUM);
        assert_eq!(both.tagged().unwrap(), "quay.io/a/b:1");
    }

    #[test]
    fn what_is_no_reference_is_refused_with_the_reason() {
        for (given, why) in [
            ("", "empty"),
            ("Nginx", "lower case"),
            ("docker.io/Nginx", "lower case"),
            ("a//b", "repository name"),
            ("/a", "repository name"),
            ("a/", "repository name"),
            ("a..b", "repository name"),
            ("a___b", "repository name"),
            ("-a", "repository name"),
            ("a-", "repository name"),
            ("nginx:", "tag"),
            ("nginx:-1", "tag"),
            ("nginx:a b", "tag"),
            (" nginx", "repository name"),
            ("nginx@sha256:12", "digest"),
            ("nginx@", "digest"),
            ("localhost:port/x", "port"),
            ("localhost:99999/x", "port"),
            ("[::1/x", "bracket"),
            ("[zz]:1/x", "IPv6"),
            ("-bad.host/x", "host name"),
            ("https://docker.io/nginx", "port"),
            ("näh", "repository name"),
        ] {
            let error = Reference::parse(given).expect_err(given).to_string();
            assert!(error.contains(why), "{given}: {error}");
            assert!(error.starts_with("invalid image reference"), "{error}");
        }
        assert!(Reference::parse(&"a".repeat(64)).unwrap_err().to_string().contains("image id"));
        assert!(Reference::parse(&format!("x/{}", "b".repeat(300))).unwrap_err().to_string().contains("255"));
        assert!(Reference::parse(&format!("x:{}", "b".repeat(129))).is_err());
    }

    proptest! {
        #[test]
        fn a_normalized_reference_is_a_fixed_point(
            host in proptest::option::of("(localhost|[a-z][a-z0-9]{0,8}\\.[a-z]{2,3})(:[1-9][0-9]{0,3})?"),
            path in "[a-z0-9]{1,8}([_-][a-z0-9]{1,4}){0,2}(/[a-z0-9]{1,5}(--|__|\\.)?[a-z0-9]{1,4}){0,2}",
            tag in proptest::option::of("[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}"),
            pinned in any::<bool>(),
        ) {
            let mut text = host.as_ref().map(|h| format!("{h}/")).unwrap_or_default() + &path;
            if let Some(tag) = &tag { text = format!("{text}:{tag}") }
            if pinned { text = format!("{text}@{SUM}") }
            let once = Reference::parse(&text).unwrap();
            let twice = Reference::parse(&once.to_string()).unwrap();
            prop_assert_eq!(&once, &twice);
            prop_assert_eq!(once.digest().is_some(), pinned);
            prop_assert!(once.tag().is_some() || pinned);
            if let Some(host) = host { prop_assert_eq!(once.registry(), host) }
        }

        #[test]
        fn no_input_panics_and_what_is_taken_is_safe_in_a_url(text in "\\PC{0,40}") {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert!(!reference.repository().split('/').any(|p| p.is_empty() || p == ".."));
                prop_assert!(reference.to_string().is_ascii());
            }
        }
    }
}
