//! Paths that are no resource: health, version, metrics, discovery, OpenAPI, the keys of token signers.

use crate::{
    ApiServer,
    pipeline::Admitted,
    request::{Query, negotiate},
    response::{self, Response},
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use orlop_api::Status;
use orlop_schema::openapi::{Document, V2_PROTOBUF, V2_PROTOBUF_ACCEPTED};
use serde_json::{Value, json};
use std::{io::Read, sync::Arc};

const CHECKS: &[&str] = &["ping", "log", "store", "informer-sync"];
impl ApiServer {
    /// Answers for a path that is no resource.
    pub(crate) async fn nonresource(self: &Arc<Self>, request: &Admitted) -> Result<Response, Status> {
        if !matches!(request.parts.method, Method::GET | Method::HEAD) {
            return Err(Status::no_such_resource());
        }
        let headers = &request.parts.headers;
        let path = request.parts.uri.path();
        let path = if path.len() > 1 { path.trim_end_matches('/') } else { path };
        let documents = self.documents.load_full();
        let openapi = &documents.openapi;
        if let Some(document) = documents.discovery.serve(path, headers) {
            return document;
        }
        match path {
            "/" => Ok(response::json(200, &json!({"paths": self.paths()}))),
            "/version" => Ok(response::json(200, &self.version())),
            "/metrics" => {
                let text = self
                    .metrics
                    .text(&self.registry, self.flow_control.figures(), self.aggregator.figures())
                    .await;
                let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                Ok(response::bytes(200, kind, text.into()))
            }
            "/openapi/v2" => {
                let protobuf = negotiate::ranges(negotiate::accept(headers))
                    .first()
                    .is_some_and(|r| V2_PROTOBUF_ACCEPTED.contains(&r.media));
                if protobuf {
                    Ok(document(openapi.v2_protobuf(), V2_PROTOBUF, headers))
                } else {
                    Ok(document(openapi.v2_json(), "application/json", headers))
                }
            }
            "/openapi/v3" => {
                Ok(document(openapi.v3_index(&self.openapi_elsewhere()), "application/json", headers))
            }
            "/.well-known/openid-configuration" => Ok(response::json(200, &self.openid()?)),
            "/openid/v1/jwks" => {
                let key = self.config.tokens.as_ref().ok_or_else(Status::no_such_resource)?;
                let body = key.jwks().to_string();
                Ok(response::bytes(200, "application/jwk-set+json", body.into()))
            }
            _ => {
                if let Some(rest) = path.strip_prefix("/openapi/v3/") {
                    let found = openapi.v3(rest).ok_or_else(Status::no_such_resource)?;
                    return Ok(document(found, "application/json", headers));
                }
                self.health(path, &request.query).await
            }
        }
    }

    /// The OpenAPI v3 documents of other servers: their paths and hashes.
    fn openapi_elsewhere(&self) -> Vec<(String, String)> {
        let others = self.aggregator.published().into_iter();
        others.filter_map(|o| Some((format!("apis/{}/{}", o.group, o.version), o.openapi?))).collect()
    }

    fn paths(&self) -> Vec<String> {
        let mut paths: Vec<String> = self.documents.load().discovery.paths().map(str::to_string).collect();
        paths.extend(
            ["/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]
                .map(String::from),
        );
        paths.sort();
        paths
    }

    fn version(&self) -> Value {
        let version = &self.config.version;
        let number = version.git_version.trim_start_matches('v');
        let mut parts = number.split(['.', '+', '-']);
        json!({
            "major": parts.next().unwrap_or_default(), "minor": parts.next().unwrap_or_default(),
            "gitVersion": version.git_version, "gitCommit": version.git_commit, "gitTreeState": "clean",
            "buildDate": version.build_date, "goVersion": "none", "compiler": "rustc",
            "platform": format!("linux/{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }),
            "emulationMajor": "1", "emulationMinor": "36", "minCompatibilityMajor": "1", "minCompatibilityMinor": "35",
        })
    }

    fn openid(&self) -> Result<Value, Status> {
        self.config.tokens.as_ref().ok_or_else(Status::no_such_resource)?;
        let issuer = &self.config.issuer;
        Ok(json!({
            "issuer": issuer, "jwks_uri": format!("{issuer}/openid/v1/jwks"),
            "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        }))
    }

    /// `/healthz`, `/livez`, `/readyz`, each as a whole or one check of it.
    async fn health(&self, path: &str, query: &Query) -> Result<Response, Status> {
        let mut parts = path.trim_start_matches('/').splitn(2, '/');
        let endpoint = parts.next().unwrap_or_default();
        if !matches!(endpoint, "healthz" | "livez" | "readyz") {
            return Err(Status::no_such_resource());
        }
        let excluded: Vec<&str> = query.all("exclude").collect();
        let mut checks: Vec<&str> = CHECKS.to_vec();
        if endpoint == "readyz" {
            checks.push("shutdown");
        }
        if let Some(one) = parts.next() {
            if !checks.contains(&one) {
                return Err(Status::no_such_resource());
            }
            return Ok(match self.check(one).await {
                Ok(()) => response::text(200, "ok"),
                Err(why) => response::text(500, format!("internal server error: {why}\n")),
            });
        }
        let mut lines = String::new();
        let mut failed = false;
        for check in checks {
            if excluded.contains(&check) {
                lines.push_str(&format!("[+]{check} excluded: ok\n"));
                continue;
            }
            match self.check(check).await {
                Ok(()) => lines.push_str(&format!("[+]{check} ok\n")),
                Err(why) => {
                    failed = true;
                    lines.push_str(&format!("[-]{check} failed: {why}\n"));
                }
            }
        }
        Ok(match (failed, query.flag("verbose")) {
            (true, _) => response::text(500, format!("{lines}{endpoint} check failed\n")),
            (false, true) => response::text(200, format!("{lines}{endpoint} check passed\n")),
            (false, false) => response::text(200, "ok"),
        })
    }

    async fn check(&self, name: &str) -> Result<(), String> {
        match name {
            "store" => self.config.store.revision().await.map(drop).map_err(|e| e.to_string()),
            "shutdown" if self.stop.is_cancelled() => Err("the server is shutting down".into()),
            _ => Ok(()),
        }
    }
}

/// A compressed document, unpacked for those who do not take it as it is, or 304 for those who have it.
fn document(document: Document, content_type: &'static str, headers: &HeaderMap) -> Response {
    let has = |name: header::HeaderName, wanted: &str| {
        headers.get(name).and_then(|v| v.to_str().ok()).is_some_and(|v| v.contains(wanted))
    };
    let etag = HeaderValue::from_str(&document.etag).ok();
    let mut response = if !document.etag.is_empty() && has(header::IF_NONE_MATCH, &document.etag) {
        let mut response = response::text(304, "");
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else if has(header::ACCEPT_ENCODING, "gzip") {
        let mut response = response::bytes(200, content_type, document.gzip);
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        response
    } else {
        let mut plain = Vec::new();
        match flate2::read::GzDecoder::new(&document.gzip[..]).read_to_end(&mut plain) {
            Ok(_) => response::bytes(200, content_type, plain.into()),
            Err(_) => response::status(&Status::internal("the OpenAPI document cannot be read")),
        }
    };
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept-Encoding, Accept"));
    if let Some(etag) = etag {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response
}
