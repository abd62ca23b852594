//! The arguments about nodes that fall silent, named as Kubernetes names them.

use clap::Args;
use jiff::SignedDuration;
use orlop_apiserver::LostNodes;
use std::time::Duration;

/// Heartbeats come four times in it, and must have a chance to be late.
const SHORTEST: u64 = 5;
const LONGEST: u64 = 3600;

#[derive(Args)]
pub(crate) struct DeadNodeArguments {
    /// How long a node may be silent before it counts as dead: 5s to 1h. Nodes say that they live four times in it; workers take
    /// a new value over when they start
    #[arg(long, default_value = "40s", value_name = "TIME", value_parser = grace)]
    node_monitor_grace_period: Duration,
    /// Seconds that pods which do not say it themselves stay on a dead node after that
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    default_unreachable_toleration_seconds: u32,
    /// Seconds that they stay on a node that lives and says that it is not ready
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    default_not_ready_toleration_seconds: u32,
}

fn grace(text: &str) -> Result<Duration, String> {
    let parsed: SignedDuration = text.parse().map_err(|e: jiff::Error| e.to_string())?;
    match u64::try_from(parsed.as_secs()) {
        Ok(seconds @ SHORTEST..=LONGEST) => Ok(Duration::from_secs(seconds)),
        _ => Err("it is from 5s to 1h".into()),
    }
}

impl DeadNodeArguments {
    pub(crate) fn grace(&self) -> Duration {
        self.node_monitor_grace_period
    }

    /// In seconds.
    pub(crate) fn seconds(&self) -> u32 {
        u32::try_from(self.node_monitor_grace_period.as_secs()).unwrap_or(u32::MAX)
    }

    pub(crate) fn tolerations(&self) -> LostNodes {
        LostNodes {
            not_ready: self.default_not_ready_toleration_seconds,
            unreachable: self.default_unreachable_toleration_seconds,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_cannot_work_are_refused() {
        assert_eq!(grace("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(grace("2m"), Ok(Duration::from_secs(120)));
        assert!(grace("4s").is_err() && grace("2h").is_err() && grace("-1s").is_err() && grace("x").is_err());
    }
}
