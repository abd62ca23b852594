//! `token`: makes, lists and revokes the tokens by which machines join the cluster. The cluster keeps a hash of each; the token
//! itself is shown once.

use crate::{
    ConnectionArgs, Error,
    api::{AS_JSON, Api, Content},
    connect::in_words,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use http::Method;
use jiff::{SignedDuration, Timestamp};
use orlop_pki::{
    JoinToken,
    join_token::{self, SECRET_TYPE},
};
use serde_json::Value;
use std::process::ExitCode;

const SECRETS: &str = "/api/v1/namespaces/kube-system/secrets";
const CLUSTER_INFO: &str = "/api/v1/namespaces/kube-public/configmaps/cluster-info";

/// Arguments of `token`.
#[derive(Clone, Debug, clap::Args)]
pub struct TokenArgs {
    /// What to do
    #[command(subcommand)]
    pub verb: TokenVerb,
}

/// What can be done with tokens.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum TokenVerb {
    /// Make a token and print it; it is not shown again
    Create {
        /// How long it can be used: `30m`, `24h`, `7d`; 0 for ever
        #[arg(long, default_value = "24h", value_name = "TIME", value_parser = ttl)]
        ttl: SignedDuration,
        /// What it is for
        #[arg(long, default_value = "", value_name = "TEXT")]
        description: String,
        /// Print the whole command for the machine that is to join
        #[arg(long)]
        print_join_command: bool,
        #[command(flatten)]
        #[allow(missing_docs)]
        connection: ConnectionArgs,
    },
    /// List tokens, without their secrets
    List {
        #[command(flatten)]
        #[allow(missing_docs)]
        connection: ConnectionArgs,
    },
    /// Revoke tokens
    Delete {
        /// The tokens, or the six characters that they begin with
        #[arg(required = true, value_name = "TOKEN")]
        tokens: Vec<String>,
        #[command(flatten)]
        #[allow(missing_docs)]
        connection: ConnectionArgs,
    },
}

fn ttl(text: &str) -> Result<SignedDuration, String> {
    let days = text.strip_suffix('d').and_then(|d| d.parse::<i64>().ok());
    let parsed = match (text, days) {
        ("0", _) => SignedDuration::ZERO,
        (_, Some(days)) if days <= 36_500 => SignedDuration::from_hours(24 * days),
        _ => text.parse::<SignedDuration>().map_err(|e| e.to_string())?,
    };
    if parsed.is_negative() { Err("a time is not negative".into()) } else { Ok(parsed) }
}

pub(crate) async fn run(args: TokenArgs) -> Result<ExitCode, Error> {
    match args.verb {
        TokenVerb::Create { ttl, description, print_join_command, connection } => {
            create(&connection.connect().await?, ttl, &description, print_join_command).await
        }
        TokenVerb::List { connection } => list(&connection.connect().await?).await,
        TokenVerb::Delete { tokens, connection } => delete(&connection.connect().await?, &tokens).await,
    }
}

async fn create(api: &Api, ttl: SignedDuration, description: &str, command: bool) -> Result<ExitCode, Error> {
    let info = api.get(CLUSTER_INFO, &[], AS_JSON).await?;
    let (server, authority) = cluster(&info)?;
    let wrong = |e: orlop_pki::Error| Error::Answer(in_words(&e));
    let token = JoinToken::generate(join_token::pin(&authority).map_err(wrong)?).map_err(wrong)?;
    let expiration = (!ttl.is_zero()).then(|| expiration(Timestamp::now(), ttl)).transpose()?;
    let secret = token.secret_object(description, expiration.as_deref());
    let content = Content { media_type: AS_JSON, body: secret.to_string().into_bytes() };
    api.request(Method::POST, SECRETS, &[], AS_JSON, content).await?;
    crate::print(&match command {
        true => format!("{}\n", join_command(&server, &token)),
        false => format!("{token}\n"),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// What is typed on a machine that is to join.
pub fn join_command(server: &str, token: &JoinToken) -> String {
    format!("orlop agent --server {server} --token {token}")
}

/// Where the cluster is for machines that join, and its authority (PEM).
fn cluster(info: &Value) -> Result<(String, String), Error> {
    let wrong = || Error::Answer("the ConfigMap kube-public/cluster-info does not tell of a cluster".into());
    let text = info.pointer("/data/kubeconfig").and_then(Value::as_str).ok_or_else(wrong)?;
    let config: Value = serde_saphyr::from_str(text).map_err(|_| wrong())?;
    let of = |key: &str| config.pointer(&format!("/clusters/0/cluster/{key}")).and_then(Value::as_str);
    let server = of("server").ok_or_else(wrong)?;
    let authority = of("certificate-authority-data").and_then(|data| BASE64_STANDARD.decode(data).ok());
    let authority = authority.and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(wrong)?;
    Ok((server.to_string(), authority))
}

fn expiration(now: Timestamp, ttl: SignedDuration) -> Result<String, Error> {
    let end = now.checked_add(ttl).map_err(|e| Error::Usage(format!("--ttl: {e}")))?;
    Ok(end.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

async fn list(api: &Api) -> Result<ExitCode, Error> {
    let selector = format!("type={SECRET_TYPE}");
    let found = api.get(SECRETS, &[("fieldSelector", &selector)], AS_JSON).await?;
    let now = Timestamp::now();
    let items = found["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    crate::print(&table(items, now))?;
    Ok(ExitCode::SUCCESS)
}

fn table(secrets: &[Value], now: Timestamp) -> String {
    let mut rows = vec![["TOKEN", "TTL", "EXPIRES", "DESCRIPTION"].map(String::from)];
    for secret in secrets {
        let data = |key: &str| {
            let encoded = secret.pointer(&format!("/data/{key}")).and_then(Value::as_str).unwrap_or_default();
            String::from_utf8(BASE64_STANDARD.decode(encoded).unwrap_or_default()).unwrap_or_default()
        };
        let end = data("expiration");
        let left = match end.parse::<Timestamp>() {
            Ok(at) if at > now => short(at.duration_since(now)),
            Ok(_) => "<expired>".into(),
            Err(_) if end.is_empty() => "<forever>".into(),
            Err(_) => "<invalid>".into(),
        };
        let shown = |text: String| if text.is_empty() { "<none>".to_string() } else { text };
        rows.push([
            data("token-id"),
            left,
            if end.is_empty() { "<never>".into() } else { end },
            shown(data("description")),
        ]);
    }
    let widths: Vec<usize> =
        (0..3).map(|c| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0) + 3).collect();
    rows.iter()
        .map(|[id, left, end, what]| {
            format!("{id:<a$}{left:<b$}{end:<c$}{what}\n", a = widths[0], b = widths[1], c = widths[2])
        })
        .collect()
}

fn short(left: SignedDuration) -> String {
    match left.as_secs() {
        s if s < 120 => format!("{s}s"),
        s if s < 7_200 => format!("{}m", s / 60),
        s if s < 172_800 => format!("{}h", s / 3_600),
        s => format!("{}d", s / 86_400),
    }
}

async fn delete(api: &Api, tokens: &[String]) -> Result<ExitCode, Error> {
    for token in tokens {
        let id = token.split('.').next().unwrap_or_default();
        if id.len() != 6 || !id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
            return Err(Error::Usage(format!(
                "{id:?} is no token: `orlop token list` shows those there are"
            )));
        }
        let path = format!("{SECRETS}/bootstrap-token-{id}");
        match api.request(Method::DELETE, &path, &[], AS_JSON, Content::default()).await {
            Err(error) if error.is_not_found() => {
                return Err(Error::Usage(format!(
                    "there is no token {id:?}: `orlop token list` shows those there are"
                )));
            }
            outcome => outcome?,
        };
        crate::print(&format!("token {id:?} deleted\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn times_are_read_as_people_write_them() {
        assert_eq!(ttl("7d"), Ok(SignedDuration::from_hours(168)));
        assert_eq!(ttl("30m"), Ok(SignedDuration::from_mins(30)));
        assert_eq!(ttl("0"), Ok(SignedDuration::ZERO));
        assert!(ttl("-1h").is_err() && ttl("soon").is_err());
    }

    #[test]
    fn tokens_are_listed_with_the_time_that_is_left() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let secret = |id: &str, expiration: &str, description: &str| {
            let encode = |text: &str| BASE64_STANDARD.encode(text);
            json!({"data": {"token-id": encode(id), "expiration": encode(expiration), "description": encode(description)}})
        };
        let shown = table(
            &[
                secret("aaaaaa", "2026-01-01T23:00:00Z", "rack 4"),
                secret("bbbbbb", "2025-01-01T00:00:00Z", ""),
                secret("cccccc", "", ""),
            ],
            now,
        );
        assert_eq!(
            shown,
            "TOKEN    TTL         EXPIRES                DESCRIPTION\n\
             aaaaaa   23h         2026-01-01T23:00:00Z   rack 4\n\
             bbbbbb   <expired>   2025-01-01T00:00:00Z   <none>\n\
             cccccc   <forever>   <never>                <none>\n"
        );
    }

    #[test]
    fn a_cluster_tells_where_it_is() {
        let kubeconfig = json!({"clusters": [{"cluster": {
            "server": "https://192.0.2.1:6443", "certificate-authority-data": BASE64_STANDARD.encode("PEM")}}]});
        let info = json!({"data": {"kubeconfig": kubeconfig.to_string()}});
        assert_eq!(cluster(&info).unwrap(), ("https://192.0.2.1:6443".to_string(), "PEM".to_string()));
        assert!(cluster(&json!({"data": {}})).is_err());
    }
}
