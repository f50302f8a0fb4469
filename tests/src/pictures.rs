//! Pictures of the dashboards, drawn from the same queries over the same time, for people who have no Grafana at hand.
//!
//! Not Grafana's own drawing: the panels, their places, titles, units and legends are those of
//! [`crate::dashboards`], the rest is plain.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::register_font;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use serde_json::Value;

use crate::dashboards::asked;
use crate::prometheus::{Prometheus, Span};

/// A column of the dashboard's grid, and a row, in pixels.
const CELL: (u32, u32) = (66, 30);
/// Columns of Grafana's grid.
const COLUMNS: u32 = 24;
/// Room above the panels for the title of the whole.
const HEAD: u32 = 44;
/// More lines than this in one legend are left out of it.
const LEGEND_MAX: usize = 7;
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(36, 41, 46);
const FAINT: RGBColor = RGBColor(110, 118, 125);
const GRID: RGBColor = RGBColor(228, 231, 235);
const PAGE: RGBColor = RGBColor(244, 245, 245);
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(86, 180, 233),
    RGBColor(204, 121, 167),
    RGBColor(120, 94, 240),
    RGBColor(90, 90, 90),
];

type Drawn = Result<(), Box<dyn Error>>;
type Area<'a> = DrawingArea<BitMapBackend<'a>, Shift>;

/// One line of a panel.
struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

/// Draws a dashboard as it was during `span`.
///
/// # Errors
/// If Prometheus does not answer, or the file cannot be written.
pub async fn draw(prometheus: &Prometheus, dashboard: &Value, span: Span, file: &Path) -> Drawn {
    register_font(FONT, FontStyle::Normal, dejavu::sans::regular()).map_err(|_| "not a font")?;
    let panels = dashboard["panels"].as_array().ok_or("no panels")?;
    let place = |panel: &Value, name: &str| panel["gridPos"][name].as_u64().unwrap_or(0) as u32;
    let rows = panels.iter().map(|p| place(p, "y") + place(p, "h")).max().unwrap_or(1);
    let (width, height) = (COLUMNS * CELL.0, HEAD + rows * CELL.1 + 8);
    let mut pixels = vec![0; (width * height * 3) as usize];
    {
        let root = BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area();
        root.fill(&PAGE)?;
        let title = dashboard["title"].as_str().unwrap_or_default().to_owned();
        root.draw(&Text::new(title, (12, 12), (FONT, 22).into_font().color(&INK)))?;
        for panel in panels {
            let (x, y) = (place(panel, "x") * CELL.0, HEAD + place(panel, "y") * CELL.1);
            let size = (place(panel, "w") * CELL.0, place(panel, "h") * CELL.1);
            if panel["type"] == "row" {
                let name = panel["title"].as_str().unwrap_or_default().to_owned();
                let at = (12, y as i32 + 8);
                root.draw(&Text::new(name, at, (FONT, 15).into_font().color(&INK)))?;
                continue;
            }
            let area = root.clone().shrink((x + 4, y + 4), (size.0 - 8, size.1 - 8));
            tile(&area, panel, &lines(prometheus, panel, span).await?, span)?;
        }
        root.present()?;
    }
    let mut encoder = png::Encoder::new(BufWriter::new(File::create(file)?), width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::High);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&pixels)?;
    Ok(writer.finish()?)
}

/// Everything that a panel's queries gave.
async fn lines(prometheus: &Prometheus, panel: &Value, span: Span) -> Result<Vec<Line>, String> {
    let mut all = Vec::new();
    for target in panel["targets"].as_array().into_iter().flatten() {
        let query = asked(target["expr"].as_str().unwrap_or_default());
        for (labels, points) in prometheus.range(&query, span).await? {
            let name = legend(target["legendFormat"].as_str().unwrap_or_default(), &labels);
            // A quantile of nothing is no line.
            if !points.is_empty() {
                all.push(Line { name, points });
            }
        }
    }
    Ok(all)
}

/// A legend with its `{{label}}`s filled in.
fn legend(format: &str, labels: &BTreeMap<String, String>) -> String {
    labels.iter().fold(format.to_owned(), |text, (label, value)| text.replace(&format!("{{{{{label}}}}}"), value))
}

fn tile(area: &Area<'_>, panel: &Value, lines: &[Line], span: Span) -> Drawn {
    area.fill(&WHITE)?;
    let (width, height) = area.dim_in_pixel();
    let frame = Rectangle::new([(0, 0), (width as i32 - 1, height as i32 - 1)], GRID);
    let title = panel["title"].as_str().unwrap_or_default().to_owned();
    let unit = panel["fieldConfig"]["defaults"]["unit"].as_str().unwrap_or_default();
    if panel["type"] == "stat" {
        let names = panel["options"]["textMode"] == "name";
        let last = lines.iter().filter_map(|l| Some((l, l.points.last()?.1))).next_back();
        let text = last.map_or("-".to_owned(), |(l, v)| if names { l.name.clone() } else { shown(v, unit) });
        let coloured = panel["options"]["colorMode"] == "background";
        let good = last.is_some_and(|(_, v)| v >= 1.0);
        if coloured {
            area.fill(&if good { RGBColor(0, 130, 95) } else { RGBColor(200, 80, 0) })?;
        }
        let (small, large) = if coloured { (WHITE, WHITE) } else { (FAINT, INK) };
        let centre = Pos::new(HPos::Center, VPos::Center);
        area.draw(&Text::new(title, (8, 8), (FONT, 12).into_font().color(&small)))?;
        let at = (width as i32 / 2, height as i32 / 2 + 8);
        area.draw(&Text::new(text, at, (FONT, 34).into_font().color(&large).pos(centre)))?;
        area.draw(&frame)?;
        return Ok(());
    }
    area.draw(&Text::new(title, (8, 8), (FONT, 13).into_font().color(&INK)))?;
    let chart = area.clone().shrink((4, 28), (width - 8, height - 34));
    if panel["type"] == "heatmap" {
        heat(&chart, lines, span)?
    } else {
        plot(&chart, lines, unit, span)?
    }
    area.draw(&frame)?;
    Ok(())
}

fn plot(area: &Area<'_>, lines: &[Line], unit: &str, span: Span) -> Drawn {
    let (width, _) = area.dim_in_pixel();
    let (plane, names) = area.split_horizontally(width.saturating_sub(190));
    let values = || lines.iter().flat_map(|l| l.points.iter().map(|(_, v)| *v));
    let (low, high) = (values().fold(0.0, f64::min), values().fold(0.0, f64::max));
    let high = if high > low { high + (high - low) * 0.08 } else { low + 1.0 };
    let mut chart = ChartBuilder::on(&plane)
        .x_label_area_size(20)
        .y_label_area_size(66)
        .margin_right(8)
        .margin_top(4)
        .build_cartesian_2d(0.0..span.seconds(), low..high)?;
    chart
        .configure_mesh()
        .x_labels(7)
        .y_labels(5)
        .x_label_formatter(&|s| format!("{s:.0} s"))
        .y_label_formatter(&|v| shown(*v, unit))
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(GRID)
        .label_style((FONT, 11).into_font().color(&FAINT))
        .draw()?;
    for (n, line) in lines.iter().enumerate() {
        // A node that is down leaves a gap, not a slope.
        for part in line.points.chunk_by(|a, b| b.0 - a.0 < 1.5 * span.step) {
            let points = part.iter().map(|(t, v)| (t - span.from, *v));
            chart.draw_series(LineSeries::new(points, COLOURS[n % COLOURS.len()].stroke_width(2)))?;
        }
        if n < LEGEND_MAX {
            let y = 8 + 19 * n as i32;
            names.draw(&Rectangle::new([(4, y + 3), (14, y + 8)], COLOURS[n % COLOURS.len()].filled()))?;
            let name: String = line.name.chars().take(24).collect();
            names.draw(&Text::new(name, (20, y), (FONT, 12).into_font().color(&INK)))?;
        }
    }
    if lines.len() > LEGEND_MAX {
        let more = format!("and {} more", lines.len() - LEGEND_MAX);
        names.draw(&Text::new(more, (20, 8 + 19 * LEGEND_MAX as i32), (FONT, 12).into_font().color(&FAINT)))?;
    }
    Ok(())
}

/// Buckets, lowest below, darker the more writes were in them.
fn heat(area: &Area<'_>, lines: &[Line], span: Span) -> Drawn {
    let mut buckets: Vec<(f64, &Line)> =
        lines.iter().filter_map(|l| Some((l.name.parse::<f64>().ok()?, l))).filter(|(le, _)| le.is_finite()).collect();
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut chart = ChartBuilder::on(area)
        .x_label_area_size(20)
        .y_label_area_size(66)
        .margin_right(8)
        .margin_top(4)
        .build_cartesian_2d(0.0..span.seconds(), 0.0..buckets.len().max(1) as f64)?;
    let label = |row: &f64| buckets.get(*row as usize).map_or(String::new(), |(le, _)| shown(*le, "s"));
    chart
        .configure_mesh()
        .disable_mesh()
        .x_labels(7)
        .y_labels(buckets.len() / 2 + 1)
        .x_label_formatter(&|s| format!("{s:.0} s"))
        .y_label_formatter(&label)
        .axis_style(GRID)
        .label_style((FONT, 11).into_font().color(&FAINT))
        .draw()?;
    // Cumulative as they are exported: what a bucket alone holds is the difference to the one below.
    let mut cells = Vec::new();
    let mut below: BTreeMap<u64, f64> = BTreeMap::new();
    for (row, (_, line)) in buckets.iter().enumerate() {
        for (t, value) in &line.points {
            let before = below.insert(*t as u64, *value).unwrap_or(0.0);
            cells.push((t - span.from, row as f64, (value - before).max(0.0)));
        }
    }
    let most = cells.iter().map(|(_, _, count)| *count).fold(1.0, f64::max);
    chart.draw_series(cells.into_iter().filter(|(_, _, count)| *count > 0.0).map(|(t, row, count)| {
        let dark = (count / most).sqrt();
        Rectangle::new([(t - span.step, row), (t, row + 1.0)], BLUE_SCALE.mix(dark.clamp(0.08, 1.0)).filled())
    }))?;
    Ok(())
}

const BLUE_SCALE: RGBColor = RGBColor(0, 70, 130);

/// A value in its unit, as short as it can be read.
fn shown(value: f64, unit: &str) -> String {
    let scaled = |steps: &[(f64, &str)]| {
        let (by, name) = steps.iter().find(|(by, _)| value.abs() >= *by).copied().unwrap_or((1.0, ""));
        format!("{}{name}", short(value / by))
    };
    match unit {
        _ if value == 0.0 => "0".to_owned(),
        "s" if value.abs() < 0.001 => format!("{} µs", short(value * 1e6)),
        "s" if value.abs() < 1.0 => format!("{} ms", short(value * 1e3)),
        "s" => format!("{} s", short(value)),
        "bytes" => scaled(&[(1e9, " GB"), (1e6, " MB"), (1e3, " kB")]),
        "Bps" => scaled(&[(1e6, " MB/s"), (1e3, " kB/s")]),
        "percentunit" => format!("{}%", short(value * 100.0)),
        _ => scaled(&[(1e6, "M"), (1e4, "k")]),
    }
}

fn short(value: f64) -> String {
    let text = if value.abs() >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}
