//! The webhooks: conversion, mutation and validation, over TLS with a certificate out of a Secret.

use crate::{Result, conversion, site::v2::Site};
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, StatusCode, body::Bytes, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use json_patch::{Patch, PatchOperation, jsonptr::PointerBuf};
use kube::{
    ResourceExt as _,
    core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview, Operation},
};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use serde_json::Value;
use std::{path::Path, sync::Arc};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// The names that the reflector's store holds.
pub(crate) type Names = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// Serves on a port of all addresses until something fails. The folder holds `tls.crt` and `tls.key`.
pub(crate) fn serve(port: u16, folder: &Path, names: Names) -> Result<impl Future<Output = Result<()>>> {
    let chain = CertificateDer::pem_file_iter(folder.join("tls.crt"))?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(folder.join("tls.key"))?;
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
    let tls = TlsAcceptor::from(Arc::new(config));
    Ok(async move {
        let listener = TcpListener::bind(("0.0.0.0", port)).await?;
        loop {
            let (connection, _) = listener.accept().await?;
            let (tls, names) = (tls.clone(), names.clone());
            tokio::spawn(async move {
                let Ok(connection) = tls.accept(connection).await else { return };
                let service = service_fn(move |request| answer(request, names.clone()));
                // The other end may go at any time.
                drop(
                    Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(connection), service)
                        .await,
                );
            });
        }
    })
}

async fn answer(request: Request<Incoming>, names: Names) -> Result<Response<Full<Bytes>>> {
    let path = request.uri().path().to_string();
    let body = request.into_body().collect().await?.to_bytes();
    let (code, body) = match respond(&path, &body, &names) {
        Ok(Some(body)) => (StatusCode::OK, body),
        Ok(None) => (StatusCode::NOT_FOUND, "no such path".into()),
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string().into()),
    };
    Ok(Response::builder().status(code).body(Full::from(body))?)
}

fn respond(path: &str, body: &[u8], names: &Names) -> Result<Option<Vec<u8>>> {
    Ok(Some(match path {
        "/healthz" => b"ok".to_vec(),
        "/sites" => serde_json::to_vec(&names())?,
        "/convert" => serde_json::to_vec(&conversion::review(serde_json::from_slice(body)?)?)?,
        "/mutate" => serde_json::to_vec(&admit(serde_json::from_slice(body)?, mutate)?)?,
        "/validate" => serde_json::to_vec(&admit(serde_json::from_slice(body)?, validate)?)?,
        _ => return Ok(None),
    }))
}

type Admit = fn(&AdmissionRequest<Site>, AdmissionResponse) -> Result<AdmissionResponse>;

fn admit(review: AdmissionReview<Site>, decide: Admit) -> Result<AdmissionReview<kube::core::DynamicObject>> {
    let request: AdmissionRequest<Site> = review.try_into()?;
    Ok(decide(&request, AdmissionResponse::from(&request))?.into_review())
}

/// A site without a first page gets one; how many pages there are becomes a label.
fn mutate(request: &AdmissionRequest<Site>, response: AdmissionResponse) -> Result<AdmissionResponse> {
    let Some(site) = &request.object else { return Ok(response) };
    let mut pages = site.spec.pages.len();
    let mut add = Vec::new();
    let mut put = |path: &[&str], value: Value| {
        let path = PointerBuf::from_tokens(path.iter().copied());
        add.push(PatchOperation::Add(json_patch::AddOperation { path, value }));
    };
    if !site.spec.pages.contains_key("index.html") {
        put(&["spec", "pages", "index.html"], format!("The pages of {}\n", site.name_any()).into());
        pages += 1;
    }
    if site.metadata.labels.is_none() {
        put(&["metadata", "labels"], Value::Object(serde_json::Map::new()));
    }
    put(&["metadata", "labels", "sites.example.com/pages"], pages.to_string().into());
    Ok(response.with_patch(Patch(add))?)
}

/// At most five replicas; who says that a site is kept does not lose it by mistake.
fn validate(request: &AdmissionRequest<Site>, mut response: AdmissionResponse) -> Result<AdmissionResponse> {
    if request.operation == Operation::Delete {
        let site = request.old_object.as_ref().ok_or("nothing is deleted")?;
        if site.annotations().get("sites.example.com/keep").is_some_and(|keep| keep == "true") {
            return Ok(response.deny("the site is kept: remove the annotation first"));
        }
        return Ok(response);
    }
    let site = request.object.as_ref().ok_or("nothing is written")?;
    if site.spec.replicas > 5 {
        return Ok(response.deny(format!("{} replicas are too many: at most 5", site.spec.replicas)));
    }
    if site.spec.replicas == 0 {
        response.warnings = Some(vec!["nobody will serve this site".into()]);
    }
    Ok(response)
}
