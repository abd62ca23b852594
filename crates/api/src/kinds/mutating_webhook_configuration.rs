//! MutatingWebhookConfiguration (admissionregistration.k8s.io/v1): webhooks that may change what is written.

use super::webhook_configuration::describe;
use crate::Kind;

/// The description of MutatingWebhookConfiguration.
pub(super) fn kind() -> Kind {
    describe("MutatingWebhookConfiguration", "mutatingwebhookconfigurations", true)
}
