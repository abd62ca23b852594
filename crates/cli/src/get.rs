//! `get`: shows objects, once or as they change.

use crate::{
    ConnectionArgs, Error,
    api::{AS_JSON, AS_TABLE, Api},
    print,
    resources::{Resource, Resources},
    table::{Printer, of_objects},
};
use serde_json::{Value, json};
use std::process::ExitCode;
use tokio::io::AsyncBufReadExt;

/// How objects are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OutputFormat {
    /// A line each
    #[default]
    Table,
    /// A line each, with more columns
    Wide,
    /// Whole, as YAML
    Yaml,
    /// Whole, as JSON
    Json,
    /// `KIND/NAME`
    Name,
}

/// Arguments of `get`.
#[derive(Clone, Debug, clap::Args)]
pub struct GetArgs {
    /// KIND, KIND NAME…, KIND/NAME…, several kinds with commas between, or `all`
    #[arg(value_name = "KIND[/NAME]", required = true)]
    pub targets: Vec<String>,
    /// In all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// How to show them
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: OutputFormat,
    /// Only those with these labels: `app=web,tier!=db`
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub selector: Option<String>,
    /// Only those with these fields: `status.phase=Running`
    #[arg(long, value_name = "FIELDS")]
    pub field_selector: Option<String>,
    /// Go on showing changes
    #[arg(short, long)]
    pub watch: bool,
    /// No headings
    #[arg(long)]
    pub no_headers: bool,
    /// With metadata.managedFields, in YAML and JSON
    #[arg(long)]
    pub show_managed_fields: bool,
    /// Nothing found is no error
    #[arg(long)]
    pub ignore_not_found: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub connection: ConnectionArgs,
}

/// One request: all objects of a kind, or one of them.
#[derive(Debug, PartialEq)]
pub(crate) struct Target<'a> {
    pub(crate) resource: &'a Resource,
    pub(crate) name: Option<String>,
}

/// What a person's words mean: `pods web-1 web-2`, `deploy/web svc/web`, `pods,services`, `all`.
pub(crate) fn targets<'a>(resources: &'a Resources, words: &[String]) -> Result<Vec<Target<'a>>, Error> {
    if words.iter().any(|word| word.contains('/')) {
        return words
            .iter()
            .map(|word| match word.split_once('/') {
                Some((kind, name)) if !kind.is_empty() && !name.is_empty() => {
                    Ok(Target { resource: resources.find(kind)?, name: Some(name.to_string()) })
                }
                _ => Err(Error::Usage(format!("{word:?}: either all words are KIND/NAME, or none is"))),
            })
            .collect();
    }
    let Some((kinds, names)) = words.split_first() else {
        return Err(Error::Usage("which kind? For example: pods, deployments, services".into()));
    };
    let mut found = Vec::new();
    for kind in kinds.split(',') {
        let category = resources.category(kind);
        let kinds = if category.is_empty() { vec![resources.find(kind)?] } else { category };
        for resource in kinds {
            if names.is_empty() {
                found.push(Target { resource, name: None });
            }
            found.extend(names.iter().map(|name| Target { resource, name: Some(name.clone()) }));
        }
    }
    Ok(found)
}

pub(crate) async fn run(args: GetArgs) -> Result<ExitCode, Error> {
    let api = args.connection.connect().await?;
    let resources = Resources::discover(&api).await?;
    let targets = targets(&resources, &args.targets)?;
    if args.watch {
        return match targets.as_slice() {
            [one] => watch(&api, &args, one).await,
            _ => Err(Error::Usage("only one kind, or one object, can be watched at a time".into())),
        };
    }
    match args.output {
        OutputFormat::Table | OutputFormat::Wide => tables(&api, &args, &targets).await,
        _ => whole(&api, &args, &targets).await,
    }
}

type Parameters<'a> = Vec<(&'a str, &'a str)>;

impl GetArgs {
    fn namespace<'a>(&self, api: &'a Api) -> Option<&'a str> {
        (!self.all_namespaces).then_some(api.namespace.as_str())
    }

    /// Path and parameters that lead to a target.
    fn request(&self, api: &Api, target: &Target<'_>) -> Result<(String, Parameters<'_>), Error> {
        if target.name.is_some() && self.all_namespaces {
            return Err(Error::Usage("an object cannot be found by its name in all namespaces".into()));
        }
        let mut query = Vec::new();
        if target.name.is_none() {
            query.extend(self.selector.as_deref().map(|s| ("labelSelector", s)));
            query.extend(self.field_selector.as_deref().map(|s| ("fieldSelector", s)));
        } else if self.selector.is_some() || self.field_selector.is_some() {
            return Err(Error::Usage("an object is found by its name or by a selector, not by both".into()));
        }
        Ok((target.resource.path(self.namespace(api), target.name.as_deref()), query))
    }

    fn printer(&self, target: &Target<'_>, mixed: bool) -> Printer {
        Printer {
            wide: self.output == OutputFormat::Wide,
            with_namespace: self.all_namespaces && target.resource.namespaced,
            prefix: mixed.then(|| target.resource.label()),
            no_headers: self.no_headers,
            ..Default::default()
        }
    }

    fn none_found(&self, api: &Api, targets: &[Target<'_>]) {
        if self.ignore_not_found {
            return;
        }
        if self.all_namespaces || targets.iter().all(|target| !target.resource.namespaced) {
            eprintln!("No resources found");
        } else {
            eprintln!("No resources found in {} namespace.", api.namespace);
        }
    }

    /// Whether an error is to be passed over.
    fn forgives(&self, error: &Error) -> bool {
        self.ignore_not_found && error.is_not_found()
    }
}

/// What is shown of a failure among several requests: the rest is shown all the same.
fn report(error: Error, code: &mut ExitCode) -> Result<(), Error> {
    if matches!(error, Error::Unreachable { .. } | Error::Usage(_)) {
        return Err(error);
    }
    eprintln!("{error}");
    *code = ExitCode::FAILURE;
    Ok(())
}

async fn tables(api: &Api, args: &GetArgs, targets: &[Target<'_>]) -> Result<ExitCode, Error> {
    let mixed = targets.iter().any(|target| target.resource != targets[0].resource);
    let mut code = ExitCode::SUCCESS;
    let mut shown: Option<&Resource> = None;
    let mut printer = Printer::default();
    for target in targets {
        let (path, query) = args.request(api, target)?;
        let answer = match api.get(&path, &query, AS_TABLE).await {
            Ok(answer) => answer,
            Err(error) if args.forgives(&error) => continue,
            Err(error) => {
                report(error, &mut code)?;
                continue;
            }
        };
        let table = if answer["kind"] == "Table" { answer } else { of_objects(&items(answer)) };
        if table["rows"].as_array().is_none_or(Vec::is_empty) {
            continue;
        }
        let first = shown != Some(target.resource);
        if first {
            if shown.is_some() {
                print("\n")?;
            }
            printer = args.printer(target, mixed);
            shown = Some(target.resource);
        }
        print(&printer.print(&table, first))?;
    }
    if shown.is_none() && code == ExitCode::SUCCESS {
        args.none_found(api, targets);
    }
    Ok(code)
}

/// The objects in an answer: those of a list, or the one. Objects in a list do not say what they are; they do after this.
fn items(mut answer: Value) -> Vec<Value> {
    let Some(Value::Array(items)) = answer.get_mut("items").map(Value::take) else { return vec![answer] };
    let kind = answer["kind"].as_str().unwrap_or_default().trim_end_matches("List").to_string();
    let api_version = answer["apiVersion"].clone();
    items
        .into_iter()
        .map(|mut item| {
            if let Value::Object(map) = &mut item {
                map.entry("apiVersion").or_insert_with(|| api_version.clone());
                map.entry("kind").or_insert_with(|| Value::from(kind.as_str()));
            }
            item
        })
        .collect()
}

async fn whole(api: &Api, args: &GetArgs, targets: &[Target<'_>]) -> Result<ExitCode, Error> {
    let mut code = ExitCode::SUCCESS;
    let mut objects = Vec::new();
    for target in targets {
        let (path, query) = args.request(api, target)?;
        match api.get(&path, &query, AS_JSON).await {
            Ok(answer) => objects.extend(items(answer).into_iter().map(|object| (target.resource, object))),
            Err(error) if args.forgives(&error) => {}
            Err(error) => report(error, &mut code)?,
        }
    }
    if args.output == OutputFormat::Name {
        let lines: String = objects.iter().map(|(resource, object)| name_line(resource, object)).collect();
        print(&lines)?;
        return Ok(code);
    }
    let mut objects: Vec<Value> = objects.into_iter().map(|(_, object)| args.tidied(object)).collect();
    let single = targets.len() == 1 && targets[0].name.is_some();
    let document = match objects.len() {
        0 if single => return Ok(code),
        1 if single => objects.remove(0),
        _ => {
            json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": objects})
        }
    };
    print(&args.document(&document)?)?;
    Ok(code)
}

impl GetArgs {
    fn tidied(&self, mut object: Value) -> Value {
        if !self.show_managed_fields
            && let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut)
        {
            metadata.remove("managedFields");
        }
        object
    }

    fn document(&self, object: &Value) -> Result<String, Error> {
        let odd = |e: &dyn std::fmt::Display| Error::Answer(format!("cannot be shown: {e}"));
        if self.output == OutputFormat::Yaml {
            serde_saphyr::to_string(object).map_err(|e| odd(&e)).map(ended)
        } else {
            let mut text = Vec::new();
            let indented = serde_json::ser::PrettyFormatter::with_indent(b"    ");
            let mut serializer = serde_json::Serializer::with_formatter(&mut text, indented);
            serde::Serialize::serialize(object, &mut serializer).map_err(|e| odd(&e))?;
            String::from_utf8(text).map_err(|e| odd(&e)).map(ended)
        }
    }
}

fn ended(mut text: String) -> String {
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

fn name_line(resource: &Resource, object: &Value) -> String {
    format!("{}/{}\n", resource.label(), object["metadata"]["name"].as_str().unwrap_or_default())
}

/// Shows what is there, then every change. Ends when the server does.
async fn watch(api: &Api, args: &GetArgs, target: &Target<'_>) -> Result<ExitCode, Error> {
    let as_table = matches!(args.output, OutputFormat::Table | OutputFormat::Wide);
    let accept = if as_table { AS_TABLE } else { AS_JSON };
    let (path, query) = args.request(api, target)?;
    let mut printer = args.printer(target, false);
    let mut show = |object: &Value, first: bool| -> Result<(), Error> {
        if object["kind"] == "Table" {
            let has_rows = object["rows"].as_array().is_some_and(|rows| !rows.is_empty());
            return if has_rows { print(&printer.print(object, first)) } else { Ok(()) };
        }
        for item in items(object.clone()) {
            match args.output {
                OutputFormat::Name => print(&name_line(target.resource, &item))?,
                OutputFormat::Table | OutputFormat::Wide => {
                    print(&printer.print(&of_objects(&[item]), first))?;
                }
                OutputFormat::Yaml => print(&format!("---\n{}", args.document(&args.tidied(item))?))?,
                OutputFormat::Json => print(&args.document(&args.tidied(item))?)?,
            }
        }
        Ok(())
    };
    let start = api.get(&path, &query, accept).await?;
    let mut headed = start["rows"].as_array().is_some_and(|rows| !rows.is_empty());
    show(&start, true)?;
    let mut version = version_of(&start).unwrap_or_default();

    // A single object is watched as a list of one.
    let (path, only) = match &target.name {
        None => (path, None),
        Some(name) => {
            (target.resource.path(args.namespace(api), None), Some(format!("metadata.name={name}")))
        }
    };
    loop {
        let mut query = query.clone();
        query.extend([
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("resourceVersion", version.as_str()),
        ]);
        query.extend(only.as_deref().map(|only| ("fieldSelector", only)));
        let mut lines = api.stream(&path, &query, accept).await?.lines();
        let mut next = version.clone();
        while let Some(line) = lines.next_line().await.map_err(|e| Error::io("watching", e))? {
            let event: Value = serde_json::from_str(&line)
                .map_err(|e| Error::Answer(format!("an event is not JSON: {e}")))?;
            let object = &event["object"];
            match event["type"].as_str() {
                Some("ERROR") => {
                    let code = object["code"].as_u64().and_then(|code| code.try_into().ok()).unwrap_or(500);
                    return Err(crate::api::from_status(code, object.to_string().as_bytes()));
                }
                Some("BOOKMARK") => {}
                _ => {
                    show(object, !headed)?;
                    headed = true;
                }
            }
            next = version_of(object).unwrap_or(next);
        }
        if next == version {
            return Ok(ExitCode::SUCCESS); // closed at once: the server does not want to go on
        }
        version = next;
    }
}

/// How far an answer or an event goes: its own version, or that of the object in its only row.
fn version_of(object: &Value) -> Option<String> {
    let of = |object: &Value| object["metadata"]["resourceVersion"].as_str().map(ToString::to_string);
    of(object)
        .filter(|version| !version.is_empty())
        .or_else(|| object["rows"].as_array()?.last().and_then(|row| of(&row["object"])))
}
