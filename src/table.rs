//! The output of the operators' commands. Tables for people at a terminal: column widths fit the
//! content, and nothing can control the terminal.

use std::io::{self, Write};

use jiff::Timestamp;

/// The output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputFormat {
    /// A table or paragraphs.
    Text,
    /// JSON, one object a line.
    Json,
}

/// The first row is the heading; `numbers` are the right-aligned columns.
pub(crate) fn write<const COLUMNS: usize>(
    out: &mut impl Write,
    rows: &[[String; COLUMNS]],
    numbers: &[usize],
) -> io::Result<()> {
    for row in rows {
        let mut line = String::new();
        for (column, text) in row.iter().enumerate() {
            let width = rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
            // The last column needs no padding.
            let width = if column + 1 < row.len() { width } else { 0 };
            line.push_str(&pad(text, width, numbers.contains(&column)));
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn pad(text: &str, width: usize, is_number: bool) -> String {
    if is_number { format!("{text:>width$}  ") } else { format!("{text:width$}  ") }
}

/// Text from producers must not control the terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The age, in the largest unit.
pub(crate) fn age(time: Option<Timestamp>, now: Timestamp) -> String {
    let Some(time) = time else { return "-".to_owned() };
    let seconds = now.duration_since(time).unsigned_abs().as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}
