//! ValidatingWebhookConfiguration (admissionregistration.k8s.io/v1): webhooks that judge what is written.

use super::webhook_configuration::describe;
use crate::Kind;

/// The description of ValidatingWebhookConfiguration.
pub(super) fn kind() -> Kind {
    describe("ValidatingWebhookConfiguration", "validatingwebhookconfigurations", false)
}
