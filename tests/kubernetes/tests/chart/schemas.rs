//! JSON schemas of every kind that the API server knows, from what it says of itself: kubeconform would fetch them from
//! the internet.

use std::path::Path;
use std::time::{Duration, Instant};

use quorate_kubernetes::command::run;
use serde_json::{Value, json};

/// How long a new kind may take to appear in what the API server tells: a second or two, more on a busy machine.
const PUBLISHED_LIMIT: Duration = Duration::from_secs(60);

/// Writes a file for each kind, under the name that kubeconform asks for: `deployment-apps-v1.json`.
pub(crate) async fn write(folder: &Path) {
    run("kubectl", &["apply", "--server-side", "--force-conflicts", "-f", "charts/quorate/crds"], "")
        .await
        .good("kubectl apply of the CRDs (make apiserver-up, KUBECONFIG)");
    let api = published().await;
    let definitions = &api["definitions"];
    let mut written = 0;
    for definition in definitions.as_object().expect("definitions").values() {
        for kind in definition["x-kubernetes-group-version-kind"].as_array().into_iter().flatten() {
            let (group, version, name) = (kind["group"].as_str(), kind["version"].as_str(), kind["kind"].as_str());
            let (Some(group), Some(version), Some(name)) = (group, version, name) else { continue };
            // kubeconform takes the first word of a group: apps, rbac, quorate.
            let group = group.split('.').next().filter(|g| !g.is_empty()).map(|g| format!("{g}-")).unwrap_or_default();
            let file = folder.join(format!("{}-{group}{version}.json", name.to_lowercase()));
            std::fs::write(file, strict(definition, definitions, &mut Vec::new()).to_string()).expect("a file");
            written += 1;
        }
    }
    assert!(written > 100, "only {written} kinds");
}

/// What the API server says of its kinds, once ours is among them: it tells of a new one a moment after taking it.
async fn published() -> Value {
    let begun = Instant::now();
    loop {
        let text = run("kubectl", &["get", "--raw", "/openapi/v2"], "").await.good("kubectl get --raw /openapi/v2");
        let api: Value = serde_json::from_str(&text).expect("JSON");
        if text.contains("\"KVCluster\"") {
            return api;
        }
        assert!(begun.elapsed() < PUBLISHED_LIMIT, "the API server does not tell of KVCluster");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The schema with its references written out, refusing fields it does not name. Inside itself a definition (that of
/// schemas) takes anything.
fn strict<'a>(schema: &'a Value, definitions: &'a Value, inside: &mut Vec<&'a str>) -> Value {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.trim_start_matches("#/definitions/");
        if inside.contains(&name) {
            return json!({});
        }
        inside.push(name);
        let schema = strict(&definitions[name], definitions, inside);
        inside.pop();
        return schema;
    }
    match schema["format"].as_str() {
        Some("int-or-string") => return json!({"type": ["string", "integer"]}),
        // A number in Kubernetes' YAML, a string in what it says of itself.
        _ if schema["description"].as_str().is_some_and(|d| d.starts_with("Quantity is")) => {
            return json!({"type": ["string", "number"]});
        }
        _ => {}
    }
    let mut made = serde_json::Map::new();
    for key in ["type", "enum", "required", "minimum", "maximum", "pattern", "minLength", "maxLength"] {
        if let Some(value) = schema.get(key) {
            made.insert(key.to_owned(), value.clone());
        }
    }
    if let Some(items) = schema.get("items") {
        made.insert("items".to_owned(), strict(items, definitions, inside));
    }
    if let Some(properties) = schema["properties"].as_object() {
        let all = properties.iter().map(|(name, property)| (name.clone(), strict(property, definitions, inside)));
        made.insert("properties".to_owned(), Value::Object(all.collect()));
        let open = schema["x-kubernetes-preserve-unknown-fields"] == json!(true);
        made.insert("additionalProperties".to_owned(), json!(open));
    } else if let Some(more) = schema.get("additionalProperties") {
        made.insert("additionalProperties".to_owned(), strict(more, definitions, inside));
    }
    Value::Object(made)
}
