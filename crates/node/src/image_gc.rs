//! Removes images that nobody uses when the disk that holds them gets full: the longest unused first, none that is young, none
//! that a container or pod has (Kubernetes documentation, "Garbage collection of unused containers and images").

use crate::{agent::Shared, capacity::space};
use jiff::Timestamp;
use orlop_runtime::Image;
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// When images are removed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ImageGcConfig {
    /// Begin when more than this part (0 to 1) of the disk is used; 1 is never.
    pub high: f64,
    /// Go on until at most this part is used.
    pub low: f64,
    /// What has been here for a shorter time stays.
    pub min_age: Duration,
    /// How often it is looked.
    pub interval: Duration,
}

impl Default for ImageGcConfig {
    fn default() -> Self {
        Self { high: 0.85, low: 0.80, min_age: Duration::from_secs(120), interval: Duration::from_secs(300) }
    }
}

/// What is known of an image.
#[derive(Clone, Copy, Debug)]
struct Seen {
    first: Timestamp,
    used: Option<Timestamp>,
}

/// When which image was seen first and used last.
#[derive(Default)]
pub(crate) struct ImageAges(Mutex<BTreeMap<String, Seen>>);

impl ImageAges {
    /// Takes in what is here and in use; gives what may go, the longest unused first.
    fn removable(
        &self,
        images: &[Image],
        in_use: &BTreeSet<String>,
        min_age: Duration,
        now: Timestamp,
    ) -> Vec<Image> {
        let mut seen = self.0.lock();
        seen.retain(|id, _| images.iter().any(|i| i.id == *id));
        for image in images {
            let entry = seen.entry(image.id.clone()).or_insert(Seen { first: now, used: None });
            if in_use.contains(&image.id) {
                entry.used = Some(now);
            }
        }
        let mut old: Vec<(&Seen, &Image)> = images
            .iter()
            // What came as an archive could not be fetched again.
            .filter(|i| !i.digests.is_empty() && !in_use.contains(&i.id))
            .filter_map(|i| Some((seen.get(&i.id)?, i)))
            .filter(|(s, _)| crate::back_off::elapsed(s.first, now) >= min_age)
            .collect();
        old.sort_by_key(|(s, i)| (s.used, s.first, i.id.clone()));
        old.into_iter().map(|(_, i)| i.clone()).collect()
    }
}

/// The ids of images that containers have, or that pods name.
async fn in_use(shared: &Shared, images: &[Image]) -> Option<BTreeSet<String>> {
    // Not knowing what is used is no reason to remove it.
    let containers = shared.runtime.list_containers().await.ok()?;
    let mut used: BTreeSet<String> = containers.into_iter().map(|c| c.image_id).collect();
    let mut named = BTreeSet::new();
    for pod in shared.others("") {
        use crate::pod::PodExt;
        named.extend(pod.containers().into_iter().filter_map(|(_, c)| c.image.clone()));
        named.extend(
            pod.spec_ref().volumes.iter().flatten().filter_map(|v| v.image.as_ref()?.reference.clone()),
        );
        named.extend(pod.ephemeral().into_iter().filter_map(|c| c.image));
    }
    for name in named {
        if let Ok(Some(image)) = shared.images.resolve(&name).await {
            used.insert(image.id);
        }
    }
    used.retain(|id| images.iter().any(|i| i.id == *id));
    Some(used)
}

/// Runs until dropped.
pub(crate) async fn run(shared: Arc<Shared>) {
    let config = shared.config.image_gc;
    loop {
        // What is here at the start is seen at the start.
        look(&shared).await;
        tokio::time::sleep(config.interval).await;
    }
}

async fn look(shared: &Shared) {
    let config = shared.config.image_gc;
    let Some((capacity, available)) = space(&shared.config.images_dir) else { return };
    let used = 1.0 - available as f64 / capacity.max(1) as f64;
    if config.high >= 1.0 || used <= config.high {
        let _ = removable(shared).await;
        return;
    }
    let goal = (capacity as f64 * (1.0 - config.low)) as u64;
    let wanted = goal.saturating_sub(available);
    let freed = remove_unused(shared, wanted).await;
    if freed < wanted {
        let message = format!(
            "Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, but only found {freed} bytes eligible to free."
        );
        shared.events.node_warning("FreeDiskSpaceFailed", message);
    }
}

async fn removable(shared: &Shared) -> Vec<Image> {
    let Ok(images) = shared.images.list().await else { return Vec::new() };
    let Some(used) = in_use(shared, &images).await else { return Vec::new() };
    shared.image_ages.removable(&images, &used, shared.config.image_gc.min_age, shared.now())
}

/// Removes unused images until so many bytes are free more than before; gives how many are.
pub(crate) async fn remove_unused(shared: &Shared, wanted: u64) -> u64 {
    let free = || space(&shared.config.images_dir).map_or(0, |(_, available)| available);
    let before = free();
    let freed = || free().saturating_sub(before);
    for image in removable(shared).await {
        if freed() >= wanted {
            break;
        }
        // A pod may have come for it in the meantime.
        let Some(used) = in_use(shared, std::slice::from_ref(&image)).await else { break };
        if !used.is_empty() {
            continue;
        }
        let names = image.tags.join(", ");
        match shared.images.remove(&image.id).await {
            Ok(()) => tracing::info!(image = image.id, names, "an unused image was removed"),
            Err(error) => tracing::warn!(image = image.id, %error, "an unused image was not removed"),
        }
    }
    freed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(id: &str) -> Image {
        let digests = vec![format!("example.com/{id}@sha256:1")];
        Image { id: id.into(), tags: vec![], digests, size: 1, uid: None, username: None }
    }

    #[test]
    fn the_longest_unused_goes_first_and_what_is_young_or_in_use_stays() {
        let ages = ImageAges::default();
        let at = |second| Timestamp::from_second(second).expect("in range");
        let look = |names: &[&str], used: &[&str], second| -> Vec<String> {
            let images: Vec<Image> = names.iter().map(|n| image(n)).collect();
            let used = used.iter().map(|u| u.to_string()).collect();
            let found = ages.removable(&images, &used, Duration::from_secs(100), at(second));
            found.into_iter().map(|i| i.id).collect()
        };
        assert!(look(&["a", "b", "c"], &["a", "b"], 0).is_empty(), "all are young");
        assert_eq!(
            look(&["a", "b", "c", "new"], &["a"], 150),
            ["c", "b"],
            "never used comes before used once"
        );
        assert_eq!(look(&["a", "b", "c", "new"], &[], 250), ["c", "new", "b", "a"]);
        assert!(look(&["b"], &["b"], 400).is_empty());
        let local = Image { digests: vec![], ..image("local") };
        for second in [400, 600] {
            let found = ages.removable(
                std::slice::from_ref(&local),
                &BTreeSet::new(),
                Duration::from_secs(100),
                at(second),
            );
            assert!(found.is_empty(), "it could not be fetched again");
        }
        assert!(look(&["a"], &[], 450).is_empty(), "one that comes back is young again");
    }
}
