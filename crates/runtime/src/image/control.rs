//! Images for people on this machine: a small HTTP interface on a Unix socket that only its owner (root) may use. It adds
//! nothing to [`Images`]; `orlop image …` speaks it.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `GET /images` | | list of [`Image`] |
//! | `POST /images/import[?name=REF]` | an archive | list of [`Image`] |
//! | `POST /images/pull?ref=REF` (`Authorization: Basic …` goes to the registry) | | [`Image`] |
//! | `DELETE /images?ref=REF` | | nothing |
//!
//! A failure answers with [`Problem`].

use crate::{Error, Image, Images, RegistryAuth};
use axum::{
    Json, Router,
    body::Body,
    extract::{Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use base64::Engine;
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use std::{io, os::unix::fs::PermissionsExt, path::Path, sync::Arc};
use tokio::net::UnixListener;

/// The socket's name in the data folder.
pub const SOCKET: &str = "orlop.sock";

/// Why a request failed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Problem {
    /// For people.
    pub message: String,
}

#[derive(Deserialize)]
struct Named {
    #[serde(rename = "ref")]
    reference: String,
}

#[derive(Deserialize)]
struct ImportOptions {
    name: Option<String>,
}

/// The interface, without the socket.
pub fn router(images: Arc<dyn Images>) -> Router {
    Router::new()
        .route("/images", get(list).delete(remove))
        .route("/images/import", post(import))
        .route("/images/pull", post(pull))
        .with_state(images)
}

/// Serves the interface on a socket at `path`, in place of one that a dead process left, until `shutdown` resolves.
pub async fn serve(
    images: Arc<dyn Images>,
    path: &Path,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    let step = |e| Error::io(format!("listening on {}", path.display()), e);
    if tokio::net::UnixStream::connect(path).await.is_ok() {
        return Err(step(io::ErrorKind::AddrInUse.into()));
    }
    // Given its mode before it has its name: nobody else ever gets a chance to connect.
    let unnamed = path.with_extension(format!("sock.{}", std::process::id()));
    let _ = std::fs::remove_file(&unnamed); // of a process that had this id before
    let listener = UnixListener::bind(&unnamed).map_err(step)?;
    std::fs::set_permissions(&unnamed, std::fs::Permissions::from_mode(0o600)).map_err(step)?;
    std::fs::rename(&unnamed, path).map_err(step)?;
    let served = axum::serve(listener, router(images)).with_graceful_shutdown(shutdown).await;
    let _ = std::fs::remove_file(path); // whoever comes next replaces what stays
    served.map_err(step)
}

type Store = State<Arc<dyn Images>>;

async fn list(State(images): Store) -> Result<Json<Vec<Image>>, Failed> {
    Ok(Json(images.list().await?))
}

async fn import(
    State(images): Store,
    Query(options): Query<ImportOptions>,
    body: Body,
) -> Result<Json<Vec<Image>>, Failed> {
    let archive = tokio_util::io::StreamReader::new(body.into_data_stream().map_err(io::Error::other));
    Ok(Json(images.import(Box::pin(archive), options.name).await?))
}

async fn pull(
    State(images): Store,
    Query(named): Query<Named>,
    headers: HeaderMap,
) -> Result<Json<Image>, Failed> {
    Ok(Json(images.pull(&named.reference, credentials(&headers)).await?))
}

async fn remove(State(images): Store, Query(named): Query<Named>) -> Result<StatusCode, Failed> {
    if images.resolve(&named.reference).await?.is_none() {
        return Err(Error::NotFound { what: "image", id: named.reference }.into());
    }
    images.remove(&named.reference).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn credentials(headers: &HeaderMap) -> Option<RegistryAuth> {
    let encoded = headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Basic ")?;
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded).ok()?;
    let (username, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some(RegistryAuth { username: username.into(), password: password.into() })
}

struct Failed(Error);

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let code = match &self.0 {
            Error::NotFound { .. } => StatusCode::NOT_FOUND,
            Error::InvalidReference { .. } | Error::Damaged(_) | Error::State(_) => StatusCode::BAD_REQUEST,
            Error::Pull { .. } => StatusCode::BAD_GATEWAY,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let message = match &self.0 {
            Error::Io { step, source } => format!("{step}: {source}"),
            other => other.to_string(),
        };
        (code, Json(Problem { message })).into_response()
    }
}
