//! Bootstrap tokens (Kubernetes documentation, "Authenticating with Bootstrap Tokens"): a Secret in kube-system by which a node
//! that has nothing yet gets its first certificate. Pure.

use super::{AUTHENTICATED, Identity};
use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use orlop_api::object::text;
use serde_json::Value;

const TYPE: &str = "bootstrap.kubernetes.io/token";
const GROUP: &str = "system:bootstrappers";

/// The two halves of a bootstrap token, where it is one.
pub(crate) fn split(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    (id.len() == 6 && secret.len() == 16 && plain(id) && plain(secret)).then_some((id, secret))
}

/// The name of the Secret of a token.
pub(crate) fn secret_name(id: &str) -> String {
    format!("bootstrap-token-{id}")
}

fn data(secret: &Value, key: &str) -> String {
    let bytes = BASE64_STANDARD.decode(text(secret, &format!("/data/{key}"))).unwrap_or_default();
    String::from_utf8(bytes).unwrap_or_default()
}

/// Equality that takes the same time wherever the difference is.
fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

/// Whom the token stands for, by its Secret.
pub(crate) fn identity(
    secret: &Value,
    (id, given): (&str, &str),
    now: Timestamp,
) -> Result<Identity, String> {
    if !text(secret, "/metadata/deletionTimestamp").is_empty() {
        return Err("the token is being deleted".into());
    }
    if text(secret, "/type") != TYPE || data(secret, "token-id") != id {
        return Err("the Secret is not that of the token".into());
    }
    // Tokens that Orlop makes are kept as a hash; those of others as they are.
    let right = match data(secret, "token-secret") {
        plain if !plain.is_empty() => same(&plain, given),
        _ => same(&data(secret, "token-hash"), &orlop_pki::join_token::secret_hash(given)),
    };
    if !right {
        return Err("the token's secret is wrong".into());
    }
    let expiration = data(secret, "expiration");
    // What cannot be read is over.
    if !expiration.is_empty() && !expiration.parse::<Timestamp>().is_ok_and(|at| at > now) {
        return Err("the token has expired".into());
    }
    if data(secret, "usage-bootstrap-authentication") != "true" {
        return Err("the token is not for authentication".into());
    }
    let mut groups = vec![GROUP.to_string()];
    for group in data(secret, "auth-extra-groups").split(',').filter(|g| !g.is_empty()) {
        if !is_group(group) {
            return Err(format!("the extra group {group:?} is not one of bootstrappers"));
        }
        groups.push(group.to_string());
    }
    groups.push(AUTHENTICATED.to_string());
    Ok(Identity { user: format!("system:bootstrap:{id}"), groups, ..Identity::default() })
}

fn is_group(group: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    group.strip_prefix("system:bootstrappers:").is_some_and(|rest| {
        rest.len() <= 256
            && rest.bytes().all(|b| plain(b) || b == b':' || b == b'-')
            && rest.bytes().last().is_some_and(plain)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn secret(change: impl FnOnce(&mut Value)) -> Value {
        let mut data = json!({"token-id": "abcdef", "token-secret": "0123456789abcdef",
            "usage-bootstrap-authentication": "true", "auth-extra-groups": "system:bootstrappers:workers"});
        change(&mut data);
        let encoded: serde_json::Map<String, Value> = data
            .as_object()
            .unwrap()
            .iter()
            .map(|(k, v)| (k.clone(), BASE64_STANDARD.encode(v.as_str().unwrap()).into()))
            .collect();
        json!({"type": TYPE, "data": encoded})
    }

    #[test]
    fn a_token_is_worth_what_its_secret_says() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let token = split("abcdef.0123456789abcdef").unwrap();
        let who = identity(&secret(|_| {}), token, now).unwrap();
        assert_eq!(who.user, "system:bootstrap:abcdef");
        assert_eq!(who.groups, [GROUP, "system:bootstrappers:workers", AUTHENTICATED]);
        let later = secret(|d| d["expiration"] = json!("2026-01-01T00:00:01Z"));
        assert!(identity(&later, token, now).is_ok());
        let hash = orlop_pki::join_token::secret_hash(token.1);
        let hashed = |hash: &str| {
            secret(|d| {
                d["token-secret"] = json!("");
                d["token-hash"] = json!(hash);
            })
        };
        assert!(identity(&hashed(&hash), token, now).is_ok(), "kept as a hash");
        for wrong in [
            hashed(&hash[1..]),
            hashed(""),
            secret(|d| d["expiration"] = json!("2026-01-01T00:00:00Z")),
            secret(|d| d["expiration"] = json!("some day")),
            secret(|d| d["token-secret"] = json!("0123456789abcdeg")),
            secret(|d| d["token-id"] = json!("abcdeg")),
            secret(|d| d["usage-bootstrap-authentication"] = json!("false")),
            secret(|d| d["auth-extra-groups"] = json!("system:masters")),
            json!({"type": "Opaque", "data": secret(|_| {})["data"]}),
            json!({}),
        ] {
            assert!(identity(&wrong, token, now).is_err(), "{wrong}");
        }
        assert_eq!(split("abcdef.short"), None);
        assert_eq!(split("ABCDEF.0123456789abcdef"), None);
    }
}
