//! The plots of a comparison, as SVG: bars side by side for the systems, a line for the latency over time.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::register_font;

use crate::failure::{Context, Failure, Outcome};
use crate::report::thousands;
use crate::results::{Cell, Results, System, Workload};

/// Size of a plot, pixels: reads well in a page of text.
const SIZE: (u32, u32) = (760, 380);
/// Share of a group's width that its bars take; the rest is the gap between groups.
const GROUP_WIDTH: f64 = 0.8;
/// Height of the plot over its highest bar: leaves room for the legend.
const HEADROOM: f64 = 1.35;

/// Groups of bars: a label for the group, a value for each system that has one.
type Groups = Vec<(String, Vec<(System, f64)>)>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Draws what there are figures for and returns the names of the files.
pub(crate) fn draw(results: &Results, folder: &Path) -> Outcome<Vec<&'static str>> {
    // Texts are measured with a font that comes along: a machine for measurements has none.
    let font = register_font("sans-serif", FontStyle::Normal, dejavu::sans::regular());
    font.map_err(|_| Failure::new("the plots' font cannot be read"))?;
    let rate = |c: &Cell| Some(c.figures.per_second);
    let p99 = |c: &Cell| Some(c.figures.p99_ms);
    let puts = [(Workload::Put, 1), (Workload::Put, 64), (Workload::Put, 256)];
    let gets = [(Workload::Get, 64)];
    let sets = [(Workload::Set, 64), (Workload::SetPipelined, 64)];
    let bars: [(&str, &str, Groups); 4] = [
        ("writes.svg", "durable writes a second", groups(results, &puts, rate)),
        ("write-latency.svg", "p99 of durable writes, ms", groups(results, &puts, p99)),
        ("reads.svg", "linearizable reads a second", groups(results, &gets, rate)),
        ("redis.svg", "redis-benchmark: SET a second", groups(results, &sets, rate)),
    ];
    let mut drawn = Vec::new();
    for (name, caption, groups) in bars {
        if groups.iter().any(|(_, bars)| !bars.is_empty()) {
            draw_bars(&folder.join(name), caption, &groups).context(|| format!("cannot draw {name}"))?;
            drawn.push(name);
        }
    }
    let half = results.cells.iter().find(|c| c.workload == Workload::HalfLoad);
    if let Some(cell) = half.filter(|c| !c.figures.slowest_ms.is_empty()) {
        let name = "half-load.svg";
        draw_line(&folder.join(name), &cell.figures.slowest_ms).context(|| format!("cannot draw {name}"))?;
        drawn.push(name);
    }
    Ok(drawn)
}

fn groups(results: &Results, loads: &[(Workload, usize)], figure: impl Fn(&Cell) -> Option<f64> + Copy) -> Groups {
    let label = |(workload, clients): (Workload, usize)| {
        format!("{}, {clients} client{}", workload.name(), if clients == 1 { "" } else { "s" })
    };
    let systems = [System::Quorate, System::Etcd, System::Redis, System::Chain, System::Echo];
    let bars = |(workload, clients): (Workload, usize)| {
        systems
            .iter()
            .filter_map(|s| Some((*s, results.median_of((*s, workload, clients), figure)?)))
            .collect::<Vec<_>>()
    };
    loads.iter().map(|load| (label(*load), bars(*load))).collect()
}

fn colour(system: System) -> RGBColor {
    match system {
        System::Quorate => RGBColor(31, 119, 180),
        System::Etcd => RGBColor(214, 125, 44),
        System::Redis => RGBColor(190, 60, 60),
        System::Echo => RGBColor(150, 150, 150),
        System::Chain => RGBColor(90, 90, 90),
    }
}

fn draw_bars(file: &Path, caption: &str, groups: &Groups) -> Drawn {
    let root = white(file)?;
    let highest = groups.iter().flat_map(|(_, bars)| bars.iter().map(|(_, v)| *v)).fold(0.0, f64::max);
    let width = groups.len() as f64;
    let mut chart = ChartBuilder::on(&root)
        .caption(caption, ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(30)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..width, 0.0..highest.max(f64::MIN_POSITIVE) * HEADROOM)?;
    // One label in the middle of each group: twice as many ticks as groups, every other one silent.
    let label = |x: &f64| {
        let middle = (x.fract() - 0.5).abs() < 1e-6;
        groups.get(*x as usize).filter(|_| middle).map_or_else(String::new, |(label, _)| label.clone())
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(groups.len() * 2 + 1)
        .x_label_formatter(&label)
        .y_label_formatter(&|y| thousands(*y))
        .draw()?;
    let mut named = Vec::new();
    for (group, (_, bars)) in groups.iter().enumerate() {
        let bar_width = GROUP_WIDTH / bars.len().max(1) as f64;
        for (place, (system, value)) in bars.iter().enumerate() {
            let left = group as f64 + (1.0 - GROUP_WIDTH) / 2.0 + place as f64 * bar_width;
            let bar = Rectangle::new([(left, 0.0), (left + bar_width * 0.92, *value)], colour(*system).filled());
            let figure = Text::new(thousands(*value), (left, *value + highest * 0.05), ("sans-serif", 12));
            let series = chart.draw_series([bar])?;
            if !named.contains(system) {
                named.push(*system);
                let paint = colour(*system);
                series
                    .label(system.name())
                    .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 10, y + 5)], paint.filled()));
            }
            chart.draw_series([figure])?;
        }
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    root.present()?;
    Ok(())
}

fn draw_line(file: &Path, slowest_ms: &[f64]) -> Drawn {
    let root = white(file)?;
    let highest = slowest_ms.iter().copied().fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(&root)
        .caption("half load: the slowest answer of each second, ms", ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(35)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..slowest_ms.len() as f64, 0.0..highest * 1.1)?;
    chart.configure_mesh().x_desc("seconds").x_label_formatter(&|x| format!("{x:.0}")).draw()?;
    let points = slowest_ms.iter().enumerate().map(|(second, ms)| (second as f64, *ms));
    chart.draw_series(LineSeries::new(points, colour(System::Quorate)))?;
    root.present()?;
    Ok(())
}

fn white(file: &Path) -> Result<DrawingArea<SVGBackend<'_>, Shift>, Box<dyn std::error::Error>> {
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    Ok(root)
}
