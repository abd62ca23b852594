//! `apply`: server-side apply of what files describe.

use crate::{
    ConnectionArgs, Error,
    api::{AS_JSON, Api, Content},
    manifest,
    resources::{Resource, Resources},
};
use http::Method;
use serde_json::Value;
use std::{path::PathBuf, process::ExitCode};

/// Who owns the fields that `apply` sets (server-side apply's field manager).
pub(crate) const FIELD_MANAGER: &str = "orlop";

/// Arguments of `apply`.
#[derive(Clone, Debug, clap::Args)]
pub struct ApplyArgs {
    /// File, folder, or - for standard input (YAML or JSON, any number of documents); may be repeated
    #[arg(short, long = "filename", value_name = "FILE", required = true)]
    pub filenames: Vec<PathBuf>,
    /// Folders with all below them
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// Take over fields that somebody else manages, instead of failing
    #[arg(long)]
    pub force_conflicts: bool,
    /// Let the server check everything but change nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub connection: ConnectionArgs,
}

pub(crate) async fn run(args: ApplyArgs) -> Result<ExitCode, Error> {
    let objects = manifest::read_all(&args.filenames, args.recursive)?;
    let api = args.connection.connect().await?;
    let mut resources = Resources::discover(&api).await?;
    let mut code = ExitCode::SUCCESS;
    for object in objects {
        // The kind may be what an object before it defines.
        if resource_of(&resources, &object).is_err() {
            resources = Resources::discover(&api).await?;
        }
        let outcome = match resource_of(&resources, &object) {
            Ok(resource) => apply(&api, &args, resource, object).await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(line) => crate::print(&format!("{line}\n"))?,
            Err(error @ Error::Unreachable { .. }) => return Err(error),
            // The others may be fine.
            Err(error) => {
                eprintln!("{error}");
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

/// The kind of an object, if the server has it.
pub(crate) fn resource_of<'a>(resources: &'a Resources, object: &Value) -> Result<&'a Resource, Error> {
    let text = |key: &str| object[key].as_str().unwrap_or_default();
    resources.find_kind(text("apiVersion"), text("kind")).ok_or_else(|| {
        Error::Usage(format!(
            "no matches for kind {:?} in version {:?}: the server does not have it",
            text("kind"),
            text("apiVersion")
        ))
    })
}

/// Where an object lives: its own namespace, or the one asked for. Both must agree if both are said.
pub(crate) fn namespace_of(api: &Api, args: &ConnectionArgs, object: &Value) -> Result<String, Error> {
    let own = object["metadata"]["namespace"].as_str().filter(|ns| !ns.is_empty());
    match (own, &args.namespace) {
        (Some(own), Some(asked)) if own != asked => Err(Error::Usage(format!(
            "the namespace of the object ({own}) does not match the namespace {asked}: leave out one of them"
        ))),
        (Some(own), _) => Ok(own.to_string()),
        (None, _) => Ok(api.namespace.clone()),
    }
}

/// Applies one object; returns the line to print.
pub(crate) async fn apply(
    api: &Api,
    args: &ApplyArgs,
    resource: &Resource,
    mut object: Value,
) -> Result<String, Error> {
    let namespace = namespace_of(api, &args.connection, &object)?;
    if resource.namespaced {
        object["metadata"]["namespace"] = Value::from(namespace.as_str());
    }
    let suffix = if args.dry_run { " (server dry run)" } else { "" };
    let body = object.to_string().into_bytes();
    let mut query = vec![("fieldManager", FIELD_MANAGER)];
    if args.dry_run {
        query.push(("dryRun", "All"));
    }
    let Some(name) = object["metadata"]["name"].as_str().filter(|name| !name.is_empty()) else {
        if object["metadata"]["generateName"].as_str().is_none_or(str::is_empty) {
            return Err(Error::Usage(format!("a {} has no name", resource.kind)));
        }
        // Nothing to compare with: each time a new one.
        let path = resource.path(Some(&namespace), None);
        let content = Content { media_type: AS_JSON, body };
        let (_, made) = api.request(Method::POST, &path, &query, AS_JSON, content).await?;
        let name = made["metadata"]["name"].as_str().unwrap_or_default();
        return Ok(format!("{}/{name} created{suffix}", resource.label()));
    };
    let path = resource.path(Some(&namespace), Some(name));
    let before = match api.get(&path, &[], AS_JSON).await {
        Ok(found) => Some(found),
        Err(error) if error.is_not_found() => None,
        Err(error) => return Err(error),
    };
    if args.force_conflicts {
        query.push(("force", "true"));
    }
    let content = Content { media_type: "application/apply-patch+yaml", body };
    let (code, after) = api.request(Method::PATCH, &path, &query, AS_JSON, content).await?;
    let version = |object: &Value| object["metadata"]["resourceVersion"].as_str().map(ToString::to_string);
    let what = match before {
        _ if code == 201 => "created",
        None => "created",
        Some(before) if version(&before) == version(&after) => "unchanged",
        Some(_) => "configured",
    };
    Ok(format!("{}/{name} {what}{suffix}", resource.label()))
}
