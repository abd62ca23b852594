//! The names by which controllers and nodes agree on volumes that are directories of a node. The controllers make such a volume
//! and delete it; the node alone touches the directory, and its finalizer holds the volume until the directory is gone.

/// The provisioner in a StorageClass.
pub const PROVISIONER: &str = "orlop.dev/local";
/// Annotation of a Node: the folder in which it keeps such volumes. A node without it has none.
pub const FOLDER_ANNOTATION: &str = "orlop.dev/local-volumes";
/// Label of a PersistentVolume: the node that has the directory.
pub const NODE_LABEL: &str = "orlop.dev/node";
/// Finalizer of a PersistentVolume: the node lets go of it when the directory is gone.
pub const FINALIZER: &str = "orlop.dev/local-directory";
/// Annotation of a PersistentVolume: who made it.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// The label by which such a volume asks for its node.
pub const HOSTNAME_LABEL: &str = "kubernetes.io/hostname";
