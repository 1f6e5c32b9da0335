//! The figures as a picture (SVG): a bar for each part, with its spread as a line.

use std::fmt::Write;

use serde_json::Value;

const WIDTH: f64 = 760.0;
const LEFT: f64 = 250.0;
const ROW: f64 = 28.0;
const TOP: f64 = 40.0;

/// Draws the CPU time per command. The scale is logarithmic: the slowest peer costs fifty times
/// what the worker does.
pub(crate) fn draw(report: &Value) -> String {
    let parts = report["parts"].as_array().unwrap();
    let of = |part: &Value, which: &str| part["cpu_us"][which].as_f64().unwrap();
    let most = parts.iter().map(|part| of(part, "most")).fold(0.0, f64::max);
    let x = |us: f64| LEFT + (us.max(5.0) / 5.0).ln() / (most / 5.0).ln() * (WIDTH - LEFT - 70.0);
    let height = f64::from(u32::try_from(parts.len()).unwrap()) * ROW + TOP + 10.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"22\" font-weight=\"bold\">CPU time for each command, µs (median; the line is the spread; logarithmic)</text>\n"
    );
    let mut y = TOP;
    for part in parts {
        let name = part["part"].as_str().unwrap();
        let colour = if name.starts_with("worker") { "#2a6f97" } else { "#adb5bd" };
        let (median, least, largest) = (of(part, "median"), of(part, "least"), of(part, "most"));
        let middle = y + 10.0;
        let _ = write!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{name}</text>\n\
             <rect x=\"{LEFT}\" y=\"{y}\" width=\"{:.1}\" height=\"20\" fill=\"{colour}\"/>\n\
             <line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle}\" y2=\"{middle}\" stroke=\"black\"/>\n\
             <text x=\"{:.1}\" y=\"{}\">{median:.0}</text>\n",
            LEFT - 8.0,
            y + 15.0,
            x(median) - LEFT,
            x(least),
            x(largest),
            x(largest) + 8.0,
            y + 15.0,
        );
        y += ROW;
    }
    svg + "</svg>\n"
}
