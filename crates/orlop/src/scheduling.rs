//! The arguments of the scheduler. Only reads them.

use crate::Error;
use clap::Args;
use orlop_scheduler::config::Configuration;
use std::{fs, path::PathBuf};

#[derive(Args)]
pub(crate) struct SchedulerArguments {
    /// File that configures the scheduler (KubeSchedulerConfiguration of kubescheduler.config.k8s.io/v1)
    #[arg(long, value_name = "FILE")]
    scheduler_config: Option<PathBuf>,
    /// How the scheduler compares nodes by their resources, whatever the file says: RoundRobin, LeastAllocated,
    /// MostAllocated, Balanced or RequestedToCapacity
    #[arg(long, value_name = "STRATEGY")]
    scheduler_strategy: Option<String>,
}

impl SchedulerArguments {
    /// How the scheduler is to work.
    pub(crate) fn read(&self) -> Result<Configuration, Error> {
        let mut configuration = match &self.scheduler_config {
            Some(file) => {
                let step = |what: &str| format!("{what} --scheduler-config {}", file.display());
                let text = fs::read_to_string(file).map_err(Error::at(step("reading")))?;
                Configuration::parse(&text).map_err(Error::at(step("understanding")))?
            }
            None => Configuration::default(),
        };
        if let Some(name) = &self.scheduler_strategy {
            configuration.use_strategy(name).map_err(Error::at("understanding --scheduler-strategy"))?;
        }
        Ok(configuration)
    }
}
