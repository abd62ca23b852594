//! `image`: the images of this machine, through the socket of the server that runs on it (`orlop_runtime::image::control`
//! says what is spoken there); and `build`, which needs no server.

use crate::{Error, connect::DEFAULT_DATA_DIR, print};
use base64::Engine;
use bytes::Bytes;
use futures::TryStreamExt;
use http::{Method, Request, header};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use orlop_runtime::{
    Image,
    image::{
        BuildOptions, ImageConfig, build_from_directory,
        control::{Problem, SOCKET},
    },
};
use std::{
    io::{BufWriter, Read},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::ExitCode,
};
use tokio::io::AsyncRead;

/// Arguments of `image`.
#[derive(Clone, Debug, clap::Args)]
pub struct ImageArgs {
    /// Data folder of the server on this machine
    #[arg(long, global = true, value_name = "DIR", default_value = DEFAULT_DATA_DIR)]
    pub data_dir: PathBuf,
    #[command(subcommand)]
    #[allow(missing_docs)]
    pub verb: ImageVerb,
}

/// What can be done with images.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum ImageVerb {
    /// Read images from an archive: an OCI layout, or what `docker save` writes, compressed or not
    Import {
        /// Archive, or - for standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Name for the image that has none in the archive
        #[arg(long, value_name = "REF")]
        name: Option<String>,
    },
    /// Fetch an image from its registry
    Pull {
        /// Image
        #[arg(value_name = "REF")]
        reference: String,
        /// User at the registry; the password is read from standard input
        #[arg(long, value_name = "USER")]
        user: Option<String>,
    },
    /// List images
    Ls {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove a name, and the image with its last one
    Rm {
        /// Names or ids
        #[arg(value_name = "REF", required = true)]
        references: Vec<String>,
    },
    /// Make an image of one layer from a folder
    Build(BuildArgs),
}

/// Arguments of `image build`.
#[derive(Clone, Debug, clap::Args)]
pub struct BuildArgs {
    /// Folder that becomes the root file system
    #[arg(value_name = "DIR")]
    pub rootfs: PathBuf,
    /// Name of the image; may be repeated
    #[arg(short, long = "tag", value_name = "REF", required = true)]
    pub tags: Vec<String>,
    /// Write an archive instead of importing the image
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Program and arguments that are always run, one word each; may be repeated
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    pub entrypoint: Vec<String>,
    /// Default arguments; may be repeated
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    pub cmd: Vec<String>,
    /// Environment; may be repeated
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// User it runs as
    #[arg(short, long, value_name = "USER[:GROUP]", default_value = "")]
    pub user: String,
    /// Folder it runs in
    #[arg(short, long, value_name = "DIR", default_value = "")]
    pub workdir: String,
}

pub(crate) async fn run(args: ImageArgs) -> Result<ExitCode, Error> {
    let socket = args.data_dir.join(SOCKET);
    match args.verb {
        ImageVerb::Import { file, name } => {
            let opened = if file.as_os_str() == "-" {
                std::io::stdin().as_fd().try_clone_to_owned().map(std::fs::File::from)
            } else {
                std::fs::File::open(&file)
            };
            let archive = opened.map_err(|e| Error::io(format!("opening {}", file.display()), e))?;
            let archive = tokio::fs::File::from_std(archive);
            import(&socket, archive, name).await?;
        }
        ImageVerb::Pull { reference, user } => {
            let auth = user.map(basic).transpose()?;
            let path = with_query("/images/pull", &[("ref", &reference)]);
            let body = request(&socket, Method::POST, &path, auth, empty()).await?;
            let image: Image = decode(&body)?;
            print(&format!("{}\n", names(&image)))?;
        }
        ImageVerb::Ls { json } => {
            let body = request(&socket, Method::GET, "/images", None, empty()).await?;
            let images: Vec<Image> = decode(&body)?;
            if json {
                let text = serde_json::to_string_pretty(&images).map_err(|e| Error::Answer(e.to_string()))?;
                print(&format!("{text}\n"))?;
            } else {
                print(&table(&images))?;
            }
        }
        ImageVerb::Rm { references } => {
            for reference in references {
                let path = with_query("/images", &[("ref", &reference)]);
                request(&socket, Method::DELETE, &path, None, empty()).await?;
                print(&format!("{reference}\n"))?;
            }
        }
        ImageVerb::Build(build) => build_image(&socket, build).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn import(
    socket: &Path,
    archive: impl AsyncRead + Send + Unpin + 'static,
    name: Option<String>,
) -> Result<(), Error> {
    let query: Vec<(&str, &str)> = name.iter().map(|name| ("name", name.as_str())).collect();
    let path = with_query("/images/import", &query);
    let chunks = tokio_util::io::ReaderStream::with_capacity(archive, 128 << 10).map_ok(Frame::data);

    let body = BodyExt::boxed_unsync(StreamBody::new(chunks));
    let answer = request(socket, Method::POST, &path, None, body).await?;
    for image in decode::<Vec<Image>>(&answer)? {
        print(&format!("{}\n", names(&image)))?;
    }
    Ok(())
}

async fn build_image(socket: &Path, args: BuildArgs) -> Result<(), Error> {
    let mut env = Vec::new();
    for pair in &args.env {
        let (name, value) =
            pair.split_once('=').ok_or_else(|| Error::Usage(format!("{pair:?} is not NAME=VALUE")))?;
        env.push((name.to_string(), value.to_string()));
    }
    let options = BuildOptions {
        config: ImageConfig {
            env,
            entrypoint: args.entrypoint,
            cmd: args.cmd,
            user: args.user,
            working_dir: args.workdir,
            ..Default::default()
        },
        names: args.tags,
        ..Default::default()
    };
    let failed = |e: orlop_runtime::Error| match e {
        orlop_runtime::Error::Io { step, source } => Error::io(step, source),
        other => Error::Image(other.to_string()),
    };
    if let Some(output) = args.output {
        let file = std::fs::File::create(&output)
            .map_err(|e| Error::io(format!("making {}", output.display()), e))?;
        let id = build_from_directory(&args.rootfs, &options, BufWriter::new(file)).map_err(failed)?;
        return print(&format!("{id}\n"));
    }
    // Packed on a thread while the server reads.
    let (reader, writer) = tokio::io::duplex(256 << 10);
    let packing = tokio::task::spawn_blocking(move || {
        let writer = BufWriter::with_capacity(128 << 10, tokio_util::io::SyncIoBridge::new(writer));
        build_from_directory(&args.rootfs, &options, writer)
    });
    let imported = import(socket, reader, None).await;
    match packing.await {
        // A server that stopped reading explains better why than the pipe that broke.
        Ok(Err(error)) if imported.is_ok() || !is_broken_pipe(&error) => Err(failed(error)),
        _ => imported,
    }
}

fn is_broken_pipe(error: &orlop_runtime::Error) -> bool {
    matches!(error, orlop_runtime::Error::Io { source, .. } if source.kind() == std::io::ErrorKind::BrokenPipe)
}

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

fn empty() -> Body {
    http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// One request to the server on this machine; the body of its answer.
async fn request(
    socket: &Path,
    method: Method,
    path: &str,
    auth: Option<String>,
    body: Body,
) -> Result<Bytes, Error> {
    let stream = tokio::net::UnixStream::connect(socket).await.map_err(|e| {
        Error::Image(format!(
            "no server answers at {}: {e}. Is it running, with this --data-dir, and are you its user?",
            socket.display()
        ))
    })?;
    let broken =
        |e: hyper::Error| Error::io("speaking to the server on this machine", std::io::Error::other(e));
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path).header(header::HOST, "orlop");
    if let Some(auth) = auth {
        request = request.header(header::AUTHORIZATION, auth);
    }
    let request = request.body(body).map_err(|e| Error::Usage(e.to_string()))?;
    let response = sender.send_request(request).await.map_err(broken)?;
    let status = response.status();
    let bytes = response.into_body().collect().await.map_err(broken)?.to_bytes();
    if status.is_success() {
        return Ok(bytes);
    }
    Err(Error::Image(match serde_json::from_slice::<Problem>(&bytes) {
        Ok(problem) => problem.message,
        Err(_) => format!("the server answered with {status}"),
    }))
}

fn decode<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|e| Error::Answer(e.to_string()))
}

fn with_query(path: &str, query: &[(&str, &str)]) -> String {
    crate::api::uri(path, query)
}

fn basic(user: String) -> Result<String, Error> {
    let mut password = String::new();
    std::io::stdin().read_to_string(&mut password).map_err(|e| Error::io("reading the password", e))?;
    let pair = format!("{user}:{}", password.trim_end_matches(['\r', '\n']));
    Ok(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)))
}

fn names(image: &Image) -> String {
    match image.tags.as_slice() {
        [] => image.id.clone(),
        tags => tags.join("\n"),
    }
}

fn table(images: &[Image]) -> String {
    let mut rows = Vec::new();
    for image in images {
        let id = image.id.trim_start_matches("sha256:").chars().take(12).collect::<String>();
        let names = if image.tags.is_empty() { &image.digests } else { &image.tags };
        let shown = if names.is_empty() { vec!["<none>".to_string()] } else { names.clone() };
        for name in shown {
            rows.push(serde_json::json!({"cells": [name, id, size(image.size)]}));
        }
    }
    let table = serde_json::json!({
        "columnDefinitions": [{"name": "Image"}, {"name": "Id"}, {"name": "Size"}], "rows": rows,
    });
    crate::table::Printer::default().print(&table, true)
}

fn size(bytes: u64) -> String {
    let units = ["B", "KB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 || value >= 99.95 {
        format!("{value:.0}{}", units[unit])
    } else {
        format!("{value:.1}{}", units[unit])
    }
}
