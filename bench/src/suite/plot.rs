//! The figures as plots: every quantity over every axis of a level, one line for each thing measured.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::levels::Level;
use super::report::Report;
use super::row::{Axis, Quantity, Row, grouped};

const SIZE: (u32, u32) = (820, 460);
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 90, 181),
    RGBColor(220, 50, 32),
    RGBColor(0, 134, 90),
    RGBColor(150, 90, 200),
    RGBColor(200, 130, 0),
    RGBColor(90, 90, 90),
    RGBColor(0, 160, 200),
    RGBColor(160, 60, 110),
];

/// A plot that was drawn.
#[derive(Clone, Debug)]
pub struct Drawn {
    /// What it shows.
    pub title: String,
    /// Name of the file.
    pub file: String,
}

/// A point: where, and median, least, most.
type Point = (f64, [f64; 3]);
type Lines<'a> = BTreeMap<&'a str, Vec<Point>>;

/// Draws every plot of `report` that has a line of two points or more into `directory`.
pub fn draw(report: &Report, directory: &Path) -> Result<Vec<Drawn>> {
    let mut plots: Vec<((Level, Quantity, Axis), Lines)> = Vec::new();
    for (level, row) in report.rows() {
        let &Row { ref what, at: Some((axis, x)), quantity, figure, .. } = row else { continue };
        let key = (level, quantity, axis);
        if !plots.iter().any(|(other, _)| *other == key) {
            plots.push((key, Lines::new()));
        }
        let Some((_, lines)) = plots.iter_mut().find(|(other, _)| *other == key) else { continue };
        let point = (x, [figure.median, figure.least, figure.most]);
        lines.entry(what).or_default().push(point);
    }
    let mut drawn = Vec::new();
    for ((level, quantity, axis), mut lines) in plots {
        lines.retain(|_, points| points.len() > 1);
        if lines.is_empty() {
            continue;
        }
        for points in lines.values_mut() {
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
        }
        let words = axis.name().trim_start_matches("% of ").replace(' ', "-");
        let unit =
            quantity.unit().replace('µ', "u").replace('%', "percent").replace(['/', ' '], "-");
        let file = format!("{}-{}-{words}.svg", level.file(), unit.to_lowercase());
        let title = format!("{}: {} over {}", level.title(), quantity.unit(), axis.name());
        one(&directory.join(&file), &title, quantity, axis, &lines)
            .map_err(|error| anyhow!("error: plot ({file}): {error}"))?;
        drawn.push(Drawn { title, file });
    }
    Ok(drawn)
}

fn one(
    path: &Path,
    title: &str,
    quantity: Quantity,
    axis: Axis,
    lines: &Lines,
) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let points = || lines.values().flatten();
    let least = points().map(|(x, _)| *x).fold(f64::INFINITY, f64::min);
    let most = points().map(|(x, _)| *x).fold(0.0, f64::max);
    let top = points().map(|(_, y)| y[2]).fold(0.0, f64::max) * 1.1;
    // Counts that span decades are shown by their logarithm.
    let decades = least > 0.0 && most / least > 30.0;
    let place = move |x: f64| if decades { x.log10() } else { x };
    let (from, to) = (place(least), place(most));
    let margin = (to - from) * 0.04;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(from - margin..to + margin, 0.0..top)?;
    let label = |x: &f64| {
        let x = if decades { 10f64.powf(*x) } else { *x };
        grouped(if x >= 100.0 { x.round() } else { (x * 10.0).round() / 10.0 })
    };
    chart
        .configure_mesh()
        .x_desc(axis.name())
        .y_desc(quantity.unit())
        .x_label_formatter(&label)
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(225, 225, 225))
        .label_style(("sans-serif", 13))
        .axis_desc_style(("sans-serif", 14))
        .draw()?;
    for ((what, points), colour) in lines.iter().zip(COLOURS.iter().cycle().copied()) {
        let line = points.iter().map(|(x, y)| (place(*x), y[0]));
        chart
            .draw_series(LineSeries::new(line, colour.stroke_width(2)))?
            .label(*what)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        chart.draw_series(points.iter().map(|(x, y)| {
            PathElement::new([(place(*x), y[1]), (place(*x), y[2])], colour.stroke_width(1))
        }))?;
        chart.draw_series(
            points.iter().map(|(x, y)| Circle::new((place(*x), y[0]), 3, colour.filled())),
        )?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(RGBColor(200, 200, 200))
        .label_font(("sans-serif", 13))
        .draw()?;
    area.present()?;
    Ok(())
}
