//! Writes the Grafana dashboards of `quorate_tests::dashboards` to the chart.

// A file that cannot be written ends the program, with what was wrong.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use quorate_tests::dashboards;

fn main() {
    let folder = dashboards::folder();
    std::fs::create_dir_all(&folder).expect("the folder of the dashboards");
    for (name, text) in dashboards::all() {
        std::fs::write(folder.join(name), text).expect("a dashboard is written");
        println!("{}", folder.join(name).display());
    }
}
