//! `--add-nodes 10x8cpu,32Gi`: how many nodes of what size. Pure.

use orlop_api::quantity::Quantity;
use std::collections::BTreeMap;

/// Nodes that are alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewNodes {
    /// How many.
    pub count: usize,
    /// What each has, by resource.
    pub capacity: BTreeMap<String, String>,
    /// Their labels.
    pub labels: BTreeMap<String, String>,
}

/// More than this is a slip of the pen.
const MOST: usize = 100_000;

impl std::str::FromStr for NewNodes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shape = "write COUNTxCPUcpu,MEMORY, like 10x8cpu,32Gi, and then any of RESOURCE=AMOUNT and label:KEY=VALUE";
        let (count, of) =
            text.split_once(['x', '×']).ok_or_else(|| format!("there is no x in it: {shape}"))?;
        let count = count.trim().parse().ok().filter(|n| (1..=MOST).contains(n));
        let count = count.ok_or_else(|| format!("the count is no number from 1 to {MOST}: {shape}"))?;
        let amount = |text: &str| match Quantity::parse(text) {
            Ok(amount) if !amount.is_negative() => Ok(text.to_string()),
            _ => Err(format!("{text:?} is no quantity: {shape}")),
        };
        let mut parts = of.split(',').map(str::trim);
        let cpu = parts.next().and_then(|p| p.strip_suffix("cpu"));
        let cpu = cpu.ok_or_else(|| format!("after the x there is no CPUcpu: {shape}"))?;
        let memory = parts.next().ok_or_else(|| format!("there is no memory in it: {shape}"))?;
        let mut capacity: BTreeMap<String, String> =
            [("pods", "110"), ("ephemeral-storage", "100Gi")].map(|(k, v)| (k.into(), v.into())).into();
        capacity.insert("cpu".into(), amount(cpu)?);
        capacity.insert("memory".into(), amount(memory)?);
        let mut labels = BTreeMap::new();
        for part in parts {
            let (key, value) = part
                .split_once('=')
                .ok_or_else(|| format!("{part:?} is neither a resource nor a label: {shape}"))?;
            match key.strip_prefix("label:") {
                Some(label) => labels.insert(label.into(), value.into()),
                None => capacity.insert(key.into(), amount(value)?),
            };
        }
        Ok(Self { count, capacity, labels })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_described_in_one_word() {
        let plain: NewNodes = "10x8cpu,32Gi".parse().unwrap();
        assert_eq!(
            (plain.count, plain.capacity["cpu"].as_str(), plain.capacity["memory"].as_str()),
            (10, "8", "32Gi")
        );
        assert_eq!(plain, "10×8cpu,32Gi".parse().unwrap());
        let more: NewNodes =
            "1x500mcpu,1Gi,pods=20,example.com/gpu=4,label:topology.kubernetes.io/zone=a".parse().unwrap();
        assert_eq!((more.capacity["pods"].as_str(), more.capacity["example.com/gpu"].as_str()), ("20", "4"));
        assert_eq!(more.labels["topology.kubernetes.io/zone"], "a");
    }

    #[test]
    fn what_is_no_node_is_refused() {
        for (text, why) in [
            ("10", "there is no x"),
            ("tenx8cpu,1Gi", "the count is no number"),
            ("0x8cpu,1Gi", "the count is no number"),
            ("2x8,1Gi", "after the x there is no CPUcpu"),
            ("2x8cpu", "there is no memory"),
            ("2xmanycpu,1Gi", "\"many\" is no quantity"),
            ("2x8cpu,lots", "\"lots\" is no quantity"),
            ("2x-8cpu,1Gi", "\"-8\" is no quantity"),
            ("2x8cpu,1Gi,fast", "\"fast\" is neither a resource nor a label"),
        ] {
            let error = text.parse::<NewNodes>().unwrap_err();
            assert!(error.starts_with(why), "{text}: {error}");
        }
    }
}
