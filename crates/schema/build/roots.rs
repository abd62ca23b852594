//! The types that the build script starts from: every kind of the API and the few bodies that are no kinds.
//! All other definitions are found from these.

use k8s_openapi::{
    Resource,
    schemars::{JsonSchema, SchemaGenerator},
};

/// A kind, and the definition that describes it.
pub struct Root {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub definition: String,
}

fn root<T: JsonSchema + Resource>(generator: &mut SchemaGenerator, out: &mut Vec<Root>) {
    generator.subschema_for::<T>();
    out.push(Root {
        group: T::GROUP,
        version: T::VERSION,
        kind: T::KIND,
        definition: T::schema_name().into_owned(),
    });
}

macro_rules! roots {
    ($generator:expr, $out:expr, $($package:ident)::+ { $($kind:ident),* $(,)? }) => {
        {
            use k8s_openapi::$($package)::+ as package;
            $( root::<package::$kind>($generator, $out); )*
        }
    };
}

/// Registers every root with the generator.
pub fn register(g: &mut SchemaGenerator) -> Vec<Root> {
    let mut kinds = Vec::new();
    let out = &mut kinds;
    roots!(
        g,
        out,
        api::admissionregistration::v1 {
            MutatingAdmissionPolicy,
            MutatingAdmissionPolicyBinding,
            MutatingWebhookConfiguration,
            ValidatingAdmissionPolicy,
            ValidatingAdmissionPolicyBinding,
            ValidatingWebhookConfiguration
        }
    );
    roots!(
        g,
        out,
        api::admissionregistration::v1alpha1 { MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding }
    );
    roots!(
        g,
        out,
        api::admissionregistration::v1beta1 { MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding }
    );
    roots!(g, out, api::apiserverinternal::v1alpha1 { StorageVersion });
    roots!(g, out, api::apps::v1 { ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet });
    roots!(g, out, api::authentication::v1 { SelfSubjectReview, TokenRequest, TokenReview });
    roots!(
        g,
        out,
        api::authorization::v1 {
            LocalSubjectAccessReview,
            SelfSubjectAccessReview,
            SelfSubjectRulesReview,
            SubjectAccessReview
        }
    );
    roots!(g, out, api::autoscaling::v1 { HorizontalPodAutoscaler, Scale });
    roots!(g, out, api::autoscaling::v2 { HorizontalPodAutoscaler });
    roots!(g, out, api::batch::v1 { CronJob, Job });
    roots!(g, out, api::certificates::v1 { CertificateSigningRequest });
    roots!(g, out, api::certificates::v1alpha1 { ClusterTrustBundle });
    roots!(g, out, api::certificates::v1beta1 { ClusterTrustBundle, PodCertificateRequest });
    roots!(g, out, api::coordination::v1 { Lease });
    roots!(g, out, api::coordination::v1alpha2 { LeaseCandidate });
    roots!(g, out, api::coordination::v1beta1 { LeaseCandidate });
    roots!(
        g,
        out,
        api::core::v1 {
            Binding,
            ComponentStatus,
            ConfigMap,
            Endpoints,
            Event,
            LimitRange,
            Namespace,
            Node,
            PersistentVolume,
            PersistentVolumeClaim,
            Pod,
            PodTemplate,
            ReplicationController,
            ResourceQuota,
            Secret,
            Service,
            ServiceAccount
        }
    );
    roots!(g, out, api::discovery::v1 { EndpointSlice });
    roots!(g, out, api::events::v1 { Event });
    roots!(g, out, api::flowcontrol::v1 { FlowSchema, PriorityLevelConfiguration });
    roots!(g, out, api::networking::v1 { IPAddress, Ingress, IngressClass, NetworkPolicy, ServiceCIDR });
    roots!(g, out, api::networking::v1beta1 { IPAddress, ServiceCIDR });
    roots!(g, out, api::node::v1 { RuntimeClass });
    roots!(g, out, api::policy::v1 { Eviction, PodDisruptionBudget });
    roots!(g, out, api::rbac::v1 { ClusterRole, ClusterRoleBinding, Role, RoleBinding });
    roots!(g, out, api::resource::v1 { DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice });
    roots!(g, out, api::resource::v1alpha3 { DeviceTaintRule, ResourcePoolStatusRequest });
    roots!(
        g,
        out,
        api::resource::v1beta1 { DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice }
    );
    roots!(
        g,
        out,
        api::resource::v1beta2 {
            DeviceClass,
            DeviceTaintRule,
            ResourceClaim,
            ResourceClaimTemplate,
            ResourceSlice
        }
    );
    roots!(g, out, api::scheduling::v1 { PriorityClass });
    roots!(g, out, api::scheduling::v1alpha2 { PodGroup, Workload });
    roots!(
        g,
        out,
        api::storage::v1 {
            CSIDriver,
            CSINode,
            CSIStorageCapacity,
            StorageClass,
            VolumeAttachment,
            VolumeAttributesClass
        }
    );
    roots!(g, out, api::storage::v1beta1 { VolumeAttributesClass });
    roots!(g, out, api::storagemigration::v1beta1 { StorageVersionMigration });
    roots!(g, out, apiextensions_apiserver::pkg::apis::apiextensions::v1 { CustomResourceDefinition });
    roots!(
        g,
        out,
        apimachinery::pkg::apis::meta::v1 { APIGroup, APIGroupList, APIResourceList, APIVersions, Status }
    );
    roots!(g, out, kube_aggregator::pkg::apis::apiregistration::v1 { APIService });
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, ListMeta, Patch, WatchEvent};
    g.subschema_for::<k8s_openapi::apimachinery::pkg::version::Info>();
    g.subschema_for::<DeleteOptions>();
    g.subschema_for::<ListMeta>();
    g.subschema_for::<Patch>();
    g.subschema_for::<WatchEvent<()>>();
    kinds
}

/// Our own kinds: `own_kinds.json` describes them.
pub fn own() -> impl Iterator<Item = Root> {
    ["Network", "NetworkAttachment"].into_iter().map(|kind| Root {
        group: "orlop.dev",
        version: "v1",
        kind,
        definition: format!("dev.orlop.v1.{kind}"),
    })
}
