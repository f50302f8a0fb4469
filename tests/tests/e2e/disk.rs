//! A disk that is nearly full.

use std::process::Command;
use std::time::Duration;

use quorate_tests::process::run;
use quorate_tests::{Resp, Setup, eventually, loudly};

#[tokio::test]
async fn below_the_reserve_writes_are_refused_deletes_taken_and_a_restart_with_room_goes_on() {
    let mut cluster = Setup::new(1, 1).start().await;
    cluster.nodes[0].put("/v1/kv/k", "v").await.expect(200);
    cluster.nodes[0].stop().await;
    // More than any disk here has free.
    let at = cluster.nodes[0].args.iter().position(|a| a == "--disk-reserve").expect("a reserve") + 1;
    let usual = std::mem::replace(&mut cluster.nodes[0].args[at], "1000000GiB".to_owned());
    cluster.nodes[0].start();
    cluster.led_by(0).await;
    eventually("writes are refused", || async {
        let put = cluster.nodes[0].put("/v1/kv/new", "v").await;
        if (put.status, put.code().as_str()) == (507, "no_space") {
            Ok(())
        } else {
            Err(format!("{} {}", put.status, put.text()))
        }
    })
    .await;
    assert!(cluster.nodes[0].status().await.disk_full);
    let reply = cluster.nodes[0].redis().await.call(&["SET", "new", "v"]).await;
    assert!(matches!(&reply, Resp::Error(text) if text.starts_with("NOSPACE ")), "{reply:?}");
    assert_eq!(cluster.nodes[0].get("/v1/kv/k").await.expect(200).text(), "v", "reads go on");
    assert_eq!(cluster.nodes[0].delete("/v1/kv/k").await.expect(200).json()["deleted"], true, "deletes are taken");
    cluster.nodes[0].stop().await;
    cluster.nodes[0].args[at] = usual;
    cluster.nodes[0].start();
    cluster.led_by(0).await;
    cluster.nodes[0].put("/v1/kv/new", "v").await.expect(200);
}

/// A small file system of its own, where the one who runs the test may mount one.
struct Mounted(std::path::PathBuf);

impl Mounted {
    async fn at(path: std::path::PathBuf) -> Option<Mounted> {
        std::fs::create_dir_all(&path).expect("a folder");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=96m", "tmpfs"]).arg(&path);
        let (code, _, _) = run(mount, Duration::from_secs(10)).await;
        (code == 0).then(|| Mounted(path))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_disk_that_fills_up_and_empties_again_needs_nobodys_help() {
    let mut cluster = Setup::new(1, 1).flag("--disk-reserve", "32MiB").prepare().await;
    let Some(disk) = Mounted::at(cluster.home().join("disk")).await else {
        loudly(
            "not tried: a disk that fills up and empties again (mounting a file system is not allowed here: run it as root)",
        );
        return;
    };
    cluster.nodes[0].dir = disk.0.join("node1");
    cluster.start_all();
    cluster.led_by(0).await;
    cluster.nodes[0].put("/v1/kv/k", "v").await.expect(200);
    let filler = disk.0.join("filler");
    std::fs::write(&filler, vec![1_u8; 60 << 20]).expect("a large file");
    eventually("writes are refused", || async {
        let put = cluster.nodes[0].put("/v1/kv/new", "v").await;
        if put.status == 507 { Ok(()) } else { Err(format!("{} {}", put.status, put.text())) }
    })
    .await;
    std::fs::remove_file(&filler).expect("room again");
    eventually("writes are taken again", || async {
        let put = cluster.nodes[0].put("/v1/kv/new", "v").await;
        if put.status == 200 { Ok(()) } else { Err(format!("{} {}", put.status, put.text())) }
    })
    .await;
    cluster.nodes[0].kill();
}
