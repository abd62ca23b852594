//! Image references as far as the API looks at them: which pull policy one gets.

/// The pull policy of a container that says none: `Always` for the tag `latest` (also where it is not written),
/// else `IfNotPresent`.
pub fn default_pull_policy(image: &str) -> &'static str {
    let (name, digest) = match image.split_once('@') {
        Some((name, _)) => (name, true),
        None => (image, false),
    };
    // A colon before the last slash belongs to a port.
    let last = name.rsplit('/').next().unwrap_or_default();
    match last.split_once(':') {
        Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
        None if digest => "IfNotPresent",
        None => "Always",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_latest_is_always_pulled() {
        for (image, want) in [
            ("web", "Always"),
            ("web:latest", "Always"),
            ("web:1.2", "IfNotPresent"),
            ("registry.example:5000/web", "Always"),
            ("registry.example:5000/web:1", "IfNotPresent"),
            ("web@sha256:0000", "IfNotPresent"),
            ("web:latest@sha256:0000", "Always"),
        ] {
            assert_eq!(default_pull_policy(image), want, "{image}");
        }
    }
}
