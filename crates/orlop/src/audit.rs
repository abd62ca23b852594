//! The arguments of the audit log, named as kube-apiserver names them. Only reads them.

use crate::Error;
use clap::Args;
use orlop_apiserver::audit::{AuditConfig, Destination, Policy, Rotation};
use std::{fs, path::PathBuf};

/// The size at which a file is put aside where none is given.
const MEGABYTES: u64 = 100;

#[derive(Args)]
pub(crate) struct AuditArguments {
    /// File with the policy (audit.k8s.io/v1) that says which requests are noted in the audit log
    #[arg(long, value_name = "FILE", requires = "audit_log_path")]
    audit_policy_file: Option<PathBuf>,
    /// File that the audit log is written to; - is standard output
    #[arg(long, value_name = "FILE", requires = "audit_policy_file")]
    audit_log_path: Option<PathBuf>,
    /// Days after which files of the audit log that were put aside are removed; 0 is never
    #[arg(long, value_name = "DAYS", default_value_t = 0)]
    audit_log_maxage: u32,
    /// How many files of the audit log that were put aside are kept; 0 is all
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    audit_log_maxbackup: usize,
    /// Megabytes after which the file of the audit log is put aside; 0 is 100
    #[arg(long, value_name = "MB", default_value_t = 0)]
    audit_log_maxsize: u64,
}

impl AuditArguments {
    /// What the API server is to note, if anything.
    pub(crate) fn read(&self) -> Result<Option<AuditConfig>, Error> {
        let (Some(file), Some(path)) = (&self.audit_policy_file, &self.audit_log_path) else {
            return Ok(None);
        };
        let step = |what: &str| format!("{what} --audit-policy-file {}", file.display());
        let text = fs::read_to_string(file).map_err(Error::at(step("reading")))?;
        let policy = Policy::parse(&text).map_err(Error::at(step("understanding")))?;
        let megabytes = if self.audit_log_maxsize == 0 { MEGABYTES } else { self.audit_log_maxsize };
        let rotation = Rotation {
            max_bytes: megabytes.saturating_mul(1 << 20),
            max_backups: self.audit_log_maxbackup,
            max_age_days: self.audit_log_maxage,
        };
        let destination = if path.as_os_str() == "-" {
            Destination::Stdout
        } else {
            Destination::File { path: path.clone(), rotation }
        };
        Ok(Some(AuditConfig { policy, destination }))
    }
}
