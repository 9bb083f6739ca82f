//! Prints the figures, and writes them as JSON and SVG.

use std::fmt::Write;
use std::path::Path;

use files::replace_file;
use serde_json::{Value, json};

use super::Results;
use super::cases::Case;
use super::measure::Measured;
use super::targets::{Target, median};
use deploy::console;

/// The bars of the picture, from the fastest to the slowest: whole commands on two cores.
const DRAWN: [(&str, &str); 7] = [
    ("floor-2", "SHA-256 alone, two threads"),
    ("file-2", "rows from a file, 2 workers"),
    ("fake-2", "fake rows, 2 workers"),
    ("file-2-processes", "rows from a file, 2 processes"),
    ("file-1", "rows from a file, 1 worker"),
    ("narrow", "the same, 7 workers"),
    ("wide", "the same, 112 workers in 16 processes"),
];

/// Formats one run as a line.
pub(super) fn line(measured: &Measured) -> String {
    let Measured { rows, seconds, .. } = measured;
    let (rate, cpu) = (console::count(measured.rate() as u64), measured.cpu_per_row());
    format!(
        "{} rows in {seconds:.2} s: {rate} rows/s, {cpu:.2} µs of processor time a row",
        console::count(*rows)
    )
}

/// Prints the medians and the targets.
pub(super) fn print(cases: &[Case], results: &Results, targets: &[Target]) {
    let of = |name, of: fn(&Measured) -> f64| median(results, name, of).unwrap_or_default();
    let floor = median(results, "floor-2", Measured::steady_rate);
    console::data(&format!(
        "{:<38} {:>12} {:>12} {:>9} {:>9} {:>9}",
        "", "rows/s", "steady", "seconds", "µs/row", "of floor"
    ));
    for case in cases {
        let (rate, steady) = (of(case.name, Measured::rate), of(case.name, Measured::steady_rate));
        // For whole jobs the start counts; the floor has none. Other cases do not hash.
        let counted = match case.results {
            Some("native") => Some(rate),
            None if case.name.starts_with("floor") => Some(steady),
            _ => None,
        };
        let share = counted.zip(floor).map(|(counted, floor)| format!("{:.1} %", 100.0 * counted / floor));
        console::data(&format!(
            "{:<38} {:>12} {:>12} {:>9.2} {:>9.2} {:>9}",
            case.what,
            console::count(rate as u64),
            console::count(steady as u64),
            of(case.name, |measured| measured.seconds),
            of(case.name, Measured::cpu_per_row),
            share.unwrap_or_default(),
        ));
    }
    for target in targets {
        let Target { what, found, wanted, is_limit, decimals } = target;
        console::data(&format!(
            "{} {what}: {found:.decimals$} ({} {wanted:.decimals$})",
            if target.is_met() { "✓" } else { "✗" },
            if *is_limit { "at most" } else { "at least" },
        ));
    }
}

/// Writes `results.json` and `results.svg`.
///
/// # Errors
/// If a file cannot be written; the error names it.
pub(super) fn write(
    folder: &Path,
    cases: &[Case],
    results: &Results,
    targets: &[Target],
) -> anyhow::Result<()> {
    let json = format!("{:#}\n", figures(cases, results, targets));
    replace_file(&folder.join("results.json"), json.as_bytes())?;
    replace_file(&folder.join("results.svg"), picture(results).as_bytes())?;
    console::note("written to bench/results.json and bench/results.svg");
    Ok(())
}

fn figures(cases: &[Case], results: &Results, targets: &[Target]) -> Value {
    let runs = |name| results.get(name).into_iter().flatten();
    let case = |case: &Case| {
        let of = |of: fn(&Measured) -> f64| median(results, case.name, of);
        json!({
            "name": case.name,
            "what": case.what,
            "rows_per_second": of(Measured::rate),
            "steady_rows_per_second": of(Measured::steady_rate),
            "seconds": of(|measured| measured.seconds),
            "processor_microseconds_per_row": of(Measured::cpu_per_row),
            "runs_seconds": runs(case.name).map(|measured| measured.seconds).collect::<Vec<_>>(),
        })
    };
    let target = |target: &Target| {
        json!({
            "what": target.what,
            "found": target.found,
            if target.is_limit { "at_most" } else { "at_least" }: target.wanted,
            "met": target.is_met(),
        })
    };
    json!({
        "machine": machine(),
        "cases": cases.iter().map(case).collect::<Vec<_>>(),
        "targets": targets.iter().map(target).collect::<Vec<_>>(),
    })
}

/// The number of cores, and the processor's name in `/proc/cpuinfo`.
fn machine() -> String {
    let information = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = information.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{cores} cores, {}", model.map_or("unknown", |(_, model)| model))
}

/// A bar chart as SVG, readable on light and dark backgrounds.
fn picture(results: &Results) -> String {
    const LEFT: usize = 300;
    const WIDTH: f64 = 370.0;
    const STEP: usize = 28;
    let bars = DRAWN.iter().filter_map(|(name, what)| {
        let of: fn(&Measured) -> f64 =
            if name.starts_with("floor") { Measured::steady_rate } else { Measured::rate };
        Some((what, median(results, name, of)?))
    });
    let bars: Vec<_> = bars.collect();
    let longest = bars.iter().map(|(_, rate)| *rate).fold(1.0, f64::max);
    let height = 20 + STEP * bars.len();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 760 {height}\" font-family=\"sans-serif\" font-size=\"14\" role=\"img\">\n\
         <title>Rows per second, whole commands on {}</title>\n\
         <style>text {{ fill: #1f2328 }} rect {{ fill: #0969da }} rect.floor {{ fill: #8c959f }}\n\
         @media (prefers-color-scheme: dark) {{ text {{ fill: #e6edf3 }} rect {{ fill: #4493f8 }} }}</style>\n",
        machine()
    );
    for (place, (what, rate)) in bars.iter().enumerate() {
        let (top, width) = (10 + STEP * place, WIDTH * rate / longest);
        let class = if place == 0 { " class=\"floor\"" } else { "" };
        // Writing to a string does not fail.
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{what}</text>\
             <rect{class} x=\"{LEFT}\" y=\"{top}\" width=\"{width:.0}\" height=\"20\"/>\
             <text x=\"{:.0}\" y=\"{}\">{:.2} M</text>",
            LEFT - 8,
            top + 15,
            LEFT as f64 + width + 6.0,
            top + 15,
            rate / 1e6,
        );
    }
    svg.push_str("</svg>\n");
    svg
}
