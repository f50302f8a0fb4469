//! How clients and nodes reach a cluster.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::meta;
use crate::names;
use crate::validate::Wanted;

/// `demo`: any ready node. `demo-leader`: the one that leads. `demo-peers`: a name for every pod, ready or not, for nodes look for each other before they are.
pub(super) fn services(wanted: &Wanted) -> Vec<Service> {
    let name = &wanted.name;
    let mut leads = names::selector(name);
    leads.insert(names::ROLE_LABEL.to_owned(), names::ROLE_LEADER.to_owned());
    let clients = || vec![port("http", names::HTTP_PORT), port("redis", names::TCP_PORT)];
    let mut all = clients();
    all.push(port("peer", names::PEER_PORT));
    let service = |name: &str, spec: ServiceSpec| Service {
        metadata: meta(wanted, name),
        spec: Some(spec),
        ..Service::default()
    };
    vec![
        service(
            &names::peers_service(name),
            ServiceSpec {
                cluster_ip: Some("None".to_owned()),
                publish_not_ready_addresses: Some(true),
                selector: Some(names::selector(name)),
                ports: Some(all),
                ..ServiceSpec::default()
            },
        ),
        service(
            name,
            ServiceSpec { selector: Some(names::selector(name)), ports: Some(clients()), ..ServiceSpec::default() },
        ),
        service(
            &names::leader_service(name),
            ServiceSpec { selector: Some(leads), ports: Some(clients()), ..ServiceSpec::default() },
        ),
    ]
}

fn port(name: &str, number: i32) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: number,
        protocol: Some("TCP".to_owned()),
        target_port: Some(IntOrString::String(name.to_owned())),
        ..ServicePort::default()
    }
}
