//! Arguments about what happens when this node is short of memory or disk, in the kubelet's names and forms.

use crate::Error;
use clap::Args;
use orlop_node::{
    ImageGcConfig,
    eviction::{DEFAULT_HARD, EvictionConfig, parse, parse_soft},
};
use std::time::Duration;

#[derive(Args)]
pub(crate) struct PressureArguments {
    /// When pods are evicted at once; empty is never
    #[arg(long, default_value = DEFAULT_HARD, value_name = "SIGNAL<LIMIT,…", overrides_with = "eviction_hard")]
    eviction_hard: String,
    /// When pods are evicted after a while
    #[arg(long, default_value = "", value_name = "SIGNAL<LIMIT,…")]
    eviction_soft: String,
    /// How long each soft threshold may be passed
    #[arg(long, default_value = "", value_name = "SIGNAL=TIME,…")]
    eviction_soft_grace_period: String,
    /// Most seconds that a pod evicted for a soft threshold gets to end
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    eviction_max_pod_grace_period: u64,
    /// How long the node says that it is under pressure after it was
    #[arg(long, default_value = "5m", value_name = "TIME", value_parser = time)]
    eviction_pressure_transition_period: Duration,
    /// Remove unused images when more than this percentage of their disk is used; 100 is never
    #[arg(long, default_value_t = 85, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    image_gc_high_threshold: u8,
    /// Until at most this percentage is used
    #[arg(long, default_value_t = 80, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    image_gc_low_threshold: u8,
    /// How long an image is kept at least
    #[arg(long, default_value = "2m", value_name = "TIME", value_parser = time)]
    minimum_image_ttl_duration: Duration,
}

fn time(text: &str) -> Result<Duration, String> {
    let parsed = text.parse::<jiff::SignedDuration>().map_err(|e| e.to_string())?;
    Duration::try_from(parsed).map_err(|_| "a time is not negative".into())
}

impl PressureArguments {
    pub(crate) fn eviction(&self) -> Result<EvictionConfig, Error> {
        let mut thresholds = parse(&self.eviction_hard).map_err(Error::Configuration)?;
        let soft = parse_soft(&self.eviction_soft, &self.eviction_soft_grace_period);
        thresholds.extend(soft.map_err(Error::Configuration)?);
        Ok(EvictionConfig {
            thresholds,
            transition: self.eviction_pressure_transition_period,
            max_pod_grace: self.eviction_max_pod_grace_period,
            ..EvictionConfig::default()
        })
    }

    pub(crate) fn image_gc(&self) -> Result<ImageGcConfig, Error> {
        let (high, low) = (self.image_gc_high_threshold, self.image_gc_low_threshold);
        if low >= high {
            let why =
                format!("--image-gc-low-threshold {low} must be less than --image-gc-high-threshold {high}");
            return Err(Error::Configuration(why));
        }
        Ok(ImageGcConfig {
            high: f64::from(high) / 100.0,
            low: f64::from(low) / 100.0,
            min_age: self.minimum_image_ttl_duration,
            ..ImageGcConfig::default()
        })
    }
}
