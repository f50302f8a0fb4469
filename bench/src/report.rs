//! Results for people: a dated folder with the table, the plots and the numbers they were made from.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::failure::{Context, Outcome};
use crate::plots;
use crate::results::{Bound, Cell, Figures, Results, Row, System, Verdict, Workload};
use crate::tools;

/// Writes results, table and plots into a folder, by default a dated one in `bench/results`.
pub(crate) fn write(results: &Results, out: Option<PathBuf>) -> Outcome<PathBuf> {
    let folder = out.unwrap_or_else(|| tools::bench_dir().join("results").join(folder_name(results)));
    std::fs::create_dir_all(&folder).context(|| format!("cannot create {}", folder.display()))?;
    let json = serde_json::to_string_pretty(results).context(|| "results".to_owned())?;
    put(&folder.join("results.json"), &format!("{json}\n"))?;
    draw(results, &folder)?;
    Ok(folder)
}

/// Reads results and writes table and plots again.
pub(crate) fn again(file: &Path, out: Option<PathBuf>) -> Outcome<()> {
    let text = std::fs::read_to_string(file).context(|| format!("cannot read {}", file.display()))?;
    let results: Results = serde_json::from_str(&text).context(|| format!("{} is no results file", file.display()))?;
    let folder = out.or_else(|| file.parent().map(Path::to_path_buf)).unwrap_or_default();
    std::fs::create_dir_all(&folder).context(|| format!("cannot create {}", folder.display()))?;
    draw(&results, &folder)
}

fn draw(results: &Results, folder: &Path) -> Outcome<()> {
    let plots = plots::draw(results, folder)?;
    let text = markdown(results, &plots);
    println!("\n{}", table(results));
    put(&folder.join("README.md"), &text)
}

fn put(file: &Path, text: &str) -> Outcome<()> {
    std::fs::write(file, text).context(|| format!("cannot write {}", file.display()))
}

/// The day and the kind of machine: enough to find a comparison again, nothing that names its owner.
fn folder_name(results: &Results) -> String {
    let machine = &results.machine;
    let day = machine.date.split('T').next().unwrap_or("undated");
    let quick = if results.quick { "-quick" } else { "" };
    format!("{day}-{}cores-{:.0}GiB{quick}", machine.cores, machine.memory_gib)
}

/// A number with its thousands set apart; with a digit behind the point where it is small.
pub(crate) fn thousands(number: f64) -> String {
    if number != 0.0 && number < 10.0 {
        return format!("{number:.2}");
    }
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// What there was left to do when a load had ended, where that was looked at.
pub(crate) fn aftermath(figures: &Figures) -> String {
    match (figures.drain_seconds, figures.behind_mib) {
        (Some(seconds), _) => format!("  all copies and stores in step {seconds:.1} s later, which is counted"),
        (None, Some(mib)) => format!("  replicas {mib:.0} MiB behind, which is not counted"),
        (None, None) => String::new(),
    }
}

/// The whole page.
fn markdown(results: &Results, plots: &[&str]) -> String {
    let m = &results.machine;
    let mut page = format!("# Comparison of {}\n\n", m.date.split('T').next().unwrap_or_default());
    let quick = if results.quick { " A quick run: figures are rough." } else { "" };
    let _ = writeln!(
        page,
        "Three processes of each system on one machine, every copy fsynced before it counts, {}-byte values, medians of {} rounds. \
         A ratio is the median of the ratios within each round.{quick}\n",
        results.value_bytes, results.rounds
    );
    page.push_str(&table(results));
    page.push('\n');
    for failure in &results.failures {
        let _ = writeln!(page, "- failed: {}", failure.replace('\n', " "));
    }
    for plot in plots {
        let _ = writeln!(page, "![{}]({plot})", plot.trim_end_matches(".svg").replace('-', " "));
    }
    page.push_str("\n## All figures\n\n");
    page.push_str(&all_figures(results));
    page.push('\n');
    for cell in results.cells.iter().filter(|c| c.workload == Workload::SetPipelined) {
        let (round, system) = (cell.round, cell.system.name());
        let _ = writeln!(page, "- SET -P 16, round {round}, {system}: {}", aftermath(&cell.figures).trim());
    }
    page.push_str("\n## Machine\n\n");
    let _ = writeln!(page, "| | |\n|---|---|\n| date | {} |\n| commit | {} |", m.date, m.commit);
    let _ = writeln!(page, "| processor | {} × {} |\n| memory | {:.1} GiB |", m.cores, m.processor, m.memory_gib);
    let _ = writeln!(page, "| kernel | {} |\n| filesystem | {} |", m.kernel, m.filesystem);
    let _ = writeln!(
        page,
        "| 4 KiB append and fdatasync, preallocated | median {} µs, p99 {} µs |",
        m.fdatasync_us_median, m.fdatasync_us_p99
    );
    for (name, version) in &m.versions {
        let _ = writeln!(page, "| {name} | {version} |");
    }
    page
}

/// The targets and how they were met.
fn table(results: &Results) -> String {
    let mut text = "| what | Quorate | peer | ratio | target | |\n|---|---:|---:|---:|---|---|\n".to_owned();
    for row in results.rows() {
        let unit = row.target.metric.unit();
        let figure = |f: Option<f64>| f.map_or_else(|| "–".to_owned(), |f| format!("{}{unit}", thousands(f)));
        let ratio = row.ratio.map_or_else(|| "–".to_owned(), |r| format!("{r:.2}"));
        let _ = writeln!(
            text,
            "| {} | {} | {} | {ratio} | {} | {} |",
            row.target.title,
            figure(row.ours),
            if row.target.peer.is_some() { figure(row.peers) } else { String::new() },
            bound(row.target.bound),
            verdict(&row)
        );
    }
    text
}

fn bound(bound: Bound) -> String {
    match bound {
        Bound::RatioAtLeast(least) => format!("at least {least:.2}"),
        Bound::RatioAtMost(most) => format!("at most {most:.2}"),
        Bound::Below(limit) => format!("below {limit:.0} ms"),
    }
}

fn verdict(row: &Row<'_>) -> String {
    let verdict = match row.verdict {
        Verdict::Met => "met",
        Verdict::Missed => "**missed**",
        Verdict::NotMeasured => return "not measured".to_owned(),
    };
    match row.cut_short {
        Some(seconds) => format!("{verdict}, in {seconds:.0} s of the {:.0} s asked for", row.target.seconds_min),
        None => verdict.to_owned(),
    }
}

/// Every system and load, medians over the rounds.
fn all_figures(results: &Results) -> String {
    let mut kinds: Vec<(Workload, usize, System)> =
        results.cells.iter().map(|c| (c.workload, c.clients, c.system)).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let mut text = "| load | clients | system | requests/s | p50 ms | p99 ms | p99.9 ms | slowest ms | CPU µs/request | MiB, largest process |\n\
                    |---|---:|---|---:|---:|---:|---:|---:|---:|---:|\n"
        .to_owned();
    for (workload, clients, system) in kinds {
        let median = |figure: fn(&Cell) -> Option<f64>| results.median_of((system, workload, clients), figure);
        let shown = |f: Option<f64>| f.map_or_else(|| "–".to_owned(), thousands);
        let _ = writeln!(
            text,
            "| {} | {clients} | {} | {} | {} | {} | {} | {} | {} | {} |",
            workload.name(),
            system.name(),
            shown(median(|c| Some(c.figures.per_second))),
            shown(median(|c| Some(c.figures.p50_ms))),
            shown(median(|c| Some(c.figures.p99_ms))),
            shown(median(|c| c.figures.p999_ms)),
            shown(median(|c| c.figures.max_ms)),
            shown(median(|c| c.cpu_us_per_request)),
            shown(median(|c| c.resident_mib)),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::example;

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(thousands(1_234_567.8), "1,234,568");
        assert_eq!(thousands(123.4), "123");
        assert_eq!(thousands(0.333), "0.33");
    }

    #[test]
    fn the_page_has_every_target_and_its_verdict() {
        let page = markdown(&example(), &["writes.svg"]);
        assert!(
            page.contains(
                "| durable PUT, 256 clients, against etcd | 30,000/s | 10,000/s | 3.00 | at least 3.00 | met |"
            ),
            "{page}"
        );
        assert_eq!(page.matches("not measured").count(), 8);
        assert!(page.contains("met, in 4 s of the 600 s asked for"));
        assert!(page.contains("![writes](writes.svg)"));
    }

    #[test]
    fn results_are_written_and_drawn_again_from_their_file() {
        let dir = tempfile::tempdir().unwrap();
        let folder = write(&example(), Some(dir.path().join("a"))).unwrap();
        let page = std::fs::read_to_string(folder.join("README.md")).unwrap();
        again(&folder.join("results.json"), Some(dir.path().join("b"))).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("b/README.md")).unwrap(), page);
        assert!(std::fs::read_to_string(dir.path().join("b/writes.svg")).unwrap().contains("<svg"));
    }

    #[test]
    fn the_folder_is_named_by_day_and_machine() {
        assert_eq!(folder_name(&example()), "2026-01-31-2cores-24GiB");
    }
}
