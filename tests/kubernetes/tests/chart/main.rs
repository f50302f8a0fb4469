//! What the chart makes of its values: golden files, what its schema refuses, and whether Kubernetes would take the
//! rest.
//!
//! `charts/quorate/ci/NAME-values.yaml` is rendered and compared with `golden/NAME.yaml`; with `UPDATE_GOLDEN=1` that
//! file is written. Alerts and dashboards are too long for golden files and tested where they are written: here they
//! only have to arrive whole.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod schemas;

use std::path::Path;

use quorate_kubernetes::command::{root, run};

async fn rendered(values: &str) -> String {
    let values = format!("charts/quorate/ci/{values}-values.yaml");
    let arguments =
        ["template", "quorate", "charts/quorate", "--namespace", "quorate-system", "--include-crds", "-f", &values];
    run("helm", &arguments, "").await.good("helm template")
}

/// The documents of a rendered chart, with the file each is from.
fn documents(rendered: &str) -> Vec<(String, String)> {
    let parts = rendered.split("\n---\n").filter_map(|part| {
        let part = part.trim().trim_start_matches("---\n");
        let source = part.lines().next()?.strip_prefix("# Source: quorate/")?;
        Some((source.to_owned(), part.to_owned()))
    });
    parts.collect()
}

const VALUES: [&str; 3] = ["default", "one-namespace", "everything"];

#[tokio::test]
async fn values_render_as_the_golden_files_say() {
    for values in VALUES {
        let mut text = String::new();
        for (source, document) in documents(&rendered(values).await) {
            if !["crds/", "templates/alerts.yaml", "templates/dashboards.yaml"].iter().any(|s| source.starts_with(s)) {
                text.push_str("---\n");
                text.push_str(&document);
                text.push('\n');
            }
        }
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("golden/{values}.yaml"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let golden = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(text == golden, "{values}: differs from {path:?}; UPDATE_GOLDEN=1 writes it, git diff shows it");
    }
}

#[tokio::test]
async fn values_that_cannot_be_meant_are_refused_by_name() {
    let refused = [
        ("replica=3", "replica"),
        ("replicas=many", "replicas"),
        ("image.tag=1", "tag"),
        ("log.format=xml", "format"),
        ("cluster.name=Demo", "name"),
        ("metrics.podMonitor.interval=often", "interval"),
        ("namespaces=default", "namespaces"),
        ("alerts.runbooks=docs", "runbooks"),
    ];
    for (setting, named) in refused {
        let said = run("helm", &["template", "quorate", "charts/quorate", "--set", setting], "").await;
        assert!(!said.ok, "{setting} was taken");
        assert!(said.err.contains(named), "{setting}: {}", said.err);
    }
    let global = ["template", "quorate", "charts/quorate", "--set", "global.somethingOfTheParent=1"];
    assert!(run("helm", &global, "").await.ok, "what is global may be of another chart");
}

#[tokio::test]
async fn helm_finds_nothing_to_say_against_it() {
    for values in VALUES {
        let values = format!("charts/quorate/ci/{values}-values.yaml");
        run("helm", &["lint", "--strict", "charts/quorate", "-f", &values], "").await.good("helm lint");
    }
}

#[tokio::test]
async fn alerts_and_dashboards_arrive_whole() {
    let documents = documents(&rendered("everything").await);
    for (folder, template, indent) in [("alerts", "alerts", 2), ("dashboards", "dashboards", 4)] {
        for entry in std::fs::read_dir(root().join("charts/quorate").join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|e| e != "yaml" && e != "json") {
                continue;
            }
            let pad = " ".repeat(indent);
            let text = std::fs::read_to_string(&path).unwrap();
            let wanted: Vec<String> =
                text.trim_end().lines().map(|l| format!("{pad}{l}").trim_end().to_owned()).collect();
            let arrived =
                documents.iter().filter(|(source, _)| source == &format!("templates/{template}.yaml")).any(|(_, d)| {
                    let lines: Vec<&str> = d.lines().map(str::trim_end).collect();
                    lines.windows(wanted.len()).any(|w| w == wanted.as_slice())
                });
            assert!(arrived, "{path:?} is not in the rendered chart");
        }
    }
}

#[tokio::test]
async fn runbooks_are_named_where_the_reader_has_them() {
    let rendered = async |more: &[&str]| {
        let template = ["template", "quorate", "charts/quorate", "--show-only", "templates/alerts.yaml"];
        let all = [template.as_slice(), &["--set", "alerts.enabled=true"], more].concat();
        run("helm", &all, "").await.good("helm template")
    };
    let (bare, addressed) =
        (rendered(&[]).await, rendered(&["--set", "alerts.runbooks=https://git.example.org/quorate/blob/main/"]).await);
    let alerts = bare.matches("- alert: ").count();
    assert!(alerts > 15, "{alerts} alerts");
    assert_eq!(bare.matches("runbook_url: \"docs/operating.md#").count(), alerts);
    let at = "runbook_url: \"https://git.example.org/quorate/blob/main/docs/operating.md#";
    assert_eq!(addressed.matches(at).count(), alerts);
}

#[tokio::test]
async fn kubernetes_knows_every_field() {
    let folder = tempfile::tempdir().unwrap();
    schemas::write(folder.path()).await;
    let location = format!("{}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json", folder.path().display());
    // Those of the Prometheus operator are known only where it is installed.
    let arguments = [
        "-strict",
        "-summary",
        "-schema-location",
        &location,
        "-skip",
        "PodMonitor,ServiceMonitor,PrometheusRule",
        "-",
    ];
    for values in VALUES {
        let said =
            run("kubeconform", &arguments, &rendered(values).await).await.good(&format!("kubeconform on {values}"));
        println!("{values}: {}", said.trim());
    }
    let wrong =
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {replica: 3, selector: {}, template: {}}\n";
    assert!(!run("kubeconform", &arguments, wrong).await.ok, "a field that does not exist was taken");
}
