//! The certificates of a server: its own, its clients', the administrator's.

use crate::{Error, layout::Layout};
use orlop_apiserver::FrontProxy;
use orlop_pki::{Authority, CertificateRequest, Credential, ServiceAccountKey, Usage, kubeconfig};
use std::{net::IpAddr, sync::Arc};

/// Everything by which the parts of a server know each other.
pub(crate) struct Identities {
    pub(crate) authority: Arc<Authority>,
    pub(crate) service_accounts: Arc<ServiceAccountKey>,
    /// The API server's own certificate.
    pub(crate) api_server: Credential,
    /// What the API server shows to nodes.
    pub(crate) node_client: Credential,
    /// What the API server shows to the servers that it hands requests to, from an authority of its own.
    pub(crate) front_proxy: FrontProxy,
    /// The node's certificate for its own endpoint.
    pub(crate) node: Credential,
    admin: Credential,
}

/// By which names and addresses the server is known.
pub(crate) struct Names {
    pub(crate) node: String,
    pub(crate) node_addresses: Vec<IpAddr>,
    /// Address of the Service `kubernetes`.
    pub(crate) service_address: IpAddr,
    pub(crate) cluster_domain: String,
    /// More names or addresses for the API server's certificate.
    pub(crate) also: Vec<String>,
}

impl Identities {
    /// Reads what is there and issues what is missing or runs out.
    pub(crate) fn open(layout: &Layout, names: &Names, now: i64) -> Result<Self, Error> {
        let failed = Error::at::<orlop_pki::Error>;
        let dir = layout.tls();
        let authority =
            Authority::open_or_create(&dir, now).map_err(failed("opening the certificate authority"))?;
        let service_accounts =
            ServiceAccountKey::open_or_create(&dir).map_err(failed("opening the service-account key"))?;

        let domain = &names.cluster_domain;
        let mut dns_names: Vec<String> =
            ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
                .map(String::from)
                .into();
        dns_names.push(format!("kubernetes.default.svc.{domain}"));
        dns_names.push(names.node.clone());
        let mut addresses =
            vec![IpAddr::from([127, 0, 0, 1]), std::net::Ipv6Addr::LOCALHOST.into(), names.service_address];
        addresses.extend(&names.node_addresses);
        for name in &names.also {
            match name.parse() {
                Ok(address) => addresses.push(address),
                Err(_) => dns_names.push(name.clone()),
            }
        }
        let request = |common_name: &str, organization: Option<&str>, usage| CertificateRequest {
            common_name: common_name.into(),
            organization: organization.map(String::from),
            dns_names: Vec::new(),
            addresses: Vec::new(),
            usage,
            days: 365,
        };
        let keep = |file: &str, request: &CertificateRequest| {
            authority.keep(file, request, now).map_err(failed("issuing a certificate"))
        };
        let api_server = keep(
            "apiserver",
            &CertificateRequest { dns_names, addresses, ..request("kube-apiserver", None, Usage::Server) },
        )?;
        let node_client = keep(
            "apiserver-node-client",
            &request("kube-apiserver-kubelet-client", Some("system:masters"), Usage::Client),
        )?;
        let front = Authority::open_or_create(&dir.join("front-proxy"), now)
            .map_err(failed("opening the authority of the front proxy"))?;
        let front_proxy = FrontProxy {
            authority: front.certificate().to_string(),
            credential: front
                .keep(FrontProxy::NAME, &request(FrontProxy::NAME, None, Usage::Client), now)
                .map_err(failed("issuing a certificate"))?,
        };
        let node_name = format!("system:node:{}", names.node);
        let node = keep(
            "node",
            &CertificateRequest {
                dns_names: vec![names.node.clone()],
                addresses: names
                    .node_addresses
                    .iter()
                    .copied()
                    .chain([IpAddr::from([127, 0, 0, 1])])
                    .collect(),
                ..request(&node_name, Some("system:nodes"), Usage::Both)
            },
        )?;
        let admin = keep("admin", &request("admin", Some("system:masters"), Usage::Client))?;
        Ok(Self {
            authority: Arc::new(authority),
            service_accounts: Arc::new(service_accounts),
            api_server,
            node_client,
            front_proxy,
            node,
            admin,
        })
    }

    /// Writes the administrator's kubeconfig.
    pub(crate) fn write_kubeconfig(&self, layout: &Layout, server: &str) -> Result<(), Error> {
        let text = kubeconfig::render(server, self.authority.certificate(), "admin", &self.admin);
        kubeconfig::write(&layout.kubeconfig(), &text)
            .map_err(Error::at("writing the administrator's kubeconfig"))
    }
}
