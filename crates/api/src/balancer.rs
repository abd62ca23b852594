//! What the parts of Orlop tell each other about load balancing beyond what the API has fields for: the annotations, and who reads
//! them. Pure.

/// On a pod: its share of a Service's traffic in relation to others, 1 to 100. The endpoint controller carries it to the slices.
pub const WEIGHT: &str = "orlop.dev/weight";
/// On an EndpointSlice: `ADDRESS=WEIGHT,…` of its endpoints that do not weigh 1. Nodes read it.
pub const WEIGHTS: &str = "orlop.dev/weights";
/// On a Service whose load balancer addresses are of the cluster's own pool: the node that answers for them on its link.
pub const ANNOUNCER: &str = "orlop.dev/announced-by";
/// The `spec.loadBalancerClass` of the cluster's own pool. A Service without a class is its too.
pub const CLASS: &str = "orlop.dev/pool";
/// On a Service: the addresses that it asks the pool for, at most one a family.
pub const ASKED: &str = "orlop.dev/load-balancer-ips";

/// The weight that a pod's annotation gives; 1 for what is not one.
#[must_use]
pub fn weight(text: Option<&str>) -> u16 {
    text.and_then(|text| text.trim().parse().ok()).filter(|weight| (1..=100).contains(weight)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_is_a_number_from_one_to_a_hundred_and_anything_else_is_one() {
        for (text, expected) in [("30", 30), (" 100 ", 100), ("0", 1), ("101", 1), ("-3", 1), ("much", 1)] {
            assert_eq!(weight(Some(text)), expected, "{text}");
        }
        assert_eq!(weight(None), 1);
    }
}
