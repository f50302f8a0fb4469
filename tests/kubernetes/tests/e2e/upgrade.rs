//! From the previous chart to this one, with a cluster at work.

use quorate_kubernetes::arena::{CHART, PATIENCE, RELEASE};
use quorate_kubernetes::clients::SILENCE_MAX;
use quorate_kubernetes::command::Said;
use quorate_kubernetes::{Arena, Clients, THREE_COPIES, command};
use quorate_tests::eventually_in;
use tempfile::TempDir;

/// A second name of the image that is tested: scripts/kubernetes/load gives it, and whoever brings a cluster.
const NEXT_TAG: &str = "next";

/// Where the chart defines the operator's rights.
const HELPERS: &str = "templates/_helpers.tpl";

/// The same image by its other name.
pub(crate) fn next_image() -> String {
    format!("quorate:{NEXT_TAG}")
}

/// Waits until every pod of a KVCluster runs an image, and all is at rest.
pub(crate) async fn rolled(arena: &Arena, cluster: &str, image: &str) {
    eventually_in(PATIENCE, &format!("{cluster} runs {image}"), async || {
        let status = arena.status(cluster).await?;
        if status.image.as_deref() == Some(image) { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    arena.settled(cluster).await;
    let of = kube::api::ListParams::default().labels(&format!("quorate.dev/cluster={cluster}"));
    for pod in arena.pods().list(&of).await.expect("pods").items {
        let spec = pod.spec.expect("a spec");
        assert_eq!(spec.containers[0].image.as_deref(), Some(image), "{:?}", pod.metadata.name);
    }
}

/// The chart as it was before it was last changed, unpacked. Where there is no history to take it from (an archive, a
/// chart that never changed) the present one stands in for it; a history that was cut off can be had, and is asked for.
async fn previous_chart() -> (TempDir, String) {
    let folder = tempfile::Builder::new().prefix("quorate-test-").tempdir().expect("a folder");
    let commits = command::run("git", &["log", "--format=%H", "--max-count=2", "--", CHART], "").await;
    let unpack = match commits.out.lines().nth(1) {
        Some(before) => format!("git archive {before} {CHART} | tar -x -C {}", folder.path().display()),
        None => {
            let shallow = command::run("git", &["rev-parse", "--is-shallow-repository"], "").await;
            assert_ne!(shallow.out.trim(), "true", "the history ends before the previous chart: git fetch --unshallow");
            println!("there is no previous chart here: the present one stands in for it");
            format!("mkdir {0}/charts && cp -r {CHART} {0}/charts/", folder.path().display())
        }
    };
    command::run("sh", &["-c", &unpack], "").await.good(&unpack);
    let chart = folder.path().join(CHART);
    // The programs are those of today, and there is nobody upgrading who has them without the rights that they need.
    let helpers = chart.join(HELPERS);
    let before = std::fs::read_to_string(&helpers).expect("the previous rights");
    let today = std::fs::read_to_string(command::root().join(CHART).join(HELPERS)).expect("the rights");
    std::fs::write(&helpers, before.replace(rights(&before), rights(&today))).expect("a file");
    (folder, chart.display().to_string())
}

/// The operator's rights, as the chart's helpers define them.
fn rights(helpers: &str) -> &str {
    let from = helpers.find("{{- define \"quorate.rules\" -}}").expect("rights");
    let length = helpers[from..].find("{{- end }}").expect("an end of the rights");
    &helpers[from..from + length]
}

/// Makes the definition one of an earlier version, as Helm would have installed it, and runs what the chart's README
/// says of upgrading.
async fn update_definition() -> Said {
    let folder = command::root().join(CHART);
    let file = std::fs::read_to_string(folder.join("crds/quorate.dev_kvclusters.yaml")).expect("the definition");
    let earlier = file.replacen("description: ", "description: Earlier. ", 1);
    let as_helm = ["apply", "--server-side", "--force-conflicts", "--field-manager=helm", "--filename=-"];
    command::run("kubectl", &as_helm, &earlier).await.good("kubectl apply as Helm");

    let line = command::documented("charts/quorate/README.md", "kubectl apply --server-side");
    let words: Vec<&str> = line[1..].iter().map(String::as_str).collect();
    let said = command::run("kubectl", &words, "").await;
    assert!(said.ok, "{line:?}: {said:?}");
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrading_from_the_previous_chart_rolls_operator_and_pods_while_writes_go_on() {
    let arena = Arena::empty("upgrade").await;
    let (_folder, previous) = previous_chart().await;
    arena.release("install", &previous, &[]).await.good("helm install of the previous chart");
    arena.apply(THREE_COPIES).await.good("kubectl apply");
    let before = arena.settled("demo").await.cluster_id;
    let clients = Clients::start(&arena, "demo", 3).await;

    // Helm itself never changes a definition that is there.
    let said = update_definition().await;
    assert!(said.out.contains("serverside-applied"), "{said:?}");
    // The image of clusters that name none is another one.
    let tag = format!("clusterImage.tag={NEXT_TAG}");
    arena.release("upgrade", CHART, &["--set", &tag]).await.good("helm upgrade");
    rolled(&arena, "demo", &next_image()).await;
    clients.more(20).await;
    clients.judged().await.silent_at_most(SILENCE_MAX);
    assert_eq!(arena.settled("demo").await.cluster_id, before, "it is the same cluster");
    let history = arena.helm(&["history", RELEASE, "--output", "json"]).await.good("helm history");
    let releases: serde_json::Value = serde_json::from_str(&history).expect("JSON");
    assert_eq!(releases.as_array().map(Vec::len), Some(2), "{history}");
    arena.end().await;
}
