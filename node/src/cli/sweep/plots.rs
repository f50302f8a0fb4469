//! The plots of a sweep, each as SVG and as PNG.
//!
//! Text is measured and drawn with a font that is part of the program, so that the plots look the same on
//! every machine. Colours can be told apart by people who see few (Okabe and Ito 2008); what differs by W
//! goes from dark to light.

use std::error::Error;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::register_font;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::super::bench::Latency;
use super::super::output::Failure;
use super::measure::Round;
use super::report::Report;

/// Size of a plot as SVG, pixels: fits a page of text.
const SIZE: (u32, u32) = (800, 450);
/// A PNG has so many times the pixels each way, for paper and dense screens.
const PNG_SCALE: u32 = 2;
const FONT: &str = "sans-serif";
const BLUE: RGBColor = RGBColor(0, 114, 178);
const ORANGE: RGBColor = RGBColor(230, 159, 0);
const RED: RGBColor = RGBColor(213, 94, 0);
const GREEN: RGBColor = RGBColor(0, 158, 115);
const INK: RGBColor = RGBColor(40, 40, 40);
const FAINT: RGBColor = RGBColor(110, 110, 110);
const GRID: RGBColor = RGBColor(225, 225, 225);
/// Width of all bars of one W; the rest is the gap to the next.
const GROUP_WIDTH: f64 = 0.76;

/// Room to the right of a plane for the names of its colours, pixels.
const NAMES_WIDTH: i32 = 128;
/// Fewer labels than this do not tell a logarithmic axis from another.
const LOG_LABELS_MIN: usize = 4;
const OVER_W: &str = "W: copies that must hold a write before it is acknowledged";

type Drawn = Result<(), Box<dyn Error + Send + Sync>>;

/// What is drawn in one colour.
struct Series {
    name: String,
    colour: RGBColor,
    points: Vec<(f64, f64)>,
}

/// Draws everything there are figures for. Names without an ending, each with a caption.
pub(super) fn draw(report: &Report, folder: &Path) -> Result<Vec<(String, String)>, Failure> {
    // Registering it twice is harmless.
    register_font(FONT, FontStyle::Normal, dejavu::sans::regular())
        .map_err(|_| Failure::Error("the plots' font cannot be read".to_owned()))?;
    let mut drawn = Vec::new();
    for plot in plots(report) {
        plot.save(folder).map_err(|e| Failure::Error(format!("cannot draw {}: {e}", plot.name)))?;
        drawn.push((plot.name, plot.title));
    }
    Ok(drawn)
}

/// One picture.
struct Plot {
    name: String,
    title: String,
    subtitle: String,
    kind: Kind,
}

enum Kind {
    /// Lines over W, on a logarithmic scale of milliseconds.
    Lines { n: usize, lines: Vec<Series> },
    /// For each W the share of writes that took at most so long.
    Shares(Vec<Series>),
    /// Groups of bars over W.
    Bars { n: usize, axis: &'static str, top: Option<f64>, series: Vec<Series> },
}

fn plots(report: &Report) -> Vec<Plot> {
    let mut plots = Vec::new();
    for down in report.downs() {
        let measured: Vec<&Round> = report.with_down(down).filter(|r| r.latency.is_some()).collect();
        if measured.is_empty() {
            continue;
        }
        let (suffix, with) = match down {
            0 => (String::new(), String::new()),
            d => (format!("-{d}-down"), format!(", {}", nodes_down(d))),
        };
        let subtitle = report.setting();
        plots.push(Plot {
            name: format!("latency{suffix}"),
            title: format!("Latency of acknowledged writes by write quorum{with}"),
            subtitle: subtitle.clone(),
            kind: Kind::Lines { n: report.nodes, lines: percentiles(&measured) },
        });
        plots.push(Plot {
            name: format!("distribution{suffix}"),
            title: format!("Distribution of write latency by write quorum{with}"),
            subtitle,
            kind: Kind::Shares(measured.iter().map(|r| shares(report, r)).collect()),
        });
    }
    let bars = [
        (
            "success",
            "Writes that succeeded, by write quorum",
            "success rate, %",
            Some(100.0),
            by_down(report, |r| Some(r.success_rate * 100.0)),
        ),
        (
            "convergence",
            "Last acknowledgement until every live copy showed everything",
            "ms",
            None,
            by_down(report, |r| r.converged_ms),
        ),
        (
            "throughput",
            "Throughput of a closed loop, by write quorum",
            "writes a second",
            None,
            by_down(report, |r| r.throughput),
        ),
        (
            "copies",
            "Synced copies when a write was acknowledged, mean",
            "copies",
            Some(report.nodes as f64),
            by_down(report, |r| r.copies.as_ref().map(|c| c.mean)),
        ),
    ];
    for (name, title, axis, top, series) in bars {
        if series.iter().any(|s| !s.points.is_empty()) {
            let kind = Kind::Bars { n: report.nodes, axis, top, series };
            plots.push(Plot { name: name.to_owned(), title: title.to_owned(), subtitle: report.setting(), kind });
        }
    }
    plots
}

fn nodes_down(count: usize) -> String {
    match count {
        1 => "one node down".to_owned(),
        2 => "two nodes down".to_owned(),
        n => format!("{n} nodes down"),
    }
}

/// One figure of many.
type Pick = fn(&Latency) -> f64;

/// The highest first, as one reads the lines.
fn percentiles(rounds: &[&Round]) -> Vec<Series> {
    let kinds: [(&str, RGBColor, Pick); 4] = [
        ("max", RED, |l| l.max_ms),
        ("p99", ORANGE, |l| l.p99_ms),
        ("p95", GREEN, |l| l.p95_ms),
        ("p50", BLUE, |l| l.p50_ms),
    ];
    let line = |of: Pick| {
        rounds.iter().filter_map(|r| Some((r.write_quorum as f64, of(r.latency.as_ref()?)))).collect::<Vec<_>>()
    };
    kinds.into_iter().map(|(name, colour, of)| Series { name: name.to_owned(), colour, points: line(of) }).collect()
}

fn shares(report: &Report, round: &Round) -> Series {
    let points = round.distribution.iter().map(|p| (p.ms, p.share * 100.0)).collect();
    let place = (round.write_quorum - 1) as f64 / (report.nodes.max(2) - 1) as f64;
    Series { name: format!("W={}", round.write_quorum), colour: shade(place), points }
}

/// From dark blue through green to light yellow-orange, as `place` goes from 0 to 1: in order also when printed grey.
fn shade(place: f64) -> RGBColor {
    let stops = [(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (225, 190, 30)];
    let at = place.clamp(0.0, 1.0) * (stops.len() - 1) as f64;
    let low = (at.floor() as usize).min(stops.len() - 2);
    let (from, to, part) = (stops[low], stops[low + 1], at - low as f64);
    let mix = |a: i32, b: i32| (f64::from(a) + f64::from(b - a) * part).round() as u8;
    RGBColor(mix(from.0, to.0), mix(from.1, to.1), mix(from.2, to.2))
}

fn by_down(report: &Report, of: impl Fn(&Round) -> Option<f64>) -> Vec<Series> {
    let colours = [BLUE, ORANGE, RED, FAINT];
    let one = |(place, down): (usize, usize)| {
        let name = match down {
            0 => "every node up".to_owned(),
            d => nodes_down(d),
        };
        let points = report.with_down(down).filter_map(|r| Some((r.write_quorum as f64, of(r)?))).collect();
        Series { name, colour: colours[place.min(colours.len() - 1)], points }
    };
    report.downs().into_iter().enumerate().map(one).collect()
}

impl Plot {
    fn save(&self, folder: &Path) -> Drawn {
        let svg = folder.join(format!("{}.svg", self.name));
        self.draw(&SVGBackend::new(&svg, SIZE).into_drawing_area(), 1.0)?;

        let (width, height) = (SIZE.0 * PNG_SCALE, SIZE.1 * PNG_SCALE);
        let mut pixels = vec![0; (width * height * 3) as usize];
        let area = BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area();
        self.draw(&area, f64::from(PNG_SCALE))?;
        drop(area);
        let file = BufWriter::new(File::create(folder.join(format!("{}.png", self.name)))?);
        let mut encoder = png::Encoder::new(file, width, height);
        encoder.set_color(png::ColorType::Rgb);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&pixels)?;
        writer.finish()?;
        Ok(())
    }

    fn draw<DB>(&self, root: &DrawingArea<DB, Shift>, scale: f64) -> Drawn
    where
        DB: DrawingBackend,
        DB::ErrorType: 'static,
    {
        let pen = Pen(scale);
        root.fill(&WHITE)?;
        root.draw(&Text::new(self.title.clone(), (pen.px(20), pen.px(14)), pen.font(19.0, &INK)))?;
        root.draw(&Text::new(self.subtitle.clone(), (pen.px(20), pen.px(40)), pen.font(11.5, &FAINT)))?;
        let (_, below) = root.split_vertically(pen.px(58));
        match &self.kind {
            Kind::Lines { n, lines } => draw_lines(&below, pen, *n, lines)?,
            Kind::Shares(lines) => draw_shares(&below, pen, lines)?,
            Kind::Bars { n, axis, top, series } => draw_bars(&below, pen, *n, (axis, *top), series)?,
        }
        root.present()?;
        Ok(())
    }
}

/// Sizes, scaled.
#[derive(Clone, Copy)]
struct Pen(f64);

impl Pen {
    fn px(self, pixels: i32) -> i32 {
        (f64::from(pixels) * self.0).round() as i32
    }

    fn font(self, size: f64, colour: &RGBColor) -> TextStyle<'static> {
        (FONT, size * self.0).into_font().color(colour)
    }

    fn line(self, colour: RGBColor, width: f64) -> ShapeStyle {
        ShapeStyle { color: colour.to_rgba(), filled: false, stroke_width: (width * self.0).round() as u32 }
    }
}

type Area<'a, DB> = DrawingArea<DB, Shift>;

/// The plane to draw in. To its right, where nothing is drawn, stand the names of the colours.
fn beside_names<'a, DB>(
    area: &Area<'a, DB>,
    pen: Pen,
    series: &[Series],
) -> Result<Area<'a, DB>, Box<dyn Error + Send + Sync>>
where
    DB: DrawingBackend,
    DB::ErrorType: 'static,
{
    let (width, _) = area.dim_in_pixel();
    let (plane, names) = area.split_horizontally(width as i32 - pen.px(NAMES_WIDTH));
    for (row, Series { name, colour, .. }) in series.iter().enumerate() {
        let (y, side) = (pen.px(12 + 22 * row as i32), pen.px(11));
        names.draw(&Rectangle::new([(0, y), (side, y + side)], colour.filled()))?;
        let middle = pen.font(12.0, &INK).pos(Pos::new(HPos::Left, VPos::Center));
        names.draw(&Text::new(name.clone(), (pen.px(18), y + side / 2 + pen.px(1)), middle))?;
    }
    Ok(plane)
}

/// The frame of every chart: margins, room for labels, and the mesh in thin grey.
macro_rules! chart {
    ($area:expr, $pen:expr, $x:expr, $y:expr) => {
        ChartBuilder::on($area)
            .margin_right($pen.px(16))
            .margin_bottom($pen.px(8))
            .margin_top($pen.px(8))
            .margin_left($pen.px(8))
            .x_label_area_size($pen.px(46))
            .y_label_area_size($pen.px(64))
            .build_cartesian_2d($x, $y)?
    };
}

/// The mesh of every chart, to which each adds its labels: grid, axes and type.
macro_rules! mesh {
    ($chart:expr, $pen:expr, $x:expr, $y:expr) => {
        $chart
            .configure_mesh()
            .bold_line_style($pen.line(GRID, 1.0))
            .light_line_style(TRANSPARENT)
            .axis_style($pen.line(FAINT, 1.0))
            .label_style($pen.font(12.0, &INK))
            .axis_desc_style($pen.font(13.0, &INK))
            .x_desc($x)
            .y_desc($y)
    };
}

fn draw_lines<DB>(area: &Area<'_, DB>, pen: Pen, n: usize, lines: &[Series]) -> Drawn
where
    DB: DrawingBackend,
    DB::ErrorType: 'static,
{
    let area = beside_names(area, pen, lines)?;
    let (low, high) = bounds(lines.iter().flat_map(|s| s.points.iter().map(|(_, ms)| *ms)));
    let ms = (low..high).log_scale().with_key_points(round_numbers(low, high));
    let mut chart = chart!(&area, pen, 0.6..n as f64 + 0.4, ms);
    mesh!(chart, pen, OVER_W, "ms (logarithmic)")
        .disable_x_mesh()
        .x_labels(n)
        .x_label_formatter(&whole)
        .y_label_formatter(&short)
        .draw()?;
    for Series { colour, points, .. } in lines {
        chart.draw_series(LineSeries::new(points.iter().copied(), pen.line(*colour, 2.0)))?;
        chart.draw_series(points.iter().map(|at| Circle::new(*at, pen.px(4), colour.filled())))?;
    }
    // Figures on the highest line and on the lowest, where there is room for them.
    let figures = [(lines.first(), -pen.px(8), VPos::Bottom), (lines.last(), pen.px(9), VPos::Top)];
    for (line, away, side) in figures {
        for (Series { colour, .. }, at) in line.into_iter().flat_map(|s| s.points.iter().map(move |at| (s, *at))) {
            let style = pen.font(11.0, colour).pos(Pos::new(HPos::Center, side));
            let text = Text::new(figure(at.1), (0, away), style);
            chart.draw_series(std::iter::once(EmptyElement::at(at) + text))?;
        }
    }
    Ok(())
}

fn draw_shares<DB>(area: &Area<'_, DB>, pen: Pen, lines: &[Series]) -> Drawn
where
    DB: DrawingBackend,
    DB::ErrorType: 'static,
{
    let area = beside_names(area, pen, lines)?;
    let (low, high) = bounds(lines.iter().flat_map(|s| s.points.iter().map(|(ms, _)| *ms)));
    let ms = (low..high).log_scale().with_key_points(round_numbers(low, high));
    let mut chart = chart!(&area, pen, ms, 0.0..100.0);
    mesh!(chart, pen, "a write took at most … ms (logarithmic)", "share of the writes")
        .x_label_formatter(&short)
        .y_label_formatter(&|y| format!("{y:.0}%"))
        .draw()?;
    for Series { colour, points, .. } in lines {
        chart.draw_series(LineSeries::new(points.iter().copied(), pen.line(*colour, 2.0)))?;
    }
    Ok(())
}

fn draw_bars<DB>(area: &Area<'_, DB>, pen: Pen, n: usize, (axis, top): (&str, Option<f64>), series: &[Series]) -> Drawn
where
    DB: DrawingBackend,
    DB::ErrorType: 'static,
{
    let area = beside_names(area, pen, series)?;
    let highest = series.iter().flat_map(|s| s.points.iter().map(|(_, v)| *v)).fold(0.0, f64::max);
    // Room for the figures on the bars.
    let high = top.unwrap_or(highest).max(f64::MIN_POSITIVE) * 1.1;
    let mut chart = chart!(&area, pen, 0.5..n as f64 + 0.5, 0.0..high);
    mesh!(chart, pen, OVER_W, axis)
        .disable_x_mesh()
        .x_labels(n)
        .x_label_formatter(&whole)
        .y_label_formatter(&|y| if top.is_some_and(|top| *y > top) { String::new() } else { short(y) })
        .draw()?;
    let width = GROUP_WIDTH / series.len().max(1) as f64;
    let centred = pen.font(10.0, &INK).pos(Pos::new(HPos::Center, VPos::Bottom));
    for (place, Series { colour, points: bars, .. }) in series.iter().enumerate() {
        let left = |w: f64| w - GROUP_WIDTH / 2.0 + place as f64 * width;
        let drawn = bars
            .iter()
            .map(|(w, v)| Rectangle::new([(left(*w) + 0.02, 0.0), (left(*w) + width - 0.02, *v)], colour.filled()));
        chart.draw_series(drawn)?;
        let figures = bars.iter().map(|(w, v)| {
            EmptyElement::at((left(*w) + width / 2.0, *v)) + Text::new(figure(*v), (0, -pen.px(3)), centred.clone())
        });
        chart.draw_series(figures)?;
    }
    Ok(())
}

/// A range of a logarithmic scale around these values.
fn bounds(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let low = values.clone().filter(|v| *v > 0.0).fold(f64::INFINITY, f64::min);
    let high = values.fold(0.0, f64::max);
    if low.is_finite() && high > 0.0 { (low / 1.6, high * 1.6) } else { (0.1, 10.0) }
}

/// The numbers between these that a logarithmic axis shows: 1, 2 and 5 times the powers of ten; where that is
/// few, those between them too.
fn round_numbers(low: f64, high: f64) -> Vec<f64> {
    let within = |steps: &[f64]| -> Vec<f64> {
        let powers = (low.log10().floor() as i32..=high.log10().ceil() as i32).map(|power| 10f64.powi(power));
        powers
            .flat_map(|power| steps.iter().map(move |step| step * power))
            .filter(|v| (low..=high).contains(v))
            .collect()
    };
    let few = within(&[1.0, 2.0, 5.0]);
    if few.len() >= LOG_LABELS_MIN { few } else { within(&[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0]) }
}

/// Labels of W: whole numbers only.
fn whole(x: &f64) -> String {
    if (x - x.round()).abs() < 1e-6 { format!("{x:.0}") } else { String::new() }
}

/// As few digits as show the number.
fn short(value: &f64) -> String {
    match value.abs() {
        v if v >= 10_000.0 => format!("{:.0}k", value / 1e3),
        v if v >= 1_000.0 => format!("{}k", format!("{:.1}", value / 1e3).trim_end_matches(".0")),
        v if v >= 10.0 || v == 0.0 => format!("{value:.0}"),
        _ => format!("{value:.2}").trim_end_matches('0').trim_end_matches('.').to_owned(),
    }
}

/// A figure on a bar.
fn figure(value: f64) -> String {
    if (1.0..10.0).contains(&value) && value.fract() != 0.0 { format!("{value:.1}") } else { short(&value) }
}
