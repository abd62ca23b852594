//! The configuration file, in the format of kube-scheduler: `KubeSchedulerConfiguration` of kubescheduler.config.k8s.io/v1. What is
//! not known is refused with its path; what has no meaning here (connections, elections, profiling) is read and left alone.

mod args;
mod fields;

use crate::{
    plugin::{Plugin, Plugins},
    profile::{DEFAULT_NAME, Profile, default_weight},
    queue::Backoff,
    strategy,
};
pub use fields::ConfigError;
use fields::{Field, Fields};
use serde_json::Value;
use std::time::Duration;

const API_VERSION: &str = "kubescheduler.config.k8s.io/v1";
const KIND: &str = "KubeSchedulerConfiguration";

/// What an operator can say of the scheduler.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// At least one; no two of a name.
    pub profiles: Vec<Profile>,
    pub(crate) backoff: Backoff,
    /// What decides among nodes that are equally good; the time of the start, if nothing else is said.
    pub seed: Option<u64>,
}

impl Default for Configuration {
    fn default() -> Self {
        Self { profiles: vec![Profile::default()], backoff: Backoff::default(), seed: None }
    }
}

impl Configuration {
    /// Reads a configuration file: YAML or JSON.
    ///
    /// # Errors
    /// Where it is not one, with the path of what is wrong.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let value: Value =
            serde_saphyr::from_str(text).map_err(|e| ConfigError::new("", format!("not YAML: {e}")))?;
        Self::read(&value)
    }

    /// Compares nodes by a strategy of this name in all profiles.
    ///
    /// # Errors
    /// Where there is no such strategy.
    pub fn use_strategy(&mut self, name: &str) -> Result<(), ConfigError> {
        let Some(chosen) = strategy::by_name(name) else {
            let known = strategy::NAMES.join(", ");
            return Err(ConfigError::new("strategy", format!("{name:?} is none of {known}")));
        };
        for profile in &mut self.profiles {
            profile.strategy = chosen.clone();
        }
        Ok(())
    }

    fn read(value: &Value) -> Result<Self, ConfigError> {
        let root = Fields::of(Field::root(value))?;
        for (name, want) in [("apiVersion", API_VERSION), ("kind", KIND)] {
            let field = root.get(name);
            if field.text()? != Some(want) {
                return field.fail(format!("must be {want:?}"));
            }
        }
        root.only(&[
            "apiVersion",
            "kind",
            "parallelism",
            "leaderElection",
            "clientConnection",
            "enableProfiling",
            "enableContentionProfiling",
            "percentageOfNodesToScore",
            "podInitialBackoffSeconds",
            "podMaxBackoffSeconds",
            "profiles",
            "extenders",
            "delayCacheUntilActive",
        ])?;
        percentage(&root)?;
        let extenders = root.get("extenders");
        if !extenders.items()?.is_empty() {
            return extenders.fail("extenders are not supported".into());
        }
        let mut backoff = Backoff::default();
        for (name, of) in
            [("podInitialBackoffSeconds", &mut backoff.first), ("podMaxBackoffSeconds", &mut backoff.last)]
        {
            if let Some(seconds) = root.get(name).number(1, 1 << 31)? {
                *of = Duration::from_secs(seconds.unsigned_abs());
            }
        }
        if backoff.last < backoff.first {
            return root.get("podMaxBackoffSeconds").fail("must be at least podInitialBackoffSeconds".into());
        }
        let mut profiles: Vec<Profile> = Vec::new();
        for field in root.get("profiles").items()? {
            let profile = read_profile(&field)?;
            if profiles.iter().any(|p| p.name == profile.name) {
                let name = &profile.name;
                return field
                    .inner("schedulerName")
                    .fail(format!("there is another profile of the name {name:?}"));
            }
            profiles.push(profile);
        }
        if profiles.is_empty() {
            profiles.push(Profile::default());
        }
        Ok(Self { profiles, backoff, seed: None })
    }
}

/// All nodes are looked at anyway: buckets make that cheap. The field is only checked.
fn percentage(fields: &Fields<'_>) -> Result<(), ConfigError> {
    fields.get("percentageOfNodesToScore").number(0, 100).map(|_| ())
}

fn read_profile(field: &Field<'_>) -> Result<Profile, ConfigError> {
    let fields = Fields::of(field.clone())?;
    fields.only(&["schedulerName", "percentageOfNodesToScore", "plugins", "pluginConfig"])?;
    percentage(&fields)?;
    let mut profile = Profile {
        name: fields.get("schedulerName").text()?.unwrap_or(DEFAULT_NAME).to_string(),
        ..Profile::default()
    };
    let plugins = fields.get("plugins");
    if plugins.is_there() {
        read_plugins(plugins, &mut profile)?;
    }
    for entry in fields.get("pluginConfig").items()? {
        let entry = Fields::of(entry)?;
        entry.only(&["name", "args"])?;
        let name = entry.get("name");
        match name.text()?.map(Plugin::of) {
            Some(Some(plugin)) => args::read(plugin, entry.get("args"), &mut profile)?,
            Some(None) => return name.fail("there is no such plugin".into()),
            None => return name.fail("must be there".into()),
        }
    }
    Ok(profile)
}

/// Extension points that have a meaning of their own here. Plugins of the others run wherever their filter or score does.
const POINTS: [&str; 13] = [
    "preEnqueue",
    "queueSort",
    "preFilter",
    "filter",
    "postFilter",
    "preScore",
    "score",
    "reserve",
    "permit",
    "preBind",
    "bind",
    "postBind",
    "multiPoint",
];

/// What is switched on and off at an extension point.
struct Switches {
    all_off: bool,
    off: Plugins,
    on: Vec<(Plugin, Option<i64>)>,
}

impl Switches {
    fn read(point: Field<'_>) -> Result<Self, ConfigError> {
        let mut switches = Self { all_off: false, off: Plugins::default(), on: Vec::new() };
        if !point.is_there() {
            return Ok(switches);
        }
        let fields = Fields::of(point)?;
        fields.only(&["enabled", "disabled"])?;
        for entry in fields.get("disabled").items()? {
            let entry = Fields::of(entry)?;
            entry.only(&["name", "weight"])?;
            match entry.get("name").text()? {
                Some("*") => switches.all_off = true,
                // One that is not here is off already.
                Some(name) => switches.off = Plugin::of(name).map_or(switches.off, |p| switches.off.with(p)),
                None => return entry.get("name").fail("must be there".into()),
            }
        }
        for entry in fields.get("enabled").items()? {
            let entry = Fields::of(entry)?;
            entry.only(&["name", "weight"])?;
            let name = entry.get("name");
            let Some(plugin) = name.text()?.and_then(Plugin::of) else {
                return name.fail("there is no such plugin".into());
            };
            let weight = entry.get("weight").number(0, 1 << 31)?.filter(|w| *w > 0);
            switches.on.push((plugin, weight));
        }
        Ok(switches)
    }

    fn apply(&self, plugins: Plugins) -> Plugins {
        let mut left = if self.all_off { Plugins::default() } else { plugins };
        left = self.off.iter().fold(left, Plugins::without);
        self.on.iter().fold(left, |all, (plugin, _)| all.with(*plugin))
    }

    fn apply_scores(&self, scores: &mut Vec<(Plugin, i64)>) {
        scores.retain(|(plugin, _)| !self.all_off && !self.off.has(*plugin));
        for (plugin, weight) in &self.on {
            if let Some(default) = default_weight(*plugin) {
                let before = scores.iter().position(|(p, _)| p == plugin).map(|at| scores.remove(at).1);
                scores.push((*plugin, weight.or(before).unwrap_or(default)));
            }
        }
    }
}

fn read_plugins(field: Field<'_>, profile: &mut Profile) -> Result<(), ConfigError> {
    let fields = Fields::of(field)?;
    fields.only(&POINTS)?;
    let everywhere = Switches::read(fields.get("multiPoint"))?;
    let all = everywhere.apply(Plugins::all());
    everywhere.apply_scores(&mut profile.scores);
    let at = |name: &str| Switches::read(fields.get(name)).map(|s| s.apply(all));
    profile.pre_enqueue = at("preEnqueue")?;
    profile.filters = at("filter")?;
    profile.post_filters = at("postFilter")?;
    Switches::read(fields.get("score"))?.apply_scores(&mut profile.scores);
    for point in POINTS {
        Switches::read(fields.get(point))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
