//! A watcher through whatever happens to the server: it prints what its store holds whenever that changes, until it is ended.

use crate::Result;
use futures::{StreamExt as _, pin_mut};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, ResourceExt as _,
    runtime::{
        WatchStreamExt as _, reflector,
        watcher::{self, Event, watcher},
    },
};

pub(super) async fn check(client: Client, namespace: &str) -> Result<()> {
    let (store, mut writer) = reflector::store();
    let config = watcher::Config::default().labels("followed=yes");
    let events = watcher(Api::<ConfigMap>::namespaced(client, namespace), config).default_backoff();
    pin_mut!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                writer.apply_watcher_event(&event);
                if matches!(event, Event::Init | Event::InitApply(_)) {
                    continue;
                }
                let how = if matches!(event, Event::InitDone) { "listed" } else { "changed" };
                let mut names: Vec<String> = store.state().iter().map(|map| map.name_any()).collect();
                names.sort();
                println!("{how} {}", names.join(" "));
            }
            Err(error) => println!("failed {error}"),
        }
    }
    Ok(())
}
