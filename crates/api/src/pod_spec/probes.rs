//! Validation of what is asked of a running container: probes and lifecycle hooks.

use crate::{FieldErrors, Path, name};
use k8s_openapi::{
    api::core::v1::{
        ExecAction, GRPCAction, HTTPGetAction, Lifecycle, LifecycleHandler, Probe, SleepAction,
        TCPSocketAction,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

/// What a probe is for; the rules differ a little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Whether the container must be restarted.
    Liveness,
    /// Whether it may get traffic.
    Readiness,
    /// Whether it has started.
    Startup,
}

/// A probe.
pub fn validate_probe(probe: &Probe, purpose: Purpose, path: &Path, errors: &mut FieldErrors) {
    let handlers = Handlers {
        exec: probe.exec.as_ref(),
        http_get: probe.http_get.as_ref(),
        tcp_socket: probe.tcp_socket.as_ref(),
        grpc: probe.grpc.as_ref(),
        sleep: None,
        grace: None,
    };
    handlers.validate(path, errors);
    for (field, value) in [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ] {
        errors.not_negative(&path.child(field), value);
    }
    if let Some(grace) = probe.termination_grace_period_seconds {
        let path = path.child("terminationGracePeriodSeconds");
        if grace <= 0 {
            errors.invalid(&path, grace, "must be greater than 0");
        }
        if purpose == Purpose::Readiness {
            errors.invalid(&path, grace, "must not be set for readinessProbes");
        }
    }
    let successes = probe.success_threshold.unwrap_or(1);
    if purpose != Purpose::Readiness && successes != 1 {
        errors.invalid(path.child("successThreshold"), successes, "must be 1");
    }
}

/// Both hooks. `grace` is the pod's `terminationGracePeriodSeconds`, within which a hook must have slept.
pub fn validate_lifecycle(lifecycle: &Lifecycle, grace: Option<i64>, path: &Path, errors: &mut FieldErrors) {
    let hooks = [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)];
    for (field, hook) in hooks {
        if let Some(hook) = hook {
            validate_hook(hook, grace, &path.child(field), errors);
        }
    }
}

fn validate_hook(hook: &LifecycleHandler, grace: Option<i64>, path: &Path, errors: &mut FieldErrors) {
    let handlers = Handlers {
        exec: hook.exec.as_ref(),
        http_get: hook.http_get.as_ref(),
        tcp_socket: hook.tcp_socket.as_ref(),
        grpc: None,
        sleep: hook.sleep.as_ref(),
        grace,
    };
    handlers.validate(path, errors);
}

/// The ways to ask; exactly one must be set.
struct Handlers<'a> {
    exec: Option<&'a ExecAction>,
    http_get: Option<&'a HTTPGetAction>,
    tcp_socket: Option<&'a TCPSocketAction>,
    grpc: Option<&'a GRPCAction>,
    sleep: Option<&'a SleepAction>,
    grace: Option<i64>,
}

impl Handlers<'_> {
    fn validate(&self, path: &Path, errors: &mut FieldErrors) {
        let mut seen = 0;
        // True for the first that is set; each further one is one too many.
        let mut first = |is_set: bool, field: &str, errors: &mut FieldErrors| {
            seen += usize::from(is_set);
            if is_set && seen > 1 {
                errors.forbidden(path.child(field), "may not specify more than 1 handler type");
            }
            is_set && seen == 1
        };
        if let Some(exec) = self.exec.filter(|_| first(self.exec.is_some(), "exec", errors))
            && exec.command.as_ref().is_none_or(Vec::is_empty)
        {
            errors.required(path.child("exec.command"), "");
        }
        if let Some(get) = self.http_get.filter(|_| first(self.http_get.is_some(), "httpGet", errors)) {
            validate_http(get, &path.child("httpGet"), errors);
        }
        if let Some(tcp) = self.tcp_socket.filter(|_| first(self.tcp_socket.is_some(), "tcpSocket", errors)) {
            validate_port(&tcp.port, &path.child("tcpSocket.port"), errors);
        }
        if let Some(grpc) = self.grpc.filter(|_| first(self.grpc.is_some(), "grpc", errors)) {
            let port = i64::from(grpc.port);
            for message in name::port_number(port) {
                errors.invalid(path.child("grpc.port"), port, message);
            }
        }
        if let Some(sleep) = self.sleep.filter(|_| first(self.sleep.is_some(), "sleep", errors))
            && let Some(grace) = self.grace
            && (sleep.seconds < 0 || sleep.seconds > grace)
        {
            let message =
                format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
            errors.invalid(path.child("sleep"), sleep.seconds, message);
        }
        if seen == 0 {
            errors.required(path, "must specify a handler type");
        }
    }
}

fn validate_http(get: &HTTPGetAction, path: &Path, errors: &mut FieldErrors) {
    if get.path.as_deref().unwrap_or_default().is_empty() {
        errors.required(path.child("path"), "");
    }
    validate_port(&get.port, &path.child("port"), errors);
    errors.one_of(&path.child("scheme"), get.scheme.as_deref().unwrap_or_default(), &["HTTP", "HTTPS"]);
    for header in get.http_headers.iter().flatten() {
        errors.messages(&path.child("httpHeaders"), &header.name, name::http_header_name(&header.name));
    }
}

/// A port by its number or name.
pub fn validate_port(port: &IntOrString, path: &Path, errors: &mut FieldErrors) {
    match port {
        IntOrString::Int(number) => {
            for message in name::port_number(i64::from(*number)) {
                errors.invalid(path, *number, message);
            }
        }
        IntOrString::String(text) => errors.messages(path, text, name::port_name(text)),
    }
}
