//! `quorate local`: a whole cluster in one process, and the lines it prints to be copied.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use quorate_tests::process::{command, run};
use quorate_tests::{eventually, ports};
use rustix::process::{Pid, Signal, kill_process};

/// A running `quorate local`; ended when dropped.
struct Local {
    child: Child,
    out: std::path::PathBuf,
}

impl Local {
    fn start(home: &std::path::Path, first: [u16; 3]) -> Local {
        let out = home.join("out");
        let file = std::fs::File::create(&out).expect("a file");
        let [http, tcp, peer] = first.map(|p| p.to_string());
        let child = command()
            .args([
                "local",
                "--http-port",
                &http,
                "--tcp-port",
                &tcp,
                "--peer-port",
                &peer,
                "--disk-reserve",
                "1MiB",
                "--data-dir",
            ])
            .arg(home.join("data"))
            .stderr(file.try_clone().expect("a second handle"))
            .stdout(file)
            .process_group(0)
            .spawn();
        Local { child: child.expect("quorate local"), out }
    }

    async fn greeting(&mut self) -> String {
        eventually("it says that the cluster is up", || {
            let text = std::fs::read_to_string(&self.out).unwrap_or_default();
            let ended = self.child.try_wait().expect("its state");
            async move {
                assert!(ended.is_none(), "it ended: {text}");
                if text.contains("Ctrl-C stops it") { Ok(text) } else { Err(text) }
            }
        })
        .await
    }

    async fn interrupt(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).expect("Ctrl-C");
        let code = eventually("it ends", || {
            let status = self.child.try_wait().expect("its state");
            async move { status.ok_or_else(|| "it runs".to_owned()) }
        })
        .await;
        assert!(code.success(), "{code}: {}", std::fs::read_to_string(&self.out).unwrap_or_default());
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn what_it_prints_works_when_copied_and_the_data_stays() {
    let home = tempfile::tempdir().expect("a folder");
    let ports = ports::free(18);
    let first = [ports[0], ports[6], ports[12]];
    let begun = Instant::now();
    let mut local = Local::start(home.path(), first);
    let text = local.greeting().await;
    println!("six nodes were up after {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    assert!(text.contains("A cluster of 6 nodes is up.") && text.contains("4 of 6 copies"), "{text}");

    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let starts = ["curl ", "redis-cli ", "printf "];
    let copied: Vec<&&str> = lines.iter().filter(|l| starts.iter().any(|s| l.starts_with(s))).collect();
    assert!(copied.len() >= 6, "{text}");
    let expected = [
        r#""revision":"#,
        "world",
        r#""success":true"#,
        r#""value":"hello","found":true"#,
        "OK",
        r#"{"status":"OK","value":"Alice"}"#,
    ];
    for (line, expected) in copied.iter().zip(expected) {
        eventually(&format!("`{line}` prints {expected}"), || async {
            let mut shell = Command::new("sh");
            shell.args(["-c", line]).stdin(Stdio::null());
            let (code, out, err) = run(shell, Duration::from_secs(60)).await;
            if code == 0 && out.contains(expected) { Ok(()) } else { Err(format!("{code}: {out}{err}")) }
        })
        .await;
    }
    for line in lines.iter().filter(|l| l.starts_with("quorate status") || l.starts_with("quorate bench")) {
        let arguments: Vec<&str> =
            line.split_whitespace().skip(1).map(|w| if w == "5s" { "300ms" } else { w }).collect();
        let mut verb = command();
        verb.args(arguments);
        let (code, out, err) = run(verb, Duration::from_secs(60)).await;
        assert_eq!(code, 0, "{line}: {out}{err}");
    }
    local.interrupt().await;

    let mut local = Local::start(home.path(), first);
    let text = local.greeting().await;
    assert!(text.contains("is up again"), "{text}");
    let http = reqwest::Client::new();
    for port in &ports[..6] {
        eventually("every node has what was written", || async {
            let got = http.get(format!("http://127.0.0.1:{port}/read/test")).send().await.map_err(|e| e.to_string())?;
            let got = got.text().await.map_err(|e| e.to_string())?;
            if got.contains(r#""value":"hello""#) { Ok(()) } else { Err(got) }
        })
        .await;
    }
    local.interrupt().await;
}
