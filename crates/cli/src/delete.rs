//! `delete`: removes objects and, unless told otherwise, waits until they are gone.

use crate::{
    ConnectionArgs, Error,
    api::{AS_JSON, Api, Content},
    apply::{namespace_of, resource_of},
    get::targets,
    manifest,
    resources::{Resource, Resources},
};
use http::Method;
use serde_json::{Value, json};
use std::{path::PathBuf, process::ExitCode, time::Duration};
use tokio::io::AsyncBufReadExt;

/// Arguments of `delete`.
#[derive(Clone, Debug, clap::Args)]
#[group(id = "what", multiple = true)]
pub struct DeleteArgs {
    /// KIND NAME…, KIND/NAME…, or KIND with --all or -l
    #[arg(value_name = "KIND[/NAME]", required_unless_present = "filenames")]
    pub targets: Vec<String>,
    /// What a file, a folder, or - (standard input) describes; may be repeated
    #[arg(short, long = "filename", value_name = "FILE", conflicts_with = "targets")]
    pub filenames: Vec<PathBuf>,
    /// Folders with all below them
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// Those with these labels: `app=web`
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub selector: Option<String>,
    /// All of the kind in the namespace
    #[arg(long, conflicts_with = "selector")]
    pub all: bool,
    /// Return when they are gone
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true",
          require_equals = true, value_name = "BOOL")]
    pub wait: bool,
    /// Seconds to wait for each, 0 for as long as it takes
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    pub timeout: u64,
    /// Seconds a pod gets to end by itself [default: what it asks for]
    #[arg(long, value_name = "SECONDS")]
    pub grace_period: Option<u32>,
    /// Remove a pod from the API at once, without waiting for its node
    #[arg(long, conflicts_with = "grace_period")]
    pub force: bool,
    /// What is not there is no error
    #[arg(long)]
    pub ignore_not_found: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub connection: ConnectionArgs,
}

/// One object.
struct Victim<'a> {
    resource: &'a Resource,
    namespace: String,
    name: String,
}

pub(crate) async fn run(args: DeleteArgs) -> Result<ExitCode, Error> {
    // Before the server is asked: what is wrong with a file needs no server.
    let objects = match args.filenames.as_slice() {
        [] => Vec::new(),
        files => manifest::read_all(files, args.recursive)?,
    };
    let api = args.connection.connect().await?;
    let resources = Resources::discover(&api).await?;
    let mut code = ExitCode::SUCCESS;
    let mut pending = Vec::new();
    for victim in victims(&api, &args, &resources, &objects).await? {
        match delete(&api, &args, &victim).await {
            Ok(uid) => {
                let forced = if args.force { " (forced)" } else { "" };
                crate::print(&format!("{} {:?} deleted{forced}\n", victim.resource.label(), victim.name))?;
                pending.extend(uid.map(|uid| (victim, uid)));
            }
            Err(error) if args.ignore_not_found && error.is_not_found() => {}
            Err(error @ Error::Unreachable { .. }) => return Err(error),
            Err(error) => {
                eprintln!("{error}");
                code = ExitCode::FAILURE;
            }
        }
    }
    if args.wait {
        for (victim, uid) in pending {
            let gone = wait_until_gone(&api, &victim, &uid);
            match args.timeout {
                0 => gone.await?,
                seconds => {
                    tokio::time::timeout(Duration::from_secs(seconds), gone).await.map_err(|_| {
                        Error::Timeout(format!("{} {:?} to be gone", victim.resource.label(), victim.name))
                    })??
                }
            }
        }
    }
    Ok(code)
}

async fn victims<'a>(
    api: &Api,
    args: &DeleteArgs,
    resources: &'a Resources,
    objects: &[Value],
) -> Result<Vec<Victim<'a>>, Error> {
    let mut victims = Vec::new();
    for object in objects {
        let resource = resource_of(resources, object)?;
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        if name.is_empty() {
            return Err(Error::Usage(format!("a {} has no name", resource.kind)));
        }
        let namespace = namespace_of(api, &args.connection, object)?;
        victims.push(Victim { resource, namespace, name: name.to_string() });
    }
    if args.targets.is_empty() {
        return Ok(victims);
    }
    for target in targets(resources, &args.targets)? {
        let (resource, namespace) = (target.resource, api.namespace.clone());
        match target.name {
            Some(name) if args.all || args.selector.is_some() => {
                return Err(Error::Usage(format!("{name:?} is named: leave out --all and -l")));
            }
            Some(name) => victims.push(Victim { resource, namespace, name }),
            None if !args.all && args.selector.is_none() => {
                return Err(Error::Usage("name what to delete, or say --all or -l LABELS".into()));
            }
            None => {
                let path = resource.path(Some(&namespace), None);
                let query: Vec<_> =
                    args.selector.as_deref().map(|s| ("labelSelector", s)).into_iter().collect();
                let list = api.get(&path, &query, AS_JSON).await?;
                let items = list["items"].as_array().into_iter().flatten();
                victims.extend(items.map(|item| Victim {
                    resource,
                    namespace: namespace.clone(),
                    name: item["metadata"]["name"].as_str().unwrap_or_default().to_string(),
                }));
            }
        }
    }
    Ok(victims)
}

/// Deletes; returns the object's uid if it is not gone yet, or if nobody said that it is.
async fn delete(api: &Api, args: &DeleteArgs, victim: &Victim<'_>) -> Result<Option<String>, Error> {
    let mut options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"});
    if let Some(seconds) = args.grace_period.or(args.force.then_some(0)) {
        options["gracePeriodSeconds"] = Value::from(seconds);
    }
    let path = victim.resource.path(Some(&victim.namespace), Some(&victim.name));
    let content = Content { media_type: AS_JSON, body: options.to_string().into_bytes() };
    let (_, answer) = api.request(Method::DELETE, &path, &[], AS_JSON, content).await?;
    // Either the object as it goes, or a Status with the uid of what is gone or going.
    let uid = answer["metadata"]["uid"].as_str().or(answer["details"]["uid"].as_str());
    Ok(uid.map(ToString::to_string))
}

/// Returns when no object of that name has that uid any more.
async fn wait_until_gone(api: &Api, victim: &Victim<'_>, uid: &str) -> Result<(), Error> {
    let path = victim.resource.path(Some(&victim.namespace), Some(&victim.name));
    let list = victim.resource.path(Some(&victim.namespace), None);
    let only = format!("metadata.name={}", victim.name);
    loop {
        let found = match api.get(&path, &[], AS_JSON).await {
            Ok(found) => found,
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error),
        };
        if found["metadata"]["uid"] != uid {
            return Ok(());
        }
        let version = found["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        let query = [("watch", "true"), ("fieldSelector", only.as_str()), ("resourceVersion", version)];
        let mut lines = match api.stream(&list, &query, AS_JSON).await {
            Ok(stream) => stream.lines(),
            // The version is too old to start from: look again.
            Err(Error::Server { code: 410, .. }) => continue,
            Err(error) => return Err(error),
        };
        // Whatever ends the watch, the object is looked at again.
        while let Ok(Some(line)) = lines.next_line().await {
            let event: Value = serde_json::from_str(&line).unwrap_or_default();
            if event["type"] == "DELETED" || event["type"] == "ERROR" {
                break;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await; // a server that closes at once is not to be stormed
    }
}
