//! The arguments of the audit log, named as kube-apiserver names them. Only reads them.

use crate::{Error, audit_webhook::AuditWebhook};
use clap::{ArgGroup, Args};
use orlop_apiserver::audit::{AuditConfig, Batches, Destination, Policy, Rotation, Webhook};
use std::{fs, path::PathBuf, sync::Arc, time::Duration};

/// The size at which a file is put aside where none is given.
const MEGABYTES: u64 = 100;

#[derive(Args)]
#[command(group = ArgGroup::new("audit_to").multiple(true).args(["audit_log_path", "audit_webhook_config_file"]))]
pub(crate) struct AuditArguments {
    /// File with the policy (audit.k8s.io/v1) that says which requests are noted in the audit log
    #[arg(long, value_name = "FILE", requires = "audit_to")]
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
    /// File in kubeconfig's format that names whom the audit log is sent to
    #[arg(long, value_name = "FILE", requires = "audit_policy_file")]
    audit_webhook_config_file: Option<PathBuf>,
    /// How long sending the audit log pauses after a failure, at first
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    audit_webhook_initial_backoff: Duration,
    /// How many lines of the audit log may wait to be sent
    #[arg(long, value_name = "COUNT", default_value_t = 10_000)]
    audit_webhook_batch_buffer_size: usize,
    /// How many lines of the audit log are sent together at most
    #[arg(long, value_name = "COUNT", default_value_t = 400)]
    audit_webhook_batch_max_size: usize,
    /// How long a line of the audit log waits for others at most
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    audit_webhook_batch_max_wait: Duration,
    /// How many times a second the audit log is sent on average; 0 is without a limit
    #[arg(long, value_name = "RATE", default_value_t = 10.0)]
    audit_webhook_batch_throttle_qps: f64,
    /// How many times the audit log is sent at once
    #[arg(long, value_name = "COUNT", default_value_t = 15)]
    audit_webhook_batch_throttle_burst: usize,
}

/// `30s`, `1m30s`.
fn duration(text: &str) -> Result<Duration, String> {
    let parsed: jiff::SignedDuration = text.parse().map_err(|e| format!("{e}"))?;
    Duration::try_from(parsed).map_err(|_| "it is negative".to_string())
}

impl AuditArguments {
    /// What the API server is to note, if anything; whom it is sent to is for [`Self::webhook`] to say.
    pub(crate) fn read(&self) -> Result<Option<AuditConfig>, Error> {
        let Some(file) = &self.audit_policy_file else { return Ok(None) };
        let step = |what: &str| format!("{what} --audit-policy-file {}", file.display());
        let text = fs::read_to_string(file).map_err(Error::at(step("reading")))?;
        let policy = Policy::parse(&text).map_err(Error::at(step("understanding")))?;
        let megabytes = if self.audit_log_maxsize == 0 { MEGABYTES } else { self.audit_log_maxsize };
        let rotation = Rotation {
            max_bytes: megabytes.saturating_mul(1 << 20),
            max_backups: self.audit_log_maxbackup,
            max_age_days: self.audit_log_maxage,
        };
        let destination = self.audit_log_path.clone().map(|path| {
            if path.as_os_str() == "-" { Destination::Stdout } else { Destination::File { path, rotation } }
        });
        Ok(Some(AuditConfig { policy, destination, webhook: None }))
    }

    /// Whom the audit log is sent to, if to anybody.
    pub(crate) async fn webhook(&self) -> Result<Option<Webhook>, Error> {
        let Some(file) = &self.audit_webhook_config_file else { return Ok(None) };
        let rate = self.audit_webhook_batch_throttle_qps;
        let batches = Batches {
            buffer: self.audit_webhook_batch_buffer_size,
            most: self.audit_webhook_batch_max_size,
            wait: self.audit_webhook_batch_max_wait,
            per_second: (rate > 0.0).then_some(rate),
            burst: self.audit_webhook_batch_throttle_burst,
            pause: self.audit_webhook_initial_backoff,
        };
        Ok(Some(Webhook { receiver: Arc::new(AuditWebhook::open(file).await?), batches }))
    }
}
