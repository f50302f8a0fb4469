//! The StatefulSets and the pods they make.
//!
//! Both are `OnDelete` (the operator decides which pod is made anew, and when) and `Parallel` (pods that wait for one another to be ready would never form a
//! cluster).

use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapEnvSource, Container, ContainerPort, EnvFromSource, EnvVar, EnvVarSource, HTTPGetAction,
    ObjectFieldSelector, PersistentVolumeClaim, PersistentVolumeClaimSpec, PodSecurityContext, PodSpec,
    PodTemplateSpec, Probe, SeccompProfile, SecretKeySelector, SecurityContext, TopologySpreadConstraint, VolumeMount,
    VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::settings::Settings;
use super::{meta, selector};
use crate::crd::{Formation, PodTemplate};
use crate::names::{self, Set};
use crate::plan::Pods;
use crate::validate::Wanted;

/// The user and group of the processes, as the images name them.
const USER: i64 = 65_532;
/// How long a pod may take to stop: handing over takes at most 1.5 s, the rest is for slow disks.
const STOP_SECONDS: i64 = 30;
/// The volume, and where it is mounted.
const VOLUME: &str = "data";
const MOUNT: &str = "/data";
/// Below the mount, for a file system of its own has a `lost+found` at its top.
const DATA_DIR: &str = "/data/node";
const CONTAINER: &str = "quorate";

pub(super) fn stateful_set(
    wanted: &Wanted,
    set: Set,
    pods: Pods,
    formation: Formation,
    settings: &Settings,
    size: &str,
) -> StatefulSet {
    let when_deleted = wanted.spec.persistent_volume_claim_retention.when_deleted;
    let mut labels = names::selector(&wanted.name);
    labels.insert(names::SET_LABEL.to_owned(), set.label().to_owned());
    StatefulSet {
        metadata: meta(wanted, &set.name(&wanted.name)),
        spec: Some(StatefulSetSpec {
            replicas: Some(pods.of(set)),
            service_name: Some(names::peers_service(&wanted.name)),
            pod_management_policy: Some("Parallel".to_owned()),
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".to_owned()),
                ..Default::default()
            }),
            selector: LabelSelector { match_labels: Some(labels), ..LabelSelector::default() },
            template: template(wanted, set, formation, settings),
            volume_claim_templates: Some(vec![claim(wanted, size)]),
            persistent_volume_claim_retention_policy: Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
                when_deleted: Some(when_deleted.as_str().to_owned()),
                when_scaled: Some(pods.when_scaled.as_str().to_owned()),
            }),
            revision_history_limit: Some(3),
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    }
}

fn claim(wanted: &Wanted, size: &str) -> PersistentVolumeClaim {
    let storage = &wanted.spec.storage;
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(VOLUME.to_owned()),
            labels: Some(names::selector(&wanted.name)),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            storage_class_name: storage.storage_class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some([("storage".to_owned(), Quantity(size.to_owned()))].into()),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }
}

fn template(wanted: &Wanted, set: Set, formation: Formation, settings: &Settings) -> PodTemplateSpec {
    let extra = wanted.spec.pod_template.clone().unwrap_or_default();
    let mut labels = extra.labels.clone();
    labels.extend(names::labels(&wanted.name));
    labels.insert(names::SET_LABEL.to_owned(), set.label().to_owned());
    // Given to the leader's pod alone, and by the operator alone.
    labels.remove(names::ROLE_LABEL);
    let mut annotations = extra.annotations.clone();
    annotations.insert(names::SETTINGS_ANNOTATION.to_owned(), settings.digest.clone());
    PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels), annotations: Some(annotations), ..ObjectMeta::default() }),
        spec: Some(PodSpec {
            service_account_name: Some(wanted.name.clone()),
            automount_service_account_token: Some(false),
            // Services of the namespace in the environment would be taken for settings.
            enable_service_links: Some(false),
            termination_grace_period_seconds: Some(STOP_SECONDS),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(USER),
                run_as_group: Some(USER),
                fs_group: Some(USER),
                fs_group_change_policy: Some("OnRootMismatch".to_owned()),
                seccomp_profile: Some(SeccompProfile {
                    type_: "RuntimeDefault".to_owned(),
                    ..SeccompProfile::default()
                }),
                ..PodSecurityContext::default()
            }),
            affinity: extra.affinity.clone(),
            tolerations: (!extra.tolerations.is_empty()).then(|| extra.tolerations.clone()),
            node_selector: (!extra.node_selector.is_empty()).then(|| extra.node_selector.clone()),
            priority_class_name: extra.priority_class_name.clone(),
            topology_spread_constraints: Some(spread(wanted, &extra)),
            containers: vec![container(wanted, set, formation, settings, &extra)],
            ..PodSpec::default()
        }),
    }
}

/// Over machines and over zones, both StatefulSets counted together; not at any price, for a cluster on one machine is better than none.
fn spread(wanted: &Wanted, extra: &PodTemplate) -> Vec<TopologySpreadConstraint> {
    if let Some(given) = &extra.topology_spread_constraints {
        return given.clone();
    }
    let over = |key: &str| TopologySpreadConstraint {
        max_skew: 1,
        topology_key: key.to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(selector(wanted)),
        ..TopologySpreadConstraint::default()
    };
    vec![over("kubernetes.io/hostname"), over("topology.kubernetes.io/zone")]
}

fn container(wanted: &Wanted, set: Set, formation: Formation, settings: &Settings, extra: &PodTemplate) -> Container {
    Container {
        name: CONTAINER.to_owned(),
        image: Some(wanted.image.clone()),
        image_pull_policy: wanted.spec.image_pull_policy.map(|p| p.as_str().to_owned()),
        args: Some(vec!["serve".to_owned()]),
        ports: Some(vec![
            port("http", names::HTTP_PORT),
            port("redis", names::TCP_PORT),
            port("peer", names::PEER_PORT),
        ]),
        env: Some(env(wanted, set, formation, settings, extra)),
        env_from: Some(vec![EnvFromSource {
            config_map_ref: Some(ConfigMapEnvSource { name: names::config_map(&wanted.name), optional: Some(false) }),
            ..EnvFromSource::default()
        }]),
        resources: wanted.spec.resources.clone(),
        volume_mounts: Some(vec![VolumeMount {
            name: VOLUME.to_owned(),
            mount_path: MOUNT.to_owned(),
            ..VolumeMount::default()
        }]),
        // A log may be long to replay: it has ten minutes before liveness counts.
        startup_probe: Some(probe("/livez", 1, 600)),
        liveness_probe: Some(probe("/livez", 10, 6)),
        readiness_probe: Some(probe("/readyz", 1, 3)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            run_as_non_root: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), ..Capabilities::default() }),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

/// What a node is told beyond the ConfigMap. Names of the operator's are left out of what the spec adds: here they would win over the ConfigMap.
fn env(wanted: &Wanted, set: Set, formation: Formation, settings: &Settings, extra: &PodTemplate) -> Vec<EnvVar> {
    let value = |name: &str, value: String| EnvVar { name: name.to_owned(), value: Some(value), ..EnvVar::default() };
    let from = |name: &str, source: EnvVarSource| EnvVar {
        name: name.to_owned(),
        value_from: Some(source),
        ..EnvVar::default()
    };
    let field = |path: &str| EnvVarSource {
        field_ref: Some(ObjectFieldSelector { field_path: path.to_owned(), ..ObjectFieldSelector::default() }),
        ..EnvVarSource::default()
    };
    let mut ours = vec![
        from("ID", field("metadata.name")),
        value("ADDRESS", names::host(&wanted.name, &wanted.namespace, "$(ID)")),
        value("BIND", "0.0.0.0".to_owned()),
        value("DATA_DIR", DATA_DIR.to_owned()),
        value("NODE_TYPE", set.label().to_owned()),
        from(
            "ADMIN_TOKEN",
            EnvVarSource {
                secret_key_ref: Some(SecretKeySelector {
                    name: names::secret(&wanted.name),
                    key: names::TOKEN_KEY.to_owned(),
                    optional: Some(false),
                }),
                ..EnvVarSource::default()
            },
        ),
    ];
    // Of the leader alone; a follower has them from nobody.
    let forming =
        [value("REPLICAS", formation.replicas.to_string()), value("WRITE_QUORUM", formation.write_quorum.to_string())];
    let is_ours = |given: &&EnvVar| {
        settings.names.contains(given.name.as_str()) || ours.iter().chain(&forming).any(|o| o.name == given.name)
    };
    let mut env: Vec<EnvVar> = extra.env.iter().filter(|given| !is_ours(given)).cloned().collect();
    if set == Set::Leader {
        ours.extend(forming);
    }
    env.extend(ours);
    env
}

fn port(name: &str, number: i32) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: number,
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

fn probe(path: &str, period_seconds: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("http".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        failure_threshold: Some(failures),
        timeout_seconds: Some(2),
        ..Probe::default()
    }
}
