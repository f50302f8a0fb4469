use clap::Parser;

use super::*;

#[derive(Parser)]
struct Just {
    #[command(flatten)]
    local: LocalArgs,
}

fn args(folder: &Path, more: &[&str]) -> LocalArgs {
    let folder = folder.to_str().expect("path");
    let all = ["local", "--data-dir", folder].into_iter().chain(more.iter().copied());
    Just::try_parse_from(all).unwrap_or_else(|e| panic!("{e}")).local
}

fn used(folder: &Path, nodes: &[usize]) {
    for n in nodes {
        let node = folder.join(format!("node{n}"));
        std::fs::create_dir_all(&node).expect("folder");
        std::fs::write(node.join("meta"), "x").expect("file");
    }
}

#[test]
fn six_nodes_with_their_own_ports_and_folders_of_which_the_first_forms() {
    let folder = tempfile::tempdir().expect("folder");
    let plan = args(folder.path(), &[]).plan().expect("plan");
    assert!(!plan.existing);
    assert_eq!(plan.nodes.len(), 6);
    let form = plan.nodes[0].form.as_ref().expect("node1 forms");
    assert_eq!((form.replicas, form.write_quorum), (6, 4));
    let last = &plan.nodes[5];
    assert_eq!((last.http.port(), last.tcp.port(), last.peer.port()), (8005, 6384, 7405));
    assert_eq!((last.name.as_str(), last.data_dir.clone()), ("node6", folder.path().join("node6")));
    assert!(last.form.is_none());
    assert_eq!(last.join.len(), 5);
    assert!(!last.join.contains(&last.peer.to_string()));
    assert_eq!((last.limits.cache_bytes, last.limits.segment_bytes), (16 << 20, 16 << 20));
}

#[test]
fn a_cluster_that_exists_is_taken_up_with_the_nodes_it_has() {
    let folder = tempfile::tempdir().expect("folder");
    used(folder.path(), &[1, 2, 3]);
    let plan = args(folder.path(), &[]).plan().expect("plan");
    assert!(plan.existing);
    assert_eq!(plan.nodes.len(), 3);
    // Fewer were asked for: all that have data are started nevertheless.
    assert_eq!(args(folder.path(), &["--nodes", "1"]).plan().expect("plan").nodes.len(), 3);
    assert_eq!(args(folder.path(), &["--nodes", "5"]).plan().expect("plan").nodes.len(), 5);
}

#[test]
fn a_first_node_that_lost_its_folder_joins_the_others_instead_of_forming_anew() {
    let folder = tempfile::tempdir().expect("folder");
    used(folder.path(), &[2, 3]);
    let plan = args(folder.path(), &[]).plan().expect("plan");
    assert_eq!(plan.nodes.len(), 3);
    assert!(plan.nodes.iter().all(|n| n.form.is_none()));
}

#[test]
fn numbers_that_differ_from_the_data_are_named_with_the_way_to_change_them() {
    let args = args(Path::new("data"), &["--nodes", "3", "--write-quorum", "2"]);
    assert_eq!(args.difference(3, 2), None);
    let line = args.difference(6, 4).expect("differs");
    assert!(line.contains("--nodes 3 and --write-quorum 2 are not in force"), "{line}");
    assert!(line.contains("a cluster of 6 with write quorum 4"), "{line}");
    assert!(line.contains("quorate members remove") && line.contains("quorate config set --write-quorum 2"), "{line}");
    assert!(args.difference(3, 3).expect("differs").starts_with("--write-quorum 2 is not in force"));
}

#[test]
fn a_port_that_is_taken_is_named_with_its_flag_before_anything_starts() {
    let folder = tempfile::tempdir().expect("folder");
    let taken = TcpListener::bind("127.0.0.1:0").expect("port");
    let port = taken.local_addr().expect("address").port();
    let mut node = args(folder.path(), &["--nodes", "1"]).plan().expect("plan").nodes.remove(0);
    let any = "127.0.0.1:0".parse().expect("address");
    (node.http, node.peer) = (any, any);
    node.tcp.set_port(port);
    let failure = check_ports(&[node]).expect_err("taken");
    assert_eq!(failure.code(), 2);
    assert!(failure.message().contains(&port.to_string()) && failure.message().contains("--tcp-port"), "{failure:?}");
    assert!(std::fs::read_dir(folder.path()).expect("folder").next().is_none());
}

#[test]
fn the_greeting_has_the_nodes_what_they_survive_and_lines_to_copy() {
    let node = |n: u16, role| Shown {
        name: format!("node{n}"),
        role,
        http: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 7999 + n),
        tcp: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 6378 + n),
        data: PathBuf::from(format!("data/node{n}")),
    };
    let nodes = [node(1, Role::Follower), node(2, Role::Leader), node(3, Role::Follower)];
    let page = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 8080);
    let text = greeting("quorate", &nodes, Quorum::new(3, 2).ok(), true, Path::new("data"), page);
    for part in [
        "A cluster of 3 nodes is up again.",
        "2 of 3 copies hold a write durably",
        "node2  leader",
        "curl -X PUT http://127.0.0.1:8002/v1/kv/hello -d world",
        "curl -X POST http://127.0.0.1:8001/write -H 'Content-Type: application/json' -d '{\"key\":\"test\",\"value\":\"hello\"}'",
        "redis-cli -p 6380 set user:1 Alice",
        "| nc 127.0.0.1 6380",
        "http://127.0.0.1:8080/",
        "The data stays in data",
    ] {
        assert!(text.contains(part), "{part:?} is missing in\n{text}");
    }
}

#[tokio::test]
async fn the_page_moves_on_from_ports_that_are_taken_but_not_from_the_one_it_was_given() {
    let folder = tempfile::tempdir().expect("folder");
    let mut plan = args(folder.path(), &["--nodes", "1"]).plan().expect("plan");
    plan.nodes[0].http.set_port(PAGE_PORTS.start);
    let first = listen_for_page(None, &plan.nodes).await.expect("a port");
    let second = listen_for_page(None, &plan.nodes).await.expect("another port");
    let port = |l: &tokio::net::TcpListener| l.local_addr().expect("address").port();
    assert_ne!(port(&first), PAGE_PORTS.start, "that is a node's");
    assert_ne!(port(&first), port(&second));
    let failure = listen_for_page(Some(port(&first)), &plan.nodes).await.expect_err("taken");
    assert!(failure.code() == 2 && failure.message().contains("--page-port"), "{failure:?}");
}
